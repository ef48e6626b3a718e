"""States: each names one authorization that was started, is good once, and only in one browser.

A browser that clicks on a connect link has its state at once. An API key has a ticket, for an address of ours: the
first browser that opens it has the state, which is derived from the ticket, and no other can finish with it.

Of a state only its hash is kept. The PKCE verifier (RFC 7636) is not kept at all: it is derived from the state.
"""

import base64
import hashlib
import hmac
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from django.conf import settings
from django.db import connection as database
from django.db.models import Q
from django.db.models.functions import Now

from connections.models import Connection, OAuthState
from workspaces import clock, ids
from workspaces.authentication import Identity
from workspaces.models import ApiKey

LIFETIME = timedelta(minutes=10)
RANDOM_CHARACTERS = 43
"""Of a state and a ticket, before the mark of their SECRET_KEY."""
MOST_OPEN = 10
"""Authorizations of one connection that may be open at once; an older one is forgotten."""

KEY, BROWSER = "key", "browser"
LINK_ACTOR = "connect link"
"""Whom access records name for whoever has a link."""


class Refusal(Enum):
    """Why a state or a ticket is not taken."""

    OVER = "unknown, used, over or forgotten"
    ANOTHER_BROWSER = "begun in another browser, or in none yet"
    ANOTHER_CALLBACK = "not the address that the vendor was told"
    KEY_ENDED = "the API key that began it is not good any more"


class StateRefused(Exception):  # noqa: N818 - named by what happened
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Started:
    """What was kept of the start, for the one who comes back with its state."""

    id: uuid.UUID
    connection_id: uuid.UUID
    workspace_id: uuid.UUID
    actor: str
    client_id: str
    redirect_uri: str


def browser_session(cookie: str) -> str:
    """The session of a browser: the hash of its cookie."""
    return f"{BROWSER}:{_hash(cookie)}"


def start(connection: Connection, session: str, client_id: str, redirect_uri: str) -> tuple[str, datetime]:
    """A new state for the connection, and its end. `session` is the browser's."""
    state = secrets.token_urlsafe(32) + _mark_of(settings.SECRET_KEY)
    return state, _keep(state, connection, session, client_id, redirect_uri)


def issue_ticket(connection: Connection, identity: Identity, client_id: str, redirect_uri: str) -> tuple[str, datetime]:
    """A ticket with which one browser may start an authorization for the key, and its end."""
    ticket = secrets.token_urlsafe(32) + _mark_of(settings.SECRET_KEY)
    return ticket, _keep(state_of(ticket), connection, f"{KEY}:{identity.key_id}", client_id, redirect_uri)


def state_of(ticket: str) -> str:
    """The state that a ticket stands for. Whoever has that, has no ticket."""
    digest = hashlib.sha256(b"meshes: OAuth state\0" + ticket.encode("utf-8", "replace")).digest()
    return _base64(digest) + ticket[RANDOM_CHARACTERS:]


def _keep(state: str, connection: Connection, session: str, client_id: str, redirect_uri: str) -> datetime:
    now = clock.database_now()
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
    return now + LIFETIME


OPEN = """
UPDATE oauth_states SET opened_in = %(browser)s
WHERE state_hash = %(hash)s AND used_at IS NULL AND expires_at > clock_timestamp()
    AND session LIKE 'key:%%' AND opened_in IN ('', %(browser)s)
RETURNING id, connection_id, workspace_id, session, client_id, redirect_uri
"""

USE = """
UPDATE oauth_states SET used_at = clock_timestamp()
WHERE state_hash = %(hash)s AND used_at IS NULL AND expires_at > clock_timestamp()
    AND %(browser)s IN (session, opened_in) AND right(redirect_uri, length(%(callback)s)) = %(callback)s
RETURNING id, connection_id, workspace_id, session, client_id, redirect_uri
"""


def open_ticket(ticket: str, cookie: str) -> Started:
    """Give a ticket to the browser with this cookie: the first that comes has it, as often as it likes.

    Raises StateRefused.
    """
    values = {"hash": _hash(state_of(ticket)), "browser": browser_session(cookie)}
    return _take(OPEN, values)


def use(state: str, cookie: str, callback: str) -> Started:
    """Take a state, once, in the browser that has it, at the path that its vendor was told to send it to.

    Where an API key began it, that must be good still. What is refused is not used up. Raises StateRefused.
    """
    return _take(USE, {"hash": _hash(state), "browser": browser_session(cookie), "callback": callback})


def _take(statement: str, values: dict[str, str]) -> Started:
    with database.cursor() as cursor:
        cursor.execute(statement, values)
        row = cursor.fetchone()
    if row is None:
        raise StateRefused(_why(values["hash"], values["browser"]))
    pk, connection_id, workspace_id, session, client_id, redirect_uri = row
    kind, _, owner = session.partition(":")
    actor = LINK_ACTOR
    if kind == KEY:
        if not _is_live(uuid.UUID(owner)):
            raise StateRefused(Refusal.KEY_ENDED)
        actor = ids.encode(ids.KEY, uuid.UUID(owner))
    return Started(pk, connection_id, workspace_id, actor, client_id, redirect_uri)


def _why(state_hash: str, browser: str) -> Refusal:
    live = OAuthState.objects.filter(state_hash=state_hash, used_at=None, expires_at__gt=Now()).first()
    if live is None:
        return Refusal.OVER
    return Refusal.ANOTHER_CALLBACK if browser in (live.session, live.opened_in) else Refusal.ANOTHER_BROWSER


def _is_live(key_id: uuid.UUID) -> bool:
    key = ApiKey.objects.filter(pk=key_id, revoked_at=None)
    return key.filter(Q(expires_at=None) | Q(expires_at__gt=Now())).exists()


def is_forgotten(started: Started) -> bool:
    """Whether the authorization was ended while its code was exchanged."""
    return not OAuthState.objects.filter(pk=started.id, workspace_id=started.workspace_id).exists()


def forget(connection: Connection, *, but: uuid.UUID | None = None) -> None:
    """End every authorization of the connection that has not come to its end, `but` one."""
    rows = OAuthState.objects.filter(connection=connection, workspace_id=connection.workspace_id)
    (rows if but is None else rows.exclude(pk=but)).delete()


def verifier_of(state: str) -> str:
    """The code verifier: 43 characters that only we can derive from the state, by the key that its mark names.

    One without a mark is of an earlier version, and of the present key.
    """
    keys = {_mark_of(key): key for key in (*settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY)}
    secret = keys.get(state[RANDOM_CHARACTERS:], settings.SECRET_KEY)
    key = b"meshes: PKCE verifier\0" + secret.encode()
    return _base64(hmac.digest(key, state.encode("utf-8", "replace"), "sha256"))


def challenge_of(state: str) -> str:
    """The code challenge of the method S256."""
    return _base64(hashlib.sha256(verifier_of(state).encode()).digest())


def _mark_of(key: str) -> str:
    """Eight characters by which a state names the SECRET_KEY of its verifier; they do not lead back to the key."""
    return _base64(hashlib.sha256(b"meshes: mark of a SECRET_KEY\0" + key.encode()).digest())[:8]


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
