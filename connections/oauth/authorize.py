"""An authorization from its first step, the way to the vendor's page, to the redirect that comes back from there.

A state names one authorization that was started, is good once, and only in one browser. A browser that clicks on a
connect link has its state at once. An API key has a ticket, for an address of ours: the first browser that opens it has
the state, which is derived from the ticket, and no other can finish with it.

Of a state only its hash is kept. The PKCE verifier (RFC 7636) is not kept at all: it is derived from the state.
"""

import base64
import hashlib
import hmac
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.db.models import Q
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import reverse

from connections import lifecycle, providers
from connections.credentials import KEY_MISSING_WORDS, ConflictError
from connections.models import Connection, OAuthGrant, OAuthState
from connections.oauth import grants, tokens
from connections.oauth.tokens import NoTokenError
from connections.providers.base import Granted, InvalidFields, OAuth, Provider
from meshes.api.problems import Problem
from meshes.kit import clock, ids
from workspaces.authentication import Identity
from workspaces.models import ApiKey
from workspaces.vault import vault
from workspaces.vault.secret import MASK

NOT_AUTHORIZABLE, REFUSED = "not_authorizable", "refused"
OVER_TITLE = "This authorization is no longer valid"
OPENED_TITLE = "This address was opened already"
MESSAGES: Mapping[str, tuple[str, str]] = {
    "over": (
        OVER_TITLE,
        "It was used already, has taken longer than ten minutes, or was ended meanwhile. Start it again.",
    ),
    "opened_in_another_browser": (
        OPENED_TITLE,
        "It is good for one browser, the first that opens it; programs that look at links count too. Go back to where"
        " you came from, and start again.",
    ),
    "another_browser": (
        "This authorization belongs to another browser",
        "It ends in the browser that began it. Nothing has changed. Allow cookies for this site, and start it again"
        " in this browser.",
    ),
    "another_callback": (
        "The answer came to another vendor's address",
        "It did not arrive where this authorization's vendor was told to send it. Nothing has changed. Start it again.",
    ),
    "key_ended": (
        "The application that began this may not any more",
        "Its API key has been revoked or has expired. Nothing has changed. Start it again from there.",
    ),
}
"""Title and message by the reason for which a state or a ticket is not taken."""


class AuthorizationError(Problem):
    """An authorization cannot begin, or came to nothing; the connection is as it was. For the API it is a conflict.

    `reason` is one of MESSAGES, NOT_AUTHORIZABLE or REFUSED. `heading` and `detail` are for the person at the browser;
    `connection` is None where it is not known.
    """

    def __init__(self, reason: str, heading: str = "", detail: str = "", connection: Connection | None = None) -> None:
        self.reason, self.connection = reason, connection
        self.heading, detail = (heading, detail) if detail else MESSAGES[reason]
        super().__init__(409, detail=detail)


# --- our own addresses, as vendors and browsers know them -----------------------------------------------------------

VENDOR, SHARED = "vendor", "shared"


def redirect_uri(request: HttpRequest, type: str) -> str:
    """Where the vendor sends the browser back to after a new authorization; it is registered with the app."""
    return absolute(request, callback_path(type if callback_in_use() == VENDOR else None))


def callback_in_use() -> str:
    """Which redirect URIs new authorizations name: `vendor` or `shared`. See `MESHES_OAUTH_CALLBACK`."""
    chosen: str = settings.MESHES_OAUTH_CALLBACK
    if chosen in (VENDOR, SHARED):
        return chosen
    return SHARED if OAuthGrant.objects.filter(shared_callback=True).exists() else VENDOR  # by a small index


def callback_path(type: str | None) -> str:
    """The path of the vendor's own redirect URI; without a vendor, of the one that all shared."""
    return reverse("oauth-callback") if type is None else reverse("oauth-vendor-callback", args=[type])


def absolute(request: HttpRequest, path: str) -> str:
    """The URL of a path, below `MESHES_PUBLIC_URL`, or where the request came in."""
    base: str = settings.MESHES_PUBLIC_URL
    return base.rstrip("/") + path if base else request.build_absolute_uri(path)


# --- states ---------------------------------------------------------------------------------------------------------

LIFETIME = timedelta(minutes=10)
RANDOM_CHARACTERS = 43
"""Of a state and a ticket, before the mark of their SECRET_KEY."""
MOST_OPEN = 10
"""Authorizations of one connection that may be open at once; an older one is forgotten."""

KEY, BROWSER = "key", "browser"
LINK_ACTOR = "connect link"
"""Whom access records name for whoever has a link."""

OPEN = """
UPDATE oauth_states SET opened_in = %(browser)s
WHERE state_hash = %(hash)s AND used_at IS NULL AND expires_at > clock_timestamp()
    AND session LIKE 'key:%%' AND opened_in IN ('', %(browser)s)
RETURNING id, connection_id, workspace_id, session, client_id, redirect_uri
"""
"""Gives a ticket to the browser with this cookie: the first that comes has it, as often as it likes."""
USE = """
UPDATE oauth_states SET used_at = clock_timestamp()
WHERE state_hash = %(hash)s AND used_at IS NULL AND expires_at > clock_timestamp()
    AND %(browser)s IN (session, opened_in) AND right(redirect_uri, length(%(callback)s)) = %(callback)s
RETURNING id, connection_id, workspace_id, session, client_id, redirect_uri
"""
"""Takes a state, once, in the browser that has it, at the path that its vendor was told to send it to."""


def browser_session(cookie: str) -> str:
    """The session of a browser: the hash of its cookie."""
    return f"{BROWSER}:{_hash(cookie)}"


def make_state() -> str:
    """A new state, or a ticket for one."""
    return secrets.token_urlsafe(32) + _mark_of(settings.SECRET_KEY)


def state_of(ticket: str) -> str:
    """The state that a ticket stands for. Whoever has that, has no ticket."""
    digest = hashlib.sha256(b"meshes: OAuth state\0" + ticket.encode("utf-8", "replace")).digest()
    return _base64(digest) + ticket[RANDOM_CHARACTERS:]


def keep_state(state: str, connection: Connection, session: str, client_id: str, redirect_uri: str) -> datetime:
    """Until when the state is good for the connection. `session` is the browser's, or that of a key's ticket."""
    expires_at = clock.database_now() + LIFETIME
    of_connection = OAuthState.objects.filter(connection=connection, workspace_id=connection.workspace_id)
    newest = of_connection.filter(expires_at__gt=expires_at - LIFETIME).order_by("-pk").values_list("pk", flat=True)
    of_connection.exclude(pk__in=list(newest[: MOST_OPEN - 1])).delete()
    OAuthState.objects.create(
        state_hash=_hash(state), connection=connection, workspace_id=connection.workspace_id, session=session,
        client_id=client_id, redirect_uri=redirect_uri, expires_at=expires_at,
    )  # fmt: skip
    return expires_at


def _take(statement: str, state: str, cookie: str, callback: str = "") -> tuple[OAuthState, str]:
    """The authorization with this state, and who began it, for access records. What is refused is not used up.

    Where an API key began it, that must be good still. Raises AuthorizationError.
    """
    browser, hashed = browser_session(cookie), _hash(state)
    values = {"hash": hashed, "browser": browser, "callback": callback}
    started = next(iter(OAuthState.objects.raw(statement, values)), None)
    if started is None:
        live = OAuthState.objects.filter(state_hash=hashed, used_at=None, expires_at__gt=Now()).first()
        if live is None:
            raise AuthorizationError("over")
        is_ours = browser in (live.session, live.opened_in)
        raise AuthorizationError("another_callback" if is_ours else "another_browser")
    kind, _, owner = started.session.partition(":")
    if kind != KEY:
        return started, LINK_ACTOR
    key = ApiKey.objects.filter(pk=uuid.UUID(owner), revoked_at=None)
    if not key.filter(Q(expires_at=None) | Q(expires_at__gt=Now())).exists():
        raise AuthorizationError("key_ended")
    return started, ids.encode(ids.KEY, uuid.UUID(owner))


def verifier_of(state: str) -> str:
    """The code verifier: 43 characters that only we can derive from the state, by the key that its mark names.

    One without a mark is of an earlier version, and of the present key.
    """
    keys = {_mark_of(key): key for key in (*settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY)}
    secret = keys.get(state[RANDOM_CHARACTERS:], settings.SECRET_KEY)
    key = b"meshes: PKCE verifier\0" + secret.encode()
    return _base64(hmac.digest(key, state.encode("utf-8", "replace"), "sha256"))


def _mark_of(key: str) -> str:
    """Eight characters by which a state names the SECRET_KEY of its verifier; they do not lead back to the key."""
    return _base64(hashlib.sha256(b"meshes: mark of a SECRET_KEY\0" + key.encode()).digest())[:8]


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


# --- the way to the vendor ------------------------------------------------------------------------------------------


def provider_of(connection: Connection) -> tuple[Provider, OAuth]:
    """The connection's provider and how it authorizes. Raises AuthorizationError where it does not."""
    provider = providers.get(connection.type)
    oauth = provider.oauth
    if oauth is None or not oauth.is_by_person:
        raise _not_authorizable(f"{provider.name} connections are not authorized; they take credentials.")
    return provider, oauth


def prepare(connection: Connection, identity: Identity, redirect_uri: str) -> tuple[str, datetime]:
    """A ticket, with which one browser takes up what a key begins, and until when. Raises AuthorizationError."""
    client_id = _app_of(connection)
    ticket = make_state()
    return ticket, keep_state(state_of(ticket), connection, f"{KEY}:{identity.key_id}", client_id, redirect_uri)


def take_up(ticket: str, cookie: str) -> str:
    """The vendor's page for the browser with this cookie. Raises AuthorizationError."""
    try:
        started, _ = _take(OPEN, state_of(ticket), cookie)
    except AuthorizationError as error:
        if error.reason == "another_browser":
            raise AuthorizationError("opened_in_another_browser") from None
        raise
    return _vendor_url(_connection_of(started), state_of(ticket), started.client_id, started.redirect_uri)


def begin(connection: Connection, cookie: str, redirect_uri: str) -> str:
    """The vendor's page, for an authorization that the browser with this cookie begins. Raises AuthorizationError."""
    client_id = _app_of(connection)
    state = make_state()
    keep_state(state, connection, browser_session(cookie), client_id, redirect_uri)
    return _vendor_url(connection, state, client_id, redirect_uri)


def _app_of(connection: Connection) -> str:
    """The id of the app that asks, where there is a page for it to ask on."""
    provider, _ = provider_of(connection)
    client_id = grants.client_id_for(connection.workspace_id, connection.type)
    if client_id is None:
        raise _not_authorizable(
            f"No {provider.name} app is set up: neither the workspace nor the installation has one."
        )
    _page_of(connection)
    return client_id


def _page_of(connection: Connection) -> str:
    provider, oauth = provider_of(connection)
    try:
        return tokens.url_of(provider, oauth.authorize_url, connection.config)
    except NoTokenError as error:
        raise _not_authorizable(str(error)) from None


def _vendor_url(connection: Connection, state: str, client_id: str, redirect_uri: str) -> str:
    page, (_, oauth) = _page_of(connection), provider_of(connection)
    parameters = {"response_type": "code", "client_id": client_id, "redirect_uri": redirect_uri, "state": state}
    if oauth.scopes:
        parameters["scope"] = oauth.scope_separator.join(oauth.scopes)
    if oauth.pkce:
        challenge = _base64(hashlib.sha256(verifier_of(state).encode()).digest())
        parameters |= {"code_challenge": challenge, "code_challenge_method": "S256"}
    return f"{page}{'&' if '?' in page else '?'}{urlencode(parameters | dict(oauth.authorize_with))}"


def _connection_of(started: OAuthState) -> Connection:
    rows = Connection.objects.filter(pk=started.connection_id, workspace_id=started.workspace_id)
    live = rows.exclude(status=Connection.Status.DELETED).filter(workspace__deleted_at=None)
    connection = live.select_related("workspace").first()
    if connection is None:
        raise _refusal("The connection is gone", lifecycle.DELETED_WORDS)
    return connection


def _not_authorizable(message: str) -> AuthorizationError:
    return AuthorizationError(NOT_AUTHORIZABLE, "It cannot be connected now", message)


def _refusal(title: str, message: str) -> AuthorizationError:
    return AuthorizationError(REFUSED, title, message)


# --- the way back ---------------------------------------------------------------------------------------------------


def complete(answer: Mapping[str, str], cookie: str, callback: str) -> Connection:
    """Take the redirect's parameters to their end: the connection, authorized. Raises AuthorizationError.

    `callback` is the path at which they arrived.
    """
    started, actor = _take(USE, answer.get("state", ""), cookie, callback)
    connection = _connection_of(started)
    provider, oauth = provider_of(connection)
    try:
        _check_answer(answer, provider, oauth)
        return _exchange(answer, started, actor, connection, provider, oauth)
    except AuthorizationError as error:
        error.connection = connection
        raise
    except NoTokenError as error:
        title = f"{provider.name} did not complete it"
        raise AuthorizationError(REFUSED, title, str(error), connection) from None


def _check_answer(answer: Mapping[str, str], provider: Provider, oauth: OAuth) -> None:
    """RFC 9207: the answer comes from whom we asked. A vendor that is not known to name itself may leave it out."""
    issuer, page = answer.get("iss"), provider.moved(oauth.authorize_url)
    if oauth.issuer:
        is_issuer = issuer is not None and issuer.rstrip("/") == provider.moved(oauth.issuer).rstrip("/")
    else:
        is_issuer = issuer is None or tokens.is_vendor_url(provider, issuer) or _site(issuer) == _site(page)
    if not is_issuer:
        message = f"It does not name {provider.name} as its sender. Start again."
        raise _refusal("The answer came from elsewhere", message)
    if answer.get("error") == "access_denied":
        raise _refusal("Access was not granted", f"{provider.name} was told not to connect. Nothing has changed.")
    if "error" in answer or not answer.get("code"):
        message = f"{provider.name} reported a problem before it gave access. Nothing has changed. Start it again."
        raise _refusal(f"{provider.name} did not complete it", message)


def _site(url: str) -> list[str]:
    """The last two labels of a URL's host."""
    try:
        return (urlsplit(url).hostname or "").split(".")[-2:]
    except ValueError:
        return []


def _exchange(
    answer: Mapping[str, str], started: OAuthState, actor: str, connection: Connection, provider: Provider, oauth: OAuth
) -> Connection:
    """The code for tokens, and these kept with what goes into the connection beside them."""
    workspace_id, purpose = connection.workspace_id, "oauth authorize"
    try:
        client = grants.client_for(workspace_id, connection.type, actor=actor, purpose=purpose, id=started.client_id)
    except vault.KeyMissing:
        raise _refusal("It cannot be completed now", KEY_MISSING_WORDS) from None
    if client is None:
        raise _refusal("The app has changed meanwhile", "The app that asked is not set up any more. Start it again.")
    told = provider.read_redirect(answer)
    config, verifier, code = {**connection.config, **told}, verifier_of(answer["state"]), answer["code"]
    new, reply = tokens.by_code(
        provider, config, client, code, started.redirect_uri, verifier, asked_at=clock.database_now()
    )
    missing = set() if new.scopes is None else set(oauth.scopes) - new.scopes
    if missing:
        message = f"{provider.name} granted less than this connection needs. Missing: {', '.join(sorted(missing))}."
        raise _refusal("Some permissions are missing", f"{message} Start again and leave all permissions checked.")
    granted = provider.read_grant(reply, tokens.read_details(provider, config, new.access))
    granted = replace(granted, config={**told, **granted.config})
    _check_additions(provider, connection, granted)
    try:
        return lifecycle.authorize(connection, new, granted, client_id=client.id, actor=actor, started=started)
    except ConflictError as conflict:
        if not oauth.shares_tokens:  # nobody else knows this one
            tokens.revoke(provider, {**connection.config, **granted.config}, tokens.granted({}, new), client)
        raise _refusal("The connection was ended meanwhile", str(conflict)) from None


def _check_additions(provider: Provider, connection: Connection, granted: Granted) -> None:
    """What a vendor's reply adds to the config decides where tokens are sent: it must lead to the vendor."""
    urls = {declared.key for declared in provider.config_fields if declared.type == "url"}
    added = [str(value) for key, value in granted.config.items() if key in urls or "://" in str(value)]
    is_ours = all(tokens.is_vendor_url(provider, url) for url in added)
    try:
        hints = {**connection.credential_hints, "access_token": MASK}
        if is_ours:
            lifecycle.check(provider, {**connection.config, **granted.config}, hints, saved=connection.config)
    except InvalidFields:
        is_ours = False
    if not is_ours:
        name = provider.name
        message = f"{name}'s answer names an address or a region that is not {name}'s. Nothing was kept."
        raise _refusal("The answer was not accepted", message)
