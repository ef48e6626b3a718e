"""API keys: `mesh_live_<id>_<secret>_<checksum>`.

The id is the suffix of the key's public id, so that a key found in a log leads to its row. The secret has 256 bits. The
checksum (CRC-32 in base 62) tells typos and look-alikes from keys without asking a database; scanners use it too. Only
the SHA-256 of the whole text is stored: a secret of that strength needs no slow hash.
"""

import hashlib
import hmac
import re
import secrets
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from meshes.api.fields import store
from meshes.kit import clock, ids
from workspaces import journal, keyring
from workspaces.keyring import CredentialError, KeyRecord
from workspaces.models import ApiKey, Workspace
from workspaces.vault import signing_secrets
from workspaces.vault.vault import CredentialRefused

PREFIX = "mesh_live_"
SIGNING_PREFIX = "mesh_sign_"
SCOPES = ("events:write", "events:read", "config", "admin")
PUBLISHABLE_SCOPES = ("events:write",)
DEFAULT_OVERLAP_SECONDS = 86_400
MAX_OVERLAP_SECONDS = 7 * 86_400

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_LENGTH = 43
"""62^43 > 2^256."""
_CHECKSUM_LENGTH = 6
"""62^6 > 2^32."""
_NO_HASH = bytes(32)
_FORM = re.compile(r"mesh_live_([0-9a-hjkmnp-tv-z]{26})_([0-9A-Za-z]{43})_([0-9A-Za-z]{6})")


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key that was just made or rotated: the only moment at which its secrets are known."""

    row: ApiKey
    key: str = field(repr=False)
    signing_secret: str | None = field(repr=False)
    """None for publishable keys, which are no secret and sign nothing."""


class TooManyKeys(Exception):  # noqa: N818 - names the state
    """The workspace has as many live keys as it may. `str()` says so."""


class KeyNotLive(Exception):  # noqa: N818 - names the state
    """A revoked or expired key cannot be rotated."""


@transaction.atomic
def create_key(
    *,
    name: str,
    kind: str,
    scopes: Sequence[str],
    workspace: Workspace | None = None,
    actor: str = "",
    **columns: Any,
) -> IssuedKey:
    """Make a key. Who may make which is the caller's to check; the database refuses a kind without its workspace.

    `columns` are others of its row, such as `expires_at`. `actor` is who makes it, for the access record; empty: this
    process. Raises TooManyKeys.
    """
    if workspace is not None:
        _check_room(workspace)
    key_id = ids.uuid7()
    text = _generate(key_id)
    row = ApiKey.objects.create(
        id=key_id,
        name=name,
        kind=kind,
        workspace=workspace,
        scopes=sorted(set(scopes), key=SCOPES.index),
        secret_hash=digest(text),
        **columns,
    )
    return IssuedKey(row, text, _renew_signing_secret(row, "", actor, "created"))


def _check_room(workspace: Workspace) -> None:
    """Makers of keys wait for one another, so that each counts the others'."""
    Workspace.objects.select_for_update(no_key=True).filter(pk=workspace.pk).first()
    most: int = settings.MESHES_KEYS_PER_WORKSPACE
    live = ApiKey.objects.filter(workspace=workspace, revoked_at=None)
    if live.exclude(expires_at__lte=Now())[:most].count() >= most:
        raise TooManyKeys(f"A workspace has at most {most:,} keys (MESHES_KEYS_PER_WORKSPACE); revoke one first.")


@transaction.atomic
def rotate_key(key_id: uuid.UUID, overlap_seconds: int, now: datetime, *, actor: str = "") -> IssuedKey:
    """New secrets for a key; its present ones stay good for the overlap. Raises KeyNotLive, and
    SigningSecretUnavailable where the present signing secret waits for its key.

    Two are live, never three: the secret before the present one ends at once.
    """
    row = ApiKey.objects.select_for_update().get(pk=key_id)
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        raise KeyNotLive
    text, previous = _generate(row.pk), _open_signing_secret(row) if overlap_seconds else ""
    store(
        row,
        previous_hash=row.secret_hash if overlap_seconds else None,
        previous_expires_at=now + timedelta(seconds=overlap_seconds) if overlap_seconds else None,
        secret_hash=digest(text),
        version=row.version + 1,
        audience_from_version=row.audience_from_version or row.version + 1,
    )
    signing_secret = _renew_signing_secret(row, previous, actor, "rotated")
    ends_at = (row.previous_expires_at or now).isoformat()
    journal.note("key_rotated", key=row.public_id, version=row.version, ends_at=ends_at)
    transaction.on_commit(lambda: keyring.forget(row.pk))
    return IssuedKey(row, text, signing_secret)


@transaction.atomic
def revoke_key(key_id: uuid.UUID, now: datetime, *, actor: str = "") -> None:
    """End a key, for ever and at once; doing it twice changes nothing."""
    row = ApiKey.objects.select_for_update().get(pk=key_id)
    if row.revoked_at is None:
        store(row, revoked_at=now)
        signing_secrets.destroy(row.pk, row.workspace_id, actor=actor)
        journal.note("key_revoked", key=row.public_id)
    transaction.on_commit(lambda: keyring.forget(key_id))


def verify(text: str) -> KeyRecord:
    """The live key that `text` is. Raises CredentialError. Typos cost no query, and an unknown id costs what a wrong
    secret of a known one does."""
    key_id = parse(text)
    if key_id is None:
        raise CredentialError("malformed", "This is no whole API key: its form or its checksum is wrong.")
    record = keyring.find(key_id)
    presented, now = digest(text), clock.now()
    is_present = hmac.compare_digest(presented, record.secret_hash if record else _NO_HASH)
    is_previous = hmac.compare_digest(presented, (record and record.previous_hash) or _NO_HASH)
    if record is None or not (is_present or is_previous):
        raise CredentialError("unknown", "There is no such key, or this is not its secret.")
    record.check_live(now)
    if not is_present and not record.previous_is_live(now):
        raise CredentialError("expired", "This key was replaced when it was rotated.")
    return record


def parse(text: str) -> uuid.UUID | None:
    """The id in a well-formed key whose checksum is right, without looking it up."""
    form = _FORM.fullmatch(text)
    if form is None or form[3] != _checksum(text[: -_CHECKSUM_LENGTH - 1]):
        return None
    return ids.decode(ids.KEY, f"{ids.KEY}_{form[1]}")


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _generate(key_id: uuid.UUID) -> str:
    suffix = ids.encode(ids.KEY, key_id).removeprefix(f"{ids.KEY}_")
    body = f"{PREFIX}{suffix}_{_random_text()}"
    return f"{body}_{_checksum(body)}"


def _renew_signing_secret(row: ApiKey, previous: str, actor: str, purpose: str) -> str | None:
    """Seal a new signing secret, and after it, parted by a space, the one before."""
    if row.kind == ApiKey.Kind.PUBLISHABLE:
        return None
    secret = SIGNING_PREFIX + _random_text()
    in_use = f"{secret} {previous}".strip()
    signing_secrets.seal(row.pk, row.workspace_id, in_use, actor=actor, purpose=purpose)
    return secret


def _open_signing_secret(row: ApiKey) -> str:
    """The present signing secret; empty where there is none or it does not open, which a rotation mends."""
    if row.kind == ApiKey.Kind.PUBLISHABLE:
        return ""
    try:
        secrets_in_use = signing_secrets.open(row.pk, row.workspace_id, row.version, "rotate the key")
    except CredentialRefused:
        return ""
    return secrets_in_use.reveal().split()[0]


def _random_text() -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(_SECRET_LENGTH))


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits
