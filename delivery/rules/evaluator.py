"""A process of its own, of low priority, in which heavy events are evaluated: they cost the others no interpreter.

A worker process has one, begun at its first heavy event; it ends with the worker. It never touches the database or a
socket: it is given an event, is given the workspace's rules where it does not have them, and answers what `evaluate`
makes of it. As that is pure, an answer that came too late is thrown away, and the event is evaluated again.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from delivery.rules.evaluation import Fact, Routed, Shaped, evaluate
from delivery.rules.heavy import TooManyHeavyError
from delivery.rules.routing import Routing, keep, kept

NICENESS = 10
"""Where the machine has too little for all, this process has a tenth of what another one has."""
PATIENCE_SECONDS = 8.0
"""The longest that one event is waited for. Four in a row that wait so long are far from the end of their leases."""
STUCK_SECONDS = 120.0
"""A process that owes an answer for so long is ended."""

Answer = tuple[list[Shaped], int]


class EvaluatorLostError(Exception):
    """The process that evaluated an event died over it."""


class Evaluator:
    """The process, as its worker sees it. One event at a time; who finds it taken waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._owes_since: float | None = None

    def evaluate(self, fact: Fact, rules: Routing) -> Routed:
        """What `evaluation.evaluate` makes of it. Raises TooManyHeavyError where there is no answer in time, and
        EvaluatorLostError."""
        with self._lock:
            try:
                considered, steps = self._ask(fact, rules)
            except (EOFError, OSError) as error:
                self.end()
                raise EvaluatorLostError(f"the process that evaluated the event is gone ({error!r})") from error
        return Routed(fact, considered, steps)

    def _ask(self, fact: Fact, rules: Routing) -> Answer:
        pipe, deadline = self._running(), time.monotonic() + PATIENCE_SECONDS
        if self._owes_since is not None and self._receive(pipe, deadline) is None:
            pipe.send(None)  # it asked for the rules of an event that waits elsewhere by now
        pipe.send((fact, rules.stamp))
        self._owes_since = time.monotonic()
        answer: Answer | Exception | None = self._receive(pipe, deadline)
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
        """What the process owes. Raises TooManyHeavyError where it is not there in time; it is owed then."""
        if not pipe.poll(max(0.0, deadline - time.monotonic())):
            if self._owes_since is not None and time.monotonic() - self._owes_since > STUCK_SECONDS:
                self.end()
            raise TooManyHeavyError
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


# --- in the process -------------------------------------------------------------------------------------------------


def serve(pipe: Connection) -> None:
    """Answer until the worker is gone."""
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
            pipe.send_bytes(_answer(fact, rules))
    except (EOFError, OSError):
        return


def _answer(fact: Fact, rules: Routing) -> bytes:
    try:
        routed = evaluate(fact, rules)
        return pickle.dumps((routed.considered, routed.steps))
    except Exception as error:  # noqa: BLE001  (the worker judges it)
        return pickle.dumps(RuntimeError(repr(error)))
