"""Shipments for tests of providers."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from connections.providers.base import Shipment
from workspaces.vault.secret import Secret

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

PLAIN = Shipment(
    delivery_id="dlv_01h455vb4pex5vsknk084sn02q",
    event_id="evt_01h455vb4pex5vsknk084sn02q",
    event_type="lead.created",
    occurred_at=datetime(2026, 3, 4, 5, 6, 0, 250_000, tzinfo=UTC),
    body='{"b": 1,\n "a": "é"}',
    action="send",
    config={"url": "https://example.com/hook"},
    frozen={},
    credentials={"signing_secret": Secret(SECRET), "previous": []},
    attempt_number=1,
    now=NOW,
)


def shipment(**changes: Any) -> Shipment:
    return replace(PLAIN, **changes)


def as_secrets(value: Any) -> Any:
    """Plain credentials as the vault opens them."""
    if isinstance(value, str):
        return Secret(value)
    if isinstance(value, dict):
        return {key: as_secrets(item) for key, item in value.items()}
    return [as_secrets(item) for item in value] if isinstance(value, list) else value
