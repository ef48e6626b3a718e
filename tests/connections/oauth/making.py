"""Connections for tests of authorizations."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection as database

from connections.models import Connection
from connections.oauth import grants, tokens
from connections.oauth.refresh import Need
from connections.providers.base import OAuth
from tests.connections.oauth.vendor import CLIENT_ID, Vendor
from tests.factories import make_connection, make_workspace
from workspaces.vault import vault


def authorized(
    vendor: Vendor, type: str = "hubspot", *, left: timedelta = timedelta(minutes=20), **values: Any
) -> Connection:
    """A connection with tokens of the vendor's that end after `left`, of a life of half an hour."""
    reply = vendor.grant() | {"expires_in": 1800}
    new = tokens.read_tokens(reply, OAuth(), datetime.now(UTC) - timedelta(minutes=30) + left)
    document = tokens.granted({}, new)
    defaults = {"type": type, "config": {}, "credential_hints": tokens.hints_of(document)}
    workspace = values.pop("workspace", None) or make_workspace()
    connection = make_connection(workspace, secret=document, **defaults | values)
    grants.establish(connection, new, CLIENT_ID)
    return connection


def expired(vendor: Vendor, type: str = "hubspot", **values: Any) -> Connection:
    """A connection whose access token is over, for the vendor too; its refresh token is good."""
    connection = authorized(vendor, type, left=timedelta(minutes=-1), **values)
    vendor.expire_access()
    return connection


def opened(connection: Connection) -> vault.Opened:
    return vault.open(
        workspace_id=connection.workspace_id,
        owner_kind="connection",
        owner_id=connection.pk,
        kind=vault.CREDENTIALS,
        actor="a test",
        purpose="testing",
    )


def need_of(connection: Connection, version: int = 1) -> Need:
    return Need(connection.workspace_id, connection.pk, version, "a test")


def access_token(connection: Connection) -> str:
    token: str = opened(connection).secret["access_token"].reveal()
    return token


def is_somebody_waiting() -> bool:
    """Whether a transaction waits for a lock that another holds."""
    with database.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])
