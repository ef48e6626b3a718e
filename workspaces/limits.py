"""How fast workspaces, keys and addresses may ask, and how fast passwords may be guessed: token buckets in Redis,
shared by all processes; and how many may be at something at a time.

A bucket of events holds one second's worth of its rate and is asked for all events of a request at once. A request
larger than the bucket passes when the bucket is full and leaves it in debt, so that a large bulk request works with a
small rate. A bucket of what is counted by the minute holds a minute's worth.
While Redis is away each process counts for itself: the limit is then that of one process times their number.
"""

import hashlib
import logging
import secrets
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar

import redis
from cachetools import LRUCache
from django.conf import settings
from django.core import signing
from django.http import HttpRequest
from redis.backoff import NoBackoff
from redis.retry import Retry

from workspaces import security_log

if TYPE_CHECKING:  # Flower, which has no database, takes its buckets here
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
MIN_BURST = 10.0
"""The least a bucket holds: with a rate of one a second, a handful at once is no flood."""

Bucket = tuple[float, float]
"""`rate` tokens a second, of which at most `burst` are kept."""


def per_second(rate: float) -> Bucket:
    return rate, max(rate, MIN_BURST)


def per_minute(number: float) -> Bucket:
    return number / 60, number


def per_hour(number: float) -> Bucket:
    return number / 3600, number


# --- what is limited ------------------------------------------------------------------------------------------------
# Each takes from all its buckets or from none, and answers None, or the seconds to wait.


def take(workspace: "Workspace", key_id: uuid.UUID, count: int) -> float | None:
    """Take `count` events from the buckets of the workspace and the key."""
    rate = workspace.ingest_rate or float(settings.MESHES_INGEST_RATE)
    buckets = {
        f"meshes:ingest:workspace:{workspace.pk}": per_second(rate),
        f"meshes:ingest:key:{key_id}": per_second(max(rate, float(settings.MESHES_INGEST_KEY_RATE))),
    }
    return _shared().take(buckets, count)


def take_request(key_id: uuid.UUID) -> float | None:
    """Count a request of a key that posts no events."""
    rate = float(settings.MESHES_API_RATE)
    return _shared().take({f"meshes:api:key:{key_id}": (rate, rate)}, 1)


def take_wrong_key(network: str) -> float | None:
    """Count a wrong key against its address."""
    return _shared().take({f"meshes:wrong-keys:{network}": per_minute(settings.MESHES_WRONG_KEYS)}, 1)


def take_test(workspace_id: uuid.UUID) -> float | None:
    """Count a test of a connection."""
    bucket = per_minute(settings.MESHES_CONNECTION_TESTS)
    return _shared().take({f"meshes:connection-tests:{workspace_id}": bucket}, 1)


def take_authorization(connection_id: uuid.UUID) -> float | None:
    """Count an authorization that a connect link's holder begins."""
    return _shared().take({f"meshes:authorizations:{connection_id}": per_minute(AUTHORIZATIONS_A_MINUTE)}, 1)


# --- guesses --------------------------------------------------------------------------------------------------------
# A guess takes a token before it is tried, and a right one puts it back. Where there is none left it is not tried, and
# whoever made it is told how long to wait: some seconds at first, after many wrong ones the longer time of a bucket by
# the hour, and never more. Nobody is locked out by somebody else's guesses: one address has a fifth of what a user's
# bucket holds, so that the user still gets in from another one; and a browser in which that user has logged in before
# keeps a cookie that says so, and has a bucket of its own.

Right = TypeVar("Right")
Kind = Literal["password", "code", "confirmation"]
"""A password at the login; a code of the second factor; the present password of who is logged in."""
HOURS_SHARE: dict[Kind, int] = {"password": 10, "code": 3, "confirmation": 10}
"""What may be guessed wrong in an hour, as a multiple of `MESHES_WRONG_PASSWORDS`, which is by the minute."""
ADDRESSES = 5
"""A user's buckets hold what those of so many addresses do."""
DEVICE_SECONDS = 365 * 86_400
DEVICE_SALT = "workspaces.guesses.device"
"""Cookies that browsers keep for a year are signed with it: it stays, whatever the module is called."""


class TooManyGuessesError(Exception):
    """A guess was not tried. `seconds`: after which the next one is."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


def try_guess(request: HttpRequest, kind: Kind, username: str, guess: Callable[[], Right]) -> Right:
    """What a guess is good for, by `guess`: falsy where it is wrong. Raises TooManyGuessesError without asking it."""
    user = f"user:{_digest(username)}"
    if kind != "password":  # whoever asks has logged in, or knows the password
        buckets = _guess_buckets(kind, user, 1)
    elif device := _device_of(request, username):
        buckets = _guess_buckets(kind, f"device:{device}", 1)
    else:
        network = security_log.client_network(request.META)
        buckets = _guess_buckets(kind, f"address:{network}", 1) | _guess_buckets(kind, user, ADDRESSES)
    if (wait := _shared().take(buckets, 1)) is not None:
        security_log.count_refusal(request.META, f"429 {kind}")
        raise TooManyGuessesError(wait)
    if right := guess():
        _shared().take(buckets, -1)
    return right


def make_device_cookie(username: str) -> str:
    """For a browser in which this user has just logged in."""
    return signing.TimestampSigner(salt=DEVICE_SALT).sign(f"{secrets.token_urlsafe(16)}.{_digest(username)}")


def _guess_buckets(kind: Kind, guesser: str, times: int) -> dict[str, Bucket]:
    number = float(settings.MESHES_WRONG_PASSWORDS * times)
    name = f"meshes:guesses:{kind}:{guesser}"
    return {f"{name}:minute": per_minute(number), f"{name}:hour": per_hour(number * HOURS_SHARE[kind])}


def _device_of(request: HttpRequest, username: str) -> str | None:
    """Which of this user's browsers this is; None where its cookie does not prove that it is one."""
    try:
        cookie = request.COOKIES.get(settings.MESHES_DEVICE_COOKIE_NAME, "")
        text = signing.TimestampSigner(salt=DEVICE_SALT).unsign(cookie, max_age=DEVICE_SECONDS)
    except signing.BadSignature:
        return None
    device, _, digest = text.partition(".")
    return device if digest == _digest(username) else None


def _digest(username: str) -> str:
    return hashlib.sha256(username.encode("utf-8", "surrogatepass")).hexdigest()[:32]


# --- buckets --------------------------------------------------------------------------------------------------------

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


class LocalBuckets:
    """Buckets of this process by their names. The least recently used go first: they are the fullest."""

    def __init__(self, most: int = 10_000) -> None:
        self._kept: LRUCache[str, tuple[float, float]] = LRUCache(most)
        self._lock = threading.Lock()

    def take(self, buckets: dict[str, Bucket], count: int) -> float | None:
        now, left = time.monotonic(), {}
        with self._lock:
            for name, (rate, burst) in buckets.items():
                tokens, at = self._kept.get(name, (burst, now))
                left[name] = min(burst, tokens + (now - at) * rate)
            wait = max((min(count, burst) - left[name]) / rate for name, (rate, burst) in buckets.items())
            if wait > 0:
                return wait
            self._kept.update({name: (tokens - count, now) for name, tokens in left.items()})
        return None


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
                numbers = [number for bucket in buckets.values() for number in bucket]
                milliseconds = int(self._script(keys=list(buckets), args=[count, *numbers]))
                return milliseconds / 1000 if milliseconds else None
            except redis.RedisError as error:
                self._away_until = time.monotonic() + RETRY_SECONDS
                logger.warning("limits are counted in this process: %s", type(error).__name__)
        return self._local.take(buckets, count)


# --- turns ----------------------------------------------------------------------------------------------------------


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


class SharedTurns:
    """How many are at something at a time, counted in Redis, and in this process while Redis does not answer.

    A turn is its name and its member in Redis, which is empty for one of this process.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._script = client.register_script(_ENTER)
        self._local: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, name: str, most: int, seconds: float) -> tuple[str, str] | None:
        member = uuid.uuid4().hex
        try:
            return (name, member) if self._script([name], [most, int(seconds * 1000), member]) else None
        except redis.RedisError as error:
            logger.warning("turns are counted in this process: %s", type(error).__name__)
        with self._lock:
            if self._local[name] >= most:
                return None
            self._local[name] += 1
        return name, ""

    def leave(self, taken: tuple[str, str]) -> None:
        name, member = taken
        if not member:
            with self._lock:
                self._local -= Counter({name: 1})
            return
        try:
            self._client.zrem(name, member)
        except redis.RedisError as error:
            logger.warning("a turn is left to lapse: %s", type(error).__name__)


def connect(url: str) -> redis.Redis:
    """A client that gives up soon and does not try twice."""
    timeouts = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    return redis.Redis.from_url(url, **timeouts, retry=Retry(NoBackoff(), 0))


@cache
def _shared() -> SharedBuckets:
    return SharedBuckets(connect(settings.REDIS_URL))


@cache
def _turns() -> SharedTurns:
    return SharedTurns(connect(settings.REDIS_URL))
