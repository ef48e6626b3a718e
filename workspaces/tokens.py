"""Machine tokens: JWTs (RFC 7519) that live for at most a minute, so that a backend need not send its key.

Header `{"alg": "HS256", "kid": "key_…"}`; claims `exp` (at most 60 s ahead), `iat` and `aud`; signed with the key's
signing secret, which is not the key. A token may do what its key may.
"""

import logging
import threading
import uuid
from typing import Any

import jwt
from django.conf import settings

from meshes.kit import clock, ids
from workspaces import keyring
from workspaces.keyring import CredentialError, KeyRecord
from workspaces.models import ApiKey
from workspaces.vault import signing_secrets
from workspaces.vault.vault import CredentialRefused

logger = logging.getLogger(__name__)

ALGORITHM = "HS256"
ISSUER = "urn:meshes:m2m:"
"""Followed by the key's id as `kid` has it: what `iss` must be where it is given."""
MAX_SECONDS = 60
CLOCK_SKEW_SECONDS = 5
"""How far ahead of ours a caller's clock may be: for `iat` and `nbf`; `exp` is taken at its word."""
_MAX_TIME = 2**40
_MAX_OPENED = 1_000
_NO_SECRET = "the secret of a key that does not exist"  # noqa: S105

_opened: dict[uuid.UUID, tuple[int, list[str]]] = {}
"""Signing secrets by key, with the version that they were opened for: opened, and so recorded, once for each."""
_imitated: dict[uuid.UUID, None] = {}
"""Unknown keys for which an opening was imitated. Apart, as anybody can fill it."""
_lock = threading.Lock()


def verify(token: str) -> KeyRecord:
    """The live key whose signing secret signed the token. Raises CredentialError, and
    SigningSecretUnavailable where a key of the operator's is missing.

    An unknown key costs what a known one costs whose secret is another: a look-up, an opening and a signature.
    """
    kid = _key_id(token)
    key_id = ids.decode(ids.KEY, kid)
    if key_id is None:
        raise CredentialError("malformed", "The token's kid must be the id of an API key.")
    record = keyring.find(key_id)
    if record is None or record.revoked_at is not None or record.kind == ApiKey.Kind.PUBLISHABLE:
        _imitate_opening(key_id)
        _decode(token, _NO_SECRET)
        raise _unknown()
    for age, secret in enumerate(_signing_secrets(record)):
        claims = _decode(token, secret)
        if claims is not None:
            record.check_live(clock.now())
            _check_times(claims, clock.now().timestamp())
            since = record.audience_from_version
            _check_parties(claims, kid, is_audience_required=since is not None and record.version - age >= since)
            return record
    raise _unknown()


def named_key(token: str) -> uuid.UUID | None:
    """The key that a token says it is of, whether or not that is so."""
    try:
        return ids.decode(ids.KEY, _key_id(token))
    except CredentialError:
        return None


def _unknown() -> CredentialError:
    return CredentialError("unknown", "There is no such key, or this is not its signature.")


def _key_id(token: str) -> str:
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, RecursionError, ValueError):
        raise CredentialError("malformed", "This is neither an API key nor a machine token (JWT).") from None
    if header.get("alg") != ALGORITHM:
        raise CredentialError("malformed", f"The token's alg must be {ALGORITHM}.")
    return str(header.get("kid", ""))


def _signing_secrets(record: KeyRecord) -> list[str]:
    """The present secret and, during a rotation, the one before."""
    version, secrets = _opened.get(record.id, (0, []))
    if version != record.version:
        try:
            secret = signing_secrets.open(record.id, record.workspace_id, record.version, "verify a machine token")
        except CredentialRefused as error:
            logger.error("the signing secret of %s does not open: %s", ids.encode(ids.KEY, record.id), error.reason)
            return []
        secrets = secret.reveal().split()
        _keep(_opened, record.id, (record.version, secrets))
    return secrets[: 2 if record.previous_is_live(clock.now()) else 1]


def _imitate_opening(key_id: uuid.UUID) -> None:
    if key_id not in _imitated:
        signing_secrets.imitate_opening()
        _keep(_imitated, key_id, None)


def _keep(kept: dict[uuid.UUID, Any], key_id: uuid.UUID, value: Any) -> None:
    with _lock:
        if len(kept) >= _MAX_OPENED:
            kept.clear()
        kept[key_id] = value


def _decode(token: str, secret: str) -> dict[str, Any] | None:
    """The claims if the signature is right. They are checked here, not there, where odd values raise."""
    claims = ("exp", "iat", "nbf", "aud", "iss", "sub", "jti")
    options: Any = {f"verify_{claim}": False for claim in claims}
    try:
        return jwt.decode(token, secret, algorithms=[ALGORITHM], options=options)
    except (jwt.InvalidTokenError, RecursionError, ValueError):
        return None


def _check_times(claims: dict[str, Any], now: float) -> None:
    given = {name: claims[name] for name in ("iat", "exp", "nbf") if name in claims}
    if not {"iat", "exp"} <= given.keys() or not all(_is_time(value) for value in given.values()):
        raise CredentialError("malformed", "The token must have iat and exp, and nbf where given, in Unix seconds.")
    if given["exp"] <= now:
        raise CredentialError("expired", "The token has expired.")
    if given["exp"] > now + MAX_SECONDS or given["exp"] - given["iat"] > MAX_SECONDS:
        raise CredentialError(
            "malformed", f"The token's exp may be {MAX_SECONDS} seconds ahead, and after iat, at most."
        )
    if max(given["iat"], given.get("nbf", 0)) > now + CLOCK_SKEW_SECONDS:
        raise CredentialError("malformed", "The token's iat or nbf lies in the future.")


def _check_parties(claims: dict[str, Any], kid: str, *, is_audience_required: bool) -> None:
    """`aud` (RFC 7519, 4.1.3: one or a list) and `iss`."""
    audience = settings.MESHES_TOKEN_AUDIENCE
    given = claims.get("aud")
    fits = given == audience or (isinstance(given, list) and audience in given)
    if not fits and ("aud" in claims or is_audience_required):
        raise CredentialError("malformed", f"The token's aud must be {audience}.")
    if "iss" in claims and claims["iss"] != ISSUER + kid:
        raise CredentialError("malformed", f"The token's iss, where given, must be {ISSUER}<kid>.")


def _is_time(value: object) -> bool:
    """Unix seconds; the bounds keep out infinities and integers that no float can be compared with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MAX_TIME
