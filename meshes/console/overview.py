"""A few figures about everything at once, for an operator's front page. Each is bounded, whatever the tables hold.

A figure that cannot be had in a second is None: an overview must not add to the trouble it shows.
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import redis
from django.db import Error, connection, transaction

from delivery.events import setting_aside
from delivery.lanes import steering
from delivery.lanes.control import LaneStats, RingStats

logger = logging.getLogger(__name__)

MOST_COUNTED = 1_000
MOST_LOOKED_AT = 5_000
STATEMENT_TIMEOUT_MS = 1_000
REDIS_TIMEOUT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Count:
    """A number of rows; `is_least` where counting stopped before the end."""

    number: int
    is_least: bool = False

    def __str__(self) -> str:
        return f"≥ {self.number:,}" if self.is_least else f"{self.number:,}"


@dataclass(frozen=True, slots=True)
class Overview:
    """What an operator looks at first. None: not known in time."""

    dead_letters: Count | None
    """Dead letters of the last 24 hours."""
    connections: dict[str, int] | None
    """Connections by what holds them."""
    open_breakers: Count | None
    oldest_unrouted_at: datetime | None
    set_aside: dict[str, int] | None
    """Events that are not routed by themselves any more, by cause; none is counted beyond a thousand."""
    overdue_since: datetime | None
    """Since when the delivery that waits longest on a lane which may run has been due."""


def look(now: datetime) -> Overview:
    """The figures of this moment, in six short queries."""
    connections = _read(_HELD_CONNECTIONS, [])
    set_aside = _read(setting_aside.COUNT_BY_CAUSE, [MOST_COUNTED])
    return Overview(
        dead_letters=_count(_DEAD, [MOST_LOOKED_AT, now - timedelta(hours=24), MOST_COUNTED + 1]),
        connections=None if connections is None else {row[0]: row[1] for row in connections},
        open_breakers=_count(_OPEN_BREAKERS, [MOST_COUNTED + 1]),
        oldest_unrouted_at=_first(_OLDEST_UNROUTED, []),
        set_aside=None if set_aside is None else {row[0]: row[1] for row in set_aside},
        overdue_since=_first(_OVERDUE, [MOST_COUNTED, now, now, now]),
    )


_DEAD = """
SELECT count(*) FROM (
    SELECT 1 FROM (SELECT finished_at FROM deliveries WHERE status = 'dead' ORDER BY id DESC LIMIT %s) AS newest
    WHERE finished_at >= %s LIMIT %s
) AS dead
"""
"""By the index `deliveries_dead`, which has the order of the events: among the newest, those that died today."""
_HELD_CONNECTIONS = "SELECT status, count(*) FROM connections WHERE status NOT IN ('active', 'deleted') GROUP BY status"
_OPEN_BREAKERS = (
    "SELECT count(*) FROM (SELECT 1 FROM connection_health h JOIN connections c ON c.id = h.connection_id"
    " WHERE h.breaker = 'open' AND (c.paused_until IS NULL OR c.paused_until > clock_timestamp())"
    " AND c.status <> 'deleted' LIMIT %s) AS open"
)
"""A pause that is over is no open breaker: the next delivery tries."""
_OLDEST_UNROUTED = "SELECT created_at FROM unrouted WHERE poisoned_at IS NULL ORDER BY created_at LIMIT 1"
_OVERDUE = """
SELECT due.next_attempt_at FROM (
    SELECT connection_id, next_attempt_at, lease_until FROM deliveries WHERE status = 'pending'
    ORDER BY next_attempt_at LIMIT %s
) AS due JOIN connections c ON c.id = due.connection_id
WHERE c.status = 'active' AND (c.paused_until IS NULL OR c.paused_until <= %s) AND due.next_attempt_at <= %s
    AND (due.lease_until IS NULL OR due.lease_until < %s)
ORDER BY due.next_attempt_at LIMIT 1
"""


def count_by_status(connection_id: uuid.UUID, statuses: Sequence[str]) -> dict[str, Count | None]:
    """How many deliveries of a connection are in each of these stored states, counted no further than a thousand."""
    return {
        status: _count(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE connection_id = %s AND status = %s LIMIT %s) AS f",
            [connection_id, status, MOST_COUNTED + 1],
        )
        for status in statuses
    }


def lane_stats(workspace_id: uuid.UUID, connection_id: uuid.UUID) -> LaneStats | None:
    """A connection's lane at this moment; None where the broker does not answer at once."""
    try:
        lanes = steering.lanes_at(steering.shard_of(workspace_id), REDIS_TIMEOUT_SECONDS)
        return lanes.stats(steering.lane_of(connection_id))
    except redis.RedisError as error:
        logger.info("no figures of a lane: %s", error)
        return None


def ring_stats(ring: str) -> RingStats | None:
    """A ring at this moment, over all brokers; None where one does not answer at once."""
    try:
        found = [steering.lanes_at(url, REDIS_TIMEOUT_SECONDS).ring_stats(ring) for url in steering.shards()]
        return RingStats.sum(found)
    except redis.RedisError as error:
        logger.info("no figures of a ring: %s", error)
        return None


def _count(sql: str, parameters: list[Any]) -> Count | None:
    rows = _read(sql, parameters)
    if rows is None:
        return None
    number = int(rows[0][0])
    return Count(min(number, MOST_COUNTED), number > MOST_COUNTED)


def _first(sql: str, parameters: list[Any]) -> Any:
    rows = _read(sql, parameters)
    return rows[0][0] if rows else None


def _read(sql: str, parameters: list[Any]) -> list[tuple[Any, ...]] | None:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = %s", [STATEMENT_TIMEOUT_MS])
            cursor.execute(sql, parameters)
            rows = list(cursor.fetchall())
            cursor.execute("SET LOCAL statement_timeout TO DEFAULT")
            return rows
    except Error as error:
        logger.warning("a figure of the overview took too long: %s", error)
        return None
