"""How a connection does, as its owner is told: one word, why, since when, and what waits because of it."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection as database

from connections.credentials import KEY_MISSING, KEY_MISSING_WORDS
from connections.models import Connection, ConnectionHealth
from connections.providers.base import Outcome
from delivery.dispatch.breaker import NO_CREDENTIALS
from delivery.dispatch.waiting import HALF_OPEN_WORDS, HOLDS, breaker_of, cooling_down, health_of
from workspaces.vault import stored_keys

OK, FAILING, COOLING_DOWN = "ok", "failing", "cooling_down"
STATUSES = (OK, FAILING, COOLING_DOWN, *HOLDS)
MOST_WAITING = 10_000
"""Waiting deliveries are counted no further."""
NEWEST = 100
"""Deliveries that are looked at for the newest success, and for the newest failures."""
MOST_LOOKED_AT = 5_000
"""Deliveries of each state among which the newest failures are sought."""
NOT_THE_RECEIVERS = ("our_fault", "worker_lost", "key_missing", "credential_refused", "payload_gone", "unsendable")
"""Classes of what failed on this side: the receiver was not asked, or it is not known what it said."""


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


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that came to nothing at the receiver, or on the way there."""

    failed_at: datetime
    outcome: str
    words: str


@dataclass(frozen=True, slots=True)
class Streak:
    """What failed since the last success, or since somebody put the connection back to work: `number` attempts, the
    first of them `since`."""

    number: int
    since: datetime | None
    has_failed: bool
    """Whether any of them is the breaker's to count: it was not refused for good."""


def examine(connection: Connection, now: datetime) -> Health | None:
    """The health of a connection at this moment; None for a deleted one. Five short queries."""
    if connection.status == Connection.Status.DELETED:
        return None
    counters = health_of(connection) or ConnectionHealth()
    waiting = _count_waiting(connection.pk)
    failures = _failures(connection.pk)
    succeeded_at = _newest(counters.last_success_at, _last_success(connection.pk))
    put_back_at = connection.status_changed_at if connection.status == Connection.Status.ACTIVE else None
    streak = _streak(counters, failures, _newest(succeeded_at, put_back_at))
    words = failures[0].words if failures else ""
    if _lacks_key(connection, counters, now):
        resting = cooling_down(connection, now)
        status, reason = Connection.Status.CREDENTIAL_ERROR.value, KEY_MISSING_WORDS
        since, until = None, None if resting is None else resting.until
    else:
        status, reason, since, until = _judge(connection, counters, streak, words, now)
    return Health(
        status=status,
        reason=reason,
        since=since,
        until=until,
        last_success_at=succeeded_at,
        last_failure_at=_newest(counters.last_failure_at, *(failure.failed_at for failure in failures[:1])),
        consecutive_failures=streak.number,
        waiting=min(waiting, MOST_WAITING),
        is_exact=waiting <= MOST_WAITING,
    )


def _lacks_key(connection: Connection, counters: ConnectionHealth, now: datetime) -> bool:
    """Whether nothing can be sent because a key of the operator's is missing: here, or where the last try was made."""
    if connection.status not in (Connection.Status.ACTIVE, Connection.Status.CREDENTIAL_ERROR):
        return False
    if stored_keys.is_missing_for(connection.workspace_id, connection.pk):
        return True
    if counters.opened_by != NO_CREDENTIALS or cooling_down(connection, now) is None:
        return False
    return bool(_first(KEY_MISSED, [connection.pk, KEY_MISSING]))


def _streak(counters: ConnectionHealth, failures: list[Failure], ended_at: datetime | None) -> Streak:
    """What the breaker counts, and what was refused for good (which it does not count) since `ended_at`."""
    refused = [
        failure.failed_at
        for failure in failures
        if failure.outcome in (Outcome.REJECTED, Outcome.BROKEN) and (ended_at is None or failure.failed_at > ended_at)
    ]
    counted = counters.consecutive_failures
    first = [moment for moment in (counters.first_failure_at if counted else None, *refused[-1:]) if moment is not None]
    return Streak(counted + len(refused), min(first, default=None), has_failed=bool(counted))


def _judge(
    connection: Connection, counters: ConnectionHealth, streak: Streak, words: str, now: datetime
) -> tuple[str, str, datetime | None, datetime | None]:
    if connection.status in HOLDS:
        held, why = connection.status, connection.status_reason
        is_told = held != Connection.Status.DISABLED or words in why
        return held, why if is_told else _sentences(why, words), connection.status_changed_at, None
    cool_down, breaker = cooling_down(connection, now), breaker_of(connection, now)
    is_closed = breaker == ConnectionHealth.Breaker.CLOSED
    failed = words if streak.number or not is_closed else ""
    if cool_down is not None:
        since = None if is_closed else counters.last_failure_at
        return COOLING_DOWN, _sentences(cool_down.words, failed), since, cool_down.until
    if streak.number or not is_closed:
        reason = " ".join(part for part in (_count(streak), "" if is_closed else HALF_OPEN_WORDS) if part)
        return FAILING, _sentences(reason, failed), streak.since, None
    return OK, "", _newest(connection.created_at, connection.status_changed_at, counters.last_failure_at), None


def _count(streak: Streak) -> str:
    verb = "failed" if streak.has_failed else "was refused" if streak.number == 1 else "were refused"
    which = "attempt" if streak.number == 1 else f"{streak.number} attempts"
    return f"The last {which} {verb}." if streak.number else ""


def _sentences(words: str, failed: str) -> str:
    return f"{words} The newest failure: {failed}" if failed else words


def _newest(*moments: datetime | None) -> datetime | None:
    return max((moment for moment in moments if moment is not None), default=None)


KEY_MISSED = "SELECT EXISTS (SELECT 1 FROM deliveries WHERE connection_id = %s AND status = 'pending' AND cause = %s)"


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


FAILURES = """
WITH failed AS (
    SELECT looked.id, looked.claimed_at, looked.outcome, looked.detail
    FROM unnest(ARRAY['pending', 'held', 'dead', 'cancelled']) AS state (status) CROSS JOIN LATERAL (
        SELECT d.id, d.claimed_at, d.outcome, d.detail FROM deliveries d
        WHERE d.connection_id = %s AND d.status = state.status ORDER BY d.id DESC LIMIT %s
    ) AS looked
    WHERE looked.outcome IN ('retry', 'uncertain', 'rejected', 'broken')
    ORDER BY looked.claimed_at DESC NULLS LAST LIMIT %s
)
SELECT
    coalesce(a.started_at + make_interval(secs => coalesce(a.duration_ms, 0) / 1000.0), failed.claimed_at) AS failed_at,
    coalesce(a.outcome, failed.outcome), coalesce(a.error, failed.detail)
FROM failed LEFT JOIN LATERAL (
    SELECT started_at, duration_ms, outcome, error, error_class FROM attempts WHERE delivery_id = failed.id
    ORDER BY number DESC LIMIT 1
) AS a ON true
WHERE coalesce(a.error_class, '') <> ALL (%s) AND coalesce(a.started_at, failed.claimed_at) IS NOT NULL
ORDER BY failed_at DESC
"""
"""By the newest attempts of deliveries that have not succeeded since; where these have expired the delivery tells."""


def _failures(connection_id: uuid.UUID) -> list[Failure]:
    """The newest failures, the newest first."""
    with database.cursor() as cursor:
        cursor.execute(FAILURES, [connection_id, MOST_LOOKED_AT, NEWEST, list(NOT_THE_RECEIVERS)])
        return [Failure(*row) for row in cursor.fetchall()]


def _first(sql: str, parameters: list[Any]) -> Any:
    with database.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone()[0]
