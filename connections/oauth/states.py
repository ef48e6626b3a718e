"""States: each names one authorization that was started, is good once, and only for whoever started it.

Of a state only its hash is kept. The PKCE verifier (RFC 7636) is not kept at all: it is derived from the state.
"""

import base64
import hashlib
import hmac
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection as database
from django.db.models import Q
from django.db.models.functions import Now

from connections.models import Connection, OAuthState
from workspaces import clock, ids
from workspaces.authentication import Identity
from workspaces.models import ApiKey

LIFETIME = timedelta(minutes=10)
MOST_OPEN = 10
"""Authorizations of one connection that may be open at once; an older one is forgotten."""

KEY, BROWSER = "key", "browser"


@dataclass(frozen=True, slots=True)
class Started:
    """What was kept of the start, for the one who comes back with its state."""

    id: uuid.UUID
    connection_id: uuid.UUID
    workspace_id: uuid.UUID
    actor: str
    client_id: str
    redirect_uri: str


def key_session(identity: Identity) -> str:
    """The session of a caller of the API: its key."""
    return f"{KEY}:{identity.key_id}"


def browser_session(cookie: str) -> str:
    """The session of a browser: the hash of its cookie."""
    return f"{BROWSER}:{_hash(cookie)}"


def start(connection: Connection, session: str, client_id: str, redirect_uri: str) -> tuple[str, datetime]:
    """A new state for the connection, and its end."""
    state, now = secrets.token_urlsafe(32), clock.database_now()
    of_connection = OAuthState.objects.filter(connection=connection, workspace_id=connection.workspace_id)
    newest = of_connection.filter(expires_at__gt=now).order_by("-pk").values_list("pk", flat=True)
    of_connection.exclude(pk__in=list(newest[: MOST_OPEN - 1])).delete()
    OAuthState.objects.create(
        state_hash=_hash(state),
        connection=connection,
        workspace_id=connection.workspace_id,
        session=session,
        client_id=client_id,
        redirect_uri=redirect_uri,
        expires_at=now + LIFETIME,
    )
    return state, now + LIFETIME


USE = """
UPDATE oauth_states SET used_at = clock_timestamp()
WHERE state_hash = %s AND used_at IS NULL AND expires_at > clock_timestamp()
    AND (session LIKE 'key:%%' OR session = %s)
RETURNING id, connection_id, workspace_id, session, client_id, redirect_uri
"""


def use(state: str, cookie: str) -> Started | None:
    """Take a state, once. None for one that is unknown, used, over, or of another session.

    A state that a browser started needs its cookie; one that an API key started needs the key to be good still.
    """
    with database.cursor() as cursor:
        cursor.execute(USE, [_hash(state), browser_session(cookie)])
        row = cursor.fetchone()
    if row is None:
        return None
    pk, connection_id, workspace_id, session, client_id, redirect_uri = row
    kind, _, owner = session.partition(":")
    actor = "connect link"
    if kind == KEY:
        if not _is_live(uuid.UUID(owner)):
            return None
        actor = ids.encode(ids.KEY, uuid.UUID(owner))
    return Started(pk, connection_id, workspace_id, actor, client_id, redirect_uri)


def _is_live(key_id: uuid.UUID) -> bool:
    key = ApiKey.objects.filter(pk=key_id, revoked_at=None)
    return key.filter(Q(expires_at=None) | Q(expires_at__gt=Now())).exists()


def is_forgotten(started: Started) -> bool:
    """Whether the authorization was ended while its code was exchanged."""
    return not OAuthState.objects.filter(pk=started.id, workspace_id=started.workspace_id).exists()


def forget(connection: Connection) -> None:
    """End every authorization of the connection that has not come to its end."""
    OAuthState.objects.filter(connection=connection, workspace_id=connection.workspace_id).delete()


def verifier_of(state: str) -> str:
    """The code verifier: 43 characters that only we can derive from the state."""
    key = b"meshes: PKCE verifier\0" + settings.SECRET_KEY.encode()
    return _base64(hmac.digest(key, state.encode("utf-8", "replace"), "sha256"))


def challenge_of(state: str) -> str:
    """The code challenge of the method S256."""
    return _base64(hashlib.sha256(verifier_of(state).encode()).digest())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
