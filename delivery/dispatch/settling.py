"""Settle: write back what attempts came to, for many at once.

A result is written only while its lease is still its own. Deliveries are locked in the order of their ids, then health
rows in the order of their connections, so that two processes never wait for each other crosswise.
"""

import json
import logging
import uuid
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from psycopg2 import Binary

from connections.credentials import KEY_MISSING
from connections.providers.base import Outcome
from delivery.dispatch import breaker
from delivery.dispatch.breaker import Health
from delivery.dispatch.dispatch import Result, repeatable
from delivery.dispatch.retry import next_delay
from delivery.lanes import steering
from meshes.kit import ids
from meshes.kit.batching import rows_of
from meshes.kit.database_faults import growing_delay
from workspaces.vault import vault

logger = logging.getLogger(__name__)

MOST_LOSSES = 5
"""Workers that one delivery may lose before it is dead: it is then more likely the cause than a victim."""
OUR_FAULT_SECONDS = (5.0, 300.0)
"""Between attempts that a fault of ours ends: the first delay, and the longest."""
NEVER = datetime.min.replace(tzinfo=UTC)
ABOUT_CREDENTIALS = frozenset({"needs_reauth", "credential_error"})
"""Holds that new credentials end."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The next state of a delivery; `delay_seconds` until its next attempt, where there is one."""

    status: str
    outcome: str
    cause: str = ""
    detail: str = ""
    budget_used: int = 0
    delay_seconds: float | None = None


def decide(result: Result) -> Settled:
    """What becomes of the delivery. Pure but for the jitter of the delay."""
    job, verdict = result.job, result.verdict
    same = Settled("pending", verdict.outcome, verdict.error_class, verdict.words, job.budget_used)
    if verdict.outcome == Outcome.DELIVERED:
        return replace(same, status="succeeded", cause="", detail="")
    if verdict.outcome == Outcome.REJECTED:
        return replace(same, status="dead", cause="rejected")
    if verdict.outcome == Outcome.BROKEN:
        return replace(same, status="held", cause=verdict.hold or "disabled")
    if verdict.is_ours and not verdict.is_counted:
        rest = growing_delay(job.attempt_number - job.budget_used, *OUR_FAULT_SECONDS)
        return replace(same, delay_seconds=rest)
    if not verdict.is_counted:
        return replace(same, delay_seconds=verdict.retry_after_seconds or 0.0)
    if verdict.outcome == Outcome.UNCERTAIN and not result.may_repeat:
        return replace(same, status="dead", cause="uncertain")
    used = job.budget_used + 1
    delay = next_delay(
        job.retry_schedule,
        used,
        retry_after_seconds=verdict.retry_after_seconds,
        overloaded=result.is_overloaded,
    )
    if delay is None:
        return replace(same, status="dead", cause="our_fault" if verdict.is_ours else "exhausted", budget_used=used)
    return replace(same, budget_used=used, delay_seconds=delay)


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
        written = _write(ordered, worker)  # one statement, hence one transaction
        changes = _update_connections(written)
    else:
        with transaction.atomic():
            written = _write(ordered, worker)
            if refusals := _refusals(written.settled, worker):
                vault.record_refusals(refusals)
            changes = _update_connections(written)
    for change in changes:
        change.steer()
    settled_ids = {result.job.delivery_id for result in written.settled}
    return [result.job.delivery_id in settled_ids for result in results]


@dataclass(frozen=True, slots=True)
class Written:
    """The results whose leases were their own, when they were written, and the health of their connections before."""

    settled: list[Result]
    now: datetime
    healths: dict[uuid.UUID, Health]


def _write(ordered: list[Result], worker: str) -> Written:
    rows, parameters = rows_of(RESULT, [_row(result) for result in ordered])
    with connection.cursor() as cursor:
        parameters += [[result.job.delivery_id for result in ordered], worker]
        cursor.execute(SETTLE.format(rows=rows), parameters)
        found = cursor.fetchall()
    settled_ids = {row[0] for row in found}
    settled = [result for result in ordered if result.job.delivery_id in settled_ids]
    now = found[0][1] if found else NEVER
    return Written(settled, now, {row[2]: Health(*row[3:]) for row in found if row[2] is not None})


def _row(result: Result) -> tuple[Any, ...]:
    job, verdict, request, response = result.job, result.verdict, result.request, result.response
    return (
        job.delivery_id, job.lease_id, *astuple(decide(result)), ids.uuid7(), job.workspace_id, job.connection_id,
        job.attempt_number, result.started_at, result.duration_ms,
        response.status if response else None, verdict.error_class, verdict.words,
        request.method if request else "", request.url if request else "",
        json.dumps(request.headers if request else []), Binary(request.body) if request else None,
        bool(request and request.truncated), json.dumps(response.headers if response else []),
        Binary(response.body) if response else None, bool(response and response.truncated), job.sealed_version,
        json.dumps(result.steps) if result.steps else None,
        json.dumps(result.omitted_fields) if result.omitted_fields else None,
    )  # fmt: skip


def _refusals(settled: list[Result], worker: str) -> list[vault.Refusal]:
    refused = [
        result.job
        for result in settled
        if result.verdict.hold == "credential_error" or result.verdict.error_class == KEY_MISSING
    ]
    return [
        vault.Refusal(
            job.workspace_id, job.connection_id, job.delivery_id, job.attempt_number, job.sealed_version or 0, worker
        )
        for job in refused
    ]


@dataclass(slots=True)
class Change:
    """What a batch changes about one connection."""

    connection_id: uuid.UUID
    workspace_id: uuid.UUID
    now: datetime
    before: Health
    health: Health
    paused_until: datetime | None = None
    rests_until: datetime | None = None
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
            self.rests_until = max(now + timedelta(seconds=verdict.rest_seconds), self.rests_until or now)
        if verdict.hold is not None:
            self._take_hold(verdict.hold, result)
        elif verdict.outcome == Outcome.DELIVERED:
            self.health, self.paused_until = breaker.note_success(self.health, now), None
        elif verdict.outcome in (Outcome.RETRY, Outcome.UNCERTAIN) and not verdict.is_ours:
            self._take_failure(result)

    def _take_hold(self, hold: str, result: Result) -> None:
        version = result.job.sealed_version if hold in ABOUT_CREDENTIALS else None
        is_newer = version is not None and self.refused_version is not None and version > self.refused_version
        if self.hold is None or is_newer:
            self.hold, self.reason, self.refused_version = hold, result.verdict.words, version

    def _take_failure(self, result: Result) -> None:
        now = self.now
        pause: timedelta | None
        if not result.verdict.is_counted:
            self.health, pause = breaker.after_rest(self.health, result.verdict.retry_after_seconds)
        elif result.verdict.throttled:
            self.health, pause = breaker.after_throttle(self.health, now, result.verdict.retry_after_seconds)
        else:
            self.health, pause = breaker.after_failure(self.health, now)
        if pause is not None:
            self.paused_until = max(now + pause, self.paused_until or now)
        if result.verdict.is_counted and breaker.is_failing_for_days(self.health, now):
            self.hold, self.reason = "disabled", "The destination has failed for five days."
            self.refused_version = None

    @property
    def sleeps_until(self) -> datetime | None:
        """When the lane may run again: a pause of the breaker's, or a rest that the vendor's limit needs."""
        return max((until for until in (self.paused_until, self.rests_until) if until), default=None)

    @property
    def is_repaused(self) -> bool:
        """Whether the connection's `paused_until` changes: it is set, or ended by the breaker's closing."""
        return self.sleeps_until is not None or self.health.breaker != self.before.breaker

    def steer(self) -> None:
        """Give the lane its copy, after the commit, and tell operators of a hold once."""
        if self.hold is not None:
            steering.purge(self.workspace_id, self.connection_id)
            if self.is_held_now and self.hold != "credential_error":  # of which the vault has told
                public_id = ids.encode(ids.CONNECTION, self.connection_id)
                logger.error("connection %s is held: %s", public_id, self.hold)
        elif self.sleeps_until is not None:
            steering.pause(self.workspace_id, self.connection_id, (self.sleeps_until - self.now).total_seconds())
        elif self.before.breaker != breaker.CLOSED and self.health.breaker == breaker.CLOSED:
            steering.resume(self.workspace_id, self.connection_id)


def _update_connections(written: Written) -> list[Change]:
    """Health, pauses and holds of the connections in a batch. Rows are locked and written only where they change."""
    settled, now = written.settled, written.now
    unsettling = {result.job.connection_id for result in settled if not _changes_nothing(result, written)}
    if not unsettling:
        return []
    changes: dict[uuid.UUID, Change] = {}
    with transaction.atomic():
        locked = _lock_healths(settled, unsettling)
        for result in settled:
            key = result.job.connection_id
            if key in unsettling:
                change = changes.setdefault(key, Change(key, result.job.workspace_id, now, locked[key], locked[key]))
                change.take(result)
        _write_changes([changes[key] for key in sorted(changes)], now)
    return list(changes.values())


def _changes_nothing(result: Result, written: Written) -> bool:
    health = written.healths.get(result.job.connection_id)
    if result.verdict.rest_seconds is not None:
        return False
    if result.verdict.outcome == Outcome.DELIVERED and health is not None:
        return breaker.note_success(health, written.now) is health
    return result.verdict.outcome == Outcome.REJECTED or result.verdict.is_ours


def _lock_healths(settled: list[Result], connection_ids: set[uuid.UUID]) -> dict[uuid.UUID, Health]:
    """The health rows of these connections, locked; made where there are none."""
    owners = {r.job.connection_id: r.job.workspace_id for r in settled if r.job.connection_id in connection_ids}
    with connection.cursor() as cursor:
        _write_rows(
            cursor,
            "INSERT INTO connection_health (connection_id, workspace_id, breaker, consecutive_failures, opened_times)"
            " VALUES {rows} ON CONFLICT (connection_id) DO NOTHING",
            "(%s, %s, 'closed', 0, 0)",
            sorted(owners.items()),
        )
        cursor.execute(
            "SELECT connection_id, breaker, consecutive_failures, opened_times, first_failure_at, last_failure_at,"
            " last_success_at, opened_by FROM connection_health WHERE connection_id = ANY(%s)"
            " ORDER BY connection_id FOR UPDATE",
            [sorted(connection_ids)],
        )
        return {row[0]: Health(*row[1:]) for row in cursor.fetchall()}


def _write_rows(cursor: CursorWrapper, statement: str, template: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run a statement over rows, if there are any."""
    if rows:
        text, parameters = rows_of(template, rows)
        cursor.execute(statement.format(rows=text), parameters)


def _write_changes(changes: list[Change], now: datetime) -> None:
    with connection.cursor() as cursor:
        _write_rows(
            cursor,
            "UPDATE connection_health h SET breaker = v.breaker, consecutive_failures = v.failures,"
            " opened_times = v.opened, first_failure_at = v.first, last_failure_at = v.last,"
            " last_success_at = v.success, opened_by = v.opened_by, probe_until = NULL FROM (VALUES {rows})"
            " AS v (id, breaker, failures, opened, first, last, success, opened_by) WHERE h.connection_id = v.id",
            "(%s::uuid, %s, %s, %s, %s::timestamptz, %s::timestamptz, %s::timestamptz, %s)",
            [(change.connection_id, *astuple(change.health)) for change in changes if change.health != change.before],
        )
        _write_rows(
            cursor,
            "UPDATE connections c SET paused_until = CASE WHEN v.until IS NULL THEN NULL"
            " ELSE greatest(c.paused_until, v.until) END FROM (VALUES {rows}) AS v (id, until) WHERE c.id = v.id",
            "(%s::uuid, %s::timestamptz)",
            [(change.connection_id, change.sleeps_until) for change in changes if change.is_repaused],
        )
        _write_rows(
            cursor,
            "UPDATE connections c SET status = v.status, status_reason = v.reason, status_changed_at = v.now"
            " FROM (VALUES {rows}) AS v (id, status, reason, now, version) WHERE c.id = v.id AND c.status = 'active'"
            " AND NOT EXISTS (SELECT FROM sealed_documents s WHERE s.workspace_id = c.workspace_id"
            " AND s.connection_id = c.id AND s.kind = 'credentials' AND s.version > v.version)"
            " RETURNING c.id",
            "(%s::uuid, %s, %s, %s::timestamptz, %s::int)",
            [(c.connection_id, c.hold, c.reason, now, c.refused_version) for c in changes if c.hold is not None],
        )
        held = {row[0] for row in cursor.fetchall()} if any(change.hold is not None for change in changes) else set()
    for change in changes:
        change.is_held_now = change.connection_id in held


KEEP = """
UPDATE deliveries d SET lease_until = clock_timestamp() + make_interval(secs => %s),
    lease_session = (SELECT s.id FROM worker_sessions s WHERE s.id = d.lease_session AND s.ended_at IS NULL)
FROM (VALUES {rows}) AS r (id, lease_id, number)
WHERE d.id = r.id AND d.id = ANY(%s) AND d.lease_id = r.lease_id
RETURNING d.id
"""
"""Out of the session in which it was leased, where that has ended and its worker lives."""
REGAIN = """
UPDATE deliveries d SET lease_id = r.lease_id, lease_until = clock_timestamp() + make_interval(secs => %s),
    lease_session = NULL,
    status = 'pending', cause = '', detail = '', finished_at = NULL, losses = greatest(d.losses - 1, 0)
FROM (VALUES {rows}) AS r (id, lease_id, number)
WHERE d.id = r.id AND d.id = ANY(%s) AND d.lease_id IS NULL AND d.attempt_number = r.number
    AND d.status IN ('pending', 'held', 'dead') AND EXISTS (
        SELECT FROM attempts a WHERE a.delivery_id = d.id AND a.number = r.number AND a.error_class = 'worker_lost')
RETURNING d.id, d.attempt_number
"""
NOT_LOST = """
WITH alive AS (
    UPDATE attempts a SET error = %s FROM (VALUES {rows}) AS r (id, lease_id, number)
    WHERE a.delivery_id = r.id AND a.number = r.number AND a.error_class = 'worker_lost' AND a.error <> %s
    RETURNING a.delivery_id
)
UPDATE deliveries d SET losses = greatest(d.losses - 1, 0) FROM alive WHERE d.id = alive.delivery_id AND d.id = ANY(%s)
"""
OVERTAKEN_WORDS = (
    "The worker that made this attempt could not write what it came to before another one took the delivery over."
)


def regain_leases(results: list[Result]) -> list[bool]:
    """Keep the leases of a worker that lives and cannot write what its attempts came to, or take them back.

    Neither a loss nor an attempt of nobody's is left of one that ended meanwhile. False where another claim has come in
    between, or whatever else has moved the delivery on: what this attempt came to is nobody's to write then, but no
    loss is counted for it. Bears being run twice.
    """
    wanted = sorted((result.job.delivery_id, result.job.lease_id, result.job.attempt_number) for result in results)
    rows, parameters = rows_of("(%s::uuid, %s::uuid, %s)", wanted)
    delivery_ids = [row[0] for row in wanted]
    given = [settings.MESHES_LEASE_SECONDS, *parameters, delivery_ids]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(KEEP.format(rows=rows), given)
        held = {row[0] for row in cursor.fetchall()}
        if len(held) < len(wanted):
            cursor.execute(REGAIN.format(rows=rows), given)
            regained = dict(cursor.fetchall())
            for delivery_id, number in regained.items():
                cursor.execute(
                    "DELETE FROM attempts WHERE delivery_id = %s AND number = %s AND error_class = 'worker_lost'",
                    [delivery_id, number],
                )
            held |= regained.keys()
            cursor.execute(NOT_LOST.format(rows=rows), [OVERTAKEN_WORDS, *parameters, OVERTAKEN_WORDS, delivery_ids])
    return [result.job.delivery_id in held for result in results]


def without_evidence(result: Result, reason: str) -> Result:
    """What an attempt came to, without what was sent and answered (and so quoted), which the database does not take."""
    verdict = replace(result.verdict, words=f"What was sent and answered could not be stored: {reason}.")
    return replace(result, verdict=verdict, request=None, response=None, steps=None, omitted_fields=None)


LEASE_IS_OVER = """(d.lease_until < clock_timestamp()
    OR d.lease_id IS NOT NULL
    AND d.lease_session IN (SELECT s.id FROM worker_sessions s WHERE s.ended_at IS NOT NULL))"""
"""Of a delivery `d`: its lease has lapsed, or its worker is gone."""

END_LEASES = f"""
UPDATE deliveries d SET lease_id = NULL, lease_until = NULL, losses = d.losses + 1, outcome = 'uncertain',
    status = CASE WHEN d.losses + 1 >= %(most)s OR d.id = ANY(%(final)s) THEN 'dead' ELSE 'pending' END,
    cause = CASE WHEN d.losses + 1 >= %(most)s THEN 'poison'
                 WHEN d.id = ANY(%(final)s) THEN 'uncertain' ELSE 'worker_lost' END,
    detail = %(words)s,
    finished_at = CASE WHEN d.losses + 1 >= %(most)s OR d.id = ANY(%(final)s) THEN now() END
WHERE d.id = ANY(%(ids)s) AND d.status = 'pending' AND {LEASE_IS_OVER}
RETURNING d.id, d.workspace_id, d.connection_id, d.attempt_number, d.claimed_at, d.claimed_by
"""
LOST_WORDS = "The worker that made this attempt was lost, so it is not known whether the destination got it."


END_PROBES = """
UPDATE connection_health SET probe_until = clock_timestamp()
WHERE connection_id = ANY(%s) AND breaker = 'half_open' AND probe_until > clock_timestamp()
RETURNING workspace_id, connection_id
"""


def end_lapsed_leases(delivery_ids: list[uuid.UUID]) -> int:
    """Record the loss of the workers that held these deliveries, where their leases are over, and open them again.

    The claim stamp on the row is the evidence. The customer loses no attempt; the fifth loss makes the delivery dead,
    the first one does where the action must not be repeated. Returns how many leases ended.
    """
    if not delivery_ids:
        return 0
    final = _not_repeatable(delivery_ids)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            END_LEASES, {"ids": sorted(delivery_ids), "final": final, "most": MOST_LOSSES, "words": LOST_WORDS}
        )
        lost = cursor.fetchall()
        if lost:
            _write_rows(
                cursor,
                "INSERT INTO attempts (id, workspace_id, delivery_id, number, started_at, worker, outcome, error_class,"
                " error, request_method, request_url, request_headers, response_headers, response_truncated)"
                " VALUES {rows}",
                "(%s, %s, %s, %s, %s, %s, 'uncertain', 'worker_lost', %s, '', '', '[]', '[]', false)",
                [(ids.uuid7(), row[1], row[0], *row[3:], LOST_WORDS) for row in lost],
            )
            cursor.execute(END_PROBES, [sorted({row[2] for row in lost})])
            probed = cursor.fetchall()
    for workspace_id, connection_id in probed if lost else ():
        steering.resume(workspace_id, connection_id)
    return len(lost)


def _not_repeatable(delivery_ids: list[uuid.UUID]) -> list[uuid.UUID]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT d.id, c.type, d.action FROM deliveries d JOIN connections c ON c.id = d.connection_id"
            " WHERE d.id = ANY(%s)",
            [delivery_ids],
        )
        return [row[0] for row in cursor.fetchall() if not repeatable(row[1], row[2])]
