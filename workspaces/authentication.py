"""Who calls: `Authorization: Bearer <API key or machine token>`."""

import uuid
from dataclasses import dataclass

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed, PermissionDenied
from rest_framework.request import Request

from meshes.kit import ids
from workspaces import addresses, keyring, keys, limits, tokens, usage
from workspaces.keyring import CredentialError, KeyRecord
from workspaces.models import ApiKey

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


class TooManyWrongKeys(APIException):
    status_code = 429

    def __init__(self, wait: float) -> None:
        super().__init__("Too many wrong keys came from your address. A right one is let in all the same.")
        self.wait = wait
        """Seconds."""


class KeyAuthentication(BaseAuthentication):
    """DRF's hook. Credentials that are wrong are counted by address; a right one is never refused for them."""

    def authenticate(self, request: Request) -> tuple[Identity, Identity] | None:
        header = request.META.get("HTTP_AUTHORIZATION")
        if header is None:
            return None
        try:
            record = read_credential(header)
        except CredentialError as error:
            request.META[REFUSED_KEY] = named_key(header)
            if error.is_wrong and (wait := limits.take_wrong_key(addresses.client_network(request.META))) is not None:
                raise TooManyWrongKeys(wait) from None
            raise AuthenticationFailed(error.words, error.reason) from None
        if not origin_is_allowed(record, request.META.get("HTTP_ORIGIN")):
            request.META[REFUSED_KEY] = named_key(header)
            raise PermissionDenied("This key may not be used from this origin.")
        usage.touch(record.id)
        identity = identity_of(record)
        return identity, identity

    def authenticate_header(self, request: Request | HttpRequest) -> str:
        return 'Bearer realm="meshes"'


def read_credential(header: str) -> KeyRecord:
    """The live key that an Authorization header proves. Raises CredentialError."""
    credential = _bearer(header)
    if credential is None:
        raise CredentialError("malformed", "The header must be `Authorization: Bearer <API key or machine token>`.")
    return keys.verify(credential) if credential.startswith(keys.PREFIX) else tokens.verify(credential)


def _bearer(header: str) -> str | None:
    scheme, _, credential = header.partition(" ")
    credential = credential.strip(" ")
    is_form = scheme.lower() == "bearer" and credential and len(header) <= _MAX_HEADER and header.isascii()
    return credential if is_form else None


def named_key(header: str) -> str:
    """The public id of the key that a credential names, right or wrong, where there is such a key; else empty."""
    credential = _bearer(header) or ""
    key_id = keys.parse(credential) if credential.startswith(keys.PREFIX) else tokens.named_key(credential)
    return ids.encode(ids.KEY, key_id) if key_id is not None and keyring.find(key_id) is not None else ""


def origin_is_allowed(record: KeyRecord, origin: str | None) -> bool:
    """A browser says where its page comes from; a publishable key works for its own pages only."""
    return origin is None or record.kind != ApiKey.Kind.PUBLISHABLE or origin in record.allowed_origins


def identity_of(record: KeyRecord) -> Identity:
    return Identity(record.id, record.kind, record.workspace_id, record.scopes, record.name)
