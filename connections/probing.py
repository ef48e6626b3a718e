"""The test of a connection: one real request through the door, judged as a delivery's answer would be."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from django.conf import settings

from connections import credentials as keeping
from connections import lifecycle, outbound, providers
from connections.masking import Redactor
from connections.models import Connection
from connections.oauth.refresh import Authorization, Need
from connections.oauth.tokens import NoTokenError
from connections.providers.base import Account, NotAuthorized, Outcome, Provider, Shipment, Unsendable, Verdict
from meshes.kit import clock, ids
from workspaces.vault import vault

EVENT_TYPE = "meshes.test"
EVENT_BODY = '{"message":"This is a test of your connection. Nothing has happened."}'
ANSWER_LIMIT = 16 * 1024
"""Bytes of the answer that are shown."""

TOKEN_SECONDS = 15.0
"""For a new token, where one is needed."""

NO_TEST = "no_test"
_REFUSED = Verdict(Outcome.BROKEN, "credential_error", keeping.REFUSED_WORDS, hold="credential_error")


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

    Success ends `disabled`, `needs_reauth`, `credential_error` and a breaker's pause; failure changes nothing, but
    credentials that do not open put an active connection in `credential_error`. Raises nothing.
    """
    provider = providers.get(connection.type)
    try:
        asked = ask(connection, provider.build_test, actor=actor, purpose="test")
    except vault.KeyMissing as missing:
        return _unsent(connection, keeping.verdict_on(missing))
    except vault.CredentialRefused:
        lifecycle.hold(connection, Connection.Status.CREDENTIAL_ERROR, _REFUSED.words)
        return _unsent(connection, _REFUSED)
    except NoTokenError as error:
        return _unsent(connection, error.verdict)
    except Unsendable as error:
        outcome = Outcome.BROKEN if isinstance(error, NotAuthorized) else Outcome.REJECTED
        return _unsent(connection, Verdict(outcome, "unsendable", error.words))
    if asked is None:
        return Probe(None, NO_TEST, _status(connection), words=provider.test)
    account = None
    with asked.redactor.guarding():
        verdict = provider.classify_test(asked.answer)
        if verdict.outcome == Outcome.DELIVERED and isinstance(asked.answer, outbound.Response):
            account = provider.read_account(asked.answer)
    if verdict.outcome == Outcome.DELIVERED:
        lifecycle.mend(connection)
        if account is not None:
            lifecycle.learn_account(connection, account)
    return replace(_describe(verdict, asked, _status(connection)), account=account)


def _unsent(connection: Connection, verdict: Verdict) -> Probe:
    return Probe(False, verdict.outcome, _status(connection), verdict.error_class, verdict.words)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a vendor was asked beside deliveries, and what came of it."""

    request: outbound.Request
    answer: outbound.Response | outbound.OutboundError
    redactor: Redactor


def ask(
    connection: Connection,
    build: Callable[[Shipment], outbound.Request | None],
    *,
    actor: str,
    purpose: str,
) -> Asked | None:
    """Send what `build` makes of a made-up event, with a token that is renewed where it is due or refused.

    None where `build` makes nothing. Raises vault.CredentialRefused, NoTokenError, and what `build` raises.
    """
    provider = providers.get(connection.type)
    opened = _open_unchanged(connection, actor, purpose)
    need = Need(connection.workspace_id, connection.pk, opened.version, actor)
    authorization = Authorization(need, provider, connection.config, opened.secret, clock.Reading.take())
    authorization.prepare(time.monotonic() + TOKEN_SECONDS)
    while True:
        redactor = Redactor({"opened": authorization.opened})
        refusal: Unsendable | None = None
        with redactor.guarding():
            try:
                request = build(shipment_of(provider, connection, authorization.credentials))
            except Unsendable as error:
                refusal = type(error)(redactor.text(error.words))
        if refusal is not None:
            raise refusal
        if request is None:
            return None
        answer = send(request, connection, provider.answer_bytes)
        until = time.monotonic() + TOKEN_SECONDS
        if isinstance(answer, outbound.Response) and authorization.renew_after(answer, until):
            continue
        return Asked(request, answer, Redactor({"opened": authorization.opened}, request))


def _open_unchanged(connection: Connection, actor: str, purpose: str) -> vault.Opened:
    """The document of the connection as it is now: an edit may have replaced the config and the document meanwhile.

    The row is read again, until it is the same before and after the opening: what was sealed for one host must not be
    sent to the other.
    """
    while True:
        version = connection.version
        opened = keeping.open_document(connection, actor, purpose)
        connection.refresh_from_db(fields=["version", "config"])
        if connection.version == version:
            return opened


def shipment_of(provider: Provider, connection: Connection, credentials: Mapping[str, Any]) -> Shipment:
    """A shipment of a made-up event, for what is asked of the vendor beside deliveries."""
    now = clock.now()
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
    request: outbound.Request, connection: Connection, body_limit: int
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


def _describe(verdict: Verdict, asked: Asked, status: str) -> Probe:
    request, answer, redactor = asked.request, asked.answer, asked.redactor
    response = None
    if isinstance(answer, outbound.Response):
        answer = answer.cut(ANSWER_LIMIT)
        response = {
            "status": answer.status,
            "headers": redactor.headers(answer.headers),
            "body": redactor.body(answer.body, is_cut=answer.truncated).decode("utf-8", "replace"),
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
