"""Tokens: what a vendor's reply means, how they stand in a connection's document, and when they are due. Pure.

A document of the vault holds them beside the other credentials: `access_token`, `refresh_token`, `token_type`,
`scope`, and `issued_at` and `expires_at` in ISO 8601. Without `expires_at` a token is used until the vendor refuses it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from connections.providers.base import OAuth
from connections.secret import Secret

TOKEN_KEYS = frozenset({"access_token", "refresh_token", "token_type", "scope", "issued_at", "expires_at"})
SHOWN_KEYS = frozenset({"access_token", "refresh_token"})
"""Of which there are masks to see."""

LONGEST_LIFETIME_SECONDS = 365 * 86_400.0
"""No token is trusted for longer: a vendor that says more means milliseconds, or for ever."""
MARGIN = timedelta(minutes=5)
MARGIN_SHARE = 0.1
"""A token is due when less than this is left: the larger of the two, and at most half of its life."""
SKEW = timedelta(seconds=5)
"""A token with less than this left is not sent any more: the request takes its time too."""
LONGEST_TOKEN = 16_384
_TOKEN = re.compile(r"[\x21-\x7e]+")
"""Visible ASCII (RFC 6749, appendix A.12, without the space): whatever goes into a header."""


class Malformed(Exception):  # noqa: N818 - named by what is wrong
    """A reply without a usable token. `str()` says what is missing, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a token endpoint gave. `scopes` is None where the reply names none; `expires_at` None: not known."""

    access: Secret
    refresh: Secret | None
    type: str
    scopes: frozenset[str] | None
    issued_at: datetime
    expires_at: datetime | None


# --- replies --------------------------------------------------------------------------------------------------------


def read_tokens(reply: Mapping[str, Any], oauth: OAuth, asked_at: datetime) -> Tokens:
    """The tokens in a reply to a request that was made at `asked_at`. Raises Malformed."""
    access = _token(reply.get("access_token"))
    if access is None:
        raise Malformed("there is no usable access token in the answer")
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
    if math.isnan(seconds) or seconds <= 0:
        return assumed
    return min(seconds, LONGEST_LIFETIME_SECONDS)


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


def merged(document: Mapping[str, Any], tokens: Tokens) -> dict[str, Any]:
    """The document with new tokens. A refresh token and a scope that the reply did not name stay as they were."""
    kept = {key: document[key] for key in ("refresh_token", "scope") if key in document}
    return without_tokens(document) | kept | _entries(tokens)


def granted(document: Mapping[str, Any], tokens: Tokens) -> dict[str, Any]:
    """The document with the tokens of a new authorization; nothing of an earlier one stays."""
    return without_tokens(document) | _entries(tokens)


def _entries(tokens: Tokens) -> dict[str, Any]:
    entries = {
        "access_token": tokens.access,
        "refresh_token": tokens.refresh,
        "token_type": Secret(tokens.type),
        "scope": None if tokens.scopes is None else Secret(" ".join(sorted(tokens.scopes))),
        "issued_at": Secret(tokens.issued_at.isoformat()),
        "expires_at": None if tokens.expires_at is None else Secret(tokens.expires_at.isoformat()),
    }
    return {key: value for key, value in entries.items() if value is not None}


def without_tokens(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in TOKEN_KEYS}


def secrets_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without what only describes its tokens: a `Bearer` need not be masked wherever it stands."""
    return {key: value for key, value in document.items() if key not in TOKEN_KEYS - SHOWN_KEYS}


def is_granted(document: Mapping[str, Any]) -> bool:
    """Whether the document's tokens were given by a token endpoint, and not typed in by a person."""
    return "issued_at" in document


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


def can_renew(oauth: OAuth | None, config: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Whether there is something to ask for another token with."""
    if oauth is None:
        return False
    if oauth.grant == "client_credentials":
        own = {oauth.client_id_field, oauth.client_secret_field}
        return bool(config.get(oauth.token_url_field)) and own <= document.keys()
    return oauth.refreshes and is_granted(document) and "refresh_token" in document


def is_due(document: Mapping[str, Any], now: datetime) -> bool:
    """Whether it is time for another token: there is none, or little is left of its life."""
    if "access_token" not in document:
        return True
    issued_at, expires_at = moment(document, "issued_at"), moment(document, "expires_at")
    if expires_at is None:
        return False
    life = max(expires_at - (issued_at or now), timedelta(0))
    margin = min(max(MARGIN, life * MARGIN_SHARE), life / 2)
    return now >= expires_at - max(margin, SKEW)


def is_expired(document: Mapping[str, Any], now: datetime) -> bool:
    """Whether the token at hand is not worth sending: there is none, or its time is over."""
    if "access_token" not in document:
        return True
    expires_at = moment(document, "expires_at")
    return expires_at is not None and now >= expires_at - SKEW


def moment(document: Mapping[str, Any], key: str) -> datetime | None:
    """A moment of an opened document; None where there is none that can be read."""
    value = document.get(key)
    try:
        read = datetime.fromisoformat(value.reveal()) if isinstance(value, Secret) else None
    except ValueError:
        return None
    return read.replace(tzinfo=UTC) if read is not None and read.tzinfo is None else read
