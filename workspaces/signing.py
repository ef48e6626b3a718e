"""Where the signing secrets of keys are kept: in the vault, which this layer knows by its setting only."""

import uuid
from functools import cache
from typing import Protocol

from django.conf import settings
from django.utils.module_loading import import_string


class Revealable(Protocol):
    """A secret that shows itself only when asked."""

    def reveal(self) -> str: ...


class SigningSecrets(Protocol):
    """What `settings.MESHES_SIGNING_SECRETS` names: a class without arguments."""

    def seal(self, key_id: uuid.UUID, workspace_id: uuid.UUID | None, secret: str) -> None:
        """Keep the signing secret of a key's present version, inside the caller's transaction."""

    def open(self, key_id: uuid.UUID, workspace_id: uuid.UUID | None, version: int, purpose: str) -> Revealable:
        """The secret, with an access record. Raises where it does not open."""


@cache
def signing_secrets() -> SigningSecrets:
    kept: SigningSecrets = import_string(settings.MESHES_SIGNING_SECRETS)()
    return kept
