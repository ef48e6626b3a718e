"""The lanes' copies of what holds a connection. PostgreSQL decides; a copy that cannot be set is set again later.

Nothing here raises: a lane that misses its pause costs claims that take nothing, never a delivery.
"""

import logging
import uuid
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from delivery.lanes.control import Lanes

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 1.0


@cache
def lanes() -> Lanes:
    """The lanes of this process's broker, with short timeouts."""
    client = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),  # redis-py would go on for seconds
    )
    return Lanes(client)


def lane_of(connection_id: uuid.UUID) -> str:
    """The name of a connection's lane."""
    return f"conn.{connection_id}"


def pause(connection_id: uuid.UUID, until: datetime) -> None:
    """The lane gives out nothing until then."""
    _try(lanes().pause, lane_of(connection_id), until)


def resume(connection_id: uuid.UUID) -> None:
    """The lane gives out what it has, at once."""
    _try(lanes().resume, lane_of(connection_id))


def purge(connection_id: uuid.UUID) -> None:
    """The lane forgets what waits in it; the rows stand."""
    _try(lanes().purge, lane_of(connection_id))


def limit(connection_id: uuid.UUID, in_flight: int | None) -> None:
    """How many deliveries of the lane may be open at once; None: the default."""
    _try(lanes().limit, lane_of(connection_id), in_flight)


def depths(connection_ids: list[uuid.UUID]) -> list[int]:
    """How many deliveries wait in each lane; 0 each where the broker does not answer."""
    try:
        return lanes().depths([lane_of(connection_id) for connection_id in connection_ids])
    except redis.RedisError:
        return [0] * len(connection_ids)


def repair() -> int:
    """Put back what workers were lost with; how many messages."""
    return lanes().repair().lapsed


def _try(function: Callable[..., Any], *arguments: Any) -> None:
    try:
        function(*arguments)
    except redis.RedisError as error:
        logger.warning("%s of lane %s failed (%s); it is set again later", function.__name__, arguments[0], error)
