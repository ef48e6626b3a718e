"""The apps that the installation has at vendors: `MESHES_OAUTH_CLIENTS`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from connections.secret import Secret


@dataclass(frozen=True, slots=True)
class Client:
    """An app at a vendor: what RFC 6749 calls a client."""

    id: str
    secret: Secret


def read_clients(text: str) -> dict[str, Client]:
    """The clients by integration, from `hubspot=<id>:<secret>,…` or `{"hubspot": {"id": "…", "secret": "…"}}`.

    Raises ValueError that quotes none of it.
    """
    text = text.strip()
    pairs = _from_json(text) if text.startswith("{") else _from_list(text)
    clients = {}
    for slug, client_id, secret in pairs:
        if not (slug and client_id and secret):
            raise ValueError("each integration needs an id and a secret")
        clients[slug] = Client(client_id, Secret(secret))
    return clients


def _from_list(text: str) -> Iterator[tuple[str, str, str]]:
    for item in filter(None, map(str.strip, text.split(","))):
        slug, _, pair = item.partition("=")
        client_id, _, secret = pair.partition(":")
        yield slug.strip(), client_id.strip(), secret.strip()


def _from_json(text: str) -> Iterator[tuple[str, str, str]]:
    try:
        document = json.loads(text)
    except ValueError:
        raise ValueError("it is not JSON") from None
    for slug, client in document.items():
        if not isinstance(client, dict):
            raise ValueError("each integration needs an object with id and secret")
        yield slug, _text(client.get("id")), _text(client.get("secret"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
