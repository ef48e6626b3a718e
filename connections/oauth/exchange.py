"""Every request of an authorization to a vendor: code and refresh token for tokens, details, revocation.

All leave through the door with a deadline of their own. Nothing of a request or of a reply is logged.
"""

import base64
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote_plus, urlsplit, urlunsplit

from connections import outbound
from connections.messages import InvalidUrl, OutboundError, Response
from connections.oauth import tokens
from connections.oauth.clients import Client
from connections.oauth.tokens import Tokens
from connections.oauth.troubles import NoToken, client_refused, ended, from_error, unavailable
from connections.outbound.urls import parse_url
from connections.providers.base import OAuth, Provider, disabled, retry_after
from connections.providers.oauth import FIELD_IN_URL
from connections.providers.vendor import read_object
from connections.secret import Secret

DEADLINE_SECONDS = 10.0
"""Of one request: well below the lease under which a token is renewed."""
REVOKE_SECONDS = 3.0

_CODE = re.compile(r"[A-Za-z_]{1,40}")
"""What is shown of an error: its code. Descriptions may quote what was sent."""


def by_code(
    provider: Provider,
    config: Mapping[str, Any],
    client: Client,
    code: str,
    redirect_uri: str,
    verifier: str,
    *,
    asked_at: datetime,
) -> tuple[Tokens, Mapping[str, Any]]:
    """The tokens for a code, and the whole reply. `asked_at` is this moment by PostgreSQL's clock. Raises NoToken."""
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
    if _oauth(provider).pkce:
        form["code_verifier"] = verifier
    url = url_of(provider, _oauth(provider).token_url, config)
    return _ask(provider, url, form, client, DEADLINE_SECONDS, asked_at)


def renew(
    provider: Provider,
    config: Mapping[str, Any],
    credentials: Mapping[str, Any],
    client: Client,
    seconds: float,
    *,
    asked_at: datetime,
) -> Tokens:
    """New tokens for a connection that has a refresh token, or a client of its own. Raises NoToken.

    `asked_at` is this moment by PostgreSQL's clock: the tokens' life is counted from it.
    """
    oauth = _oauth(provider)
    seconds = min(seconds, DEADLINE_SECONDS)
    if oauth.grant == "client_credentials":
        form = {"grant_type": "client_credentials"}
        if scope := config.get(oauth.scope_field):
            form["scope"] = scope
        return _ask(provider, config[oauth.token_url_field], form, client, seconds, asked_at)[0]
    form = {"grant_type": "refresh_token", "refresh_token": credentials["refresh_token"].reveal()}
    return _ask(provider, url_of(provider, oauth.token_url, config), form, client, seconds, asked_at)[0]


def details(provider: Provider, config: Mapping[str, Any], access: Secret) -> Mapping[str, Any]:
    """What the vendor says about a new token; empty where nothing is asked for. Raises NoToken."""
    oauth = _oauth(provider)
    if not oauth.details_url:
        return {}
    headers = {"accept": "application/json", **dict(oauth.details_headers)}
    headers["authorization"] = f"{oauth.details_scheme} {access.reveal()}"
    response = _send(provider, "GET", url_of(provider, oauth.details_url, config), headers, None, DEADLINE_SECONDS)
    document = read_object(response)
    if response.status != 200 or not document:
        raise NoToken(unavailable(f"{provider.name} did not say whose account it is ({response.status})."))
    return document


def revoke(provider: Provider, config: Mapping[str, Any], credentials: Mapping[str, Any], client: Client) -> bool:
    """Tell the vendor that a document's tokens are no longer used; False where it has not said yes. Raises nothing.

    A vendor that has no such request is not asked.
    """
    oauth = _oauth(provider)
    if not oauth.revoke_url:
        return True
    headers, form = {"accept": "application/json"}, {}
    if oauth.revoke_with == "bearer":
        headers["authorization"] = f"Bearer {credentials['access_token'].reveal()}"
    else:
        kind = "refresh_token" if "refresh_token" in credentials else "access_token"
        form = {"token": credentials[kind].reveal(), "token_type_hint": kind} | _authenticate(oauth, client, headers)
    try:
        response = _send(provider, "POST", url_of(provider, oauth.revoke_url, config), headers, form, REVOKE_SECONDS)
    except NoToken:
        return False
    return 200 <= response.status <= 299 and read_object(response).get("ok") is not False


# --- URLs -----------------------------------------------------------------------------------------------------------


def url_of(provider: Provider, declared: str, config: Mapping[str, Any]) -> str:
    """A declared URL, with the config fields that it names. Raises NoToken where these lead away from the vendor."""
    url = FIELD_IN_URL.sub(lambda named: str(config.get(named[1]) or ""), declared)
    if url != declared and not is_vendor_s(provider, url):
        raise NoToken(disabled(f"The config leads to an address that is not {provider.name}'s.", "address_refused"))
    parts = urlsplit(url)
    regional = _oauth(provider).regional_hosts.get(str(config.get("region")), {})
    return provider.moved(urlunsplit(parts._replace(netloc=regional.get(parts.netloc, parts.netloc))))


def is_vendor_s(provider: Provider, url: str) -> bool:
    """Whether a URL lies below one of the vendor's declared domains, or where the vendor has been moved to."""
    try:
        target = parse_url(url)
        moved_to = parse_url(provider.override) if provider.override else None
    except InvalidUrl:
        return False
    if moved_to is not None and (target.scheme, target.host, target.port) == (
        moved_to.scheme, moved_to.host, moved_to.port,
    ):  # fmt: skip
        return True
    domains = provider.oauth.hosts if provider.oauth else ()
    is_below = any(target.host == domain or target.host.endswith(f".{domain}") for domain in domains)
    return target.scheme == "https" and target.literal is None and is_below


# --- asking ---------------------------------------------------------------------------------------------------------


def _oauth(provider: Provider) -> OAuth:
    if provider.oauth is None:
        raise TypeError(f"{provider.slug} declares no OAuth")
    return provider.oauth


def _ask(
    provider: Provider, url: str, form: dict[str, str], client: Client, seconds: float, asked_at: datetime
) -> tuple[Tokens, Mapping[str, Any]]:
    headers = {"accept": "application/json"}
    form = form | _authenticate(_oauth(provider), client, headers)
    response = _send(provider, "POST", url, headers, form, seconds)
    reply = read_object(response)
    return _read(provider, response, reply, asked_at), reply


def _authenticate(oauth: OAuth, client: Client, headers: dict[str, str]) -> dict[str, str]:
    """The form's part that proves the client, RFC 6749, section 2.3.1; a Basic header is set instead."""
    if oauth.client_auth == "body":
        return {"client_id": client.id, "client_secret": client.secret.reveal()}
    pair = f"{quote_plus(client.id)}:{quote_plus(client.secret.reveal())}"
    headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    return {}


def _send(
    provider: Provider, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None, seconds: float
) -> Response:
    try:
        with outbound.session(seconds) as session:
            answer = session.request(method, url, headers=headers, data=form)
    except OutboundError as error:
        raise NoToken(from_error(_who(provider), error)) from None
    return Response(answer.status_code, tuple(answer.headers.items()), answer.content, False, 0)


def _read(provider: Provider, response: Response, reply: Mapping[str, Any], asked_at: datetime) -> Tokens:
    """The tokens in a reply. An error stands in `error`, at some vendors below a 200 or in `status` too."""
    who = _who(provider)
    codes = [code for key in ("error", "status") if isinstance(code := reply.get(key), str)]
    over = next((code for code in codes if code in _oauth(provider).ends_with), None)
    if over is not None and response.status < 500:
        raise NoToken((ended if _oauth(provider).is_by_person else client_refused)(who, over))
    shown = f" {codes[0]}" if codes and _CODE.fullmatch(codes[0]) else ""
    if not 200 <= response.status <= 299 or reply.get("error"):
        raise NoToken(unavailable(f"{who} gives no token ({response.status}{shown}).", retry_after(response)))
    try:
        return tokens.read_tokens(reply, _oauth(provider), asked_at)
    except tokens.Malformed as error:
        raise NoToken(unavailable(f"{who} gives no token: {error}.")) from None


def _who(provider: Provider) -> str:
    return provider.name if _oauth(provider).is_by_person else "The authorization server"
