"""Attempt: open credentials → send → a result to settle. It never touches the database, but for tokens."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.conf import settings

from connections import providers
from connections.conversation import Build, Conversation, Redactor, shipment_of
from connections.credentials import verdict_on
from connections.messages import DELIVERY_BODY_LIMIT, NetworkError, OutboundError, Request, Response, Room
from connections.oauth.refresh import DIRECT, Need, Steps
from connections.oauth.tokens import NoTokenError
from connections.providers.base import Exchange, NotAuthorized, Outcome, Unsendable, Verdict
from connections.providers.verdicts import of_repeatable, reauthorize
from delivery.dispatch.claims import Job, repeatable
from meshes.kit import ids
from meshes.kit.database_faults import Fault, fault_of
from workspaces.vault import vault

logger = logging.getLogger(__name__)

USABLE_SHARE = 11 / 12
"""Of the lease; whatever an attempt waits for ends before. The rest is for settling."""
SENT_BODY_BYTES = 256 * 1024
"""Of a request's body as much is recorded: all of it, but for mappings that make more of a payload than it was."""
PAYLOAD_GONE = Verdict(Outcome.REJECTED, "payload_gone", "The event's payload has been erased or has expired.")
OUR_FAULT_WORDS = "A fault on our side, which passes; it costs none of the attempts."
OUR_ERROR_WORDS = "An error in Meshes itself; its log has it, under the delivery's id."


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
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What was sent and answered, by the columns of an `Attempt`; a column that is left out is empty."""


def attempt(job: Job, steps: Steps = DIRECT) -> Result:
    """Make one attempt of a claimed delivery. Never raises; touches the database through `steps` alone, for tokens."""
    started_at, clock = job.clock.now(), time.monotonic()
    calls: Conversation | None = None
    answer: Response | Verdict | Exception
    with Room() as room:
        try:
            credentials = open_credentials(job)
            if job.body is None:
                answer = PAYLOAD_GONE
            else:
                build = _builder(job, job.body, credentials, started_at)
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
            evidence=_evidence(calls, redactor) if calls else {},
        )


def open_credentials(job: Job) -> dict[str, Any]:
    return vault.open_again(
        job.sealed_document,
        workspace_id=job.workspace_id,
        owner_kind="connection",
        owner_id=job.connection_id,
        kind=vault.CREDENTIALS,
        version=job.sealed_version,
        key_id=job.sealed_key_id,
    )


def _begin(job: Job, credentials: Mapping[str, Any], steps: Steps, room: Room, clock: float) -> Conversation:
    provider, actor = providers.get(job.connection_type), vault.this_process()
    version, number = job.sealed_version or 0, job.attempt_number
    need = Need(job.workspace_id, job.connection_id, version, actor, job.delivery_id, number)
    return Conversation(
        provider,
        need,
        job.config,
        credentials,
        job.clock,
        steps,
        seconds=job.timeout_seconds or settings.MESHES_OUTBOUND_TIMEOUT_SECONDS,
        until=clock + settings.MESHES_LEASE_SECONDS * USABLE_SHARE,
        pool_key=(job.workspace_id, job.connection_id),
        room=room,
    )


def _builder(job: Job, body: str, credentials: Mapping[str, Any], now: datetime) -> Build:
    """The requests of the delivery's action, one after the other."""
    provider = providers.get(job.connection_type)
    first = shipment_of(
        provider, job.config, credentials, delivery_id=job.delivery_id, event_id=job.event_id,
        event_type=job.event_type, occurred_at=ids.created_at(job.event_id), body=body, action=job.action, now=now,
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
            return verdict_on(answer)
        case NoTokenError():
            return answer.verdict
        case NotAuthorized():
            return reauthorize(answer.words, "not_authorized")
        case Unsendable():
            return Verdict(Outcome.REJECTED, "unsendable", answer.words)
    logger.error(
        "attempt %d of delivery %s failed here\n%s", job.attempt_number, job.delivery_id, redactor.trace(answer)
    )
    if fault_of(answer) is Fault.ITEM:
        return Verdict(Outcome.RETRY, "our_fault", OUR_ERROR_WORDS, is_ours=True)
    return Verdict(Outcome.RETRY, "our_fault", OUR_FAULT_WORDS, is_ours=True, is_counted=False)


def _evidence(calls: Conversation, redactor: Redactor) -> dict[str, Any]:
    """The last request, its answer if one came, and every call of an action that needs several."""
    if calls.last is None:
        return {}
    request, response = calls.last.request, calls.last.response
    body = redactor.body(request.body)
    found: dict[str, Any] = {
        "request_method": request.method,
        "request_url": redactor.url(request.url),
        "request_headers": redactor.headers(request.headers),
        "request_body": body[:SENT_BODY_BYTES],
        "request_truncated": len(body) > SENT_BODY_BYTES,
        "steps": calls.steps(redactor),
        "omitted_fields": request.omitted_fields(redactor.text),
    }
    if response is not None:
        response = response.cut(DELIVERY_BODY_LIMIT)
        found |= {
            "status_code": response.status,
            "response_headers": redactor.headers(response.headers),
            "response_body": redactor.body(response.body, is_cut=response.truncated),
            "response_truncated": response.truncated,
        }
    return found
