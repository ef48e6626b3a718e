"""The lanes' copies of what holds a connection. PostgreSQL decides; a copy that cannot be set is set again later.

Nothing here raises: a lane that misses its pause costs claims that take nothing, never a delivery.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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


def lanes_for(workspace_id: uuid.UUID) -> Lanes:
    """The lanes of the broker that serves a workspace."""
    return lanes()


def pause(workspace_id: uuid.UUID, connection_id: uuid.UUID, until: datetime) -> None:
    """The lane gives out nothing until then."""
    _try(lanes_for(workspace_id).pause, lane_of(connection_id), until)


def resume(workspace_id: uuid.UUID, connection_id: uuid.UUID) -> None:
    """The lane gives out what it has, at once."""
    _try(lanes_for(workspace_id).resume, lane_of(connection_id))


def purge(workspace_id: uuid.UUID, connection_id: uuid.UUID) -> None:
    """The lane forgets what waits in it; the rows stand."""
    _try(lanes_for(workspace_id).purge, lane_of(connection_id))


def put(messages: Iterable[tuple[uuid.UUID, tuple[str, str, str, str]]]) -> None:
    """Append messages, `(workspace id, (lane, message id, body, workspace of turns))`, in one round trip. Raises
    redis-py's errors.
    """
    lanes().put(message for _, message in messages)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection's lane may do; None: the default."""

    workspace_id: uuid.UUID
    connection_id: uuid.UUID
    in_flight: int | None
    """Deliveries open at once."""
    rate: float | None
    """Deliveries per second."""


def limit(limits: Sequence[Limits]) -> None:
    """Give lanes their limits, in one round trip."""
    rows = [(lane_of(each.connection_id), each.in_flight, each.rate) for each in limits]
    if rows:
        _try(lanes().limit_many, rows)


def depths(lanes_of: Sequence[tuple[uuid.UUID, uuid.UUID]]) -> list[int]:
    """How many deliveries wait in each lane, of `(workspace id, connection id)`; 0 where the broker does not answer."""
    try:
        return lanes().depths([lane_of(connection_id) for _, connection_id in lanes_of])
    except redis.RedisError:
        return [0] * len(lanes_of)


def repair() -> int:
    """Put back what workers were lost with; how many messages."""
    return lanes().repair().lapsed


def _try(function: Callable[..., Any], *arguments: Any) -> None:
    try:
        function(*arguments)
    except redis.RedisError as error:
        logger.warning("%s of lane %s failed (%s); it is set again later", function.__name__, arguments[0], error)
