"""What lanes are, the scripts that move their messages, and what an operator, a sweeper or a task can do with one.

A lane is the queue of one connection (``conn.<id>``) or of one workspace (``fanout.<id>``). A ring holds the lanes of
one kind that have work and may run; a worker consumes the ring as if it were a queue (``-Q deliver``).

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
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from redis import Redis

IN_FLIGHT: Final = 8
"""Messages of one lane that may be leased at once, unless the lane has a limit of its own."""
FIRST_WINDOW: Final = 2
"""Of a lane that begins to run, so many messages may be leased at first, and one more for each that does not fail."""
LATENESS_SECONDS: Final = 0.1
"""A lane with a rate and no burst of its own may make good so much, for tokens whose taker came late."""
CAPACITY: Final = 1000
"""Messages that may wait in one lane. The backlog itself is in PostgreSQL."""
PUT_AT_ONCE: Final = 32
"""Messages that one call appends. It bounds how long the server is busy with it (about half a millisecond)."""
LEASE_SECONDS: Final = 90.0
"""A message that is neither settled nor handed back for so long goes back to its lane. Above the longest task."""
REPAIR_AT_MOST: Final = 200
"""Lapsed leases that one call of repair puts back; it is called again until fewer are left."""
MOST_LOOKED_AT = 2_000
"""Lanes among which the busiest are sought: those that have been busy for longest. As many sleepers are looked at."""

RINGS: Final = frozenset({"deliver", "fanout"})
SCRIPTS: Final = (
    *("put", "take", "settle", "hand_back", "repair", "release", "pause"),
    *("limit", "bucket", "share", "purge", "wake", "stats"),
)
_PARTS = ("keys", "limits", "ring", "offer", "health")
_LANE = re.compile(r"(conn|fanout)\.[A-Za-z0-9_-]{1,128}")
_BUCKET = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ring_of(queue: str) -> str | None:
    """The ring of a lane; None for a queue that is no lane."""
    match = _LANE.fullmatch(queue)
    return match and {"conn": "deliver", "fanout": "fanout"}[match[1]]


def key_prefix(ring: str) -> str:
    """The prefix of all keys of a ring. The braces keep them in one slot, so that scripts also run in cluster mode.

    Raises ValueError for what is no ring.
    """
    if ring not in RINGS:
        raise ValueError(f"{ring!r} is not a ring.")
    return f"meshes:lanes:{{{ring}}}:"


@cache
def source(name: str) -> str:
    """The whole text of a script: the parts that all share (key names, limits, the ring, who may run) and its own."""
    folder = Path(__file__).with_name("lua")
    return "".join(folder.joinpath(f"{part}.lua").read_text() for part in (*_PARTS, name))


class Scripts:
    """The scripts of one server, each atomic and O(1) or O(log n) in the number of lanes.

    What a script is given after the caps, and what it returns, says its file. redis-py loads it again when the server
    has forgotten it.
    """

    def __init__(self, client: Redis, in_flight: int = IN_FLIGHT, first_window: int = FIRST_WINDOW) -> None:
        self.caps = f"{in_flight} {first_window}"
        self.by_name = {name: client.register_script(source(name)) for name in SCRIPTS}

    def run(self, name: str, ring: str, *arguments: Any, client: Redis | None = None) -> Any:
        """Call a script on a ring. In a pipeline (``client``), the answer comes with the pipeline's."""
        return self.by_name[name](keys=[key_prefix(ring)], args=(self.caps, *arguments), client=client)


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
    """Slow or failing."""
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
class Survey:
    """A ring at one moment: its figures, and a few lanes each that an operator asks for first."""

    ring: str
    stats: RingStats
    busiest: list[tuple[str, LaneStats]]
    """By messages that wait, of the lanes that were looked at."""
    paused: list[tuple[str, LaneStats]]
    """The first to end first."""
    oldest: list[tuple[str, LaneStats]]
    """By the message that has waited longest."""
    is_whole: bool
    """Whether all busy and sleeping lanes were looked at."""


class Repairs(NamedTuple):
    """What a repair found: messages whose lease had lapsed, pauses that had ended, lanes missing in their ring."""

    lapsed: int
    woken: int
    fallen: int


class Lanes:
    """Control of the lanes of one server. Every call is idempotent, and one round trip unless it says otherwise.

    Raises ValueError for a name that is no lane, ring or bucket, and redis-py's errors.
    """

    def __init__(
        self,
        client: Redis,
        *,
        in_flight: int = IN_FLIGHT,
        first_window: int = FIRST_WINDOW,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """``in_flight`` and ``first_window``: of lanes without limits of their own, as their workers know them."""
        self._client = client
        self._lease_micros = round(lease_seconds * 1_000_000)
        self._scripts = Scripts(client, in_flight, first_window)

    def put(self, messages: Iterable[tuple[str, str, str] | tuple[str, str, str, str]]) -> int:
        """Append encoded messages: `(lane, message id, body)` and, if known, the lane's workspace, whose lanes then
        share its turns. Returns how many were appended.

        A lane refuses a message that it has, and any beyond its capacity.
        """
        by_ring: dict[str, list[str]] = {}
        for lane, message_id, body, *workspace in messages:
            by_ring.setdefault(_ring_of_lane(lane), []).extend((lane, *(workspace or [""]), message_id, body))
        size = 4 * PUT_AT_ONCE
        calls = [(r, fields[i : i + size]) for r, fields in by_ring.items() for i in range(0, len(fields), size)]
        if len(calls) == 1:  # a pipeline would first ask whether the server knows the script
            ring, fields = calls[0]
            return int(self._scripts.run("put", ring, CAPACITY, *fields).count(1))
        with self._client.pipeline(transaction=False) as pipeline:
            for ring, fields in calls:
                self._scripts.run("put", ring, CAPACITY, *fields, client=pipeline)
            return sum(answers.count(1) for answers in pipeline.execute())

    def limit(
        self,
        lane: str,
        in_flight: int | None = None,
        *,
        rate: float | None = None,
        burst: float | None = None,
        client: Redis | None = None,
    ) -> None:
        """What the lane may do: at most ``in_flight`` messages leased at once (at least 1; None: the default), and
        ``rate`` messages per second (above 0; None: as fast as they go), in bursts of up to ``burst`` (at least 1;
        None: what makes good a tenth of a second of lateness). In s seconds it gives out at most burst + rate · s.
        """
        self._run("limit", lane, _terms(in_flight, rate, burst), client=client)

    def bucket(
        self,
        name: str,
        in_flight: int | None = None,
        *,
        rate: float | None = None,
        burst: float | None = None,
        ring: str = "deliver",
        client: Redis | None = None,
    ) -> None:
        """Define a budget that lanes of one ring may share, in the terms of `limit`; without any it is forgotten."""
        self._scripts.run("bucket", ring, _bucket_name(name), _terms(in_flight, rate, burst), client=client)

    def share(self, lane: str, bucket: str | None, client: Redis | None = None) -> None:
        """Let the lane draw on a bucket, beside limits of its own; None ends it. The bucket may be defined later."""
        self._run("share", lane, "" if bucket is None else _bucket_name(bucket), client=client)

    def limit_many(
        self,
        limits: Iterable[tuple[str, int | None, float | None, tuple[str, int | None, float | None] | None]],
    ) -> None:
        """Limit many lanes, and let them share their buckets or none, in one round trip: `(lane, in-flight cap, rate,
        bucket)`, where a bucket is `(name, in-flight cap, rate)`."""
        with self._client.pipeline(transaction=False) as pipeline:
            for lane, in_flight, rate, bucket in limits:
                self.limit(lane, in_flight, rate=rate, client=pipeline)
                if bucket:
                    self.bucket(bucket[0], bucket[1], rate=bucket[2], ring=_ring_of_lane(lane), client=pipeline)
                self.share(lane, bucket[0] if bucket else None, client=pipeline)
            pipeline.execute()

    def pause(self, lane: str, seconds: float) -> None:
        """Take nothing from the lane for so long, from now on, by the server's clock. What is leased goes on. 0 or
        less resumes."""
        self._run("pause", lane, max(0, round(seconds * 1_000_000)))

    def resume(self, lane: str) -> None:
        """End a pause now, and wake a worker."""
        self.pause(lane, 0)

    def purge(self, lane: str) -> int:
        """Forget the waiting messages of the lane. Returns how many they were."""
        return int(self._run("purge", lane))

    def depth(self, lane: str) -> int:
        """The number of waiting messages."""
        return self.depths([lane])[0]

    def depths(self, lanes: Sequence[str]) -> list[int]:
        """The numbers of waiting messages of many lanes, in their order."""
        with self._client.pipeline(transaction=False) as pipeline:
            for lane in lanes:
                pipeline.llen(f"{key_prefix(_ring_of_lane(lane))}waiting:{lane}")
            return [int(length) for length in pipeline.execute()]

    def stats(self, lane: str) -> LaneStats:
        return self.stats_of([lane])[0]

    def stats_of(self, lanes: Sequence[str]) -> list[LaneStats]:
        """The stats of many lanes, in their order."""
        with self._client.pipeline(transaction=False) as pipeline:
            for lane in lanes:
                self._run("stats", lane, client=pipeline)
            return [_stats(reply) for reply in pipeline.execute()]

    def ring_stats(self, ring: str) -> RingStats:
        prefix = key_prefix(ring)
        with self._client.pipeline() as pipeline:
            pipeline.hlen(prefix + "ready")
            pipeline.zcard(prefix + "busy")
            pipeline.scard(prefix + "paused")
            for name in ("leases", "asleep", "troubled"):
                pipeline.zcard(prefix + name)
            ready, busy, paused, in_flight, asleep, troubled = pipeline.execute()
        return RingStats(ready, busy, paused, in_flight, throttled=asleep - paused, troubled=troubled)

    def survey(self, ring: str, most: int) -> Survey:
        """Look at ``most`` lanes of each kind, in five round trips, however many lanes there are."""
        stats, prefix = self.ring_stats(ring), key_prefix(ring)
        busy = [_text(lane) for lane in self._client.zrange(prefix + "busy", 0, MOST_LOOKED_AT - 1)]
        sleepers = [_text(name) for name in self._client.zrange(prefix + "asleep", 0, MOST_LOOKED_AT - 1)]
        asleep = [name for name in sleepers if not name.startswith("@")]  # buckets sleep too
        by_depth = sorted(zip(busy, self.depths(busy), strict=True), key=lambda found: -found[1])
        deepest = [lane for lane, depth in by_depth[:most] if depth]
        looked_at = sorted({*deepest, *busy[:most], *asleep})
        found = dict(zip(looked_at, self.stats_of(looked_at), strict=True))
        oldest = [(lane, found[lane]) for lane in busy[:most] if found[lane].oldest_at]
        return Survey(
            ring=ring,
            stats=stats,
            busiest=[(lane, found[lane]) for lane in deepest],
            paused=[(lane, found[lane]) for lane in asleep if found[lane].paused_until][:most],
            oldest=sorted(oldest, key=lambda named: named[1].oldest_at or _EPOCH),
            is_whole=stats.busy <= MOST_LOOKED_AT and stats.paused + stats.throttled <= MOST_LOOKED_AT,
        )

    def repair(self, rings: Iterable[str] = RINGS) -> Repairs:
        """Put back every message whose lease has lapsed, wake what is due, and return fallen lanes to their rings.

        Workers do so by themselves every few seconds; this walks all busy lanes at once, in several round trips.
        """
        found = [0, 0, 0]
        for ring in rings:
            cursor, has_more = "0", True
            while has_more:
                reply = self._scripts.run("repair", ring, REPAIR_AT_MOST, cursor, self._lease_micros)
                found = [total + count for total, count in zip(found, reply[:3], strict=True)]
                cursor = _text(reply[3])
                has_more = cursor != "0" or max(reply[:2]) >= REPAIR_AT_MOST
        return Repairs(*found)

    def leased_to(self, owner: str, ring: str) -> list[tuple[str, str]]:
        """The lanes and messages that a worker has leased from one ring."""
        found = self._client.hscan_iter(key_prefix(ring) + "owners", count=500)
        members = [_text(member) for member, holder in found if _text(holder) == owner]
        return [(lane, message_id) for lane, _, message_id in (member.partition(" ") for member in members)]

    def release(self, owner: str, rings: Iterable[str] = RINGS) -> int:
        """End the leases of a worker that is gone: its messages go back to their lanes. Returns how many."""
        released = 0
        for ring in rings:
            cursor = ""
            while cursor != "0":
                count, reached = self._scripts.run("release", ring, owner, cursor or "0")
                released, cursor = released + int(count), _text(reached)
        return released

    def _run(self, script: str, lane: str, *arguments: Any, client: Redis | None = None) -> Any:
        return self._scripts.run(script, _ring_of_lane(lane), lane, *arguments, client=client)


def _ring_of_lane(lane: str) -> str:
    ring = ring_of(lane)
    if ring is None:
        raise ValueError(f"{lane!r} is not the name of a lane.")
    return ring


def _bucket_name(name: str) -> str:
    if not _BUCKET.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a bucket.")
    return name


def _terms(in_flight: int | None, rate: float | None, burst: float | None) -> str:
    """`<in-flight cap> <rate> <burst>` as the scripts read it; '' for no terms at all."""
    if in_flight is not None and in_flight < 1:
        raise ValueError("A limit is at least 1; to stop a lane, pause it.")
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise ValueError("A rate is above 0; to stop a lane, pause it.")
    if burst is not None and (rate is None or not (burst >= 1 and math.isfinite(burst))):
        raise ValueError("A burst is at least 1, and belongs to a rate.")
    if in_flight is None and rate is None:
        return ""
    if rate is not None and burst is None:
        burst = 1 + rate * LATENESS_SECONDS
    return " ".join("-" if term is None else repr(term) for term in (in_flight, rate, burst))


def _stats(reply: list[Any]) -> LaneStats:
    waiting, in_flight, limit, in_ring, until, arrival, rate, burst, bucket, token_at, troubled, workspace = reply
    return LaneStats(
        *(waiting, in_flight, limit, bool(in_ring), _moment(until), _moment(arrival)),
        rate=float(rate) if rate else None,
        burst=float(burst) if burst else None,
        bucket=_text(bucket) or None,
        throttled_until=_moment(token_at),
        is_troubled=bool(troubled),
        workspace=_text(workspace) or None,
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _moment(micros: bytes | str) -> datetime | None:
    return _EPOCH + timedelta(microseconds=int(micros)) if micros else None
