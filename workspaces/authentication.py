"""Who calls, `Authorization: Bearer <API key or machine token>`, and whether they may: scopes, kinds, origins.

Machine tokens are JWTs (RFC 7519) that live for at most a minute, so that a backend need not send its key: header
`{"alg": "HS256", "kid": "key_…"}`; claims `exp` (at most 60 s ahead), `iat` and `aud`; signed with the key's signing
secret, which is not the key. A token may do what its key may.
"""

import logging
import math
import re
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt
from cachetools import LRUCache, TTLCache, cached
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Q
from django.db.models.functions import Now
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from meshes.api.problems import Problem
from meshes.kit import clock, ids
from workspaces import keys, limits, security_log
from workspaces.keys import CredentialError
from workspaces.models import ApiKey
from workspaces.vault import vault

if TYPE_CHECKING:  # DRF imports this module while it makes that class
    from rest_framework.views import APIView

logger = logging.getLogger(__name__)

REFUSED_KEY = "meshes.refused_key"
"""In `request.META` where a credential let nobody in: the public id of the key that it names, or nothing."""
_MAX_HEADER = 4096
"""Characters; a key has 87, a machine token a few hundred."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls: `request.auth` and `request.user`. `workspace_id` is None for account keys only."""

    key_id: uuid.UUID
    kind: str
    workspace_id: uuid.UUID | None
    scopes: frozenset[str]
    name: str

    @property
    def actor(self) -> str:
        """The key's public id, as audit and access records name it."""
        return ids.encode(ids.KEY, self.key_id)

    @property
    def is_authenticated(self) -> bool:
        return True


class KeyAuthentication(BaseAuthentication):
    """DRF's hook. Credentials that are wrong are counted by address; a right one is never refused for them."""

    def authenticate(self, request: Request) -> tuple[Identity, Identity] | None:
        header = request.META.get("HTTP_AUTHORIZATION")
        if header is None:
            return None
        try:
            key = read_credential(header)
        except CredentialError as error:
            request.META[REFUSED_KEY] = named_key(header)
            network = security_log.client_network(request.META)
            if error.is_wrong and (wait := limits.take_wrong_key(network)) is not None:
                words = "Too many wrong keys came from your address. A right one is let in all the same."
                raise Problem(429, detail=words, headers={"Retry-After": str(math.ceil(wait))}) from None
            raise AuthenticationFailed(str(error), error.reason) from None
        origin = request.META.get("HTTP_ORIGIN")  # as browsers say it; a publishable key works for its own pages only
        if origin is not None and key.kind == ApiKey.Kind.PUBLISHABLE and origin not in key.allowed_origins:
            request.META[REFUSED_KEY] = named_key(header)
            raise PermissionDenied("This key may not be used from this origin.")
        keys.note_use(key.pk)
        identity = Identity(key.pk, key.kind, key.workspace_id, frozenset(key.scopes), key.name)
        return identity, identity

    def authenticate_header(self, request: Request | HttpRequest) -> str:
        return 'Bearer realm="meshes"'


def read_credential(header: str) -> ApiKey:
    """The live key that an Authorization header proves. Raises CredentialError."""
    credential = _bearer(header)
    if credential is None:
        raise CredentialError("malformed", "The header must be `Authorization: Bearer <API key or machine token>`.")
    return keys.verify(credential) if credential.startswith(keys.PREFIX) else verify_token(credential)


def _bearer(header: str) -> str | None:
    scheme, _, credential = header.partition(" ")
    credential = credential.strip(" ")
    is_form = scheme.lower() == "bearer" and credential and len(header) <= _MAX_HEADER and header.isascii()
    return credential if is_form else None


def named_key(header: str) -> str:
    """The public id of the key that a credential names, right or wrong, where there is such a key; else empty."""
    credential = _bearer(header) or ""
    try:
        is_key = credential.startswith(keys.PREFIX)
        key_id = keys.parse(credential) if is_key else ids.decode(ids.KEY, _kid_of(credential))
    except CredentialError:
        return ""
    return ids.encode(ids.KEY, key_id) if key_id is not None and keys.find(key_id) is not None else ""


# --- scopes ---------------------------------------------------------------------------------------------------------


class HasScope(BasePermission):
    """A view declares, for itself or per action (`action_of`):

    `required_scope`: the scope, or a tuple of which one is enough; a string, or a mapping by action.
    `publishable_actions`: what publishable keys may do. `account_actions`: what only account keys may do.
    What is not declared is refused.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        identity = request.auth
        if not isinstance(identity, Identity):
            return False
        if request.method not in view.allowed_methods:
            return True  # nothing is there to protect; the view answers 405
        action = action_of(view, request)
        if identity.kind == ApiKey.Kind.PUBLISHABLE and action not in getattr(view, "publishable_actions", ()):
            raise PermissionDenied("A publishable key may only post single events.")
        if identity.kind != ApiKey.Kind.ACCOUNT and action in getattr(view, "account_actions", ()):
            raise PermissionDenied("Only an account key may do that.")
        accepted = accepted_scopes(view, action)
        if identity.scopes.isdisjoint(accepted):
            raise PermissionDenied(f"The key lacks the scope {' or '.join(accepted)}.")
        return True


def action_of(view: "APIView", request: Request) -> str:
    """The viewset's action, else the method in small letters."""
    return getattr(view, "action", None) or str(request.method).lower()


def accepted_scopes(view: "APIView", action: str) -> tuple[str, ...]:
    """The scopes of which one is enough for the action."""
    declared = getattr(view, "required_scope", None)
    if isinstance(declared, Mapping):
        declared = declared.get(action)
    if not declared:
        raise ImproperlyConfigured(f"{type(view).__name__} declares no required_scope for {action!r}")
    return (declared,) if isinstance(declared, str) else tuple(declared)


# --- origins --------------------------------------------------------------------------------------------------------

CORS_PATH = "/api/v1/events"
ORIGIN = re.compile(r"https?://[a-z0-9.-]{1,253}(:[0-9]{1,5})?|https?://\[[0-9a-f:.]{2,45}\](:[0-9]{1,5})?")
"""As browsers send it (RFC 6454): in small letters, without a path, without the scheme's own port."""


def is_cors_allowed(sender: Any, request: HttpRequest, **_: Any) -> bool:
    """Receiver of django-cors-headers' `check_request_enabled`, which asks it for every path: the pages that a
    publishable key lists may post events with it, from a browser.

    A preflight carries no key, so it passes for an origin that any live publishable key lists. The request itself must
    bring a key that lists its origin; its answer is shown to the page only then.
    """
    origin = request.META.get("HTTP_ORIGIN", "")
    if request.path_info != CORS_PATH or not ORIGIN.fullmatch(origin):
        return False
    if request.method == "OPTIONS":
        return request.META.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD") == "POST" and any_key_lists(origin)
    if request.method != "POST":
        return False
    try:
        key = read_credential(request.META.get("HTTP_AUTHORIZATION", ""))
    except CredentialError:
        return False
    return key.kind == ApiKey.Kind.PUBLISHABLE and origin in key.allowed_origins


@cached(TTLCache(1_000, ttl=5.0), lock=threading.Lock())  # browsers ask often, keys change seldom
def any_key_lists(origin: str) -> bool:
    live = Q(expires_at=None) | Q(expires_at__gt=Now())
    publishable = ApiKey.objects.filter(live, kind=ApiKey.Kind.PUBLISHABLE, revoked_at=None)
    return publishable.filter(allowed_origins__contains=[origin]).exists()


# --- machine tokens -------------------------------------------------------------------------------------------------

ALGORITHM = "HS256"
ISSUER = "urn:meshes:m2m:"
"""Followed by the key's id as `kid` has it: what `iss` must be where it is given."""
MAX_SECONDS = 60
CLOCK_SKEW_SECONDS = 5
"""How far ahead of ours a caller's clock may be: for `iat` and `nbf`; `exp` is taken at its word."""
_MAX_TIME = 2**40
_NO_SECRET = "the secret of a key that does not exist"  # noqa: S105

_opened: LRUCache[uuid.UUID, tuple[int, list[str]]] = LRUCache(1_000)
"""Signing secrets by key, with the version that they were opened for: opened, and so recorded, once for each."""
_imitated: LRUCache[uuid.UUID, bool] = LRUCache(1_000)
"""Unknown keys for which an opening was imitated. Apart, as anybody can fill it."""
_lock = threading.Lock()


def verify_token(token: str) -> ApiKey:
    """The live key whose signing secret signed the token. Raises CredentialError, and Problem 503 where a key of the
    operator's is missing.

    An unknown key costs what a known one costs whose secret is another: a look-up, an opening and a signature.
    """
    kid = _kid_of(token)
    key_id = ids.decode(ids.KEY, kid)
    if key_id is None:
        raise CredentialError("malformed", "The token's kid must be the id of an API key.")
    unknown = CredentialError("unknown", "There is no such key, or this is not its signature.")
    key = keys.find(key_id)
    if key is None or key.revoked_at is not None or key.kind == ApiKey.Kind.PUBLISHABLE:
        with _lock:
            is_imitated = _imitated.get(key_id, False)
            _imitated[key_id] = True
        if not is_imitated:
            vault.imitate_opening(keys.SIGNING_SECRET)
        _claims(token, _NO_SECRET)
        raise unknown
    for age, secret in enumerate(_signing_secrets(key)):
        claims = _claims(token, secret)
        if claims is not None:
            keys.check_live(key, clock.now())
            since = key.audience_from_version
            _check_claims(claims, kid, is_audience_required=since is not None and key.version - age >= since)
            return key
    raise unknown


def _kid_of(token: str) -> str:
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, RecursionError, ValueError):
        raise CredentialError("malformed", "This is neither an API key nor a machine token (JWT).") from None
    if header.get("alg") != ALGORITHM:
        raise CredentialError("malformed", f"The token's alg must be {ALGORITHM}.")
    return str(header.get("kid", ""))


def _signing_secrets(key: ApiKey) -> list[str]:
    """The present secret and, during a rotation, the one before."""
    with _lock:
        version, secrets = _opened.get(key.pk, (0, []))
    if version != key.version:
        try:
            secrets = keys.open_signing_secrets(key, "verify a machine token")
        except vault.CredentialRefused as error:
            logger.error("the signing secret of %s does not open: %s", key.public_id, error.reason)
            return []
        with _lock:
            _opened[key.pk] = key.version, secrets
    return secrets[: 2 if keys.is_previous_live(key, clock.now()) else 1]


def _claims(token: str, secret: str) -> dict[str, Any] | None:
    """The claims if the signature is right. They are checked here, not there, where odd values raise."""
    options: Any = {f"verify_{claim}": False for claim in ("exp", "iat", "nbf", "aud", "iss", "sub", "jti")}
    try:
        return jwt.decode(token, secret, algorithms=[ALGORITHM], options=options)
    except (jwt.InvalidTokenError, RecursionError, ValueError):
        return None


def _check_claims(claims: dict[str, Any], kid: str, *, is_audience_required: bool) -> None:
    """Times in Unix seconds, whose bounds keep out infinities and integers that no float can be compared with; `aud`
    (RFC 7519, 4.1.3: one or a list) and `iss`."""
    now = clock.now().timestamp()
    given = {name: claims[name] for name in ("iat", "exp", "nbf") if name in claims}
    are_times = all(
        isinstance(each, (int, float)) and not isinstance(each, bool) and 0 <= each < _MAX_TIME
        for each in given.values()
    )
    if not {"iat", "exp"} <= given.keys() or not are_times:
        raise CredentialError("malformed", "The token must have iat and exp, and nbf where given, in Unix seconds.")
    if given["exp"] <= now:
        raise CredentialError("expired", "The token has expired.")
    if given["exp"] > now + MAX_SECONDS or given["exp"] - given["iat"] > MAX_SECONDS:
        words = f"The token's exp may be {MAX_SECONDS} seconds ahead, and after iat, at most."
        raise CredentialError("malformed", words)
    if max(given["iat"], given.get("nbf", 0)) > now + CLOCK_SKEW_SECONDS:
        raise CredentialError("malformed", "The token's iat or nbf lies in the future.")
    audience, named = settings.MESHES_TOKEN_AUDIENCE, claims.get("aud")
    fits = named == audience or (isinstance(named, list) and audience in named)
    if not fits and ("aud" in claims or is_audience_required):
        raise CredentialError("malformed", f"The token's aud must be {audience}.")
    if "iss" in claims and claims["iss"] != ISSUER + kid:
        raise CredentialError("malformed", f"The token's iss, where given, must be {ISSUER}<kid>.")
