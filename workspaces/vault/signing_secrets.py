"""The signing secrets of API keys, kept in the vault: one document a key, its versions those of the key."""

import uuid

from rest_framework.exceptions import APIException

from workspaces.vault import vault
from workspaces.vault.secret import Secret

KIND = "signing_secret"


class SigningSecretUnavailable(APIException):
    """The key that opens the secret is missing here: the operator's fault, and nothing against who calls. A 503."""

    status_code = 503
    default_detail = "The encryption key of this key's signing secret is missing here; the operator has to put it back."


def seal(key_id: uuid.UUID, workspace_id: uuid.UUID | None, secret: str, *, actor: str = "", purpose: str = "") -> None:
    """Keep the signing secret of a key's present version, inside the caller's transaction.

    `actor` and `purpose` stand in the access record; empty: this process, and "created" or "replaced".
    """
    vault.seal(
        {"signing_secret": secret},
        workspace_id=workspace_id,
        owner_kind="api_key",
        owner_id=key_id,
        kind=KIND,
        actor=actor,
        purpose=purpose,
    )


def open(key_id: uuid.UUID, workspace_id: uuid.UUID | None, version: int, purpose: str) -> Secret:
    """The secret of that version or a later one, with an access record in the name of this process.

    A document older than the key's version is refused. A newer one opens: the caller has not yet seen a rotation.
    Raises vault.CredentialRefused, and SigningSecretUnavailable where a key of the operator's is missing.
    """
    try:
        opened = vault.open(
            workspace_id=workspace_id,
            owner_kind="api_key",
            owner_id=key_id,
            kind=KIND,
            actor=vault.this_process(),
            purpose=purpose,
            oldest_version=version,
        )
    except vault.KeyMissing as missing:
        raise SigningSecretUnavailable from missing
    secret: Secret = opened.secret["signing_secret"]
    return secret


def imitate_opening() -> None:
    """Cost what `open` costs, and open nothing: whether a key exists is nobody's to measure."""
    vault.imitate_opening(KIND)


def destroy(key_id: uuid.UUID, workspace_id: uuid.UUID | None, *, actor: str = "") -> None:
    """Forget the secret of a key that was revoked, with an access record."""
    vault.destroy(workspace_id=workspace_id, owner_kind="api_key", owner_id=key_id, actor=actor)
