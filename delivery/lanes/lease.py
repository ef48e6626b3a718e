"""A message that was taken, and the way back to the server of those that are done with."""

from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import NamedTuple

from redis.commands.core import Script

from delivery.lanes.names import key_prefix


class Lease(NamedTuple):
    """One message taken. It is the message's delivery tag, so a message knows its lease wherever it goes."""

    ring: str
    lane: str
    message_id: str
    ends_at: str
    """Microseconds since the epoch by the server's clock. It also tells this lease from others of the same message."""
    is_slow: bool = False
    """Taken from a lane in trouble; such lanes may hold a part of a worker's slots only."""


_owner = ""


def set_owner(owner: str) -> None:
    """Whose the messages are that this process takes from now on, for `Lanes.release`; '' for nobody's."""
    global _owner  # noqa: PLW0603  (a process is one owner)
    _owner = owner


def current_owner() -> str:
    return _owner


_takes = True


def set_taking(takes: bool) -> None:
    """Whether the channels of this process take messages of lanes; by default they do."""
    global _takes  # noqa: PLW0603  (as above)
    _takes = takes


def is_taking() -> bool:
    return _takes


class Report(NamedTuple):
    """What a task says of the message that it has worked on."""

    seconds: float
    is_failure: bool


_reports: dict[str, Report] = {}
MOST_REPORTS = 10_000


def report(message_id: str, seconds: float, *, is_failure: bool) -> None:
    """Tell how long a message took and whether it failed. Call it before the task ends; the settlement carries it."""
    if len(_reports) >= MOST_REPORTS:  # of tasks that were called, not taken from a lane
        _reports.clear()
    _reports[message_id] = Report(seconds, is_failure)


class Settler:
    """Leases of this process that no channel answers for: ended and not yet settled, or of a channel that was lost.

    It outlives channels: a task may finish while its worker is reconnecting, and is then settled by the next channel.
    Any thread may add; the thread that runs the event loop does the rest.
    """

    BATCH = 500

    def __init__(self) -> None:
        self._finished: deque[tuple[Lease, Report | None]] = deque()
        self._orphans: dict[Lease, float] = {}  # until when they count, by time.monotonic()
        self._slow: set[Lease] = set()

    def __bool__(self) -> bool:
        return bool(self._finished)

    def add(self, lease: Lease) -> None:
        """The message is done with."""
        self._finished.append((lease, _reports.pop(lease.message_id, None)))
        self.release([lease])

    def hold(self, lease: Lease) -> None:
        """The message fills a slot of the worker from now on."""
        if lease.is_slow:
            self._slow.add(lease)

    def release(self, leases: Iterable[Lease]) -> None:
        """The messages fill no slots any more."""
        for lease in leases:
            self._slow.discard(lease)
            self._orphans.pop(lease, None)

    def slow(self) -> int:
        """How many slots lanes in trouble fill."""
        return len(self._slow)

    def adopt(self, leases: Iterable[Lease], seconds: float) -> None:
        """Their channel is gone while their tasks go on: they fill slots of the worker until they end or lapse."""
        until = monotonic() + seconds
        self._orphans.update(dict.fromkeys(leases, until))

    def orphans(self) -> int:
        """How many slots are filled by tasks whose channel is gone."""
        if self._orphans:
            now = monotonic()
            for lease in [lease for lease, until in self._orphans.copy().items() if until <= now]:
                self._orphans.pop(lease, None)
        return len(self._orphans)

    def flush(self, settle: Script, caps: str) -> None:
        """Settle all that has finished, some hundreds per call. What could not be sent stays for the next flush."""
        while self._finished:
            batch = [self._finished.popleft() for _ in range(min(len(self._finished), self.BATCH))]
            try:
                settle_all(settle, caps, batch)
            except BaseException:
                self._finished.extendleft(reversed(batch))
                raise


def settle_all(script: Script, caps: str, finished: Iterable[tuple[Lease, Report | None]]) -> int:
    """Settle finished messages, in one call a ring. Returns how many leases were still held."""
    return _call_by_ring(
        script,
        caps,
        ((lease, (repr(report.seconds), int(report.is_failure)) if report else ("", 0)) for lease, report in finished),
    )


def hand_back_all(script: Script, caps: str, leases: Iterable[Lease]) -> int:
    """Hand back messages, in the order of taking, in one call a ring. Returns how many leases were still held."""
    return _call_by_ring(script, caps, ((lease, ()) for lease in leases))


def _call_by_ring(script: Script, caps: str, leases: Iterable[tuple[Lease, tuple[str | int, ...]]]) -> int:
    by_ring: dict[str, list[str | int]] = {}
    for lease, more in leases:
        by_ring.setdefault(lease.ring, [caps]).extend((lease.lane, lease.message_id, lease.ends_at, *more))
    return sum(script(keys=[key_prefix(ring)], args=args) for ring, args in by_ring.items())
