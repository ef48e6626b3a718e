"""Whether the broker answers. Imports nothing of Django: a stack asks before there are settings."""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

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
