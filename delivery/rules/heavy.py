"""Heavy events: those whose rules cost so much, or write so many rows, that others would wait for them.

They are routed one after the other, however many workspaces they are of: an event waits for its turn as soon as it
turns out to be heavy, and is then evaluated in a process of its own, of low priority, which costs the others no
interpreter. After it four times as much time is left to others. Where the last event of a workspace was heavy, the next
one waits before anything is done for it. Few of the worker's threads wait so; what comes on top is handed back to
PostgreSQL for later. And the workspace's fan-out lane is paused for a while, so that its next events wait there.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from cachetools import FIFOCache

from delivery.lanes import brokers
from delivery.rules.routing import Fact, Routed, Routing, evaluate, keep, kept

HEAVY_STEPS = 80_000
"""From here on an event is heavy: about 6 ms of one core."""
STEPS_PER_LEDGER_ENTRY = 100
"""What a ledger's entry costs to write."""
STEPS_PER_DELIVERY = 800
"""What a delivery costs to write, mostly in PostgreSQL."""
BYTES_PER_STEP = 20
"""Of bodies that are written."""
LARGE_STEPS = 16_000
"""From here on what an event writes is written by itself: about 1 ms."""
STEP_SECONDS = 70e-9
MOST_WAITING = 3
"""Threads of a worker, of 16, that may wait for the turn of a heavy event."""
MOST_LOADING, LOADING_PATIENCE_SECONDS = 6, 0.5
"""Threads that may wait for rules to be read, and how long others wait for one of these places."""
COOL_DOWN_SHARE = 4.0
"""Cool-down after a heavy event, in times of what it took. At 4, heavy events take a fifth of the time."""
LONGEST_COOL_DOWN_SECONDS = 2.0
"""Four events that take as long as they cool down are far from the end of their lease."""
PAUSE_SHARE = 4.0
"""The pause of the workspace's lane, in times of what the event cost."""
BUSY_PAUSE_SECONDS = 3.0
"""The pause where so many wait that the event had to be handed back."""


class HeavyError(Exception):
    """An event is too heavy to go on with now. It has written nothing.

    `Turn.note` raises it where the event has to take its turn first, everything else where so many wait in this process
    that the event is better tried later.
    """


class Places:
    """So many threads may be inside at once. One that finds no place within a while is told to try later."""

    def __init__(self, number: int, patience_seconds: float) -> None:
        self._free = threading.Semaphore(number)
        self._patience_seconds = patience_seconds

    def __enter__(self) -> None:
        if not self._free.acquire(timeout=self._patience_seconds):
            raise HeavyError

    def __exit__(self, *error: object) -> None:
        self._free.release()


loading = Places(MOST_LOADING, LOADING_PATIENCE_SECONDS)


class Gate:
    """Lets one heavy event after the other run."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._turn = threading.Lock()
        self._places = threading.Semaphore(most_waiting + 1)

    def enter(self) -> None:
        """Wait for the turn. Raises HeavyError at once where too many wait already."""
        if not self._places.acquire(blocking=False):
            raise HeavyError
        self._turn.acquire()

    def leave(self, seconds: float) -> None:
        """Give the turn to the next one after so many seconds."""
        time.sleep(seconds)
        self._turn.release()
        self._places.release()


_gate = Gate()
_last_were_heavy: FIFOCache[uuid.UUID, None] = FIFOCache(10_000)
"""Workspaces whose last events were heavy, as this process knows."""
_noting = threading.Lock()


class Turn:
    """One event's work, for the length of a `with`.

    `take` waits for the turn of a heavy one. Where the workspace's last event was heavy that is at once, so that `with`
    itself may raise HeavyError.
    """

    def __init__(self, workspace_id: uuid.UUID, gate: Gate = _gate) -> None:
        self._workspace_id, self._gate = workspace_id, gate
        self._taken_at: float | None = None
        self._steps = 0

    def __enter__(self) -> "Turn":
        if self._workspace_id in _last_were_heavy:
            self.take()
        return self

    @property
    def is_taken(self) -> bool:
        return self._taken_at is not None

    def note(self, steps: int) -> None:
        """What the event has cost until now. Raises HeavyError where it is heavy, and the turn not yet taken."""
        self._steps = steps
        if steps >= HEAVY_STEPS and not self.is_taken:
            raise HeavyError

    def take(self) -> None:
        """Wait for the turn. Raises HeavyError, and the lane is then paused."""
        if self.is_taken:
            return
        try:
            self._gate.enter()
        except HeavyError:
            brokers.pause_fan_out(self._workspace_id, BUSY_PAUSE_SECONDS)
            raise
        self._taken_at = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._taken_at is not None:
            took = time.monotonic() - self._taken_at
            brokers.pause_fan_out(self._workspace_id, PAUSE_SHARE * self._steps * STEP_SECONDS)
            self._gate.leave(min(COOL_DOWN_SHARE * took, LONGEST_COOL_DOWN_SECONDS))
        if error is None:
            with _noting:
                _last_were_heavy.pop(self._workspace_id, None)
                if self._steps >= HEAVY_STEPS:
                    _last_were_heavy[self._workspace_id] = None


def writing_steps(routed: Routed) -> int:
    """What it costs to write what was decided of an event."""
    bodies = sum(len(delivery.body or "") for delivery in routed.deliveries)
    rows = STEPS_PER_LEDGER_ENTRY * len(routed.entries) + STEPS_PER_DELIVERY * len(routed.deliveries)
    return rows + bodies // BYTES_PER_STEP


# --- the process that evaluates them --------------------------------------------------------------------------------

NICENESS = 10
"""Where the machine has too little for all, this process has a tenth of what another one has."""
PATIENCE_SECONDS = 8.0
"""The longest that one event is waited for. Four in a row that wait so long are far from the end of their leases."""
STUCK_SECONDS = 120.0
"""A process that owes an answer for so long is ended."""


class EvaluatorLostError(Exception):
    """The process that evaluated an event died over it."""


class Evaluator:
    """The process, as its worker sees it. One event at a time; who finds it taken waits.

    A worker has one, begun at its first heavy event; it ends with the worker. It touches neither database nor socket:
    it is given an event, is given the workspace's rules where it does not have them, and answers what `evaluate` makes
    of it. As that is pure, an answer that came too late is thrown away, and the event is evaluated again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._owes_since: float | None = None

    def evaluate(self, fact: Fact, rules: Routing) -> Routed:
        """What `routing.evaluate` makes of it. Raises EvaluatorLostError, and HeavyError where there is no answer in
        time."""
        with self._lock:
            try:
                return self._ask(fact, rules)
            except (EOFError, OSError) as error:
                self.end()
                raise EvaluatorLostError(f"the process that evaluated the event is gone ({error!r})") from error

    def _ask(self, fact: Fact, rules: Routing) -> Routed:
        pipe, deadline = self._running(), time.monotonic() + PATIENCE_SECONDS
        if self._owes_since is not None and self._receive(pipe, deadline) is None:
            pipe.send(None)  # it asked for the rules of an event that waits elsewhere by now
        pipe.send((fact, rules.stamp))
        self._owes_since = time.monotonic()
        answer: Routed | Exception | None = self._receive(pipe, deadline)
        if answer is None:
            pipe.send((rules.workspace, [compiled.rule for compiled in rules.rules]))
            self._owes_since = time.monotonic()
            answer = self._receive(pipe, deadline)
        if answer is None:
            raise EOFError("it asked for the rules twice")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _receive(self, pipe: Connection, deadline: float) -> Any:
        """What the process owes. Raises HeavyError where it is not there in time; it is owed then."""
        if not pipe.poll(max(0.0, deadline - time.monotonic())):
            if self._owes_since is not None and time.monotonic() - self._owes_since > STUCK_SECONDS:
                self.end()
            raise HeavyError
        answer = pipe.recv()
        self._owes_since = None
        return answer

    def _running(self) -> Connection:
        if self._process is not None and self._process.poll() is not None:
            self.end()  # it died between two events
        if self._pipe is None:
            self._pipe, other = Pipe()
            with other:
                command = [sys.executable, "-m", "django", "evaluator", str(other.fileno())]
                self._process = subprocess.Popen(command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL)
            os.setpriority(os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
            self._owes_since = time.monotonic()  # it says when it is ready
        return self._pipe

    def end(self) -> None:
        """End the process; the next event begins another."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = self._owes_since = None
        if pipe is not None:
            pipe.close()
        if process is not None:
            process.kill()
            process.wait()


def serve(pipe: Connection) -> None:
    """In the process: answer until the worker is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to all of a service: the worker's last events may need an answer
    try:
        pipe.send("ready")
        while True:
            fact, stamp = pipe.recv()
            rules = kept(fact.workspace_id, stamp)
            if rules is None:
                pipe.send(None)
                given = pipe.recv()
                if given is None:
                    continue
                rules = keep(Routing(stamp, given[0], given[1], before=kept(fact.workspace_id)))
            try:
                answer = pickle.dumps(evaluate(fact, rules))
            except Exception as error:  # noqa: BLE001  (the worker judges it)
                answer = pickle.dumps(RuntimeError(repr(error)))
            pipe.send_bytes(answer)
    except (EOFError, OSError):
        return
