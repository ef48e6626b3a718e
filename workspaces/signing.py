"""Where the signing secrets of keys are kept: in the vault, which this layer knows by its setting only."""

import uuid
from functools import cache
from typing import Protocol

from django.conf import settings
from django.utils.module_loading import import_string
from rest_framework.exceptions import APIException


class SigningSecretRefused(Exception):  # noqa: N818 - named by what happened
    """The secret is missing, damaged, or not the one that belongs here."""


class SigningSecretUnavailable(APIException):
    """The key that opens the secret is missing here: the operator's fault, and nothing against who calls. A 503."""

    status_code = 503
    default_detail = "The encryption key of this key's signing secret is missing here; the operator has to put it back."


class Revealable(Protocol):
    """A secret that shows itself only when asked."""

    def reveal(self) -> str: ...


class SigningSecrets(Protocol):
    """What `settings.MESHES_SIGNING_SECRETS` names: a class without arguments."""

    def seal(
        self, key_id: uuid.UUID, workspace_id: uuid.UUID | None, secret: str, *, actor: str = "", purpose: str = ""
    ) -> None:
        """Keep the signing secret of a key's present version, inside the caller's transaction.

        `actor` and `purpose` stand in the access record; empty: this process, and "created" or "replaced".
        """

    def open(self, key_id: uuid.UUID, workspace_id: uuid.UUID | None, version: int, purpose: str) -> Revealable:
        """The secret of that version or a later one, with an access record.

        Raises SigningSecretRefused, and SigningSecretUnavailable where a key of the operator's is missing.
        """

    def imitate_opening(self) -> None:
        """Cost what `open` costs, and open nothing: whether a key exists is nobody's to measure."""

    def destroy(self, key_id: uuid.UUID, workspace_id: uuid.UUID | None, *, actor: str = "") -> None:
        """Forget the secret of a key that was revoked, with an access record."""


@cache
def signing_secrets() -> SigningSecrets:
    kept: SigningSecrets = import_string(settings.MESHES_SIGNING_SECRETS)()
    return kept
