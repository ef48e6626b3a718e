"""What is compared. All take the same requests at the same paths, and send to the same receivers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.load import Template

PAYLOAD = (
    '{"email":"person4711@initech.example","first_name":"Ada","last_name":"Okafor","company":"Initech",'
    '"phone":"+1-555-4711","plan":"business","score":87,"source":"website","landing_page":"/pricing","seq":'
)
"""A lead of some 200 bytes, up to its number."""
EVENT = "lead.created"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer and its destinations; each gets every event."""

    name: str
    urls: tuple[str, ...]


class System(Protocol):
    """One system under test. `start`, `connect` and `stop` are called on the main thread."""

    name: str
    has_bulk: bool
    port: int
    key: str

    def start(self) -> None:
        """Return when it takes events."""

    def stop(self) -> None:
        """End all its processes and remove its data."""

    def connect(self, tenants: Sequence[Tenant]) -> None:
        """Make customers with their destinations."""

    def quieten(self, tenants: Sequence[Tenant]) -> None:
        """End the trouble of some customers for good."""

    def roots(self) -> dict[str, int]:
        """Process ids by name; their descendants belong to them."""

    def log(self, name: str) -> str:
        """The end of one process's log."""


def single(system: System, tenant: Tenant) -> Template:
    """POST of one event."""
    return _template(system, "/api/v1/events", [_event(tenant) + PAYLOAD, "}}"])


def bulk(system: System, tenant: Tenant, events: int) -> Template:
    """POST of many events of one tenant at once."""
    first, between, last = '{"events":[' + _event(tenant) + PAYLOAD, "}}," + _event(tenant) + PAYLOAD, "}}]}"
    return _template(system, "/api/v1/events/bulk", [first, *[between] * (events - 1), last])


def event_template(system: System, tenant: Tenant, event: str, payload: str) -> Template:
    """POST of one event with a payload of one's own, up to its number."""
    return _template(system, "/api/v1/events", [_event(tenant, event) + payload, "}}"])


def _event(tenant: Tenant, event: str = EVENT) -> str:
    return f'{{"workspace":{json.dumps(tenant.name)},"event":"{event}","payload":'


def _template(system: System, path: str, parts: list[str]) -> Template:
    length = sum(len(part) for part in parts) + 10 * (len(parts) - 1)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{system.port}\r\nAuthorization: Bearer {system.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
    return Template(head, parts)
