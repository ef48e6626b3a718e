"""Settle: what an attempt came to, decided and written back for many at once: the delivery's next state, when its next
attempt is made, and how its connection does.

A result is written only while its lease is still its own. Deliveries are locked in the order of their ids, then health
rows in the order of their connections, so that two processes never wait for each other crosswise.

The circuit breaker of a connection opens after five failures in a row and pauses the lane for 30 s. When that time is
over, one delivery is let through (`half_open`): if it succeeds the breaker closes, if it fails it opens again for twice
as long, up to 15 minutes. Only attempts that ended `retry` or `uncertain` count as failures.
"""

import json
import logging
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from psycopg2 import Binary

from connections.credentials import KEY_MISSING
from connections.providers.base import Outcome
from delivery.dispatch.attempts import Result
from delivery.lanes import brokers
from meshes.kit import ids
from meshes.kit.batching import rows_of
from meshes.kit.database_faults import growing_delay
from workspaces.vault import vault

logger = logging.getLogger(__name__)

DEFAULT_SCHEDULE: tuple[float, ...] = (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 10 * 3600)
"""Seconds before each attempt; eight attempts over about 28 hours. A connection may bring its own."""
JITTER = 0.2
"""The delay is spread by ±20 %, so that deliveries that failed together do not return together."""
CALM_SECONDS = 60.0
"""With the default schedule the least wait after a 429 or a timeout: both say that the receiver has too much to do."""
LONGEST_RETRY_AFTER_SECONDS = 24 * 3600.0
OUR_FAULT_SECONDS = (5.0, 300.0)
"""Between attempts that a fault of ours ends: the first delay, and the longest."""
CLOSED, OPEN = "closed", "open"
OPENS_AFTER = 5
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(minutes=15)
DISABLES_AFTER = timedelta(days=5)
DISABLES_SPREAD = timedelta(hours=12)
"""First and last failure must lie this far apart, so that two failures around a quiet week disable nothing."""
FAILURES, THROTTLED, NO_CREDENTIALS = "failures", "throttled", "no_credentials"
"""What opened it: failures in a row, a 429, or that the credentials could not be used: no token, or no key."""
SUCCESS_KEPT_FOR = timedelta(minutes=1)
"""How old `last_success_at` of a healthy connection may become: one write a minute, whatever it delivers."""
NEVER = datetime.min.replace(tzinfo=UTC)
ABOUT_CREDENTIALS = frozenset({"needs_reauth", "credential_error"})
"""Holds that new credentials end."""


# --- the delivery ---------------------------------------------------------------------------------------------------


def decide(result: Result) -> tuple[str, str, str, str, int, float | None]:
    """What becomes of the delivery: status, outcome, cause, words, attempts counted, and seconds until the next one,
    where there is one. Pure but for the jitter of the delay."""
    job, verdict, used = result.job, result.verdict, result.job.budget_used
    outcome, cause, words = verdict.outcome, verdict.error_class, verdict.words
    if verdict.outcome == Outcome.DELIVERED:
        return "succeeded", outcome, "", "", used, None
    if verdict.outcome == Outcome.REJECTED:
        return "dead", outcome, "rejected", words, used, None
    if verdict.outcome == Outcome.BROKEN:
        return "held", outcome, verdict.hold or "disabled", words, used, None
    if verdict.is_ours and not verdict.is_counted:
        return "pending", outcome, cause, words, used, growing_delay(job.attempt_number - used, *OUR_FAULT_SECONDS)
    if not verdict.is_counted:
        return "pending", outcome, cause, words, used, verdict.retry_after_seconds or 0.0
    if verdict.outcome == Outcome.UNCERTAIN and not result.may_repeat:
        return "dead", outcome, "uncertain", words, used, None
    used += 1
    asked = verdict.retry_after_seconds
    delay = next_delay(job.retry_schedule, used, retry_after_seconds=asked, overloaded=result.is_overloaded)
    if delay is None:
        return "dead", outcome, "our_fault" if verdict.is_ours else "exhausted", words, used, None
    return "pending", outcome, cause, words, used, delay


def next_delay(
    schedule: Sequence[float] | None,
    used: int,
    *,
    retry_after_seconds: float | None = None,
    overloaded: bool = False,
    spread: Callable[[float, float], float] = random.uniform,
) -> float | None:
    """Seconds until the next attempt, or None where the schedule is used up.

    `schedule` is the connection's own (None: the default), `used` counts the attempts that have been made of it, the
    one that just failed included. `overloaded` is true after a 429 or a timeout. `Retry-After` is honoured up to 24 h
    and never shortens the wait.
    """
    steps = DEFAULT_SCHEDULE if schedule is None else schedule
    if used >= len(steps):
        return None
    delay = steps[used] * spread(1 - JITTER, 1 + JITTER)
    if overloaded and schedule is None:
        delay = max(delay, CALM_SECONDS)
    return max(delay, min(retry_after_seconds or 0.0, LONGEST_RETRY_AFTER_SECONDS))


# --- the connection ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a connection's recent attempts; a row of `connection_health`."""

    breaker: str = CLOSED
    consecutive_failures: int = 0
    opened_times: int = 0
    first_failure_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_success_at: datetime | None = None
    opened_by: str = ""
    """Why the breaker is not closed; empty while it is."""


def after_success(health: Health, now: datetime) -> Health:
    """One success closes the breaker. A healthy connection's row stays as it is: health is written on change only."""
    if health.breaker == CLOSED and not health.consecutive_failures and health.last_success_at is not None:
        return health
    return Health(last_failure_at=health.last_failure_at, last_success_at=now)


def note_success(health: Health, now: datetime) -> Health:
    """`after_success`, and the moment itself where the one that is kept has become old."""
    after = after_success(health, now)
    if after.last_success_at is not None and now - after.last_success_at >= SUCCESS_KEPT_FOR:
        return replace(after, last_success_at=now)
    return after


def after_failure(health: Health, now: datetime) -> tuple[Health, timedelta | None]:
    """The health after one more failure, and the pause that the lane now takes, if the breaker opened."""
    failed = _count_failure(health, now)
    is_late = health.breaker == OPEN  # the delivery left before the breaker opened
    if is_late or (health.breaker == CLOSED and failed.consecutive_failures < OPENS_AFTER):
        return failed, None
    return replace(failed, breaker=OPEN, opened_times=health.opened_times + 1, opened_by=FAILURES), _pause(health)


def after_throttle(health: Health, now: datetime, retry_after_seconds: float | None = None) -> tuple[Health, timedelta]:
    """The health and the pause after a 429: the lane pauses as long as the receiver asked, then one probe follows."""
    times = health.opened_times + (health.breaker != OPEN)
    throttled = replace(_count_failure(health, now), breaker=OPEN, opened_times=times, opened_by=THROTTLED)
    return throttled, timedelta(seconds=retry_after_seconds) if retry_after_seconds else _pause(health)


def after_cool_down(health: Health, seconds: float | None) -> tuple[Health, timedelta]:
    """The health and the pause where there was nothing to try with: one probe follows, and no failure is counted."""
    paused = replace(health, breaker=OPEN, opened_by=NO_CREDENTIALS)
    return paused, timedelta(seconds=seconds) if seconds else _pause(health)


def _count_failure(health: Health, now: datetime) -> Health:
    number, first = health.consecutive_failures + 1, health.first_failure_at or now
    return replace(health, consecutive_failures=number, first_failure_at=first, last_failure_at=now)


def _pause(health: Health) -> timedelta:
    return min(FIRST_PAUSE * (1 << min(health.opened_times, 10)), LONGEST_PAUSE)


def is_failing_for_days(health: Health, now: datetime) -> bool:
    """Whether the connection has failed, without one success, for so long that it is disabled."""
    first, last = health.first_failure_at, health.last_failure_at
    if first is None or last is None:
        return False
    return now - first >= DISABLES_AFTER and last - first >= DISABLES_SPREAD


@dataclass(slots=True)
class Change:
    """What a batch changes about one connection."""

    connection_id: uuid.UUID
    workspace_id: uuid.UUID
    now: datetime
    before: Health
    health: Health
    paused_until: datetime | None = None
    cools_down_until: datetime | None = None
    """The vendor has nothing left of its limit until then, by its headers; no fault of anybody's."""
    hold: str | None = None
    reason: str = ""
    refused_version: int | None = None
    """Of the credentials that a hold is about: newer ones are not held by it."""
    is_held_now: bool = False
    """Whether the hold began with this batch."""

    def take(self, result: Result) -> None:
        """Add one more result, in the order in which they were settled."""
        verdict, now = result.verdict, self.now
        if verdict.rest_seconds is not None:
            self.cools_down_until = max(now + timedelta(seconds=verdict.rest_seconds), self.cools_down_until or now)
        if verdict.hold is not None:
            version = result.job.sealed_version if verdict.hold in ABOUT_CREDENTIALS else None
            is_newer = version is not None and self.refused_version is not None and version > self.refused_version
            if self.hold is None or is_newer:
                self.hold, self.reason, self.refused_version = verdict.hold, verdict.words, version
        elif verdict.outcome == Outcome.DELIVERED:
            self.health, self.paused_until = note_success(self.health, now), None
        elif verdict.outcome in (Outcome.RETRY, Outcome.UNCERTAIN) and not verdict.is_ours:
            pause: timedelta | None
            if not verdict.is_counted:
                self.health, pause = after_cool_down(self.health, verdict.retry_after_seconds)
            elif verdict.throttled:
                self.health, pause = after_throttle(self.health, now, verdict.retry_after_seconds)
            else:
                self.health, pause = after_failure(self.health, now)
            if pause is not None:
                self.paused_until = max(now + pause, self.paused_until or now)
            if verdict.is_counted and is_failing_for_days(self.health, now):
                self.hold, self.reason = "disabled", "The destination has failed for five days."
                self.refused_version = None

    @property
    def waits_until(self) -> datetime | None:
        """When the lane may run again: a pause of the breaker's, or a cool-down that the vendor's limit needs."""
        return max((until for until in (self.paused_until, self.cools_down_until) if until), default=None)

    @property
    def is_repaused(self) -> bool:
        """Whether the connection's `paused_until` changes: it is set, or ended by the breaker's closing."""
        return self.waits_until is not None or self.health.breaker != self.before.breaker

    def follow(self) -> None:
        """Give the lane its copy, after the commit, and tell operators of a hold once."""
        if self.hold is not None:
            brokers.purge(self.workspace_id, self.connection_id)
            if self.is_held_now and self.hold != "credential_error":  # of which the vault has told
                logger.error("connection %s is held: %s", ids.encode(ids.CONNECTION, self.connection_id), self.hold)
        elif self.waits_until is not None:
            brokers.pause(self.workspace_id, self.connection_id, (self.waits_until - self.now).total_seconds())
        elif self.before.breaker != CLOSED and self.health.breaker == CLOSED:
            brokers.resume(self.workspace_id, self.connection_id)


# --- writing both -----------------------------------------------------------------------------------------------------


SETTLE = """
WITH results (id, lease_id, status, outcome, cause, detail, budget_used, delay_seconds, attempt_id, workspace_id,
    connection_id, number, started_at, duration_ms, status_code, error_class, error, request_method, request_url,
    request_headers, request_body, request_truncated, response_headers, response_body, response_truncated,
    credential_version, steps, omitted_fields) AS (VALUES {rows}),
settled AS (
    UPDATE deliveries d
    SET status = r.status, outcome = r.outcome, cause = r.cause, detail = r.detail, budget_used = r.budget_used,
        next_attempt_at = coalesce(statement_timestamp() + make_interval(secs => r.delay_seconds), d.next_attempt_at),
        lease_id = NULL, lease_until = NULL,
        finished_at = CASE WHEN r.status IN ('succeeded', 'dead') THEN statement_timestamp() END
    FROM results r
    WHERE d.id = r.id AND d.lease_id = r.lease_id AND d.id = ANY(%s)
    RETURNING d.id
),
recorded AS (
    INSERT INTO attempts (id, workspace_id, delivery_id, number, started_at, duration_ms, outcome, status_code,
        error_class, error, request_method, request_url, request_headers, request_body, request_truncated,
        response_headers, response_body,
        response_truncated, credential_version, steps, omitted_fields, worker)
    SELECT r.attempt_id, r.workspace_id, r.id, r.number, r.started_at, r.duration_ms, r.outcome, r.status_code,
        r.error_class, r.error, r.request_method, r.request_url, r.request_headers, r.request_body,
        r.request_truncated, r.response_headers, r.response_body, r.response_truncated, r.credential_version,
        r.steps, r.omitted_fields, %s
    FROM results r JOIN settled USING (id)
)
SELECT r.id, statement_timestamp(), h.connection_id, h.breaker, h.consecutive_failures, h.opened_times,
    h.first_failure_at, h.last_failure_at, h.last_success_at, h.opened_by
FROM settled JOIN results r USING (id)
LEFT JOIN connection_health h ON h.connection_id = r.connection_id AND h.workspace_id = r.workspace_id
"""
"""Deliveries, attempts, and the health of their connections as it was: one statement, at one moment. The ids
stand in an array too, by which PostgreSQL leaves out all other partitions while it plans."""
RESULT = (
    "(%s::uuid, %s::uuid, %s, %s, %s, %s, %s, %s::float,"
    " %s::uuid, %s::uuid, %s::uuid, %s, %s::timestamptz, %s, %s::int, %s, %s, %s, %s, %s::jsonb, %s::bytea, %s,"
    " %s::jsonb, %s::bytea, %s, %s::int, %s::jsonb, %s::jsonb)"
)


def settle(results: list[Result], worker: str) -> list[bool]:
    """Write these results back; False for one whose lease was no longer its own (its loss is already recorded)."""
    ordered = sorted(results, key=lambda result: result.job.delivery_id)
    if all(result.verdict.outcome == Outcome.DELIVERED for result in ordered):
        settled, now, healths = _write(ordered, worker)  # one statement, hence one transaction
        changes = _update_connections(settled, now, healths)
    else:
        with transaction.atomic():
            settled, now, healths = _write(ordered, worker)
            refused = [
                vault.Refusal(
                    each.job.workspace_id, each.job.connection_id, each.job.delivery_id, each.job.attempt_number,
                    each.job.sealed_version or 0, worker,
                )
                for each in settled
                if each.verdict.hold == "credential_error" or each.verdict.error_class == KEY_MISSING
            ]  # fmt: skip
            if refused:
                vault.record_refusals(refused)
            changes = _update_connections(settled, now, healths)
    for change in changes:
        change.follow()
    settled_ids = {result.job.delivery_id for result in settled}
    return [result.job.delivery_id in settled_ids for result in results]


def _write(ordered: list[Result], worker: str) -> tuple[list[Result], datetime, dict[uuid.UUID, Health]]:
    """The results whose leases were their own, when they were written, and the health of their connections before."""
    rows, parameters = rows_of(RESULT, [_row(result) for result in ordered])
    with connection.cursor() as cursor:
        parameters += [[result.job.delivery_id for result in ordered], worker]
        cursor.execute(SETTLE.format(rows=rows), parameters)
        found = cursor.fetchall()
    settled_ids = {row[0] for row in found}
    settled = [result for result in ordered if result.job.delivery_id in settled_ids]
    now = found[0][1] if found else NEVER
    return settled, now, {row[2]: Health(*row[3:]) for row in found if row[2] is not None}


def _row(result: Result) -> tuple[Any, ...]:
    job, verdict, told = result.job, result.verdict, result.evidence.get
    sent, answered, steps, omitted = told("request_body"), told("response_body"), told("steps"), told("omitted_fields")
    return (
        job.delivery_id, job.lease_id, *decide(result), ids.uuid7(), job.workspace_id, job.connection_id,
        job.attempt_number, result.started_at, result.duration_ms,
        told("status_code"), verdict.error_class, verdict.words, told("request_method", ""), told("request_url", ""),
        json.dumps(told("request_headers", [])), None if sent is None else Binary(sent),
        told("request_truncated", False), json.dumps(told("response_headers", [])),
        None if answered is None else Binary(answered), told("response_truncated", False), job.sealed_version,
        json.dumps(steps) if steps else None, json.dumps(omitted) if omitted else None,
    )  # fmt: skip


def _update_connections(settled: list[Result], now: datetime, healths: dict[uuid.UUID, Health]) -> list[Change]:
    """Health, pauses and holds of the connections in a batch. Rows are locked and written only where they change."""
    changing = [result for result in settled if not _changes_nothing(result, now, healths)]
    owners = {result.job.connection_id: result.job.workspace_id for result in changing}
    if not owners:
        return []
    with transaction.atomic(), connection.cursor() as cursor:
        _write_rows(cursor, MAKE_HEALTHS, "(%s, %s, 'closed', 0, 0)", sorted(owners.items()))
        cursor.execute(LOCK_HEALTHS, [sorted(owners)])
        locked = {row[0]: Health(*row[1:]) for row in cursor.fetchall()}
        changes = {key: Change(key, owners[key], now, locked[key], locked[key]) for key in sorted(owners)}
        for result in settled:
            if result.job.connection_id in changes:
                changes[result.job.connection_id].take(result)
        _write_changes(cursor, list(changes.values()), now)
    return list(changes.values())


def _changes_nothing(result: Result, now: datetime, healths: dict[uuid.UUID, Health]) -> bool:
    health = healths.get(result.job.connection_id)
    if result.verdict.rest_seconds is not None:
        return False
    if result.verdict.outcome == Outcome.DELIVERED and health is not None:
        return note_success(health, now) is health
    return result.verdict.outcome == Outcome.REJECTED or result.verdict.is_ours


MAKE_HEALTHS = """
INSERT INTO connection_health (connection_id, workspace_id, breaker, consecutive_failures, opened_times)
VALUES {rows} ON CONFLICT (connection_id) DO NOTHING
"""
LOCK_HEALTHS = """
SELECT connection_id, breaker, consecutive_failures, opened_times, first_failure_at, last_failure_at, last_success_at,
    opened_by
FROM connection_health WHERE connection_id = ANY(%s) ORDER BY connection_id FOR UPDATE
"""
WRITE_HEALTHS = """
UPDATE connection_health h SET breaker = v.breaker, consecutive_failures = v.failures, opened_times = v.opened,
    first_failure_at = v.first, last_failure_at = v.last, last_success_at = v.success, opened_by = v.opened_by,
    probe_until = NULL
FROM (VALUES {rows}) AS v (id, breaker, failures, opened, first, last, success, opened_by) WHERE h.connection_id = v.id
"""
WRITE_PAUSES = """
UPDATE connections c SET paused_until = CASE WHEN v.until IS NULL THEN NULL ELSE greatest(c.paused_until, v.until) END
FROM (VALUES {rows}) AS v (id, until) WHERE c.id = v.id
"""
WRITE_HOLDS = """
UPDATE connections c SET status = v.status, status_reason = v.reason, status_changed_at = v.now
FROM (VALUES {rows}) AS v (id, status, reason, now, version) WHERE c.id = v.id AND c.status = 'active'
    AND NOT EXISTS (SELECT FROM sealed_documents s WHERE s.workspace_id = c.workspace_id
        AND s.connection_id = c.id AND s.kind = 'credentials' AND s.version > v.version)
RETURNING c.id
"""


def _write_changes(cursor: CursorWrapper, changes: list[Change], now: datetime) -> None:
    template = "(%s::uuid, %s, %s, %s, %s::timestamptz, %s::timestamptz, %s::timestamptz, %s)"
    changed = [(each.connection_id, *astuple(each.health)) for each in changes if each.health != each.before]
    _write_rows(cursor, WRITE_HEALTHS, template, changed)
    paused = [(each.connection_id, each.waits_until) for each in changes if each.is_repaused]
    _write_rows(cursor, WRITE_PAUSES, "(%s::uuid, %s::timestamptz)", paused)
    held = [(c.connection_id, c.hold, c.reason, now, c.refused_version) for c in changes if c.hold is not None]
    if held:
        _write_rows(cursor, WRITE_HOLDS, "(%s::uuid, %s, %s, %s::timestamptz, %s::int)", held)
        began = {row[0] for row in cursor.fetchall()}
        for each in changes:
            each.is_held_now = each.connection_id in began


def _write_rows(cursor: CursorWrapper, statement: str, template: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run a statement over rows, if there are any."""
    if rows:
        text, parameters = rows_of(template, rows)
        cursor.execute(statement.format(rows=text), parameters)
