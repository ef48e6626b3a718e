"""A message that was taken, and the way back to the server of those that are done with."""

from collections import deque
from collections.abc import Iterable
from threading import Lock
from time import monotonic
from typing import Any, Final, NamedTuple

from cachetools import FIFOCache

from delivery.lanes.control import Scripts

SETTLE_AT_MOST: Final = 500
"""Messages that one call settles."""


class Lease(NamedTuple):
    """One message taken. It is the message's delivery tag, so a message knows its lease wherever it goes."""

    ring: str
    lane: str
    message_id: str
    ends_at: str
    """Microseconds since the epoch by the server's clock. It also tells this lease from others of the same message."""
    is_slow: bool = False
    """Taken from a slow or failing lane; such lanes may hold a part of a worker's slots only."""


_reports: FIFOCache[str, tuple[float | str, int]] = FIFOCache(10_000)
"""Of messages whose task is about to end. Those of tasks that were called, not taken from a lane, are forgotten."""
_reporting = Lock()


def report(message_id: str, seconds: float, *, is_failure: bool) -> None:
    """Tell how long a message took and whether it failed. Call it before the task ends; the settlement carries it."""
    with _reporting:
        _reports[message_id] = (seconds, int(is_failure))


class Settler:
    """Leases of this process that no channel answers for: ended and not yet settled, or of a channel that was lost.

    It outlives channels: a task may finish while its worker is reconnecting, and is then settled by the next channel.
    Any thread may add; the thread that runs the event loop does the rest.
    """

    def __init__(self) -> None:
        self.finished: deque[tuple[Lease, float | str, int]] = deque()
        self.slow: set[Lease] = set()  # those that fill a slot of the worker
        self._orphans: dict[Lease, float] = {}  # until when they count, by time.monotonic()

    def add(self, lease: Lease) -> None:
        """The message is done with."""
        with _reporting:
            seconds, failures = _reports.pop(lease.message_id, ("", 0))
        self.finished.append((lease, seconds, failures))
        self.free_slots([lease])

    def free_slots(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            self.slow.discard(lease)
            self._orphans.pop(lease, None)

    def adopt(self, leases: Iterable[Lease], seconds: float) -> None:
        """Their channel is gone while their tasks go on: they fill slots of the worker until they end or lapse."""
        self._orphans.update(dict.fromkeys(leases, monotonic() + seconds))

    def count_orphans(self) -> int:
        """How many slots are filled by tasks whose channel is gone."""
        if self._orphans:
            now = monotonic()
            for lease in [lease for lease, until in self._orphans.copy().items() if until <= now]:
                self._orphans.pop(lease, None)
        return len(self._orphans)

    def flush(self, scripts: Scripts) -> None:
        """Settle all that has finished. What could not be sent stays for the next flush."""
        while self.finished:
            batch = [self.finished.popleft() for _ in range(min(len(self.finished), SETTLE_AT_MOST))]
            try:
                end_leases(scripts, "settle", batch)
            except BaseException:
                self.finished.extendleft(reversed(batch))
                raise


settlers: dict[str, Settler] = {}
"""By broker address: what finished while a channel was lost is settled by the next one to the same server."""


def end_leases(scripts: Scripts, script: str, leases: Iterable[tuple[Any, ...]]) -> int:
    """Settle `(lease, seconds that it took or '', 1 if it failed or else 0)`, or hand back `(lease,)` in the order of
    taking; in one call a ring. Returns how many were still held."""
    by_ring: dict[str, list[Any]] = {}
    for lease, *said in leases:
        by_ring.setdefault(lease.ring, []).extend((lease.lane, lease.message_id, lease.ends_at, *said))
    return sum(scripts.run(script, ring, *arguments) for ring, arguments in by_ring.items())
