"""Every route of the API, who may use it, and what it answers to those who may: the table of the access matrix.

A route is written `VERB /path/{thing}`; a thing is one of `tests.access_world.Things`. A body is made of the things of
one workspace, so that a request about a foreign workspace differs from one about the caller's own in ids alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.access_world import Things

Body = Callable[[Things], dict[str, Any]]


@dataclass(frozen=True)
class Route:
    name: str
    scopes: tuple[str, ...]
    """One of them is enough."""
    answers: int
    """The status for those who may."""
    body: Body | None = None
    names: str = "path"
    """Where the workspace's things are named: `path` (and the query) or `body`; `nowhere` for routes about nobody's."""
    account_only: bool = False
    publishable: bool = False

    @property
    def verb(self) -> str:
        return self.name.split(" ")[0]

    @property
    def path(self) -> str:
        return "/api/v1" + self.name.split(" ")[1]

    @property
    def refusal(self) -> int:
        """The answer about foreign and unknown things."""
        return 404 if self.names == "path" else 422


WRITE, READ, CONFIG, ADMIN = ("events:write",), ("events:read",), ("config",), ("admin",)
SEEING = ("config", "admin")


def named(things: Things) -> dict[str, Any]:
    return {"name": "Renamed"}


def event(things: Things) -> dict[str, Any]:
    return {"workspace": things.workspace, "event": "lead.created", "payload": {"email": "ada@example.com"}}


def connection(things: Things) -> dict[str, Any]:
    config = {"url": "https://example.com/hook"}
    return {"workspace": things.workspace, "type": "webhook", "name": "Hook", "config": config}


def rule(things: Things) -> dict[str, Any]:
    return {"workspace": things.workspace, "connection": things.connection, "event": "lead.*"}


def key(things: Things) -> dict[str, Any]:
    return {"name": "Key", "kind": "workspace", "workspace": things.workspace, "scopes": ["admin"]}


def app(things: Things) -> dict[str, Any]:
    return {"client_id": "app", "client_secret": "secret"}


WORKSPACES = (
    Route("GET /workspaces", SEEING, 200, names="nowhere"),
    Route("POST /workspaces", ADMIN, 201, named, names="nowhere", account_only=True),
    Route("GET /workspaces/{workspace}", SEEING, 200),
    Route("GET /workspaces/{external_id}", SEEING, 200),
    Route("PATCH /workspaces/{workspace}", ADMIN, 200, named, account_only=True),
    Route("DELETE /workspaces/{workspace}", ADMIN, 204, account_only=True),
    Route("POST /workspaces/{workspace}/erasures", ADMIN, 200, lambda things: {"match": {"payload.email": "nobody"}}),
    Route("GET /workspaces/{workspace}/access-log", ADMIN, 200),
    Route("GET /workspaces/{external_id}/access-log?connection={connection}", ADMIN, 200),
    Route("GET /workspaces/{workspace}/oauth-apps/hubspot", CONFIG, 200),
    Route("PUT /workspaces/{external_id}/oauth-apps/hubspot", CONFIG, 200, app),
    Route("DELETE /workspaces/{workspace}/oauth-apps/hubspot", CONFIG, 204),
    Route("GET /api-keys", ADMIN, 200, names="nowhere"),
    Route("GET /api-keys?workspace={workspace}", ADMIN, 200),
    Route("POST /api-keys", ADMIN, 201, key, names="body"),
    Route("GET /api-keys/{key}", ADMIN, 200),
    Route("DELETE /api-keys/{key}", ADMIN, 204),
    Route("POST /api-keys/{key}/rotate", ADMIN, 200, lambda things: {"overlap_seconds": 60}),
)

CONNECTIONS = (
    Route("GET /integrations", (*SEEING, *READ), 200, names="nowhere"),
    Route("GET /integrations/webhook", (*SEEING, *READ), 200, names="nowhere"),
    Route("GET /connections", CONFIG, 200, names="nowhere"),
    Route("GET /connections?workspace={external_id}", CONFIG, 200),
    Route("POST /connections", CONFIG, 201, connection, names="body"),
    Route("GET /connections/{connection}", CONFIG, 200),
    Route("PATCH /connections/{connection}", CONFIG, 200, named),
    Route("DELETE /connections/{connection}", CONFIG, 204),
    Route("POST /connections/{connection}/test", CONFIG, 200),
    Route("POST /connections/{connection}/pause", CONFIG, 200),
    Route("POST /connections/{connection}/resume", CONFIG, 200),
    Route("POST /connections/{connection}/rotate-secret", CONFIG, 200),
    Route("POST /connections/{crm}/authorize", CONFIG, 200),
    Route("POST /connections/{crm}/connect-link", CONFIG, 200),
    Route("POST /connections/{crm}/disconnect", CONFIG, 200),
    Route("GET /connections/{connection}/options/list_id", CONFIG, 404),
)

RULES = (
    Route("GET /rules", CONFIG, 200, names="nowhere"),
    Route("GET /rules?workspace={workspace}", CONFIG, 200),
    Route("POST /rules", CONFIG, 201, rule, names="body"),
    Route("GET /rules/{rule}", CONFIG, 200),
    Route("PATCH /rules/{rule}", CONFIG, 200, lambda things: {"enabled": False}),
    Route("DELETE /rules/{rule}", CONFIG, 204),
    Route("POST /rules/{rule}/test", CONFIG, 200, lambda things: {"event_id": things.event}),
)

EVENTS = (
    Route("GET /events", READ, 200, names="nowhere"),
    Route("GET /events?workspace={workspace}", READ, 200),
    Route("POST /events", WRITE, 202, event, names="body", publishable=True),
    Route("POST /events/bulk", WRITE, 202, lambda things: {"events": [event(things)]}, names="body"),
    Route("GET /events/{event}", READ, 200),
    Route("GET /events/{event}/payload", READ, 200),
    Route("POST /events/{set_aside}/route", WRITE, 202),
    Route("POST /events/route", WRITE, 202, lambda things: {"workspace": things.workspace}, names="body"),
)

DELIVERIES = (
    Route("GET /deliveries", READ, 200, names="nowhere"),
    Route("GET /deliveries?workspace={workspace}", READ, 200),
    Route("GET /deliveries/{delivery}", READ, 200),
    Route("POST /deliveries/{dead_letter}/replay", WRITE, 202),
    Route("POST /deliveries/{delivery}/cancel", WRITE, 200),
    Route("GET /dead-letters", READ, 200, names="nowhere"),
    Route("GET /dead-letters?workspace={workspace}", READ, 200),
    Route("GET /replays", READ, 200, names="nowhere"),
    Route("GET /replays?workspace={workspace}", READ, 200),
    Route("POST /replays", WRITE, 202, lambda things: {"workspace": things.workspace, "filter": {}}, names="body"),
    Route("GET /replays/{replay}", READ, 200),
    Route("POST /replays/{replay}/cancel", WRITE, 200),
)

ROUTES = (*WORKSPACES, *CONNECTIONS, *RULES, *EVENTS, *DELIVERIES)

OPEN = {
    "GET /": 200,
    "GET /api/schema": 200,
    "GET /api/schema/": 302,
    "GET /api/docs": 200,
    "GET /api/docs/": 302,
    "GET /admin": 302,
    "GET /favicon.ico": 302,
    "GET /healthz": 200,
    "GET /readyz": 200,
    "GET /oauth/start/{ticket}": 404,
    "GET /oauth/callback": 303,
    "GET /oauth/callback/{vendor}": 303,
    "GET /oauth/outcome/{token}": 404,
    "GET /connect/{link}": 404,
}
"""Routes that ask for no key, and what they answer to whoever brings nothing."""

NAMED = {
    "integrations/webhook": "integrations/*",
    "oauth-apps/hubspot": "oauth-apps/*",
    "options/list_id": "options/*",
}
"""Names that stand in the paths above as examples."""

CROSSED: dict[str, Callable[[Things, Things], dict[str, Any]]] = {
    "POST /rules": lambda own, other: rule(own) | {"connection": other.connection},
    "PATCH /rules/{rule}": lambda own, other: {"connection": other.connection},
    "POST /rules/{rule}/test": lambda own, other: {"event_id": other.event},
}
"""Bodies that name a thing of another workspace beside one of the caller's own: refused for account keys too."""
