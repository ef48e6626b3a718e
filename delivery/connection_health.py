"""How a connection does, as its owner is told: one word, why, since when, and what waits because of it."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection as database

from connections.models import Connection, ConnectionHealth
from delivery.waiting import HOLDS, cooling_down, health_of

OK, FAILING, COOLING_DOWN = "ok", "failing", "cooling_down"
STATUSES = (OK, FAILING, COOLING_DOWN, *HOLDS)
MOST_WAITING = 10_000
"""Waiting deliveries are counted no further."""
NEWEST = 100
"""Deliveries that are looked at for the newest success and the newest failure's words."""


@dataclass(frozen=True, slots=True)
class Health:
    """`since` and `until` are None where no moment is known; `waiting` is at least so many where not `is_exact`."""

    status: str
    reason: str
    since: datetime | None
    until: datetime | None
    last_success_at: datetime | None
    last_failure_at: datetime | None
    consecutive_failures: int
    waiting: int
    is_exact: bool


def examine(connection: Connection, now: datetime) -> Health | None:
    """The health of a connection at this moment; None for a deleted one. Three short queries."""
    if connection.status == Connection.Status.DELETED:
        return None
    counters = health_of(connection) or ConnectionHealth()
    waiting = _count_waiting(connection.pk)
    status, reason, since, until = _judge(connection, counters, now)
    return Health(
        status=status,
        reason=reason,
        since=since,
        until=until,
        last_success_at=_newest(counters.last_success_at, _last_success(connection.pk)),
        last_failure_at=counters.last_failure_at,
        consecutive_failures=counters.consecutive_failures,
        waiting=min(waiting, MOST_WAITING),
        is_exact=waiting <= MOST_WAITING,
    )


def _judge(
    connection: Connection, counters: ConnectionHealth, now: datetime
) -> tuple[str, str, datetime | None, datetime | None]:
    if connection.status in HOLDS:
        return connection.status, connection.status_reason, connection.status_changed_at, None
    cool_down = cooling_down(connection, now)
    failed = _words_of_failure(connection.pk) if counters.consecutive_failures else ""
    if cool_down is not None:
        is_closed = counters.breaker == ConnectionHealth.Breaker.CLOSED
        since = None if is_closed else counters.last_failure_at
        return COOLING_DOWN, _sentences(cool_down.words, failed), since, cool_down.until
    if counters.consecutive_failures:
        number = counters.consecutive_failures
        words = "The last attempt failed." if number == 1 else f"The last {number} attempts failed."
        return FAILING, _sentences(words, failed), counters.first_failure_at, None
    since = _newest(connection.created_at, connection.status_changed_at, counters.last_failure_at)
    return OK, "", since, None


def _sentences(words: str, failed: str) -> str:
    return f"{words} The newest failure: {failed}" if failed else words


def _newest(*moments: datetime | None) -> datetime | None:
    return max((moment for moment in moments if moment is not None), default=None)


def _count_waiting(connection_id: uuid.UUID) -> int:
    return int(
        _first(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE connection_id = %s AND status IN ('pending', 'held')"
            " LIMIT %s) AS waiting",
            [connection_id, MOST_WAITING + 1],
        )
    )


def _last_success(connection_id: uuid.UUID) -> datetime | None:
    """By the newest events; of one that came late the counters know, to the minute."""
    found: datetime | None = _first(
        "SELECT max(finished_at) FROM (SELECT finished_at FROM deliveries WHERE connection_id = %s"
        " AND status = 'succeeded' ORDER BY id DESC LIMIT %s) AS newest",
        [connection_id, NEWEST],
    )
    return found


def _words_of_failure(connection_id: uuid.UUID) -> str:
    found: str | None = _first(
        "SELECT (SELECT detail FROM (SELECT detail, claimed_at FROM deliveries WHERE connection_id = %s"
        " AND status = 'pending' AND outcome IN ('retry', 'uncertain') ORDER BY id DESC LIMIT %s) AS failed"
        " ORDER BY claimed_at DESC NULLS LAST LIMIT 1)",
        [connection_id, NEWEST],
    )
    return found or ""


def _first(sql: str, parameters: list[Any]) -> Any:
    with database.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone()[0]
