"""What an operator, a sweeper or a task can do with a lane. Every call is idempotent and one round trip.

All keys of a ring begin with ``meshes:lanes:{<ring>}:`` and are made and removed by the scripts alone:

| key | type | holds | while |
|---|---|---|---|
| ``waiting:<lane>`` | list | message ids, in order | the lane has waiting messages |
| ``messages:<lane>`` | hash | message id → arrival (16 digits, µs) + body | messages wait or are leased |
| ``workspaces`` | hash | lane → its workspace | lanes that were put with one have messages |
| ``busy`` | sorted set | lanes with waiting messages by the time since when (µs) | there are such lanes |
| ``ready`` | hash | lane → the sorted set in which it stands | lanes have work and may run |
| ``ring`` | sorted set | workspaces (``@<id>``), and lanes without one, by turn | lanes are ready |
| ``ring:<workspace>`` | sorted set | lanes of the workspace that are ready, by turn | there are such lanes |
| ``leases`` | sorted set | ``<lane> <message id>`` by the end of the lease (µs) | messages are leased |
| ``shortened`` | hash | lease → the end that its holder knows, after the clock was set back | such leases last |
| ``owners`` | hash | ``<lane> <message id>`` → the worker's session (`delivery.dispatch.sessions`) | its leases last |
| ``asleep`` | sorted set | paused lanes; lanes and buckets (``@<name>``) out of tokens; by the end | anybody sleeps |
| ``paused`` | set | those that sleep because of a pause | lanes are paused |
| ``windows`` | hash | lane → how many of its messages may be in flight | busy lanes that started slowly go on well |
| ``limits`` | hash | lane → its own in-flight cap, rate and burst | lanes have one |
| ``debts`` | sorted set | lanes and buckets, by when they have all tokens again (µs) | they spent some lately |
| ``buckets`` | hash | bucket → in-flight cap, rate and burst | buckets are defined |
| ``shares`` | hash | lane → its bucket | lanes share one |
| ``shared_leases`` | hash | bucket → messages leased | there are such messages |
| ``parked:<bucket>`` | sorted set | lanes that wait for the bucket, by turn | there are such lanes |
| ``health:<lane>`` | string | averages of latency and failures | lately slow or failing, for 15 min |
| ``troubled`` | sorted set | lanes in trouble, by when that is forgotten (µs) | there are such lanes |
| ``slow``, ``slow:<workspace>`` | sorted set | as ``ring``, of lanes in trouble | they are ready |
| ``wake``, ``wake:slow`` | list | at most one token, for a worker that waits | nobody has taken it |
| ``wake:<worker>`` | list | a token for one worker, whose slots for lanes in trouble were full | 10 s at most |
| ``turn`` | string | the number of the last turn in the ring | for ever |

A lane that is empty, idle and unpaused has no key, and no member in any but ``limits`` and ``shares``.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis

from delivery.lanes import options
from delivery.lanes.names import RINGS, bucket_name, key_prefix, ring_named, ring_of_lane
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
    rate: float | None = None
    """Messages per second."""
    burst: float | None = None
    bucket: str | None = None
    """The bucket that it shares with other lanes."""
    throttled_until: datetime | None = None
    """When its next token comes."""
    is_troubled: bool = False
    workspace: str | None = None
    """Known while it has messages."""


@dataclass(frozen=True, slots=True)
class RingStats:
    """One ring at one moment, in lanes, and in messages for ``in_flight``."""

    ready: int
    busy: int
    paused: int
    in_flight: int
    throttled: int = 0
    """Lanes and buckets that wait for a token."""
    troubled: int = 0
    """Lanes that are slow or fail, with work or without."""

    @classmethod
    def sum(cls, rings: Iterable["RingStats"]) -> "RingStats":
        """The same ring of several servers."""
        return cls(*(sum(values) for values in zip(*map(astuple, rings), strict=True)))


@dataclass(frozen=True, slots=True)
class Repairs:
    """What a repair found: messages whose lease had lapsed, pauses that had ended, lanes missing in their ring."""

    lapsed: int
    woken: int
    fallen: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What one lane may do, as `Lanes.limit` says; `bucket` is the budget that it shares: name, in-flight cap, rate."""

    lane: str
    in_flight: int | None
    rate: float | None
    bucket: tuple[str, int | None, float | None] | None = None


class Lanes:
    """Control of the lanes of one server. Raises ValueError for a name that is no lane, and redis-py's errors."""

    def __init__(
        self,
        client: Redis,
        *,
        in_flight: int = options.IN_FLIGHT,
        first_window: int = options.FIRST_WINDOW,
        lease_seconds: float = options.LEASE_SECONDS,
    ) -> None:
        """``in_flight`` and ``first_window``: of lanes without limits of their own, as their workers know them."""
        self._client = client
        self._caps = f"{in_flight} {first_window}"
        self._lease_micros = round(lease_seconds * 1_000_000)
        self._scripts = Scripts.of(client)

    def put(self, messages: Iterable[tuple[str, str, str] | tuple[str, str, str, str]]) -> int:
        """Append encoded messages in one round trip: `(lane, message id, body)` and, if known, the lane's workspace,
        whose lanes then share its turns. Returns how many were appended.

        A lane refuses a message that it has, and any beyond its capacity.
        """
        by_ring: dict[str, list[str]] = {}
        for message in messages:
            lane, message_id, body = message[:3]
            workspace = message[3] if len(message) == 4 else ""
            by_ring.setdefault(ring_of_lane(lane), []).extend((lane, workspace, message_id, body))
        calls = [
            (ring, fields[start : start + 4 * options.PUT_AT_ONCE])
            for ring, fields in by_ring.items()
            for start in range(0, len(fields), 4 * options.PUT_AT_ONCE)
        ]
        if len(calls) == 1:  # a pipeline would first ask whether the server knows the script
            answers: list[int] = self._put(self._client, *calls[0])
            return answers.count(1)
        with self._client.pipeline(transaction=False) as pipeline:
            for ring, fields in calls:
                self._put(pipeline, ring, fields)
            return sum(each.count(1) for each in pipeline.execute())

    def _put(self, client: Redis, ring: str, fields: list[str]) -> Any:
        args = (self._caps, str(options.CAPACITY), *fields)
        return self._scripts.put(keys=[key_prefix(ring)], args=args, client=client)

    def limit(
        self, lane: str, in_flight: int | None = None, *, rate: float | None = None, burst: float | None = None
    ) -> None:
        """What the lane may do: at most ``in_flight`` messages leased at once (at least 1; None: the default), and
        ``rate`` messages per second (above 0; None: as fast as they go), in bursts of up to ``burst`` (at least 1;
        None: what makes good a tenth of a second of lateness). In s seconds it gives out at most burst + rate · s.
        """
        self._limit(self._client, lane, in_flight, rate, burst)

    def limit_many(self, limits: Iterable[Terms]) -> None:
        """Limit many lanes, and let them share their buckets or none, in one round trip."""
        with self._client.pipeline(transaction=False) as pipeline:
            for each in limits:
                self._limit(pipeline, each.lane, each.in_flight, each.rate, None)
                if each.bucket is not None:
                    name, in_flight, rate = each.bucket
                    self._bucket(pipeline, key_prefix(ring_of_lane(each.lane)), name, _terms(in_flight, rate, None))
                self._share(pipeline, each.lane, each.bucket[0] if each.bucket else None)
            pipeline.execute()

    def _limit(self, client: Redis, lane: str, in_flight: int | None, rate: float | None, burst: float | None) -> None:
        args = (self._caps, lane, _terms(in_flight, rate, burst))
        self._scripts.limit(keys=_keys(lane), args=args, client=client)

    def bucket(
        self,
        name: str,
        in_flight: int | None = None,
        *,
        rate: float | None = None,
        burst: float | None = None,
        ring: str = "deliver",
    ) -> None:
        """Define a budget that lanes of one ring may share, in the terms of `limit`; without any it is forgotten."""
        self._bucket(self._client, key_prefix(ring_named(ring)), name, _terms(in_flight, rate, burst))

    def _bucket(self, client: Redis, prefix: str, name: str, terms: str) -> None:
        self._scripts.bucket(keys=[prefix], args=(self._caps, bucket_name(name), terms), client=client)

    def share(self, lane: str, bucket: str | None) -> None:
        """Let the lane draw on a bucket, beside limits of its own; None ends it. The bucket may be defined later."""
        self._share(self._client, lane, bucket)

    def _share(self, client: Redis, lane: str, bucket: str | None) -> None:
        name = "" if bucket is None else bucket_name(bucket)
        self._scripts.share(keys=_keys(lane), args=(self._caps, lane, name), client=client)

    def pause(self, lane: str, seconds: float) -> None:
        """Take nothing from the lane for so long, from now on, by the server's clock. What is leased goes on. 0 or
        less resumes."""
        micros = max(0, round(seconds * 1_000_000))
        self._scripts.pause(keys=_keys(lane), args=(self._caps, lane, micros))

    def resume(self, lane: str) -> None:
        """End a pause now, and wake a worker."""
        self._scripts.pause(keys=_keys(lane), args=(self._caps, lane, 0))

    def purge(self, lane: str) -> int:
        """Forget the waiting messages of the lane. Returns how many they were."""
        return int(self._scripts.purge(keys=_keys(lane), args=(self._caps, lane)))

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
        return self.stats_of([lane])[0]

    def stats_of(self, lanes: Sequence[str]) -> list[LaneStats]:
        """The stats of many lanes, in one round trip."""
        with self._client.pipeline(transaction=False) as pipeline:
            for lane in lanes:
                self._scripts.stats(keys=_keys(lane), args=(self._caps, lane), client=pipeline)
            return [_stats(reply) for reply in pipeline.execute()]

    def busy_for_longest(self, ring: str, most: int) -> list[str]:
        """Lanes that have had waiting messages for longest, the longest first."""
        return [_text(lane) for lane in self._client.zrange(key_prefix(ring_named(ring)) + "busy", 0, most - 1)]

    def asleep(self, ring: str, most: int) -> list[str]:
        """Lanes that are paused or out of tokens, the first to wake first. Buckets that sleep are left out."""
        found = self._client.zrange(key_prefix(ring_named(ring)) + "asleep", 0, most - 1)
        return [name for name in map(_text, found) if not name.startswith("@")]

    def oldest(self, lane: str) -> datetime | None:
        """When the first waiting message arrived; None if none waits."""
        return self.stats(lane).oldest_at

    def ring_stats(self, ring: str) -> RingStats:
        prefix = key_prefix(ring_named(ring))
        with self._client.pipeline() as pipeline:
            pipeline.hlen(prefix + "ready")
            pipeline.zcard(prefix + "busy")
            pipeline.scard(prefix + "paused")
            pipeline.zcard(prefix + "leases")
            pipeline.zcard(prefix + "asleep")
            pipeline.zcard(prefix + "troubled")
            ready, busy, paused, in_flight, asleep, troubled = pipeline.execute()
        return RingStats(ready, busy, paused, in_flight, throttled=asleep - paused, troubled=troubled)

    def repair(self, rings: Iterable[str] = RINGS) -> Repairs:
        """Put back every message whose lease has lapsed, wake what is due, and return fallen lanes to their rings.

        Workers do so by themselves every few seconds; this walks all busy lanes at once.
        """
        found = [self._repair_ring(ring) for ring in rings]
        return Repairs(sum(f.lapsed for f in found), sum(f.woken for f in found), sum(f.fallen for f in found))

    def leased_to(self, owner: str, ring: str) -> list[tuple[str, str]]:
        """The lanes and messages that a worker has leased from one ring."""
        found = self._client.hscan_iter(key_prefix(ring_named(ring)) + "owners", count=500)
        members = [_text(member) for member, holder in found if _text(holder) == owner]
        return [(lane, message_id) for lane, _, message_id in (member.partition(" ") for member in members)]

    def release(self, owner: str, rings: Iterable[str] = RINGS) -> int:
        """End the leases of a worker that is gone: its messages go back to their lanes. Returns how many."""
        released = 0
        for ring in rings:
            cursor = ""
            while cursor != "0":
                args = (self._caps, owner, cursor or "0")
                count, reached = self._scripts.release(keys=[key_prefix(ring)], args=args)
                released, cursor = released + int(count), _text(reached)
        return released

    def _repair_ring(self, ring: str) -> Repairs:
        lapsed = woken = fallen = 0
        cursor, most = "0", options.REPAIR_AT_MOST
        while True:
            args = (self._caps, most, cursor, self._lease_micros)
            reply = self._scripts.repair(keys=[key_prefix(ring)], args=args)
            lapsed, woken, fallen = lapsed + reply[0], woken + reply[1], fallen + reply[2]
            cursor = _text(reply[3])
            if cursor == "0" and reply[0] < most and reply[1] < most:
                return Repairs(lapsed, woken, fallen)


def _stats(reply: list[Any]) -> LaneStats:
    waiting, in_flight, limit, in_ring, until, arrival, rate, burst, bucket, token_at, troubled, workspace = reply
    return LaneStats(
        waiting,
        in_flight,
        limit,
        bool(in_ring),
        _moment(until),
        _moment(arrival),
        rate=float(rate) if rate else None,
        burst=float(burst) if burst else None,
        bucket=_text(bucket) or None,
        throttled_until=_moment(token_at),
        is_troubled=bool(troubled),
        workspace=_text(workspace) or None,
    )


def _terms(in_flight: int | None, rate: float | None, burst: float | None) -> str:
    """`<in-flight cap> <rate> <burst>` as the scripts read it; '' for no terms at all. Raises ValueError."""
    if in_flight is not None and in_flight < 1:
        raise ValueError("A limit is at least 1; to stop a lane, pause it.")
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise ValueError("A rate is above 0; to stop a lane, pause it.")
    if burst is not None and (rate is None or not (burst >= 1 and math.isfinite(burst))):
        raise ValueError("A burst is at least 1, and belongs to a rate.")
    if in_flight is None and rate is None:
        return ""
    if rate is not None and burst is None:
        burst = 1 + rate * options.LATENESS_SECONDS
    return " ".join("-" if term is None else repr(term) for term in (in_flight, rate, burst))


def _keys(lane: str) -> list[str]:
    return [key_prefix(ring_of_lane(lane))]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _moment(micros: bytes | str) -> datetime | None:
    return _EPOCH + timedelta(microseconds=int(micros)) if micros else None
