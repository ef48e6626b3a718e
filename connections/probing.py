"""The test of a connection: one real request through the client, judged as a delivery's answer would be."""

from dataclasses import dataclass, field, replace
from typing import Any

from connections import credentials as keeping
from connections import lifecycle, providers
from connections.conversation import Asked, ask
from connections.messages import Response
from connections.models import Connection
from connections.oauth.tokens import NoTokenError
from connections.providers.base import Account, NotAuthorized, Outcome, Unsendable, Verdict
from workspaces.vault import vault

ANSWER_LIMIT = 16 * 1024
"""Bytes of the answer that are shown."""

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
        if verdict.outcome == Outcome.DELIVERED and isinstance(asked.answer, Response):
            account = provider.read_account(asked.answer)
    if verdict.outcome == Outcome.DELIVERED:
        lifecycle.mend(connection)
        if account is not None:
            lifecycle.learn_account(connection, account)
    return replace(_describe(verdict, asked, _status(connection)), account=account)


def _unsent(connection: Connection, verdict: Verdict) -> Probe:
    return Probe(False, verdict.outcome, _status(connection), verdict.error_class, verdict.words)


def _status(connection: Connection) -> str:
    connection.refresh_from_db(fields=["status"])
    return connection.status


def _describe(verdict: Verdict, asked: Asked, status: str) -> Probe:
    request, answer, redactor = asked.request, asked.answer, asked.redactor
    response = None
    if isinstance(answer, Response):
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
        duration_ms=answer.duration_ms if isinstance(answer, Response) else None,
        request={
            "method": request.method,
            "url": redactor.url(request.url),
            "headers": redactor.headers(request.headers),
            "body": redactor.body(request.body).decode("utf-8", "replace"),
        },
        response=response,
    )
