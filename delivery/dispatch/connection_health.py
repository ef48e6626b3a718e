"""What a delivery waits for, and how its connection does: one word, why, since when, and what waits because of it.

A moment that is past is nobody's next attempt.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection as database
from django.db.models import QuerySet

from connections.credentials import KEY_MISSING, KEY_MISSING_WORDS
from connections.models import Connection, ConnectionHealth
from connections.providers.base import Outcome
from delivery.dispatch.settling import CLOSED, FAILURES, NO_CREDENTIALS, THROTTLED
from delivery.models import Delivery
from workspaces.vault import stored_keys

RETRY, COOL_DOWN, PROBE, TURN = "retry", "cool_down", "probe", "turn"
HOLDS = ("paused", "disabled", "needs_reauth", "credential_error")
REASONS = (RETRY, COOL_DOWN, PROBE, TURN, *HOLDS)
OK, FAILING, COOLING_DOWN = "ok", "failing", "cooling_down"
STATUSES = (OK, FAILING, COOLING_DOWN, *HOLDS)

TURN_WORDS = "It is due, and goes out in its connection's turn."
RETRY_WORDS = "Its schedule: the next attempt is made then."
PROBE_WORDS = "One delivery tries whether the destination is back; the others wait for what becomes of it."
HALF_OPEN_WORDS = "The circuit breaker is half open: the next delivery tries whether the destination is back."
COOL_DOWN_WORDS = {
    FAILURES: "The circuit breaker is open: attempts in a row have failed. Then one delivery tries again.",
    THROTTLED: "The destination has asked for a pause (429). Then one delivery tries again.",
    NO_CREDENTIALS: "The credentials cannot be used for now: no token, or no key. Then one delivery tries again.",
    "": "The vendor's limit of requests is used up until then.",
}
MOST_WAITING = 10_000
"""Waiting deliveries are counted no further."""
NEWEST = 100
"""Deliveries that are looked at for the newest success, and for the newest failures."""
MOST_LOOKED_AT = 5_000
"""Deliveries of each state among which the newest failures are sought."""
NOT_THE_RECEIVERS = ("our_fault", "worker_lost", "key_missing", "credential_refused", "payload_gone", "unsendable")
"""Classes of what failed on this side: the receiver was not asked, or it is not known what it said."""


# --- what a delivery waits for --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """`reason` is one of `REASONS`; `until` is None where no moment is known."""

    reason: str
    until: datetime | None
    words: str


def waiting_for(delivery: Delivery, now: datetime) -> Waiting | None:
    """What an open delivery waits for; None for one that is over or in flight."""
    connection = delivery.connection
    if delivery.status not in (Delivery.Status.PENDING, Delivery.Status.HELD):
        return None
    if delivery.status == Delivery.Status.PENDING and delivery.lease_until is not None and delivery.lease_until > now:
        return None
    if connection.status in HOLDS:
        return Waiting(connection.status, None, connection.status_reason or f"The connection is {connection.status}.")
    due = delivery.next_attempt_at if delivery.status == Delivery.Status.PENDING else None
    cool_down = cooling_down(connection, now)
    if cool_down is not None and (due is None or due <= (cool_down.until or now)):
        return cool_down
    return Waiting(RETRY, due, RETRY_WORDS) if due is not None and due > now else Waiting(TURN, None, TURN_WORDS)


def cooling_down(connection: Connection, now: datetime) -> Waiting | None:
    """The pause that an active connection takes at this moment, if any."""
    health = health_of(connection)
    is_closed = health is None or health.breaker == CLOSED
    if connection.paused_until is not None and connection.paused_until > now:
        opened_by = "" if health is None or is_closed else health.opened_by or FAILURES
        return Waiting(COOL_DOWN, connection.paused_until, COOL_DOWN_WORDS[opened_by])
    if health is not None and not is_closed and health.probe_until is not None and health.probe_until > now:
        return Waiting(PROBE, health.probe_until, PROBE_WORDS)
    return None


def breaker_of(connection: Connection, now: datetime) -> str:
    """The breaker as it is at this moment: where the pause of an open one is over, the next delivery is its probe."""
    health = health_of(connection)
    return ConnectionHealth.Breaker.CLOSED if health is None else health.breaker_at(connection.paused_until, now)


def health_of(connection: Connection) -> ConnectionHealth | None:
    """The counters of a connection's health; None before its first attempt."""
    found: ConnectionHealth | None = getattr(connection, "health", None)
    return found


def shown(deliveries: QuerySet[Delivery]) -> QuerySet[Delivery]:
    """The deliveries with all that lists and pages show of them, in one query, and without what those do not show."""
    unread = ("body", "frozen", "connection__config", "connection__credential_hints", "connection__retry_schedule")
    related = deliveries.select_related("workspace", "connection", "connection__health", "rule")
    return related.defer(*unread, "rule__filter", "rule__mapping")


# --- how a connection does ------------------------------------------------------------------------------------------


def examine(connection: Connection, now: datetime) -> dict[str, Any] | None:
    """The health of a connection at this moment; None for a deleted one. Five short queries.

    The names are the API's. `since` and `until` are None where no moment is known; at least so many are waiting where
    not `waiting_is_exact`.
    """
    if connection.status == Connection.Status.DELETED:
        return None
    counters = health_of(connection) or ConnectionHealth()
    waiting = int(_first(WAITING, [connection.pk, MOST_WAITING + 1]))
    with database.cursor() as cursor:
        cursor.execute(NEWEST_FAILURES, [connection.pk, MOST_LOOKED_AT, NEWEST, list(NOT_THE_RECEIVERS)])
        failures = cursor.fetchall()
    succeeded_at = _newest(counters.last_success_at, _first(LAST_SUCCESS, [connection.pk, NEWEST]))
    put_back_at = connection.status_changed_at if connection.status == Connection.Status.ACTIVE else None
    ended_at = _newest(succeeded_at, put_back_at)
    # what was refused for good, which the breaker does not count, since the last success or since a person put it back
    refused = [
        failed_at
        for failed_at, outcome, _ in failures
        if outcome in (Outcome.REJECTED, Outcome.BROKEN) and (ended_at is None or failed_at > ended_at)
    ]
    if _lacks_key(connection, counters, now):
        pause = cooling_down(connection, now)
        status, reason = Connection.Status.CREDENTIAL_ERROR.value, KEY_MISSING_WORDS
        since, until = None, None if pause is None else pause.until
    else:
        newest_words = failures[0][2] if failures else ""
        status, reason, since, until = _judge(connection, counters, refused, newest_words, now)
    return {
        "status": status,
        "reason": reason,
        "since": since,
        "until": until,
        "last_success_at": succeeded_at,
        "last_failure_at": _newest(counters.last_failure_at, *(failed_at for failed_at, *_ in failures[:1])),
        "consecutive_failures": counters.consecutive_failures + len(refused),
        "waiting_deliveries": min(waiting, MOST_WAITING),
        "waiting_is_exact": waiting <= MOST_WAITING,
    }


def _lacks_key(connection: Connection, counters: ConnectionHealth, now: datetime) -> bool:
    """Whether nothing can be sent because a key of the operator's is missing: here, or where the last try was made."""
    if connection.status not in (Connection.Status.ACTIVE, Connection.Status.CREDENTIAL_ERROR):
        return False
    if stored_keys.is_missing_for(connection.workspace_id, connection.pk):
        return True
    if counters.opened_by != NO_CREDENTIALS or cooling_down(connection, now) is None:
        return False
    return bool(_first(KEY_MISSED, [connection.pk, KEY_MISSING]))


def _judge(
    connection: Connection, counters: ConnectionHealth, refused: list[datetime], newest_words: str, now: datetime
) -> tuple[str, str, datetime | None, datetime | None]:
    """The status, the reason, since when and until when; `refused` are moments, the newest first."""
    newest = f" The newest failure: {newest_words}" if newest_words else ""
    if connection.status in HOLDS:
        held, why = connection.status, connection.status_reason
        is_told = held != Connection.Status.DISABLED or newest_words in why
        return held, why if is_told else why + newest, connection.status_changed_at, None
    cool_down, is_closed = cooling_down(connection, now), breaker_of(connection, now) == CLOSED
    counted = counters.consecutive_failures
    number = counted + len(refused)
    if cool_down is not None:
        since = None if is_closed else counters.last_failure_at
        return COOLING_DOWN, cool_down.words + (newest if number or not is_closed else ""), since, cool_down.until
    if not number and is_closed:
        return OK, "", _newest(connection.created_at, connection.status_changed_at, counters.last_failure_at), None
    verb = "failed" if counted else "was refused" if number == 1 else "were refused"
    told = [f"The last {'attempt' if number == 1 else f'{number} attempts'} {verb}."] if number else []
    reason = " ".join(told if is_closed else [*told, HALF_OPEN_WORDS])
    first = [moment for moment in (counters.first_failure_at if counted else None, *refused[-1:]) if moment is not None]
    return FAILING, reason + newest, min(first, default=None), None


def _newest(*moments: datetime | None) -> datetime | None:
    return max((moment for moment in moments if moment is not None), default=None)


KEY_MISSED = "SELECT EXISTS (SELECT 1 FROM deliveries WHERE connection_id = %s AND status = 'pending' AND cause = %s)"
WAITING = """
SELECT count(*) FROM (
    SELECT 1 FROM deliveries WHERE connection_id = %s AND status IN ('pending', 'held') LIMIT %s
) AS waiting
"""
LAST_SUCCESS = """
SELECT max(finished_at) FROM (
    SELECT finished_at FROM deliveries WHERE connection_id = %s AND status = 'succeeded' ORDER BY id DESC LIMIT %s
) AS newest
"""
"""By the newest events; of one that came late the counters know, to the minute."""
NEWEST_FAILURES = """
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
"""Moment, outcome, words, the newest first, by the newest attempts of deliveries that have not succeeded since; where
these have expired the delivery tells. It is an attempt that came to nothing at the receiver, or on the way there."""


def _first(sql: str, parameters: list[Any]) -> Any:
    with database.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone()[0]
