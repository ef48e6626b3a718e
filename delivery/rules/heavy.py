"""Heavy events: those whose rules cost so much, or write so many rows, that others would wait for them.

They are routed one after the other, however many workspaces they are of: an event waits for its turn as soon as it
turns out to be heavy, and is then evaluated in a process of its own (`evaluator`). After it four times as much
time is left to others. Where the last event of a workspace was heavy, the next one waits before anything is
done for it. Few of the worker's threads wait so; what comes on top is handed back to PostgreSQL for later. And the
workspace's fan-out lane is paused for a while, so that its next events wait there and not here.
"""

import threading
import time
import uuid
from collections import OrderedDict
from types import TracebackType

from delivery.lanes import steering

HEAVY_STEPS = 80_000
"""From here on an event is heavy: about 6 ms of one core."""
STEPS_PER_ENTRY = 100
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
REST_SHARE = 4.0
"""Rest after a heavy event, in times of what it took. At 4, heavy events take a fifth of the time."""
LONGEST_REST_SECONDS = 2.0
"""Four events that take as long as they rest are far from the end of their lease."""
PAUSE_SHARE = 4.0
"""The pause of the workspace's lane, in times of what the event cost."""
BUSY_PAUSE_SECONDS = 3.0
"""The pause where so many wait that the event had to be handed back."""


class TooManyHeavyError(Exception):
    """So many heavy events wait in this process that this one is better tried later. It has written nothing."""


class Places:
    """So many threads may be inside at once. One that finds no place within a while is told to try later."""

    def __init__(self, number: int, patience_seconds: float) -> None:
        self._free = threading.Semaphore(number)
        self._patience_seconds = patience_seconds

    def __enter__(self) -> None:
        if not self._free.acquire(timeout=self._patience_seconds):
            raise TooManyHeavyError

    def __exit__(self, *error: object) -> None:
        self._free.release()


loading = Places(MOST_LOADING, LOADING_PATIENCE_SECONDS)


class Gate:
    """Lets one heavy event after the other run."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._turn = threading.Lock()
        self._places = threading.Semaphore(most_waiting + 1)

    def enter(self) -> None:
        """Wait for the turn. Raises TooManyHeavyError at once where too many wait already."""
        if not self._places.acquire(blocking=False):
            raise TooManyHeavyError
        self._turn.acquire()

    def leave(self, rest_seconds: float) -> None:
        """Give the turn to the next, after a rest."""
        time.sleep(rest_seconds)
        self._turn.release()
        self._places.release()


_gate = Gate()
_last_were_heavy: OrderedDict[uuid.UUID, None] = OrderedDict()
"""Workspaces whose last events were heavy, as this process knows."""
MOST_KNOWN = 10_000


class HeavyError(Exception):
    """An event has turned out to be heavy."""


class Turn:
    """One event's work, for the length of a `with`.

    `take` waits for the turn of a heavy one. Where the workspace's last event was heavy that is at once, so that `with`
    itself may raise TooManyHeavyError.
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
        """Wait for the turn. Raises TooManyHeavyError, and the lane is then paused."""
        if self.is_taken:
            return
        try:
            self._gate.enter()
        except TooManyHeavyError:
            steering.pause_fan_out(self._workspace_id, BUSY_PAUSE_SECONDS)
            raise
        self._taken_at = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._taken_at is not None:
            took = time.monotonic() - self._taken_at
            steering.pause_fan_out(self._workspace_id, PAUSE_SHARE * self._steps * STEP_SECONDS)
            self._gate.leave(min(REST_SHARE * took, LONGEST_REST_SECONDS))
        if error is None:
            _remember(self._workspace_id, self._steps >= HEAVY_STEPS)


def _remember(workspace_id: uuid.UUID, is_heavy: bool) -> None:
    if is_heavy:
        _last_were_heavy[workspace_id] = None
        if len(_last_were_heavy) > MOST_KNOWN:
            _last_were_heavy.popitem(last=False)
    else:
        _last_were_heavy.pop(workspace_id, None)
