# mypy: disallow-untyped-calls=False
# (kombu's methods have no types)
"""A message that was taken, what a channel knows of it, and the way back to the server of those that are done with."""

from collections import deque
from collections.abc import Iterable
from threading import Lock
from time import monotonic
from typing import Any, Final, NamedTuple

from cachetools import FIFOCache
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

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


class QoS(kombu_redis.QoS):
    """kombu's bookkeeping of unacknowledged messages, in which a lane's message carries its lease as its delivery tag.

    kombu writes two keys when a message is taken and removes them when it is acknowledged. A lane's message was already
    leased by the script that took it, so only the count of open messages (the prefetch limit) is kept here.
    """

    def append(self, message: Any, delivery_tag: Any) -> None:
        if isinstance(delivery_tag, Lease):
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: Any) -> None:
        if isinstance(delivery_tag, Lease):
            self.channel.settler.add(delivery_tag)
            virtual.QoS.ack(self, delivery_tag)
        else:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        if not isinstance(delivery_tag, Lease):
            super().reject(delivery_tag, requeue=requeue)
        elif requeue:
            self.channel.hand_back([delivery_tag])
            virtual.QoS.ack(self, delivery_tag)
        else:
            self.ack(delivery_tag)

    def can_consume(self) -> bool:
        if not self.channel.is_taking and self.channel.active_rings():
            return False
        room = self.can_consume_max_estimate()
        return room is None or room > 0

    def can_consume_max_estimate(self) -> int | None:
        """The free slots of the worker; None if it set no limit. Tasks that outlived their channel fill slots too."""
        room: int | None = super().can_consume_max_estimate()
        return None if room is None else max(0, room - self.channel.settler.count_orphans())

    def pop_leases(self, running: frozenset[str] = frozenset()) -> list[Lease]:
        """Forget the leases that were neither acknowledged nor rejected, but for those of ``running`` messages.

        Returns them in the order of taking.
        """
        self._flush()
        leases = [tag for tag in self._delivered if isinstance(tag, Lease) and tag.message_id not in running]
        for lease in leases:
            del self._delivered[lease]
        return leases

    def restore_unacked(self, client: Any = None) -> None:
        """A consumer asks for its open messages to be delivered again."""
        self.channel.hand_back(self.pop_leases())
        if self._delivered:
            super().restore_unacked(client)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """A channel closes, perhaps because its connection broke while its tasks run: their leases stay theirs."""
        self.channel.settler.adopt(self.pop_leases(), self.channel.lane_lease_seconds)
        super().restore_unacked_once(stderr)

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """kombu's periodic hook, every ``unacked_restore_interval`` seconds."""
        self.channel.repair()
        if self.channel.has_stock_queues():
            super().restore_visible(start, num, interval)
