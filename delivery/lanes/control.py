"""What an operator, a sweeper or a task can do with a lane. Every call is idempotent and one round trip.

All keys of a ring begin with ``meshes:lanes:{<ring>}:`` and are made and removed by the scripts alone:

| key | type | holds | while |
|---|---|---|---|
| ``waiting:<lane>`` | list | message ids, in order | the lane has waiting messages |
| ``messages:<lane>`` | hash | message id → arrival (16 digits, µs) + body; waiting and leased | the lane has messages |
| ``leases`` | sorted set | ``<lane> <message id>`` by the end of the lease (µs) | messages are leased |
| ``ring`` | sorted set | lanes that have work and may run, by turn | there are such lanes |
| ``busy`` | set | lanes with waiting messages | there are such lanes |
| ``asleep`` | sorted set | paused lanes by the end of the pause (µs) | lanes are paused |
| ``limits`` | hash | lane → its own in-flight cap | lanes have one |
| ``wake`` | list | at most one token, for a worker that waits | nobody has taken it |
| ``turn`` | string | the number of the last turn in the ring | for ever |

A lane that is empty, idle and unpaused has no key, and no member in any but ``limits``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from redis import Redis

from delivery.lanes import options
from delivery.lanes.names import RINGS, key_prefix, ring_of_lane
from delivery.lanes.scripts import Scripts

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LaneStats:
    """One lane at one moment."""

    waiting: int
    in_flight: int
    limit: int
    """How many messages may be in flight."""
    is_in_ring: bool
    paused_until: datetime | None
    oldest_at: datetime | None
    """When the first waiting message arrived."""


@dataclass(frozen=True, slots=True)
class RingStats:
    """One ring at one moment, in lanes, and in messages for ``in_flight``."""

    ready: int
    busy: int
    paused: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Repairs:
    """What a repair found: messages whose lease had lapsed, pauses that had ended, lanes missing in their ring."""

    lapsed: int
    woken: int
    fallen: int


class Lanes:
    """Control of the lanes of one server. Raises ValueError for a name that is no lane, and redis-py's errors."""

    def __init__(self, client: Redis, *, in_flight: int = options.IN_FLIGHT) -> None:
        self._client = client
        self._in_flight = in_flight
        self._scripts = Scripts.of(client)

    def put(self, messages: Iterable[tuple[str, str, str]]) -> int:
        """Append encoded messages, as `(lane, message id, body)`, in one round trip. Returns how many were appended.

        A lane refuses a message that it has, and any beyond its capacity.
        """
        with self._client.pipeline(transaction=False) as pipeline:
            for lane, message_id, body in messages:
                args = (self._in_flight, options.CAPACITY, lane, message_id, body)
                self._scripts.put(keys=_keys(lane), args=args, client=pipeline)
            return sum(answer == 1 for answer in pipeline.execute())

    def limit(self, lane: str, in_flight: int | None) -> None:
        """How many messages of the lane may be leased at once; None returns it to the default. At least 1."""
        if in_flight is not None and in_flight < 1:
            raise ValueError("A lane's limit is at least 1; to stop a lane, pause it.")
        own = "" if in_flight is None else in_flight
        self._scripts.limit(keys=_keys(lane), args=(self._in_flight, lane, own))

    def pause(self, lane: str, until: datetime) -> None:
        """Take nothing from the lane before ``until`` (aware). What is leased goes on. A past moment resumes."""
        if until.tzinfo is None:
            raise ValueError("The end of a pause needs a time zone.")
        micros = max(0, (until - _EPOCH) // timedelta(microseconds=1))
        self._scripts.pause(keys=_keys(lane), args=(self._in_flight, lane, micros))

    def resume(self, lane: str) -> None:
        """End a pause now, and wake a worker."""
        self._scripts.pause(keys=_keys(lane), args=(self._in_flight, lane, 0))

    def purge(self, lane: str) -> int:
        """Forget the waiting messages of the lane. Returns how many they were."""
        return int(self._scripts.purge(keys=_keys(lane), args=(self._in_flight, lane)))

    def depth(self, lane: str) -> int:
        """The number of waiting messages."""
        return self.depths([lane])[0]

    def depths(self, lanes: Sequence[str]) -> list[int]:
        """The numbers of waiting messages of many lanes, in their order."""
        with self._client.pipeline(transaction=False) as pipeline:
            for lane in lanes:
                pipeline.llen(f"{key_prefix(ring_of_lane(lane))}waiting:{lane}")
            return [int(length) for length in pipeline.execute()]

    def stats(self, lane: str) -> LaneStats:
        reply = self._scripts.stats(keys=_keys(lane), args=(self._in_flight, lane))
        waiting, in_flight, limit, in_ring, until, arrival = reply
        return LaneStats(waiting, in_flight, limit, bool(in_ring), _moment(until), _moment(arrival))

    def oldest(self, lane: str) -> datetime | None:
        """When the first waiting message arrived; None if none waits."""
        return self.stats(lane).oldest_at

    def ring_stats(self, ring: str) -> RingStats:
        if ring not in RINGS:
            raise ValueError(f"{ring!r} is not a ring.")
        prefix = key_prefix(ring)
        with self._client.pipeline() as pipeline:
            pipeline.zcard(prefix + "ring")
            pipeline.scard(prefix + "busy")
            pipeline.zcard(prefix + "asleep")
            pipeline.zcard(prefix + "leases")
            return RingStats(*pipeline.execute())

    def repair(self, rings: Iterable[str] = RINGS) -> Repairs:
        """Put back every message whose lease has lapsed, wake what is due, and return fallen lanes to their rings.

        Workers do so by themselves every few seconds; this walks all busy lanes at once.
        """
        found = [self._repair_ring(ring) for ring in rings]
        return Repairs(sum(f.lapsed for f in found), sum(f.woken for f in found), sum(f.fallen for f in found))

    def _repair_ring(self, ring: str) -> Repairs:
        lapsed = woken = fallen = 0
        cursor, most = "0", options.REPAIR_AT_MOST
        while True:
            reply = self._scripts.repair(keys=[key_prefix(ring)], args=(self._in_flight, most, cursor))
            lapsed, woken, fallen = lapsed + reply[0], woken + reply[1], fallen + reply[2]
            cursor = _text(reply[3])
            if cursor == "0" and reply[0] < most and reply[1] < most:
                return Repairs(lapsed, woken, fallen)


def _keys(lane: str) -> list[str]:
    return [key_prefix(ring_of_lane(lane))]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _moment(micros: bytes | str) -> datetime | None:
    return _EPOCH + timedelta(microseconds=int(micros)) if micros else None
