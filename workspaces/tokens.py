"""Machine tokens: JWTs (RFC 7519) that live for at most a minute, so that a backend need not send its key.

Header `{"alg": "HS256", "kid": "key_…"}`; claims `exp` (at most 60 s ahead) and `iat`; signed with the key's signing
secret, which is not the key. A token may do what its key may.
"""

import logging
import uuid
from typing import Any

import jwt

from workspaces import clock, ids, keyring
from workspaces.keyring import KeyRecord
from workspaces.models import ApiKey
from workspaces.signing import SigningSecretRefused, signing_secrets

logger = logging.getLogger(__name__)

ALGORITHM = "HS256"
MAX_SECONDS = 60
CLOCK_SKEW_SECONDS = 5
"""How far ahead of ours a caller's clock may be: for `iat` only, `exp` is taken at its word."""
_MAX_TIME = 2**40


def verify(token: str) -> KeyRecord | None:
    """The live key whose signing secret signed the token, or None."""
    key_id = _key_id(token)
    record = keyring.find(key_id) if key_id is not None else None
    if record is None or record.kind == ApiKey.Kind.PUBLISHABLE:
        return None
    for secret in _signing_secrets(record):
        claims = _decode(token, secret)
        if claims is not None:
            return record if _is_current(claims, clock.now().timestamp()) else None
    return None


def _key_id(token: str) -> uuid.UUID | None:
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except (jwt.InvalidTokenError, RecursionError, ValueError):
        return None
    return ids.decode(ids.KEY, kid) if isinstance(kid, str) else None


def _signing_secrets(record: KeyRecord) -> list[str]:
    """The present secret and, during a rotation, the one before.

    Kept with the record: opened, and so recorded, once for each time that the record is loaded.
    """
    if not record.signing_secrets:
        try:
            secret = signing_secrets().open(record.id, record.workspace_id, record.version, "verify a machine token")
        except SigningSecretRefused as error:
            logger.error("the signing secret of %s does not open: %s", ids.encode(ids.KEY, record.id), error)
            return []
        record.signing_secrets.extend(secret.reveal().split())
    return record.signing_secrets[: 2 if record.previous_is_live(clock.now()) else 1]


def _decode(token: str, secret: str) -> dict[str, Any] | None:
    """The claims if the signature is right. The times are checked here, not there, where odd numbers raise."""
    options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
    try:
        return jwt.decode(token, secret, algorithms=[ALGORITHM], options=options | {"require": ["exp", "iat"]})
    except (jwt.InvalidTokenError, RecursionError, ValueError):
        return None


def _is_current(claims: dict[str, Any], now: float) -> bool:
    issued_at, expires_at = claims["iat"], claims["exp"]
    if not (_is_time(issued_at) and _is_time(expires_at)):
        return False
    is_short = now < expires_at <= now + MAX_SECONDS and expires_at - issued_at <= MAX_SECONDS
    return bool(is_short and issued_at <= now + CLOCK_SKEW_SECONDS)


def _is_time(value: object) -> bool:
    """Unix seconds; the bounds keep out infinities and integers that no float can be compared with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MAX_TIME
