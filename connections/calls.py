"""Calls to a vendor that a person waits for: the test of a connection, and the choices for a field.

A test is one real request, judged as a delivery's answer would be. Choices, such as a Mailchimp account's audiences,
are asked of the vendor and kept for five minutes.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from django.conf import settings
from django.core.cache import cache
from rest_framework.exceptions import NotFound

from connections import credentials as stored
from connections import lifecycle, outside, providers
from connections.conversation import Conversation, Redactor, shipment_of
from connections.credentials import ConflictError
from connections.messages import OutboundError, Request, Response
from connections.models import Connection
from connections.oauth.refresh import Need
from connections.oauth.tokens import NoTokenError
from connections.providers.base import (
    Account,
    Choice,
    Exchange,
    NotAuthorized,
    Outcome,
    Provider,
    Shipment,
    Unsendable,
    Verdict,
)
from meshes.api.problems import Problem
from meshes.kit import clock, ids
from workspaces.vault import vault

EVENT_TYPE = "meshes.test"
EVENT_BODY = '{"message":"This is a test of your connection. Nothing has happened."}'

Build = Callable[[Shipment], Request | None]
Asked = tuple[Request, Response | OutboundError, Redactor]
"""What was sent, what came of it, and what masks both."""


def ask(connection: Connection, build: Build, *, actor: str, purpose: str) -> Asked | None:
    """Send what `build` makes of a made-up event, with a token that is renewed where it is due or refused.

    None where `build` makes nothing. Raises vault.CredentialRefused, NoTokenError, and what `build` raises.
    """
    provider = providers.get(connection.type)
    opened = _open_unchanged(connection, actor, purpose)
    need, now = Need(connection.workspace_id, connection.pk, opened.version, actor), clock.Reading.take()
    seconds = connection.timeout_seconds or settings.MESHES_OUTBOUND_TIMEOUT_SECONDS
    conversation = Conversation(
        provider, need, connection.config, opened.secret, now, seconds=seconds, fresh_after_renewal=True
    )

    def build_once(credentials: Mapping[str, Any], exchanges: Sequence[Exchange]) -> Request | None:
        return None if exchanges else _build_masked(build, provider, connection, conversation)

    answer: Response | Verdict | OutboundError | None
    try:
        answer = conversation.run(build_once)
    except OutboundError as error:
        answer = error
    if conversation.last is None or not isinstance(answer, Response | OutboundError):
        return None
    return conversation.last.request, answer, conversation.redactor()


def _open_unchanged(connection: Connection, actor: str, purpose: str) -> vault.Opened:
    """The document of the connection as it is now: an edit may have replaced the config and the document meanwhile.

    The row is read again, until it is the same before and after the opening: what was sealed for one host must not be
    sent to the other.
    """
    while True:
        version = connection.version
        opened = stored.open_document(connection, actor, purpose)
        connection.refresh_from_db(fields=["version", "config"])
        if connection.version == version:
            return opened


def _build_masked(
    build: Build, provider: Provider, connection: Connection, conversation: Conversation
) -> Request | None:
    """What `build` makes of a made-up event. What it raises quotes no secret."""
    redactor, now = conversation.redactor(), clock.now()
    shipment = shipment_of(
        provider, connection.config, conversation.credentials, delivery_id=ids.uuid7(), event_id=ids.uuid7(),
        event_type=EVENT_TYPE, occurred_at=now, body=EVENT_BODY, action=provider.actions[0].slug, now=now,
    )  # fmt: skip
    refusal: Unsendable | None = None
    with redactor.guarding():
        try:
            return build(shipment)
        except Unsendable as error:
            refusal = type(error)(redactor.text(error.words))
    raise refusal


# --- tests ----------------------------------------------------------------------------------------------------------

ANSWER_LIMIT = 16 * 1024
"""Bytes of the answer that are shown."""
NO_TEST = "no_test"


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
    except vault.CredentialRefused as refused:
        verdict = stored.verdict_on(refused)
        if verdict.hold:
            lifecycle.hold(connection, verdict.hold, verdict.words)
            verdict = replace(verdict, error_class="credential_error")
        return _judged(connection, verdict)
    except NoTokenError as error:
        return _judged(connection, error.verdict)
    except Unsendable as error:
        outcome = Outcome.BROKEN if isinstance(error, NotAuthorized) else Outcome.REJECTED
        return _judged(connection, Verdict(outcome, "unsendable", error.words))
    if asked is None:
        connection.refresh_from_db(fields=["status"])
        return Probe(None, NO_TEST, connection.status, words=provider.test)
    _, answer, redactor = asked
    account = None
    with redactor.guarding():
        verdict = provider.classify_test(answer)
        if verdict.outcome == Outcome.DELIVERED and isinstance(answer, Response):
            account = provider.read_account(answer)
    if verdict.outcome == Outcome.DELIVERED:
        lifecycle.end_failures(connection)
        if account is not None:
            lifecycle.learn_account(connection, account)
    return replace(_judged(connection, verdict, asked), account=account)


def _judged(connection: Connection, verdict: Verdict, asked: Asked | None = None) -> Probe:
    connection.refresh_from_db(fields=["status"])
    is_ok = verdict.outcome == Outcome.DELIVERED
    found = Probe(is_ok, verdict.outcome, connection.status, verdict.error_class, verdict.words)
    if asked is None:
        return found
    request, answer, redactor = asked
    sent = {
        "method": request.method,
        "url": redactor.url(request.url),
        "headers": redactor.headers(request.headers),
        "body": redactor.body(request.body).decode("utf-8", "replace"),
    }
    found = replace(found, words=redactor.text(verdict.words), request=sent)
    if not isinstance(answer, Response):
        return found
    answer = answer.cut(ANSWER_LIMIT)
    response = {
        "status": answer.status,
        "headers": redactor.headers(answer.headers),
        "body": redactor.body(answer.body, is_cut=answer.truncated).decode("utf-8", "replace"),
        "truncated": answer.truncated,
    }
    return replace(found, duration_ms=answer.duration_ms, response=response)


# --- choices --------------------------------------------------------------------------------------------------------

KEPT_SECONDS = 300
MOST_CHOICES = 1000
MOST_PAGES = 5
"""Calls of one question; a vendor's page may hold fewer than was asked for."""


def choices(connection: Connection, field: str, *, actor: str) -> list[Choice]:
    """At most 1,000 choices for the field, in the vendor's order.

    What is kept goes by the connection's version: an edit of it, or of its credentials, asks anew. Raises NotFound
    where the integration lists none, ConflictError without credentials to ask with, OutsideBusyError, and Problem 502
    where the vendor does not list them.
    """
    if field not in providers.get(connection.type).live_options:
        raise NotFound
    text = f"{connection.pk}:{connection.version}:{field}"
    key = "options:" + hashlib.sha256(text.encode()).hexdigest()
    kept = cache.get(key)
    if kept is not None:
        return [Choice(*pair) for pair in kept]
    found: list[Choice] = []
    cursor = ""
    with outside.place_of(connection.workspace_id, "options", "Two lists of choices are being asked for. Try again."):
        for _ in range(MOST_PAGES):
            page, cursor = _ask_page(connection, field, cursor, actor)
            found += page
            if not cursor or len(found) >= MOST_CHOICES:
                break
    found = found[:MOST_CHOICES]
    cache.set(key, [(choice.value, choice.label) for choice in found], KEPT_SECONDS)
    return found


def _ask_page(connection: Connection, field: str, cursor: str, actor: str) -> tuple[list[Choice], str]:
    """One page of the choices, and where the next begins."""
    provider = providers.get(connection.type)
    build = partial(provider.build_options, field, cursor=cursor)
    try:
        asked = ask(connection, build, actor=actor, purpose="options")
        if asked is None:
            raise NotFound
        _, answer, redactor = asked
        with redactor.guarding():
            verdict = provider.classify_options(answer)
            if verdict.outcome == Outcome.DELIVERED and isinstance(answer, Response):
                return provider.read_options(field, answer), provider.options_cursor(field, answer)
        raise Problem(502, detail=redactor.text(verdict.words))
    except vault.CredentialRefused as refused:
        raise ConflictError(stored.verdict_on(refused).words) from None
    except NotAuthorized as error:
        raise ConflictError(error.words) from None
    except Unsendable as error:
        raise Problem(502, detail=error.words) from None
    except NoTokenError as error:
        raise Problem(502, detail=str(error)) from None
