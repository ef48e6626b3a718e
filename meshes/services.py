"""The services of Meshes as arguments to Python: what ``up`` starts, and what compose.yaml starts in containers.

Imports nothing of Django: a stack asks before there are settings.
"""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

WEB_STOP_SECONDS = 95
"""The longest that requests in progress are waited for: a connection's test is two tokens and two requests at most, of
15 and 30 s."""
WORKER_STOP_SECONDS = 60
"""The longest that a worker's deliveries in flight are waited for: an attempt ends within a lease of 60 s."""
SWEEP_STOP_SECONDS = 30
"""The longest that sweeps are waited for. One that is ended in the middle is rolled back, and loses nothing."""
KILL_SECONDS = 5
"""How much later a service is killed that does not end by itself."""

THREADS = {"fanout": 16, "deliver": 64}
"""Threads of one worker, by the ring that it serves: deliveries mostly wait for their receivers, fan-out for itself."""

WEB_THREADS = 16
"""Threads of one web process: requests that are being answered at the same time."""

_SERVERS = frozenset({"DATABASE_URL", "MESHES_DIRECT_DATABASE_URL", "POSTGRES_PASSWORD"}) | (
    _BROKERS := frozenset({"REDIS_URL", "MESHES_REDIS_SHARDS", "VALKEY_PASSWORD"})
)
_SEALED = frozenset({"FERNET_KEYS", "MESHES_OAUTH_CLIENTS"})
SECRETS_OF = {
    "migrate": _SERVERS - _BROKERS,
    "web": _SERVERS | _SEALED | {"SECRET_KEY", "SECRET_KEY_FALLBACKS"},
    "fanout": _SERVERS,
    "deliver": _SERVERS | _SEALED,
    "sweep": _SERVERS | _SEALED,
    "flower": _BROKERS - {"MESHES_REDIS_SHARDS"} | {"FLOWER_BASIC_AUTH"},
}
"""The secrets that each service may have, by the service's name; one that MESHES_SERVICE names asks for no others."""

FLOWER_TASKS = 10_000
"""The newest tasks that Flower keeps: some 60 MB. Its own default of 100,000 grows to 600."""


def web(bind: str) -> tuple[str, ...]:
    """The API and the admin at ``bind``, "address:port". WEB_CONCURRENCY sets the number of processes, which
    share what the first one has loaded."""
    kind = ("-k", "meshes.buffering.BufferingWorker", "--threads", str(WEB_THREADS), "--worker-connections", "4000")
    files = ("--graceful-timeout", str(WEB_STOP_SECONDS), "--no-sendfile", "--no-control-socket")
    methods = ("--permit-unconventional-http-method",)  # which are answered as unknown, and not as malformed
    return ("-m", "gunicorn", "meshes.wsgi", "--preload", "--bind", bind, *kind, *files, *methods)


def worker(ring: str) -> tuple[str, ...]:
    """A worker that serves the ring ``fanout`` or ``deliver``; run as many as you like."""
    pool = ("-P", "threads", "-c", str(THREADS[ring]), "-Q", ring, "-n", f"{ring}@%h")
    return ("-m", "celery", "-A", "meshes", "worker", *pool, "-l", "INFO", "--without-gossip", "--without-mingle")


def sweeper() -> tuple[str, ...]:
    """What guarantees; running several is safe."""
    return ("manage.py", "sweep")


def flower(address: str, port: int) -> tuple[str, ...]:
    """Celery's monitor. FLOWER_BASIC_AUTH, "user:password", must be set: a command line is everybody's to read."""
    options = (f"--address={address}", f"--port={port}", f"--max-tasks={FLOWER_TASKS}")
    return ("-m", "celery", "-A", "meshes.monitor", "flower", *options)


# --- the broker -------------------------------------------------------------------------------------------------------

NO_BROKER_WORDS = "events are accepted and kept, and nothing goes out until it answers"
_TIMEOUT_SECONDS = 0.5


def ping(url: str) -> None:
    """Whether a broker answers within half a second. Raises redis-py's errors."""
    client = redis.Redis.from_url(
        url,
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        client.ping()
    finally:
        client.close()
