"""The request that would be sent, shown without sending it and without opening a credential.

A provider is asked to build the request with made-up credentials, twice. What differs between the two was made from
credentials, a signature as well as a token, and is masked; the rest is exact.
"""

import secrets
import uuid
from dataclasses import dataclass
from typing import Any

from connections import providers
from connections.conversation import shipment_of
from connections.masking import Redactor
from connections.messages import Request
from connections.models import Connection
from connections.providers.base import Provider, Unsendable
from delivery.models import event_time
from meshes.kit import clock
from workspaces.vault.secret import MASK, Secret


@dataclass(frozen=True, slots=True)
class Draft:
    """What would be delivered. `body` is the JSON text: the mapping's, or the payload as received."""

    delivery_id: uuid.UUID
    event_id: uuid.UUID
    event_type: str
    body: str
    action: str
    attempt_number: int = 1
    frozen: dict[str, Any] | None = None
    """As stored with a delivery; None: as the connection's config is now."""
    replay: str = ""


def render(connection: Connection, draft: Draft) -> dict[str, Any]:
    """`{method, url, headers: [[name, value], …], body, omitted_fields}`.

    Raises Unsendable where the provider cannot express it.
    """
    provider = providers.get(connection.type)
    now = clock.now()
    first, second = (
        provider.prepare(
            shipment_of(
                provider, connection.config, _made_up(provider, connection), delivery_id=draft.delivery_id,
                event_id=draft.event_id, event_type=draft.event_type, occurred_at=event_time(draft.event_id),
                body=draft.body, action=draft.action, now=now, frozen=draft.frozen,
                attempt_number=draft.attempt_number, replay=draft.replay,
            )
        )
        for _ in range(2)
    )  # fmt: skip
    return {
        "method": first.method,
        "url": _common(first.url, second.url) if first.url != second.url else Redactor({}).url(first.url),
        "headers": _masked_headers(first, second),
        "body": _common(first.body.decode("utf-8", "replace"), second.body.decode("utf-8", "replace")),
        "omitted_fields": first.omitted_fields(Redactor({}).text),
    }


def try_render(connection: Connection, draft: Draft) -> dict[str, Any]:
    """`{"request": …, "error": ""}`; where the provider cannot express it, no request and the reason."""
    try:
        return {"request": render(connection, draft), "error": ""}
    except Unsendable as error:
        return {"request": None, "error": error.words}


def _made_up(provider: Provider, connection: Connection) -> dict[str, Any]:
    """Credentials of the same names as the connection's, which open nothing. One without any is shown with all."""
    generated = provider.make_secrets()
    examples = {declared.key: declared.example for declared in provider.credential_fields}
    names = [key for key in connection.credential_hints or examples if key not in generated]
    return _as_secrets(generated | {key: _made_up_like(examples.get(key, "")) for key in names})


def _made_up_like(example: str) -> str:
    if not example:
        return secrets.token_urlsafe(24)
    return "".join(secrets.choice("0123456789abcdef") if letter == "#" else letter for letter in example)


def _as_secrets(document: dict[str, Any]) -> dict[str, Any]:
    return {key: Secret(value) if isinstance(value, str) else value for key, value in document.items()}


def _masked_headers(first: Request, second: Request) -> list[list[str]]:
    pairs = zip(first.headers, second.headers, strict=True)
    return [[name, value if value == other else _keep_scheme(value, other)] for (name, value), (_, other) in pairs]


def _keep_scheme(value: str, other: str) -> str:
    """`Bearer ••••` rather than `••••`."""
    scheme, space, _ = value.partition(" ")
    return f"{scheme} {MASK}" if space and other.startswith(f"{scheme} ") else MASK


def _common(text: str, other: str) -> str:
    """The text with everything between the first and the last difference masked."""
    if text == other:
        return text
    shortest = min(len(text), len(other))
    start = next((place for place in range(shortest) if text[place] != other[place]), shortest)
    end = next((place for place in range(shortest - start) if text[-1 - place] != other[-1 - place]), shortest - start)
    return text[:start] + MASK + (text[-end:] if end else "")
