"""The test of a connection: one real request through the door, judged as a delivery's answer would be."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from connections import credentials as keeping
from connections import lifecycle, outbound, providers, vault
from connections.masking import Redactor
from connections.models import Connection
from connections.providers.base import Account, NotAuthorized, Outcome, Provider, Shipment, Unsendable, Verdict
from workspaces import ids

EVENT_TYPE = "meshes.test"
EVENT_BODY = '{"message":"This is a test of your connection. Nothing has happened."}'
ANSWER_LIMIT = 16 * 1024
"""Bytes of the answer that are shown."""

NO_TEST = "no_test"
_REFUSED = Verdict(
    Outcome.BROKEN, "credential_error", "The stored credentials do not open. Replace them.", hold="credential_error"
)


@dataclass(frozen=True, slots=True)
class Probe:
    """What the test of a connection came to. `ok` is None where the vendor has no check; all secrets are masked.

    `status` is the connection's status afterwards.
    """

    ok: bool | None
    outcome: str
    status: str
    error_class: str = ""
    words: str = ""
    duration_ms: int | None = None
    request: dict[str, Any] | None = field(default=None, repr=False)
    response: dict[str, Any] | None = field(default=None, repr=False)
    account: Account | None = None


def probe(connection: Connection, *, actor: str) -> Probe:
    """Send the provider's test request, judge the answer, and keep whose account it speaks of.

    Success ends `disabled`, `needs_reauth` and `credential_error`; failure changes nothing, but credentials that do not
    open put an active connection in `credential_error`. Raises nothing.
    """
    provider = providers.get(connection.type)
    try:
        credentials = keeping.open_all(connection, actor, "test")
    except vault.CredentialRefused:
        lifecycle.hold(connection, Connection.Status.CREDENTIAL_ERROR, _REFUSED.words)
        return Probe(False, _REFUSED.outcome, _status(connection), _REFUSED.error_class, _REFUSED.words)
    try:
        request = provider.build_test(shipment_of(provider, connection, credentials))
    except Unsendable as error:
        outcome = Outcome.BROKEN if isinstance(error, NotAuthorized) else Outcome.REJECTED
        return Probe(False, outcome, _status(connection), "unsendable", error.words)
    if request is None:
        return Probe(None, NO_TEST, _status(connection), words=provider.test)
    answer = send(request, connection)
    verdict = provider.classify_test(answer)
    account = None
    if verdict.outcome == Outcome.DELIVERED and isinstance(answer, outbound.Response):
        account = provider.read_account(answer)
        lifecycle.mend(connection)
        if account is not None:
            lifecycle.learn_account(connection, account)
    described = _describe(verdict, request, answer, Redactor(credentials, request), _status(connection))
    return replace(described, account=account)


def shipment_of(provider: Provider, connection: Connection, credentials: dict[str, Any]) -> Shipment:
    """A shipment of a made-up event, for what is asked of the vendor beside deliveries."""
    now = datetime.now(UTC)
    return Shipment(
        delivery_id=ids.encode(ids.DELIVERY, ids.uuid7()),
        event_id=ids.encode(ids.EVENT, ids.uuid7()),
        event_type=EVENT_TYPE,
        occurred_at=now,
        body=EVENT_BODY,
        action=provider.actions[0].slug,
        config=connection.config,
        frozen=provider.frozen_config(connection.config),
        credentials=credentials,
        attempt_number=1,
        now=now,
    )


def send(
    request: outbound.Request, connection: Connection, body_limit: int = ANSWER_LIMIT
) -> outbound.Response | outbound.OutboundError:
    """The answer, or why there is none."""
    deadline = connection.timeout_seconds or settings.MESHES_OUTBOUND_TIMEOUT_SECONDS
    try:
        return outbound.send(request, deadline_seconds=deadline, body_limit=body_limit)
    except outbound.OutboundError as error:
        return error


def _status(connection: Connection) -> str:
    connection.refresh_from_db(fields=["status"])
    return connection.status


def _describe(
    verdict: Verdict,
    request: outbound.Request,
    answer: outbound.Response | outbound.OutboundError,
    redactor: Redactor,
    status: str,
) -> Probe:
    response = None
    if isinstance(answer, outbound.Response):
        response = {
            "status": answer.status,
            "headers": redactor.headers(answer.headers),
            "body": redactor.body(answer.body).decode("utf-8", "replace"),
            "truncated": answer.truncated,
        }
    return Probe(
        ok=verdict.outcome == Outcome.DELIVERED,
        outcome=verdict.outcome,
        status=status,
        error_class=verdict.error_class,
        words=redactor.text(verdict.words),
        duration_ms=answer.duration_ms if isinstance(answer, outbound.Response) else None,
        request={
            "method": request.method,
            "url": redactor.url(request.url),
            "headers": redactor.headers(request.headers),
            "body": redactor.body(request.body).decode("utf-8", "replace"),
        },
        response=response,
    )
