"""The signing secrets of API keys, kept in the vault for the layer below (`MESHES_SIGNING_SECRETS`)."""

import uuid

from workspaces.signing import SigningSecretRefused, SigningSecretUnavailable
from workspaces.vault import vault
from workspaces.vault.secret import Secret

KIND = "signing_secret"


class KeySigningSecrets:
    """Seals one secret per API key; `workspaces.signing.SigningSecrets` says what is asked of it."""

    def seal(
        self, key_id: uuid.UUID, workspace_id: uuid.UUID | None, secret: str, *, actor: str = "", purpose: str = ""
    ) -> None:
        """Keep the signing secret of a key's present version. One seal per version: both count from 1."""
        vault.seal(
            {"signing_secret": secret},
            workspace_id=workspace_id,
            owner_kind="api_key",
            owner_id=key_id,
            kind=KIND,
            actor=actor,
            purpose=purpose,
        )

    def open(self, key_id: uuid.UUID, workspace_id: uuid.UUID | None, version: int, purpose: str) -> Secret:
        """The secret, with an access record in the name of this process. Raises SigningSecretRefused,
        and SigningSecretUnavailable.

        A document older than the key's version is refused. A newer one opens: the caller has not yet seen a rotation.
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
        except vault.CredentialRefused as error:
            raise SigningSecretRefused(error.reason) from error
        secret: Secret = opened.secret["signing_secret"]
        return secret

    def imitate_opening(self) -> None:
        vault.imitate_opening(KIND)

    def destroy(self, key_id: uuid.UUID, workspace_id: uuid.UUID | None, *, actor: str = "") -> None:
        """Forget the secret of a key that was revoked."""
        vault.destroy(workspace_id=workspace_id, owner_kind="api_key", owner_id=key_id, actor=actor)
