"""A few figures about everything at once, for an operator's front page. Each is bounded, whatever the tables hold.

A figure that cannot be had in a second is None: an overview must not add to the load it shows.
"""

import logging
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import redis
from django.db import Error, connection, transaction
from django.urls import reverse

from delivery.events import setting_aside
from delivery.lanes import brokers
from delivery.lanes.control import LaneStats, RingStats
from meshes.console.display import plain, span

logger = logging.getLogger(__name__)

MOST_COUNTED = 1_000
MOST_LOOKED_AT = 5_000
STATEMENT_TIMEOUT_MS = 1_000
REDIS_TIMEOUT_SECONDS = 0.5


WAITING_SECONDS = 10
"""Within so long sweeps publish what was missed."""


def tiles(now: datetime) -> list[dict[str, str]]:
    """The figures of this moment, in six short queries, each with a judgement: `tone` is `good`, `warn`, or `bad`."""
    deliver = ring_stats("deliver")
    shown = [
        _count_tile("Dead letters, last 24 h", dead_letters(now), "delivery_deadletter"),
        _parts_tile("Connections not active", _parts(_HELD_CONNECTIONS, []), "connections_connection", "warn"),
        _count_tile(
            "Circuit breakers open",
            _count(_OPEN_BREAKERS, [MOST_COUNTED + 1]),
            "connections_connection",
            "?health__breaker=open",
        ),
        _age_tile("Longest overdue delivery", overdue_since(now), now, "delivery_delivery", "?state=pending"),
        _age_tile("Oldest event before fan-out", _first(_OLDEST_UNROUTED, []), now, "delivery_unrouted"),
        _parts_tile("Events set aside", set_aside(), "delivery_unrouted", "bad", "?state=set_aside"),
    ]
    if deliver is None:
        return [*shown, {"label": "Broker", "figure": "does not answer", "tone": "bad"}]
    return [*shown, {"label": "Deliveries in flight", "figure": f"{deliver.in_flight:,}"}]


def _tile(label: str, figure: str, tone: str, model: str, query: str = "") -> dict[str, str]:
    url = reverse(f"admin:{model}_changelist") + query
    return {"label": label, "figure": figure, "tone": tone, "url": url}


def _count_tile(label: str, count: str | None, model: str, query: str = "") -> dict[str, str]:
    if count in (None, "0"):
        return _tile(label, *(("not known", "warn") if count is None else ("0", "good")), model)
    return _tile(label, str(count), "warn", model, query)


def _parts_tile(label: str, counts: dict[str, int] | None, model: str, tone: str, query: str = "") -> dict[str, str]:
    """A sum, and under which names it is made up."""
    if not counts:
        return _count_tile(label, None if counts is None else "0", model)
    parts = ", ".join(f"{count:,} {plain(name)}" for name, count in sorted(counts.items()))
    return _tile(f"{label}: {parts}", f"{sum(counts.values()):,}", tone, model, query)


def _age_tile(label: str, since: datetime | None, now: datetime, model: str, query: str = "") -> dict[str, str]:
    if since is None:
        return _tile(label, "none", "good", model, query)
    seconds = max(0.0, (now - since).total_seconds())
    tone = "good" if seconds <= WAITING_SECONDS else "warn" if seconds <= 60 else "bad"
    return _tile(label, span(round(seconds)), tone, model, query)


# --- the figures ----------------------------------------------------------------------------------------------------


def dead_letters(now: datetime) -> str | None:
    """Those of the last 24 hours."""
    return _count(_DEAD, [MOST_LOOKED_AT, now - timedelta(hours=24), MOST_COUNTED + 1])


def set_aside() -> dict[str, int] | None:
    """Events that are not routed by themselves any more, by cause; none is counted beyond a thousand."""
    return _parts(setting_aside.COUNT_BY_CAUSE, [MOST_COUNTED])


def overdue_since(now: datetime) -> datetime | None:
    """Since when the delivery that waits longest on a lane which may run has been due."""
    since: datetime | None = _first(_OVERDUE, [MOST_COUNTED, now, now, now])
    return since


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


def count_by_status(connection_id: uuid.UUID, statuses: Sequence[str]) -> dict[str, str | None]:
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
        lanes = brokers.lanes_at(brokers.shard_of(workspace_id), REDIS_TIMEOUT_SECONDS)
        return lanes.stats(brokers.lane_of(connection_id))
    except redis.RedisError as error:
        logger.info("no figures of a lane: %s", error)
        return None


def ring_stats(ring: str) -> RingStats | None:
    """A ring at this moment, over all brokers; None where one does not answer at once."""
    try:
        found = [brokers.lanes_at(url, REDIS_TIMEOUT_SECONDS).ring_stats(ring) for url in brokers.shards()]
        return RingStats.sum(found)
    except redis.RedisError as error:
        logger.info("no figures of a ring: %s", error)
        return None


def _count(sql: str, parameters: list[Any]) -> str | None:
    """A number of rows, `≥` where counting stopped before the end."""
    number = _first(sql, parameters)
    if number is None:
        return None
    return f"≥ {MOST_COUNTED:,}" if number > MOST_COUNTED else f"{number:,}"


def _parts(sql: str, parameters: list[Any]) -> dict[str, int] | None:
    rows = _read(sql, parameters)
    return None if rows is None else {row[0]: row[1] for row in rows}


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
