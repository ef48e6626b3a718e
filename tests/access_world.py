"""Two workspaces with one of everything in each, and one of each kind of caller."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta

from django.db import connection
from django.test import Client

from connections.oauth import grants
from delivery.models import Delivery, Replay, Unrouted
from meshes.kit import ids
from tests.factories import make_connection, make_deliveries, make_event, make_workspace
from tests.workspaces.callers import bearer, issue
from workspaces import keys
from workspaces.models import Workspace
from workspaces.vault.secret import Secret


@dataclass(frozen=True)
class Things:
    """Public ids of what one workspace has."""

    workspace: str
    external_id: str
    key: str
    connection: str
    crm: str
    """A connection that is authorized at its vendor."""
    rule: str
    event: str
    delivery: str
    dead_letter: str
    replay: str
    set_aside: str
    """An event that is not routed by itself any more."""


@dataclass(frozen=True)
class Caller:
    name: str
    client: Client
    kind: str
    """`nobody` where the credential is good for nothing."""
    scopes: frozenset[str] = frozenset()
    home: str | None = None
    """The workspace that it is confined to: `own` or `foreign`."""


class World:
    """`things` are those of `own`, of `foreign`, and ids that nothing has (`unknown`)."""

    def __init__(self) -> None:
        self.own, self.foreign = make_workspace(external_id="own"), make_workspace(external_id="foreign")
        self.things = {"own": _furnish(self.own), "foreign": _furnish(self.foreign), "unknown": _unknown()}
        self.callers = [*_strangers(), *_account_keys(), *_tenant_keys(self.own, self.foreign)]


def _furnish(workspace: Workspace) -> Things:
    destination = make_connection(workspace, url="https://127.0.0.1/refused-before-it-is-dialled")
    pending, dead = make_deliveries(destination, 2)
    grants.put_app(workspace.pk, "hubspot", "app", Secret("secret"))
    Delivery.objects.filter(pk=dead.pk).update(status=Delivery.Status.DEAD, cause="exhausted")
    aside = make_event(workspace)
    Unrouted.objects.filter(event=aside).update(poisoned_at=datetime.now(UTC), cause="refused")
    return Things(
        workspace=workspace.public_id,
        external_id=workspace.external_id or "",
        key=issue("workspace", ["admin"], workspace).row.public_id,
        connection=destination.public_id,
        crm=make_connection(workspace, type="hubspot", config={}, secret={}).public_id,
        rule=ids.encode(ids.RULE, pending.rule_id),
        event=ids.encode(ids.EVENT, pending.event_id),
        delivery=pending.public_id,
        dead_letter=dead.public_id,
        replay=Replay.objects.create(workspace=workspace, requested_by="test").public_id,
        set_aside=aside.public_id,
    )


def _unknown() -> Things:
    prefixes = {"workspace": ids.WORKSPACE, "connection": ids.CONNECTION, "replay": ids.REPLAY, "dead_letter": "dlv"}
    prefixes |= {"crm": ids.CONNECTION, "key": ids.KEY, "rule": ids.RULE, "event": ids.EVENT, "delivery": ids.DELIVERY}
    prefixes |= {"set_aside": ids.EVENT}
    made = {name: ids.encode(prefix, ids.uuid7()) for name, prefix in prefixes.items()}
    return Things(external_id="unknown", **made)


def _strangers() -> list[Caller]:
    now = datetime.now(UTC)
    revoked, expired = issue(), issue(expires_at=now - timedelta(seconds=1))
    keys.revoke_key(revoked.row.pk, now)
    clients = {
        "no key": Client(raise_request_exception=False, enforce_csrf_checks=True),
        "garbage": bearer("mesh_live_garbage"),
        "a key with another secret": bearer(keys._generate(issue().row.pk)),
        "revoked": bearer(revoked.key),
        "expired": bearer(expired.key),
    }
    return [Caller(name, client, "nobody") for name, client in clients.items()]


def _account_keys() -> list[Caller]:
    return [_caller("account", [scope]) for scope in keys.SCOPES]


def _tenant_keys(own: Workspace, foreign: Workspace) -> list[Caller]:
    return [
        *(_caller("workspace", [scope], own) for scope in keys.SCOPES),
        _caller("workspace", keys.SCOPES, foreign),
        _caller("publishable", keys.PUBLISHABLE_SCOPES, own),
        _caller("publishable", keys.PUBLISHABLE_SCOPES, foreign),
    ]


def _caller(kind: str, scopes: Sequence[str], workspace: Workspace | None = None) -> Caller:
    home = workspace.external_id if workspace else None
    name = f"{kind} key of {home or 'the account'} with {', '.join(scopes)}"
    return Caller(name, bearer(issue(kind, scopes, workspace).key), kind, frozenset(scopes), home)


def snapshot() -> dict[str, str]:
    """A digest of every table, but for what tells that a key was used."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
            " AND relnamespace = 'public'::regnamespace"
        )
        tables = sorted(row[0] for row in cursor.fetchall())
        rows = "md5((to_jsonb(t) - 'last_used_at')::text)"
        digests = (
            f"SELECT '{table}', md5(coalesce(string_agg({rows}, '' ORDER BY {rows}), '')) FROM {table} t"
            " WHERE to_jsonb(t) ->> 'purpose' IS DISTINCT FROM 'used'"
            for table in tables
        )
        cursor.execute(" UNION ALL ".join(digests))
        return dict(cursor.fetchall())


NAMES = frozenset(field.name for field in fields(Things))
