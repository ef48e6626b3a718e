"""What is sent to vendors, and what they answer, for tests of providers."""

import json
from typing import Any

from connections.messages import Request, Response
from connections.providers.base import Exchange, Provider, Shipment, Verdict
from delivery.rules import mapping
from tests.connections.providers.shipments import as_secrets, shipment

PAYLOAD = {
    "email": "ada@example.com",
    "first_name": "Ada",
    "last_name": "Lovelace",
    "name": "Ada Lovelace",
    "company": "Engines Ltd",
    "user_id": "user-1",
    "source": "web",
}
EVENT = {"id": "evt_01h455vb4pex5vsknk084sn02q", "type": "lead.created", "created_at": "2026-03-04T05:06:00.250Z"}


def order(
    provider: Provider,
    action: str,
    fields: dict[str, Any],
    credentials: dict[str, str],
    config: dict[str, Any] | None = None,
    **changes: Any,
) -> Shipment:
    """A shipment of what a mapping made, over a connection with this config."""
    cleaned = provider.clean_config(config or {})
    values = {"config": cleaned, "frozen": provider.frozen_config(cleaned), **changes}
    return shipment(action=action, body=json.dumps(fields), credentials=as_secrets(credentials), **values)


def shaped(provider: Provider, action: str, payload: Any, own: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """What the default mapping makes of a payload, a rule's own entries before it."""
    entries = mapping.complete(provider.action(action), own)
    return mapping.compile_mapping(entries).apply({"event": EVENT, "payload": payload, "workspace": {}})


def reply(status: int = 200, body: Any = None, **headers: str) -> Response:
    """An answer; a body that is neither bytes nor text as JSON, none for None; `retry_after` is `retry-after`."""
    raw = body if isinstance(body, bytes | str) else "" if body is None else json.dumps(body)
    raw = raw.encode() if isinstance(raw, str) else raw
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Response(status, pairs, raw, False, 1)


def document_of(request: Request) -> Any:
    return json.loads(request.body)


def headers_of(request: Request) -> dict[str, str]:
    return dict(request.headers)


def judged(provider: Provider, response: Response) -> tuple[str, str, str | None]:
    """`(outcome, error class, hold)` by the provider's first action."""
    return told(provider.classify(response, provider.actions[0].slug))


def told(verdict: Any) -> tuple[str, str, str | None]:
    """The same of a verdict that `follow` gave."""
    assert isinstance(verdict, Verdict)
    return verdict.outcome.value, verdict.error_class, verdict.hold


def exchanges(*calls: tuple[Request, Response]) -> list[Exchange]:
    return [Exchange(request, response) for request, response in calls]
