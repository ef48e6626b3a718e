"""An authorization from its first step, the way to the vendor's page, to the redirect that comes back from there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import urlencode, urlsplit

from connections import credentials as keeping
from connections import lifecycle, providers, vault
from connections.models import Connection
from connections.oauth import apps, exchange, states, tokens
from connections.oauth.clients import Client
from connections.oauth.states import Refusal, Started
from connections.oauth.tokens import Tokens
from connections.oauth.troubles import NoToken
from connections.providers.base import Granted, InvalidFields, OAuth, Provider
from connections.secret import MASK
from workspaces.authentication import Identity
from workspaces.clock import database_now

PURPOSE = "oauth authorize"

OVER_TITLE = "This authorization is no longer valid"
REFUSALS: Mapping[Refusal, tuple[str, str]] = {
    Refusal.OVER: (
        OVER_TITLE,
        "It was used already, has taken longer than ten minutes, or was ended meanwhile. Start it again.",
    ),
    Refusal.ANOTHER_BROWSER: (
        "This authorization belongs to another browser",
        "It ends in the browser that began it. Nothing has changed. Allow cookies for this site, and start it again"
        " in this browser.",
    ),
    Refusal.ANOTHER_CALLBACK: (
        "The answer came to another vendor's address",
        "It did not arrive where this authorization's vendor was told to send it. Nothing has changed. Start it again.",
    ),
    Refusal.KEY_ENDED: (
        "The application that began this may not any more",
        "Its API key has been revoked or has expired. Nothing has changed. Start it again from there.",
    ),
}
"""Title and words for a state that is not taken."""
OPENED_TITLE = "This address was opened already"
OPENED_WORDS = (
    "It is good for one browser, the first that opens it; programs that look at links count too. Go back to where you"
    " came from, and start again."
)


class NotAuthorizable(Exception):  # noqa: N818 - names the state
    """The connection cannot be authorized. `str()` says why, for its owner."""


class AuthorizationFailed(Exception):  # noqa: N818 - named by what happened
    """The authorization came to nothing, and the connection is as it was.

    `title` and `words` are for the person at the browser; `connection` is None where it is not known.
    """

    def __init__(self, title: str, words: str, connection: Connection | None = None) -> None:
        super().__init__(title)
        self.title = title
        self.words = words
        self.connection = connection


@dataclass(frozen=True, slots=True)
class Prepared:
    """A ticket for one browser, and until when that has to come back from the vendor."""

    ticket: str
    expires_at: datetime


def provider_of(connection: Connection) -> tuple[Provider, OAuth]:
    """The connection's provider and how it authorizes. Raises NotAuthorizable where it does not."""
    provider = providers.get(connection.type)
    oauth = provider.oauth
    if oauth is None or not oauth.is_by_person:
        raise NotAuthorizable(f"{provider.name} connections are not authorized; they take credentials.")
    return provider, oauth


def prepare(connection: Connection, identity: Identity, redirect_uri: str) -> Prepared:
    """An authorization that a key begins, and one browser takes up by `take_up`. Raises NotAuthorizable."""
    client_id = _app_of(connection)
    _page_of(connection)
    return Prepared(*states.issue_ticket(connection, identity, client_id, redirect_uri))


def take_up(ticket: str, cookie: str) -> str:
    """The vendor's page for the browser with this cookie. Raises AuthorizationFailed and NotAuthorizable."""
    try:
        started = states.open_ticket(ticket, cookie)
    except states.StateRefused as refused:
        is_taken = refused.refusal is Refusal.ANOTHER_BROWSER
        raise AuthorizationFailed(*(OPENED_TITLE, OPENED_WORDS) if is_taken else REFUSALS[refused.refusal]) from None
    return _vendor_url(_connection_of(started), states.state_of(ticket), started.client_id, started.redirect_uri)


def begin(connection: Connection, cookie: str, redirect_uri: str) -> str:
    """The vendor's page, for an authorization that the browser with this cookie begins. Raises NotAuthorizable."""
    client_id = _app_of(connection)
    _page_of(connection)
    state, _ = states.start(connection, states.browser_session(cookie), client_id, redirect_uri)
    return _vendor_url(connection, state, client_id, redirect_uri)


def _app_of(connection: Connection) -> str:
    provider, _ = provider_of(connection)
    client_id = apps.client_id_for(connection.workspace_id, connection.type)
    if client_id is None:
        raise NotAuthorizable(f"No {provider.name} app is set up: neither the workspace nor the installation has one.")
    return client_id


def _page_of(connection: Connection) -> str:
    provider, oauth = provider_of(connection)
    try:
        return exchange.url_of(provider, oauth.authorize_url, connection.config)
    except NoToken as trouble:
        raise NotAuthorizable(str(trouble)) from None


def _vendor_url(connection: Connection, state: str, client_id: str, redirect_uri: str) -> str:
    _, oauth = provider_of(connection)
    address = _page_of(connection)
    parameters = {"response_type": "code", "client_id": client_id, "redirect_uri": redirect_uri, "state": state}
    if oauth.scopes:
        parameters["scope"] = oauth.scope_separator.join(oauth.scopes)
    if oauth.pkce:
        parameters |= {"code_challenge": states.challenge_of(state), "code_challenge_method": "S256"}
    query = urlencode(parameters | dict(oauth.authorize_with))
    return f"{address}{'&' if '?' in address else '?'}{query}"


def complete(answer: Mapping[str, str], cookie: str, callback: str) -> Connection:
    """Take the redirect's parameters to their end: the connection, authorized. Raises AuthorizationFailed.

    `callback` is the path at which they arrived.
    """
    try:
        started = states.use(answer.get("state", ""), cookie, callback)
    except states.StateRefused as refused:
        raise AuthorizationFailed(*REFUSALS[refused.refusal]) from None
    connection = _connection_of(started)
    provider, oauth = provider_of(connection)
    try:
        _check_answer(answer, provider, oauth)
        client = _client_of(started, connection)
        new, granted = _exchange(provider, connection, started, client, answer)
        return _keep(connection, new, granted, client, started)
    except _Refused as refused:
        raise AuthorizationFailed(refused.title, refused.words, connection) from None
    except NoToken as trouble:
        raise AuthorizationFailed(f"{provider.name} did not complete it", str(trouble), connection) from None


class _Refused(Exception):  # noqa: N818 - named by what happened
    def __init__(self, title: str, words: str) -> None:
        super().__init__(title)
        self.title, self.words = title, words


def _connection_of(started: Started) -> Connection:
    rows = Connection.objects.filter(pk=started.connection_id, workspace_id=started.workspace_id)
    live = rows.exclude(status=Connection.Status.DELETED).filter(workspace__deleted_at=None)
    connection = live.select_related("workspace").first()
    if connection is None:
        raise AuthorizationFailed("The connection is gone", lifecycle.DELETED_WORDS)
    return connection


def _client_of(started: Started, connection: Connection) -> Client:
    try:
        client = apps.client_for(
            connection.workspace_id, connection.type, actor=started.actor, purpose=PURPOSE, id=started.client_id
        )
    except vault.KeyMissing:
        raise _Refused("It cannot be completed now", keeping.KEY_MISSING_WORDS) from None
    if client is None:
        raise _Refused("The app has changed meanwhile", "The app that asked is not set up any more. Start it again.")
    return client


def _check_answer(answer: Mapping[str, str], provider: Provider, oauth: OAuth) -> None:
    if not _is_issuer(answer.get("iss"), provider, oauth):
        raise _Refused(
            "The answer came from elsewhere", f"It does not name {provider.name} as its sender. Start again."
        )
    if answer.get("error") == "access_denied":
        raise _Refused("Access was not granted", f"{provider.name} was told not to connect. Nothing has changed.")
    if "error" in answer or not answer.get("code"):
        words = f"{provider.name} reported a problem before it gave access. Nothing has changed. Start it again."
        raise _Refused(f"{provider.name} did not complete it", words)


def _is_issuer(issuer: str | None, provider: Provider, oauth: OAuth) -> bool:
    """RFC 9207: the answer comes from whom we asked. A vendor that is not known to name itself may leave it out."""
    if oauth.issuer:
        return issuer is not None and issuer.rstrip("/") == provider.moved(oauth.issuer).rstrip("/")
    if issuer is None:
        return True
    return exchange.is_vendor_s(provider, issuer) or _site(issuer) == _site(provider.moved(oauth.authorize_url))


def _site(url: str) -> list[str]:
    """The last two labels of a URL's host."""
    try:
        return (urlsplit(url).hostname or "").split(".")[-2:]
    except ValueError:
        return []


def _exchange(
    provider: Provider, connection: Connection, started: Started, client: Client, answer: Mapping[str, str]
) -> tuple[Tokens, Granted]:
    """The tokens, and what goes into the connection beside them, checked. Raises NoToken and _Refused."""
    told = provider.read_redirect(answer)
    config, verifier = {**connection.config, **told}, states.verifier_of(answer["state"])
    code, redirect_uri = answer["code"], started.redirect_uri
    new, reply = exchange.by_code(provider, config, client, code, redirect_uri, verifier, asked_at=database_now())
    missing = set() if new.scopes is None or provider.oauth is None else set(provider.oauth.scopes) - new.scopes
    if missing:
        words = f"{provider.name} granted less than this connection needs. Missing: {', '.join(sorted(missing))}."
        raise _Refused("Some permissions are missing", f"{words} Start again and leave all permissions checked.")
    granted = provider.read_grant(reply, exchange.details(provider, config, new.access))
    granted = replace(granted, config={**told, **granted.config})
    _check_additions(provider, connection, granted)
    return new, granted


def _keep(connection: Connection, new: Tokens, granted: Granted, client: Client, started: Started) -> Connection:
    try:
        return lifecycle.authorize(connection, new, granted, client_id=client.id, actor=started.actor, started=started)
    except lifecycle.Conflict as conflict:
        provider, oauth = provider_of(connection)
        if not oauth.shares_tokens:  # nobody else knows this one
            exchange.revoke(provider, {**connection.config, **granted.config}, tokens.granted({}, new), client)
        raise AuthorizationFailed("The connection was ended meanwhile", str(conflict)) from None


def _check_additions(provider: Provider, connection: Connection, granted: Granted) -> None:
    """What a vendor's reply adds to the config decides where tokens are sent: it must lead to the vendor."""
    urls = {declared.key for declared in provider.config_fields if declared.type == "url"}
    for key, value in granted.config.items():
        if (key in urls or "://" in str(value)) and not exchange.is_vendor_s(provider, str(value)):
            raise _refusal_of(provider)
    hints = {**connection.credential_hints, "access_token": MASK}
    try:
        lifecycle.check(provider, {**connection.config, **granted.config}, hints, saved=connection.config)
    except InvalidFields:
        raise _refusal_of(provider) from None


def _refusal_of(provider: Provider) -> _Refused:
    words = f"{provider.name}'s answer names an address or a region that is not {provider.name}'s. Nothing was kept."
    return _Refused("The answer was not accepted", words)
