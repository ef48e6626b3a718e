"""Vendors' answers, and what a provider makes of them, for tests of providers."""

import json
from typing import Any

from connections.mapping import compile_mapping
from connections.messages import Request, Response
from connections.providers.base import Exchange, Provider, Verdict


def reply(status: int = 200, document: Any = None, **headers: str) -> Response:
    """An answer with this JSON, or these bytes; `retry_after="7"` is the header `retry-after`."""
    body = document if isinstance(document, bytes) else b"" if document is None else json.dumps(document).encode()
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Response(status, pairs, body, False, 1)


def judged(provider: Provider, response: Response) -> tuple[str, str, str | None]:
    """`(outcome, error class, hold)` by the provider's first action."""
    return told(provider.classify(response, provider.actions[0].slug))


def told(verdict: Any) -> tuple[str, str, str | None]:
    """The same of a verdict that `follow` gave."""
    assert isinstance(verdict, Verdict)
    return verdict.outcome.value, verdict.error_class, verdict.hold


def exchanges(*calls: tuple[Request, Response]) -> list[Exchange]:
    return [Exchange(request, response) for request, response in calls]


def default_fields(provider: Provider, action: str, payload: dict[str, Any]) -> dict[str, Any]:
    """What the default mapping of an action makes of a `lead.created` with this payload."""
    mapping = compile_mapping(provider.action(action).default_mapping)
    return mapping.apply({"event": {"type": "lead.created"}, "payload": payload, "workspace": {}})
