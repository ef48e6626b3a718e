"""How fast a workspace and a key may post events, a key may ask, an address may try keys, and a workspace may test its
connections: token buckets in Redis, shared by all processes; and how many may be at something at a time.

A bucket of events holds one second's worth of its rate and is asked for all events of a request at once. A request
larger than the bucket passes when the bucket is full and leaves it in debt, so that a large bulk request works with a
small rate. A bucket of what is counted by the minute holds a minute's worth.
While Redis is away each process counts for itself: the limit is then that of one process times their number.
"""

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from workspaces.buckets import Bucket, LocalBuckets, per_minute, per_second
from workspaces.models import Workspace

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 0.1
"""What a hung Redis may cost one request."""
RETRY_SECONDS = 2.0
"""How long Redis is left alone after it failed."""
LOOK_SECONDS = 0.05
"""How often who waits for a turn asks for it."""
AUTHORIZATIONS_A_MINUTE = 20
"""Of one connection, by its connect links: each leaves a record that is kept for a year."""

# KEYS: buckets. ARGV: count, then rate and burst of each. Answers the milliseconds to wait, 0 when taken: from all or
# from none. Tokens are kept as text: a Lua number that Redis converts loses its fraction.
_TAKE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local count, wait, tokens = tonumber(ARGV[1]), 0, {}
for i, key in ipairs(KEYS) do
    local rate, burst = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
    local kept = redis.call('HMGET', key, 'tokens', 'at')
    local left = tonumber(kept[1]) or burst
    local elapsed = math.max(0, now - (tonumber(kept[2]) or now))
    left = math.min(burst, left + elapsed * rate)
    tokens[i] = left
    wait = math.max(wait, (math.min(count, burst) - left) / rate)
end
if wait > 0 then
    return math.ceil(wait * 1000)
end
for i, key in ipairs(KEYS) do
    local rate, burst = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
    local left = tokens[i] - count
    redis.call('HSET', key, 'tokens', string.format('%.6f', left), 'at', string.format('%.6f', now))
    redis.call('PEXPIRE', key, math.ceil((burst - left) / rate * 1000) + 1000)
end
return 0
"""


def take(workspace: Workspace, key_id: uuid.UUID, count: int) -> float | None:
    """Take `count` events from the buckets of the workspace and the key: None if that may be, else seconds to wait."""
    rate = workspace.ingest_rate or float(settings.MESHES_INGEST_RATE)
    buckets = {
        f"meshes:ingest:workspace:{workspace.pk}": per_second(rate),
        f"meshes:ingest:key:{key_id}": per_second(max(rate, float(settings.MESHES_INGEST_KEY_RATE))),
    }
    return _shared().take(buckets, count)


def take_request(key_id: uuid.UUID) -> float | None:
    """Count a request of a key that posts no events: None while that may be, else seconds to wait."""
    rate = float(settings.MESHES_API_RATE)
    return _shared().take({f"meshes:api:key:{key_id}": Bucket(rate, rate)}, 1)


def take_wrong_key(network: str) -> float | None:
    """Count a wrong key against its address: None while that may be, else seconds to wait."""
    return _shared().take({f"meshes:wrong-keys:{network}": per_minute(settings.MESHES_WRONG_KEYS)}, 1)


def take_test(workspace_id: uuid.UUID) -> float | None:
    """Count a test of a connection: None while that may be, else seconds to wait."""
    buckets = {f"meshes:connection-tests:{workspace_id}": per_minute(settings.MESHES_CONNECTION_TESTS)}
    return _shared().take(buckets, 1)


def take_guess(buckets: dict[str, "Bucket"]) -> float | None:
    """Take one from all buckets or from none: None, or seconds to wait."""
    return _shared().take(buckets, 1)


def put_back_guess(buckets: dict[str, "Bucket"]) -> None:
    """What was taken for a guess that was right."""
    _shared().take(buckets, -1)


def take_authorization(connection_id: uuid.UUID) -> float | None:
    """Count an authorization that a connect link's holder begins: None while that may be, else seconds to wait."""
    buckets = {f"meshes:authorizations:{connection_id}": per_minute(AUTHORIZATIONS_A_MINUTE)}
    return _shared().take(buckets, 1)


@contextmanager
def turn(name: str, most: int, seconds: float, wait_seconds: float = 0.0) -> Iterator[bool]:
    """Whether this is one of at most `most` at a time, over all processes, after a wait for the end of another where
    that is given. A turn that nobody ends lapses after `seconds`."""
    turns, given_up = _turns(), time.monotonic() + wait_seconds
    taken = turns.enter(f"meshes:turns:{name}", most, seconds)
    while taken is None and time.monotonic() < given_up:
        time.sleep(LOOK_SECONDS)
        taken = turns.enter(f"meshes:turns:{name}", most, seconds)
    try:
        yield taken is not None
    finally:
        if taken is not None:
            turns.leave(taken)


class SharedBuckets:
    """Buckets in Redis, and those of this process for when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._script = client.register_script(_TAKE)
        self._local = LocalBuckets()
        self._away_until = 0.0

    def take(self, buckets: dict[str, Bucket], count: int) -> float | None:
        """Take `count` from all buckets or from none: None, or seconds to wait."""
        if time.monotonic() >= self._away_until:
            try:
                return self._ask(buckets, count)
            except redis.RedisError as error:
                self._away_until = time.monotonic() + RETRY_SECONDS
                logger.warning("limits are counted in this process: %s", type(error).__name__)
        return self._local.take(buckets, count)

    def _ask(self, buckets: dict[str, Bucket], count: int) -> float | None:
        numbers = [number for bucket in buckets.values() for number in (bucket.rate, bucket.burst)]
        milliseconds = int(self._script(keys=list(buckets), args=[count, *numbers]))
        return milliseconds / 1000 if milliseconds else None


# KEYS: the turns of one name, by the moment at which each lapses. ARGV: how many there may be, milliseconds, id.
_ENTER = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
    return 0
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One that was taken; in Redis under `member`, or in this process only, where that is empty."""

    name: str
    member: str


class SharedTurns:
    """How many are at something at a time, counted in Redis, and in this process while Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._script = client.register_script(_ENTER)
        self._local: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, name: str, most: int, seconds: float) -> Turn | None:
        member = uuid.uuid4().hex
        try:
            return Turn(name, member) if self._script([name], [most, int(seconds * 1000), member]) else None
        except redis.RedisError as error:
            logger.warning("turns are counted in this process: %s", type(error).__name__)
        with self._lock:
            if self._local[name] >= most:
                return None
            self._local[name] += 1
        return Turn(name, "")

    def leave(self, turn: Turn) -> None:
        if not turn.member:
            with self._lock:
                self._local -= Counter({turn.name: 1})
            return
        try:
            self._client.zrem(turn.name, turn.member)
        except redis.RedisError as error:
            logger.warning("a turn is left to lapse: %s", type(error).__name__)


def connect(url: str) -> redis.Redis:
    """A client that gives up soon and does not try twice."""
    return redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


@cache
def _shared() -> SharedBuckets:
    return SharedBuckets(connect(settings.REDIS_URL))


@cache
def _turns() -> SharedTurns:
    return SharedTurns(connect(settings.REDIS_URL))
