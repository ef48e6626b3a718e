"""Dispatch: claim → open credentials → send → a result to settle.

`claim` takes deliveries by one conditional UPDATE and brings everything that an attempt needs, so that the threads
that send never touch the database. `attempt` does one try and returns what `delivery.dispatch.settling` writes back.
"""

import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from django.conf import settings
from django.db import Error, connection

from connections import credentials as keeping
from connections import providers
from connections.conversation import Build, Conversation, shipment_of
from connections.masking import Redactor
from connections.messages import DELIVERY_BODY_LIMIT, NetworkError, OutboundError, Request, Response, Room
from connections.models import Connection
from connections.oauth.refresh import DIRECT, Authorization, Need, Steps
from connections.oauth.tokens import NoTokenError
from connections.providers.base import Exchange, NotAuthorized, Outcome, Unsendable, Verdict, reauthorize
from connections.providers.verdicts import of_repeatable
from delivery.dispatch import sessions
from delivery.dispatch.breaker import HALF_OPEN, OPEN
from delivery.lanes import steering
from delivery.models import event_time
from meshes.kit import ids
from meshes.kit.clock import Reading
from meshes.kit.database_faults import Fault, describe, fault_of
from workspaces.installation import NOT_HELD
from workspaces.vault import vault

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Sent:
    """The request as it is recorded: the first 256 KB of its body."""

    method: str
    url: str
    headers: list[list[str]]
    body: bytes
    truncated: bool


@dataclass(frozen=True, slots=True)
class Received:
    """The answer as it is recorded: the first 64 KB of its body."""

    status: int
    headers: list[list[str]]
    body: bytes
    truncated: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What one attempt came to. Secrets are already masked in everything it holds."""

    job: Job
    verdict: Verdict
    started_at: datetime
    duration_ms: int
    is_overloaded: bool = False
    """A 429 or a timeout: the receiver has too much to do."""
    may_repeat: bool = True
    """Whether the action may be sent again although the first request may have arrived."""
    request: Sent | None = None
    response: Received | None = None
    steps: list[dict[str, Any]] | None = None
    """Every call of an action that needs several, as it is recorded; the last one is also `request` and `response`."""
    omitted_fields: list[dict[str, str]] | None = None
    """`{field, reason}` of what the mapping made and the last request left out."""


USABLE_SHARE = 11 / 12
"""Of the lease; whatever an attempt waits for ends before. The rest is for settling."""
SENT_BODY_BYTES = 256 * 1024
"""Of a request's body as much is recorded: all of it, but for mappings that make more of a payload than it was."""
PAYLOAD_GONE_WORDS = "The event's payload has been erased or has expired."
OUR_FAULT_WORDS = "A fault on our side, which passes; it costs none of the attempts."
OUR_ERROR_WORDS = "An error in Meshes itself; its log has it, under the delivery's id."


class PayloadGone(Exception):  # noqa: N818
    """The event's payload was erased or has expired, so there is nothing to send."""


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

FROZEN, CLAIMED_AT, CONFIG = 8, 12, 14
"""The columns of a claim that are JSON text, and its moment."""

BLOCKED = """
SELECT d.id, d.workspace_id, d.connection_id, c.status, h.breaker,
    extract(epoch FROM c.paused_until - clock_timestamp())::float
FROM deliveries d
JOIN connections c ON c.id = d.connection_id
LEFT JOIN connection_health h ON h.connection_id = c.id
WHERE d.id = ANY(%s) AND d.status = 'pending' AND d.lease_id IS NULL AND d.next_attempt_at <= clock_timestamp()
ORDER BY d.id
"""


def claim(delivery_ids: list[uuid.UUID], actor: str) -> list[Job | None]:
    """Take these deliveries for one attempt each; None for one that may not run now.

    What may not run is not lost: it stays pending and a sweep hints again. For such a delivery the lane's copy of the
    connection's hold is set again, and where a breaker waits for its probe one delivery is let through. Where that
    fails, what is claimed already is returned all the same: nobody else would end its leases.
    """
    jobs = _claim(delivery_ids, actor, probe=False)
    missed = [delivery_id for delivery_id in delivery_ids if delivery_id not in jobs]
    try:
        probes = _steer(missed) if missed else []
        jobs |= _claim(probes, actor, probe=True) if probes else {}
    except Error as error:
        if not jobs:
            raise
        logger.warning("%d deliveries are not claimed for now: %s", len(missed), describe(error))
    return [jobs.get(delivery_id) for delivery_id in delivery_ids]


def _claim(delivery_ids: list[uuid.UUID], actor: str, *, probe: bool) -> dict[uuid.UUID, Job]:
    unique = sorted(set(delivery_ids))
    with connection.cursor() as cursor:
        cursor.execute(
            CLAIM,
            {
                "deliveries": unique,
                "leases": [ids.uuid7() for _ in unique],
                "accesses": [ids.uuid7() for _ in unique],
                "lease": settings.MESHES_LEASE_SECONDS,
                "actor": actor,
                "session": sessions.current(),
                "probe": probe,
            },
        )
        rows = cursor.fetchall()
    return {row[0]: _job(row) for row in rows}


def _job(row: tuple[Any, ...]) -> Job:
    values = list(row)
    values[FROZEN], values[CONFIG] = json.loads(values[FROZEN]), json.loads(values[CONFIG])
    values[CLAIMED_AT] = Reading(values[CLAIMED_AT])
    return Job(*values)


def _steer(delivery_ids: list[uuid.UUID]) -> list[uuid.UUID]:
    """Set the lanes' holds again for deliveries that were not claimed; returns those that may go as probes."""
    with connection.cursor() as cursor:
        cursor.execute(BLOCKED, [delivery_ids])
        rows = cursor.fetchall()
    candidates: dict[uuid.UUID, Probe] = {}
    for delivery_id, workspace_id, connection_id, status, breaker, pause_seconds in rows:
        if status != Connection.Status.ACTIVE:
            steering.purge(workspace_id, connection_id)
        elif pause_seconds is not None and pause_seconds > 0:
            steering.pause(workspace_id, connection_id, pause_seconds)
        elif breaker in (HALF_OPEN, OPEN):
            candidates.setdefault(connection_id, Probe(workspace_id, delivery_id))
    return _start_probes(candidates) if candidates else []


class Probe(NamedTuple):
    """The one delivery that a connection whose breaker is open may try."""

    workspace_id: uuid.UUID
    delivery_id: uuid.UUID


def _start_probes(candidates: dict[uuid.UUID, Probe]) -> list[uuid.UUID]:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE connection_health SET breaker = 'half_open',"
            " probe_until = clock_timestamp() + make_interval(secs => %s) WHERE connection_id = ANY(%s)"
            " AND (breaker = 'open' OR (breaker = 'half_open' AND probe_until <= clock_timestamp()))"
            " RETURNING connection_id",
            [settings.MESHES_LEASE_SECONDS, sorted(candidates)],
        )
        started = [row[0] for row in cursor.fetchall()]
    for connection_id, probe in candidates.items():
        # the others of the lane wait until it has settled
        steering.pause(probe.workspace_id, connection_id, settings.MESHES_LEASE_SECONDS)
    return [candidates[connection_id].delivery_id for connection_id in started]


def attempt(job: Job, steps: Steps = DIRECT) -> Result:
    """Make one attempt of a claimed delivery. Never raises; touches the database through `steps` alone, for tokens."""
    with Room() as room:
        return _attempt(job, steps, room)


def _attempt(job: Job, steps: Steps, room: Room) -> Result:
    started_at, clock = job.clock.now(), time.monotonic()
    calls: Conversation | None = None
    answer: Response | Verdict | Exception
    try:
        credentials = _open_credentials(job)
        build = _builder(job, credentials, started_at)
        calls = _begin(job, credentials, steps, room, clock)
        answer = calls.run(build) or TypeError(f"{job.connection_type} builds no request")
    except Exception as error:  # noqa: BLE001  (judged below, by its type)
        answer = error
    last = calls.last if calls else None
    redactor = calls.redactor() if calls else Redactor({})
    with redactor.guarding():
        verdict = _judge(job, answer, redactor)
        may_repeat = repeatable(job.connection_type, job.action, last.request if last else None)
        if may_repeat:
            verdict = of_repeatable(verdict, answer)
    return Result(
        job=replace(job, sealed_version=calls.version) if calls and calls.version != job.sealed_version else job,
        verdict=replace(verdict, words=redactor.text(verdict.words)),  # which may quote the vendor
        started_at=started_at,
        duration_ms=round((time.monotonic() - clock) * 1000),
        is_overloaded=verdict.throttled or (isinstance(answer, NetworkError) and answer.cause == "timeout"),
        may_repeat=may_repeat,
        request=_sent(last.request, redactor) if last else None,
        response=_received(last.response, redactor) if last and last.response else None,
        steps=calls.steps(redactor) if calls else None,
        omitted_fields=last.request.omitted_fields(redactor.text) if last else None,
    )


def _begin(job: Job, credentials: Mapping[str, Any], steps: Steps, room: Room, clock: float) -> Conversation:
    provider, actor = providers.get(job.connection_type), vault.this_process()
    version, number = job.sealed_version or 0, job.attempt_number
    need = Need(job.workspace_id, job.connection_id, version, actor, job.delivery_id, number)
    return Conversation(
        provider,
        Authorization(need, provider, job.config, credentials, job.clock, steps),
        seconds=job.timeout_seconds or settings.MESHES_OUTBOUND_TIMEOUT_SECONDS,
        until=clock + settings.MESHES_LEASE_SECONDS * USABLE_SHARE,
        pool_key=(job.workspace_id, job.connection_id),
        room=room,
    )


def _sent(request: Request, redactor: Redactor) -> Sent:
    body = redactor.body(request.body)
    kept = body[:SENT_BODY_BYTES]
    url, headers = redactor.url(request.url), redactor.headers(request.headers)
    return Sent(request.method, url, headers, kept, len(kept) < len(body))


def _received(response: Response, redactor: Redactor) -> Received:
    response = response.cut(DELIVERY_BODY_LIMIT)
    body = redactor.body(response.body, is_cut=response.truncated)
    return Received(response.status, redactor.headers(response.headers), body, response.truncated)


def _open_credentials(job: Job) -> dict[str, Any]:
    return vault.open_again(
        job.sealed_document,
        workspace_id=job.workspace_id,
        owner_kind="connection",
        owner_id=job.connection_id,
        kind=vault.CREDENTIALS,
        version=job.sealed_version,
        key_id=job.sealed_key_id,
    )


def _builder(job: Job, credentials: Mapping[str, Any], now: datetime) -> Build:
    """The requests of the delivery's action, one after the other."""
    if job.body is None:
        raise PayloadGone
    provider = providers.get(job.connection_type)
    first = shipment_of(
        provider, job.config, credentials, delivery_id=job.delivery_id, event_id=job.event_id,
        event_type=job.event_type, occurred_at=event_time(job.event_id), body=job.body, action=job.action, now=now,
        frozen=job.frozen, attempt_number=job.attempt_number, replay=job.replay,
    )  # fmt: skip

    def build(credentials: Mapping[str, Any], exchanges: Sequence[Exchange]) -> Request | Verdict | None:
        shipment = first if credentials is first.credentials else replace(first, credentials=credentials)
        return provider.follow(shipment, exchanges) if exchanges else provider.prepare(shipment)

    return build


def _judge(job: Job, answer: Response | Verdict | Exception, redactor: Redactor) -> Verdict:
    match answer:
        case Verdict():
            return answer
        case Response() | OutboundError():
            return providers.get(job.connection_type).classify(answer, job.action)
        case vault.CredentialRefused():
            vault.sound_alarm(answer, job.workspace_id, "connection", job.connection_id)
            return keeping.verdict_on(answer)
        case NoTokenError():
            return answer.verdict
        case NotAuthorized():
            return reauthorize(answer.words, "not_authorized")
        case Unsendable():
            return Verdict(Outcome.REJECTED, "unsendable", answer.words)
        case PayloadGone():
            return Verdict(Outcome.REJECTED, "payload_gone", PAYLOAD_GONE_WORDS)
    logger.error(
        "attempt %d of delivery %s failed here\n%s", job.attempt_number, job.delivery_id, redactor.trace(answer)
    )
    if fault_of(answer) is Fault.ITEM:
        return Verdict(Outcome.RETRY, "our_fault", OUR_ERROR_WORDS, is_ours=True)
    return Verdict(Outcome.RETRY, "our_fault", OUR_FAULT_WORDS, is_ours=True, is_counted=False)


def repeatable(connection_type: str, action: str, request: Request | None = None) -> bool:
    """Whether an action may be sent again although an earlier request, this one where it is known, may have arrived."""
    try:
        provider = providers.get(connection_type)
        return provider.may_repeat(action, request) if request else provider.action(action).idempotent
    except LookupError:
        return False
