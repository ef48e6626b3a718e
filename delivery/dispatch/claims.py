"""Claims and leases: who makes the next attempt of a delivery, until when, and what becomes of it where that is lost.

`claim` takes deliveries by one conditional UPDATE and brings everything that an attempt needs, so that the threads
that send never touch the database. Deliveries are locked in the order of their ids.
"""

import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import Error, connection, transaction

from connections import providers
from connections.messages import Request
from connections.models import Connection
from delivery.dispatch.sessions import Keeper
from delivery.lanes import brokers
from meshes.kit import ids
from meshes.kit.batching import rows_of
from meshes.kit.clock import Reading
from meshes.kit.database_faults import describe
from workspaces.installation import NOT_HELD
from workspaces.vault import vault

logger = logging.getLogger(__name__)

MOST_LOSSES = 5
"""Workers that one delivery may lose before it is dead: it is then more likely the cause than a victim."""


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed delivery with all that its attempt needs; `lease_id` proves that the claim is still ours."""

    delivery_id: uuid.UUID
    lease_id: uuid.UUID
    workspace_id: uuid.UUID
    connection_id: uuid.UUID
    event_id: uuid.UUID
    event_type: str
    action: str
    body: str | None
    frozen: Mapping[str, Any]
    attempt_number: int
    budget_used: int
    losses: int
    clock: Reading
    """PostgreSQL's, as it was at the claim."""
    connection_type: str
    config: Mapping[str, Any]
    retry_schedule: list[float] | None
    timeout_seconds: float | None
    sealed_version: int | None
    sealed_document: str | None
    replay_id: uuid.UUID | None = None
    replay_of_id: uuid.UUID | None = None
    replayed_at: datetime | None = None
    sealed_key_id: str | None = None

    @property
    def replay(self) -> str:
        """The public id of the replay over a filter, else of the delivery that was sent again; empty for neither."""
        if self.replay_id is not None:
            return ids.encode(ids.REPLAY, self.replay_id)
        replayed = self.delivery_id if self.replayed_at is not None else self.replay_of_id
        return ids.encode(ids.DELIVERY, replayed) if replayed is not None else ""


# --- claims ---------------------------------------------------------------------------------------------------------


CLAIM = f"""
WITH wanted AS (
    SELECT * FROM unnest(%(deliveries)s::uuid[], %(leases)s::uuid[], %(accesses)s::uuid[])
        AS w (delivery_id, lease_id, access_id)
), claimed AS (
    UPDATE deliveries d
    SET lease_id = w.lease_id, lease_until = clock_timestamp() + make_interval(secs => %(lease)s),
        lease_session = (SELECT s.id FROM worker_sessions s WHERE s.id = %(session)s AND s.ended_at IS NULL),
        claimed_at = clock_timestamp(), claimed_by = %(actor)s, attempt_number = d.attempt_number + 1
    FROM wanted w, connections c
    LEFT JOIN connection_health h ON h.connection_id = c.id
    WHERE d.id = w.delivery_id AND d.id = ANY(%(deliveries)s::uuid[])
        AND c.id = d.connection_id AND c.workspace_id = d.workspace_id
        AND d.status = 'pending' AND d.next_attempt_at <= clock_timestamp() AND d.lease_id IS NULL
        AND c.status = 'active' AND (c.paused_until IS NULL OR c.paused_until <= clock_timestamp())
        AND (h.breaker IS NULL OR h.breaker = 'closed' OR %(probe)s) AND {NOT_HELD}
    RETURNING d.id AS delivery_id, d.lease_id, d.workspace_id, d.connection_id, d.event_id, d.event_type, d.action,
        d.body, d.frozen, d.attempt_number, d.budget_used, d.losses, d.claimed_at, c.type AS connection_type, c.config,
        c.retry_schedule, c.timeout_seconds, d.replay_id, d.replay_of_id, d.replayed_at,
        w.access_id, %(actor)s::text AS actor
), {vault.SQL_OPENED}
SELECT c.delivery_id, c.lease_id, c.workspace_id, c.connection_id, c.event_id, c.event_type, c.action,
    coalesce(c.body, p.body), c.frozen::text, c.attempt_number, c.budget_used, c.losses, c.claimed_at,
    c.connection_type, c.config::text, c.retry_schedule, c.timeout_seconds, o.sealed_version, o.sealed_document,
    c.replay_id, c.replay_of_id, c.replayed_at, o.sealed_key_id
FROM claimed c
LEFT JOIN opened o USING (delivery_id)
LEFT JOIN payloads p ON p.event_id = c.event_id AND p.workspace_id = c.workspace_id AND c.body IS NULL
    AND p.erased_at IS NULL
"""
"""What it returns are the fields of a `Job`, in their order."""
FROZEN, CLAIMED_AT, CONFIG = 8, 12, 14
"""Of those, what is JSON text, and the moment."""


def claim(delivery_ids: list[uuid.UUID], actor: str) -> list[Job | None]:
    """Take these deliveries for one attempt each; None for one that may not run now.

    What may not run is not lost: it stays pending and a sweep enqueues it again. For such a delivery the lane's copy of
    the connection's hold is set again, and where a breaker waits for its probe one delivery is let through. Where that
    fails, what is claimed already is returned all the same: nobody else would end its leases.
    """
    jobs = _claim(delivery_ids, actor, probe=False)
    missed = [delivery_id for delivery_id in delivery_ids if delivery_id not in jobs]
    try:
        probes = _start_probes(missed) if missed else []
        jobs |= _claim(probes, actor, probe=True) if probes else {}
    except Error as error:
        if not jobs:
            raise
        logger.warning("%d deliveries are not claimed for now: %s", len(missed), describe(error))
    return [jobs.get(delivery_id) for delivery_id in delivery_ids]


def _claim(delivery_ids: list[uuid.UUID], actor: str, *, probe: bool) -> dict[uuid.UUID, Job]:
    unique = sorted(set(delivery_ids))
    given: dict[str, Any] = {
        "deliveries": unique,
        "leases": [ids.uuid7() for _ in unique],
        "accesses": [ids.uuid7() for _ in unique],
        "lease": settings.MESHES_LEASE_SECONDS,
        "actor": actor,
        "session": Keeper.current,
        "probe": probe,
    }
    jobs = {}
    with connection.cursor() as cursor:
        cursor.execute(CLAIM, given)
        for row in map(list, cursor.fetchall()):
            row[FROZEN], row[CONFIG] = json.loads(row[FROZEN]), json.loads(row[CONFIG])
            row[CLAIMED_AT] = Reading(row[CLAIMED_AT])
            jobs[row[0]] = Job(*row)
    return jobs


BLOCKED = """
SELECT d.id, d.workspace_id, d.connection_id, c.status, h.breaker,
    extract(epoch FROM c.paused_until - clock_timestamp())::float
FROM deliveries d
JOIN connections c ON c.id = d.connection_id
LEFT JOIN connection_health h ON h.connection_id = c.id
WHERE d.id = ANY(%s) AND d.status = 'pending' AND d.lease_id IS NULL AND d.next_attempt_at <= clock_timestamp()
ORDER BY d.id
"""
START_PROBES = """
UPDATE connection_health SET breaker = 'half_open', probe_until = clock_timestamp() + make_interval(secs => %s)
WHERE connection_id = ANY(%s) AND (breaker = 'open' OR (breaker = 'half_open' AND probe_until <= clock_timestamp()))
RETURNING connection_id
"""


def _start_probes(missed: list[uuid.UUID]) -> list[uuid.UUID]:
    """Set the lanes' holds again for deliveries that were not claimed; returns those that may go as probes."""
    with connection.cursor() as cursor:
        cursor.execute(BLOCKED, [missed])
        rows = cursor.fetchall()
    probes: dict[uuid.UUID, uuid.UUID] = {}
    owners: dict[uuid.UUID, uuid.UUID] = {}
    for delivery_id, workspace_id, connection_id, status, breaker, pause_seconds in rows:
        if status != Connection.Status.ACTIVE:
            brokers.purge(workspace_id, connection_id)
        elif pause_seconds is not None and pause_seconds > 0:
            brokers.pause(workspace_id, connection_id, pause_seconds)
        elif breaker in ("half_open", "open"):
            probes.setdefault(connection_id, delivery_id)
            owners[connection_id] = workspace_id
    if not probes:
        return []
    with connection.cursor() as cursor:
        cursor.execute(START_PROBES, [settings.MESHES_LEASE_SECONDS, sorted(probes)])
        started = [row[0] for row in cursor.fetchall()]
    for connection_id, workspace_id in owners.items():
        brokers.pause(workspace_id, connection_id, settings.MESHES_LEASE_SECONDS)  # of the others, until it settles
    return [probes[connection_id] for connection_id in started]


# --- leases that their workers keep ---------------------------------------------------------------------------------


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


def regain_leases(jobs: list[Job]) -> list[bool]:
    """Keep the leases of a worker that lives and cannot write what its attempts came to, or take them back.

    Neither a loss nor an attempt of nobody's is left of one that ended meanwhile. False where another claim has come in
    between, or whatever else has moved the delivery on: what this attempt came to is nobody's to write then, but no
    loss is counted for it. Bears being run twice.
    """
    wanted = sorted((job.delivery_id, job.lease_id, job.attempt_number) for job in jobs)
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
    return [job.delivery_id in held for job in jobs]


# --- leases whose workers are lost ----------------------------------------------------------------------------------


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
RECORD_LOSSES = """
INSERT INTO attempts (id, workspace_id, delivery_id, number, started_at, worker, outcome, error_class, error,
    request_method, request_url, request_headers, response_headers, response_truncated)
VALUES {rows}
"""
END_PROBES = """
UPDATE connection_health SET probe_until = clock_timestamp()
WHERE connection_id = ANY(%s) AND breaker = 'half_open' AND probe_until > clock_timestamp()
RETURNING workspace_id, connection_id
"""
LOST_WORDS = "The worker that made this attempt was lost, so it is not known whether the destination got it."


def end_lapsed_leases(delivery_ids: list[uuid.UUID]) -> int:
    """Record the loss of the workers that held these deliveries, where their leases are over, and open them again.

    The claim stamp on the row is the evidence. The customer loses no attempt; the fifth loss makes the delivery dead,
    the first one does where the action must not be repeated. Returns how many leases ended.
    """
    if not delivery_ids:
        return 0
    probed = []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT d.id, c.type, d.action FROM deliveries d JOIN connections c ON c.id = d.connection_id"
            " WHERE d.id = ANY(%s)",
            [delivery_ids],
        )
        final = [row[0] for row in cursor.fetchall() if not repeatable(row[1], row[2])]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            END_LEASES, {"ids": sorted(delivery_ids), "final": final, "most": MOST_LOSSES, "words": LOST_WORDS}
        )
        lost = cursor.fetchall()
        if lost:
            rows, parameters = rows_of(
                "(%s, %s, %s, %s, %s, %s, 'uncertain', 'worker_lost', %s, '', '', '[]', '[]', false)",
                [(ids.uuid7(), row[1], row[0], *row[3:], LOST_WORDS) for row in lost],
            )
            cursor.execute(RECORD_LOSSES.format(rows=rows), parameters)
            cursor.execute(END_PROBES, [sorted({row[2] for row in lost})])
            probed = cursor.fetchall()
    for workspace_id, connection_id in probed:
        brokers.resume(workspace_id, connection_id)
    return len(lost)


def repeatable(connection_type: str, action: str, request: Request | None = None) -> bool:
    """Whether an action may be sent again although an earlier request, this one where it is known, may have arrived."""
    try:
        provider = providers.get(connection_type)
        return provider.may_repeat(action, request) if request else provider.action(action).idempotent
    except LookupError:
        return False
