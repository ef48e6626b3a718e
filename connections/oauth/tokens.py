"""Tokens: how a vendor gives them, how they stand in a connection's document, and when they are due. No database.

A document of the vault holds them beside the other credentials: `access_token`, `refresh_token`, `token_type`,
`scope`, and `issued_at` and `expires_at` in ISO 8601. Without `expires_at` a token is used until the vendor refuses it.
Every request leaves through the outbound client with a deadline of its own; nothing of it or of its reply is logged.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import quote_plus, urlsplit, urlunsplit

from connections import outbound
from connections.messages import LocalError, OutboundError, RequestRefusedError, Response, parse_url
from connections.providers.answers import retry_after
from connections.providers.base import FIELD_IN_URL, OAuth, Outcome, Provider, Verdict
from connections.providers.verdicts import disabled, reauthorize, throttled
from workspaces.vault.secret import MASK, Secret

# --- apps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Client:
    """An app at a vendor: what RFC 6749 calls a client."""

    id: str
    secret: Secret


def read_clients(text: str) -> dict[str, Client]:
    """The installation's apps by integration, as `MESHES_OAUTH_CLIENTS` names them: `hubspot=<id>:<secret>,…` or
    `{"hubspot": {"id": "…", "secret": "…"}}`. Raises ValueError that quotes none of it."""
    given: dict[str, Any] = {}
    if text.strip().startswith("{"):
        try:
            given = json.loads(text)
        except ValueError:
            raise ValueError("it is not JSON") from None
    else:
        for item in filter(None, map(str.strip, text.split(","))):
            slug, _, pair = item.partition("=")
            client_id, _, secret = pair.partition(":")
            given[slug.strip()] = {"id": client_id.strip(), "secret": secret.strip()}
    clients = {}
    for slug, app in given.items():
        match app:
            case {"id": str(app_id), "secret": str(app_secret)} if slug and app_id and app_secret:
                clients[slug] = Client(app_id, Secret(app_secret))
            case _:
                raise ValueError("each integration needs an id and a secret")
    return clients


# --- why there is no token ------------------------------------------------------------------------------------------

FIRST_COOL_DOWN_SECONDS = 5.0
LONGEST_COOL_DOWN_SECONDS = 300.0
"""After a failure of the token endpoint: twice as long each time."""

OURS = Verdict(
    Outcome.RETRY, "our_fault", "No token could be asked for, for a fault of ours.", is_ours=True, is_counted=False
)


class NoTokenError(Exception):
    """There is no token; `.verdict` is what that means for the attempt that needed one, and has the reason."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.words)
        self.verdict = verdict

    @property
    def is_final(self) -> bool:
        """Only the owner can help."""
        return self.verdict.hold is not None


def ended(who: str, code: str = "") -> Verdict:
    """The authorization is over: nothing passes until the owner authorizes the connection again."""
    said = f" ({code})" if code else ""
    return reauthorize(
        f"{who} no longer accepts this connection's authorization{said}. Authorize it again.", "authorization_ended"
    )


def unavailable(message: str, seconds: float | None = None) -> Verdict:
    """No token for now: the connection cools down, and nothing is lost, however often that happens."""
    return replace(throttled(message, "token_unavailable", seconds or FIRST_COOL_DOWN_SECONDS), is_counted=False)


def with_cool_down(verdict: Verdict, failures: int) -> Verdict:
    """The verdict with the cool-down after this many failures before it, or a longer one that was asked for."""
    if not verdict.throttled:
        return verdict
    seconds = min(FIRST_COOL_DOWN_SECONDS * 2 ** min(failures, 10), LONGEST_COOL_DOWN_SECONDS)
    return replace(verdict, retry_after_seconds=max(seconds, verdict.retry_after_seconds or 0.0))


# --- replies --------------------------------------------------------------------------------------------------------

LONGEST_LIFETIME_SECONDS = 365 * 86_400.0
"""No token is trusted for longer: a vendor that says more means milliseconds, or for ever."""
LONGEST_TOKEN = 16_384
_TOKEN = re.compile(r"[\x21-\x7e]+")
"""Visible ASCII (RFC 6749, appendix A.12, without the space): whatever goes into a header."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a token endpoint gave. `scopes` is None where the reply names none; `expires_at` None: not known."""

    access: Secret
    refresh: Secret | None
    type: str
    scopes: frozenset[str] | None
    issued_at: datetime
    expires_at: datetime | None


def read_tokens(reply: Mapping[str, Any], oauth: OAuth, asked_at: datetime) -> Tokens:
    """The tokens in a reply to a request that was made at `asked_at`. Raises ValueError, which quotes nothing."""
    access = _token(reply.get("access_token"))
    if access is None:
        raise ValueError("there is no usable access token in the answer")
    lifetime = read_lifetime(reply.get("expires_in"), oauth.lifetime_seconds)
    token_type = reply.get("token_type")
    return Tokens(
        access=access,
        refresh=_token(reply.get("refresh_token")),
        type=token_type if isinstance(token_type, str) and len(token_type) <= 32 else "Bearer",
        scopes=_scopes(reply),
        issued_at=asked_at,
        expires_at=None if lifetime is None else asked_at + timedelta(seconds=lifetime),
    )


def read_lifetime(value: Any, assumed: float | None) -> float | None:
    """Seconds that a token lives, by `expires_in`: a number, also as text. A year at most; 0, -1 and whatever is not
    readable are as good as nothing said: then `assumed`, or None."""
    try:
        seconds = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        return assumed
    return min(seconds, LONGEST_LIFETIME_SECONDS) if seconds > 0 else assumed  # NaN is not


def _token(value: Any) -> Secret | None:
    is_usable = isinstance(value, str) and len(value) <= LONGEST_TOKEN and _TOKEN.fullmatch(value)
    return Secret(value) if is_usable else None


def _scopes(reply: Mapping[str, Any]) -> frozenset[str] | None:
    """Vendors separate by spaces or commas, or give a list, as `scopes`."""
    for value in (reply.get("scope"), reply.get("scopes")):
        if isinstance(value, str) and value.strip():
            return frozenset(re.split(r"[\s,]+", value.strip()))
        if isinstance(value, list):
            return frozenset(item for item in value if isinstance(item, str))
    return None


# --- documents ------------------------------------------------------------------------------------------------------

TOKEN_KEYS = frozenset({"access_token", "refresh_token", "token_type", "scope", "issued_at", "expires_at"})
SHOWN_KEYS = frozenset({"access_token", "refresh_token"})
"""Of which there are masks to see."""


def granted(document: Mapping[str, Any], tokens: Tokens) -> dict[str, Any]:
    """The document with the tokens of a new authorization; nothing of an earlier one stays."""
    entries = {
        "access_token": tokens.access,
        "refresh_token": tokens.refresh,
        "token_type": Secret(tokens.type),
        "scope": None if tokens.scopes is None else Secret(" ".join(sorted(tokens.scopes))),
        "issued_at": Secret(tokens.issued_at.isoformat()),
        "expires_at": None if tokens.expires_at is None else Secret(tokens.expires_at.isoformat()),
    }
    return without_tokens(document) | {key: value for key, value in entries.items() if value is not None}


def merged(document: Mapping[str, Any], tokens: Tokens) -> dict[str, Any]:
    """The document with new tokens. A refresh token and a scope that the reply did not name stay as they were."""
    kept = {key: document[key] for key in ("refresh_token", "scope") if key in document}
    return kept | granted(document, tokens)


def without_tokens(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in TOKEN_KEYS}


def secrets_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without what only describes its tokens: a `Bearer` need not be masked wherever it stands."""
    return {key: value for key, value in document.items() if key not in TOKEN_KEYS - SHOWN_KEYS}


def is_granted(document: Mapping[str, Any]) -> bool:
    """Whether the document's tokens were given by a token endpoint, and not typed in by a person."""
    return "issued_at" in document


def hints_of(document: Mapping[str, Any]) -> dict[str, str]:
    """The masks to show: `{"token": "••••1234"}`.

    Tokens that a vendor gave show nothing of themselves: nobody knows them by their end, and the mask stays the same
    however often they are renewed.
    """
    secrets = {key: value for key, value in document.items() if isinstance(value, Secret)}
    hints = {key: value.masked_hint() for key, value in secrets.items()}
    if is_granted(document):
        hints = without_tokens(hints) | dict.fromkeys(SHOWN_KEYS & secrets.keys(), MASK)
    return hints


def are_void(
    oauth: OAuth | None, changed: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]
) -> bool:
    """Whether an edit makes the tokens at hand void: the owner gives another, or a client that asks otherwise.

    `changed` are the credentials that change, `before` and `after` the config.
    """
    if oauth is None:
        return False
    if oauth.grant == "client_credentials":
        own, asked_with = (oauth.client_id_field, oauth.client_secret_field), (oauth.token_url_field, oauth.scope_field)
        return any(key in changed for key in own) or any(before.get(key) != after.get(key) for key in asked_with)
    return "access_token" in changed


# --- time -----------------------------------------------------------------------------------------------------------

MARGIN = timedelta(minutes=5)
MARGIN_SHARE = 0.1
"""A token is due when less than this is left: the larger of the two, and at most half of its life."""
SKEW = timedelta(seconds=5)
"""A token with less than this left is not sent any more: the request takes its time too."""


def can_renew(oauth: OAuth | None, config: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Whether there is something to ask for another token with."""
    if oauth is None:
        return False
    if oauth.grant == "client_credentials":
        return oauth.has_client(config, document)
    return oauth.refreshes and is_granted(document) and "refresh_token" in document


def is_due(document: Mapping[str, Any], now: datetime) -> bool:
    """Whether it is time for another token: there is none, or little is left of its life."""
    if "access_token" not in document:
        return True
    issued_at, expires_at = read_moment(document, "issued_at"), read_moment(document, "expires_at")
    if expires_at is None:
        return False
    life = max(expires_at - (issued_at or now), timedelta(0))
    margin = min(max(MARGIN, life * MARGIN_SHARE), life / 2)
    return now >= expires_at - max(margin, SKEW)


def is_expired(document: Mapping[str, Any], now: datetime) -> bool:
    """Whether the token at hand is not worth sending: there is none, or its time is over."""
    expires_at = read_moment(document, "expires_at")
    return "access_token" not in document or (expires_at is not None and now >= expires_at - SKEW)


def read_moment(document: Mapping[str, Any], key: str) -> datetime | None:
    """A moment of an opened document; None where there is none that can be read."""
    value = document.get(key)
    try:
        read = datetime.fromisoformat(value.reveal()) if isinstance(value, Secret) else None
    except ValueError:
        return None
    return read.replace(tzinfo=UTC) if read is not None and read.tzinfo is None else read


# --- requests to vendors --------------------------------------------------------------------------------------------

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
    """The tokens for a code, and the whole reply. `asked_at` is this moment by PostgreSQL's clock. Raises
    NoTokenError."""
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
    """New tokens for a connection that has a refresh token, or a client of its own. Raises NoTokenError.

    `asked_at` is this moment by PostgreSQL's clock: the tokens' life is counted from it.
    """
    oauth = _oauth(provider)
    if oauth.grant == "client_credentials":
        url, form = config[oauth.token_url_field], {"grant_type": "client_credentials"}
        if scope := config.get(oauth.scope_field):
            form["scope"] = scope
    else:
        url = url_of(provider, oauth.token_url, config)
        form = {"grant_type": "refresh_token", "refresh_token": credentials["refresh_token"].reveal()}
    return _ask(provider, url, form, client, min(seconds, DEADLINE_SECONDS), asked_at)[0]


def read_details(provider: Provider, config: Mapping[str, Any], access: Secret) -> Mapping[str, Any]:
    """What the vendor says about a new token; empty where nothing is asked for. Raises NoTokenError."""
    oauth = _oauth(provider)
    if not oauth.details_url:
        return {}
    headers = {"accept": "application/json", **dict(oauth.details_headers)}
    headers["authorization"] = f"{oauth.details_scheme} {access.reveal()}"
    response = _send(provider, "GET", url_of(provider, oauth.details_url, config), headers, None, DEADLINE_SECONDS)
    document = response.json_object()
    if response.status != 200 or not document:
        raise NoTokenError(unavailable(f"{provider.name} did not say whose account it is ({response.status})."))
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
    except NoTokenError:
        return False
    return 200 <= response.status <= 299 and response.json_object().get("ok") is not False


def url_of(provider: Provider, declared: str, config: Mapping[str, Any]) -> str:
    """A declared URL, with the config fields that it names. Raises NoTokenError where these lead away from the
    vendor."""
    url = FIELD_IN_URL.sub(lambda named: str(config.get(named[1]) or ""), declared)
    if url != declared and not is_vendor_url(provider, url):
        message = f"The config leads to an address that is not {provider.name}'s."
        raise NoTokenError(disabled(message, "address_refused"))
    parts = urlsplit(url)
    regional = _oauth(provider).regional_hosts.get(str(config.get("region")), {})
    return provider.moved(urlunsplit(parts._replace(netloc=regional.get(parts.netloc, parts.netloc))))


def is_vendor_url(provider: Provider, url: str) -> bool:
    """Whether a URL lies below one of the vendor's declared domains, or where the vendor has been moved to."""
    try:
        target = parse_url(url)
        moved_to = parse_url(provider.override) if provider.override else None
    except RequestRefusedError:
        return False
    if moved_to is not None and (target.scheme, target.host, target.port) == (
        moved_to.scheme, moved_to.host, moved_to.port,
    ):  # fmt: skip
        return True
    domains = provider.oauth.hosts if provider.oauth else ()
    is_below = any(target.host == domain or target.host.endswith(f".{domain}") for domain in domains)
    return target.scheme == "https" and target.literal is None and is_below


def _oauth(provider: Provider) -> OAuth:
    if provider.oauth is None:
        raise TypeError(f"{provider.slug} declares no OAuth")
    return provider.oauth


def _ask(
    provider: Provider, url: str, form: dict[str, str], client: Client, seconds: float, asked_at: datetime
) -> tuple[Tokens, Mapping[str, Any]]:
    """The tokens and the whole reply. An error stands in `error`, at some vendors below a 200 or in `status` too."""
    oauth, who = _oauth(provider), _who(provider)
    headers = {"accept": "application/json"}
    response = _send(provider, "POST", url, headers, form | _authenticate(oauth, client, headers), seconds)
    reply = response.json_object()
    codes = [code for key in ("error", "status") if isinstance(code := reply.get(key), str)]
    over = next((code for code in codes if code in oauth.ends_with), None)
    if over is not None and response.status < 500:
        if oauth.is_by_person:
            raise NoTokenError(ended(who, over))
        message = f"{who} refuses the client ({over}). Check its id, its secret and the scope."
        raise NoTokenError(reauthorize(message, "authorization_ended"))  # the client is the customer's own
    shown = f" {codes[0]}" if codes and _CODE.fullmatch(codes[0]) else ""
    if not 200 <= response.status <= 299 or reply.get("error"):
        raise NoTokenError(unavailable(f"{who} gives no token ({response.status}{shown}).", retry_after(response)))
    try:
        return read_tokens(reply, oauth, asked_at), reply
    except ValueError as error:
        raise NoTokenError(unavailable(f"{who} gives no token: {error}.")) from None


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
    except RequestRefusedError as error:
        message = f"The token endpoint cannot be asked: {error.message}"
        raise NoTokenError(disabled(message, "address_refused")) from None
    except LocalError:
        raise NoTokenError(OURS) from None
    except OutboundError as error:
        raise NoTokenError(unavailable(f"{_who(provider)} gave no token: {error.message}")) from None
    return cast(Response, answer.raw)


def _who(provider: Provider) -> str:
    return provider.name if _oauth(provider).is_by_person else "The authorization server"
