"""API keys: `mesh_live_<id>_<secret>_<checksum>`; how they are made, rotated, revoked, looked up and used.

The id is the suffix of the key's public id, so that a key found in a log leads to its row. The secret has 256 bits. The
checksum (CRC-32 in base 62) tells typos and look-alikes from keys without asking a database; scanners use it too. Only
the SHA-256 of the whole text is stored: a secret of that strength needs no slow hash.
"""

import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
import uuid
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from cachetools import TLRUCache, TTLCache
from django.conf import settings
from django.db import Error, connection, transaction
from django.db.models.functions import Now

from meshes.api.fields import store
from meshes.api.problems import Problem, invalid
from meshes.kit import clock, ids
from workspaces import journal
from workspaces.models import ApiKey, Workspace
from workspaces.vault import vault

logger = logging.getLogger(__name__)

PREFIX = "mesh_live_"
SIGNING_PREFIX = "mesh_sign_"
SIGNING_SECRET = "signing_secret"  # noqa: S105
"""The kind of the sealed document that holds a key's signing secret; its versions are those of the key."""
SCOPES = ("events:write", "events:read", "config", "admin")
PUBLISHABLE_SCOPES = ("events:write",)
DEFAULT_OVERLAP_SECONDS = 86_400
MAX_OVERLAP_SECONDS = 7 * 86_400

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_LENGTH, _CHECKSUM_LENGTH = 43, 6
"""62^43 > 2^256, 62^6 > 2^32."""
_NO_HASH = bytes(32)
_FORM = re.compile(r"mesh_live_([0-9a-hjkmnp-tv-z]{26})_([0-9A-Za-z]{43})_([0-9A-Za-z]{6})")


class CredentialError(Exception):
    """A key or token that lets nobody in.

    `reason` is told to the caller: `expired` and `revoked` only to who proves to have the secret, and a wrong secret is
    `unknown` as an unknown id is, so that it tells a guesser nothing.
    """

    def __init__(self, reason: Literal["malformed", "unknown", "expired", "revoked"], message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def is_wrong(self) -> bool:
        """Whether a guesser may have sent it, and not somebody who has a secret that was good."""
        return self.reason in {"malformed", "unknown"}


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key that was just made or rotated: the only moment at which its secrets are known."""

    row: ApiKey
    key: str = field(repr=False)
    signing_secret: str | None = field(repr=False)
    """None for publishable keys, which are no secret and sign nothing."""


# --- making, rotating, revoking -------------------------------------------------------------------------------------


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
    process. Raises Problem 422 where the workspace has as many live keys as it may.
    """
    if workspace is not None:  # makers of keys wait for one another, so that each counts the others'
        Workspace.objects.select_for_update(no_key=True).filter(pk=workspace.pk).first()
        most: int = settings.MESHES_KEYS_PER_WORKSPACE
        live = ApiKey.objects.filter(workspace=workspace, revoked_at=None).exclude(expires_at__lte=Now())
        if live[:most].count() >= most:
            words = f"A workspace has at most {most:,} keys (MESHES_KEYS_PER_WORKSPACE); revoke one first."
            raise invalid("/workspace", words, "limit")
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


@transaction.atomic
def rotate_key(key_id: uuid.UUID, overlap_seconds: int, now: datetime, *, actor: str = "") -> IssuedKey:
    """New secrets for a key; its present ones stay good for the overlap. Raises Problem: 409 for a key that is not
    live, 503 where the present signing secret waits for its encryption key.

    Two are live, never three: the secret before the present one ends at once.
    """
    row = ApiKey.objects.select_for_update().get(pk=key_id)
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        raise Problem(409, detail="A revoked or expired key cannot be rotated.")
    text, previous = _generate(row.pk), ""
    if overlap_seconds and row.kind != ApiKey.Kind.PUBLISHABLE:
        with suppress(vault.CredentialRefused):  # a secret that does not open is replaced by the rotation
            previous = open_signing_secrets(row, "rotate the key")[0]
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
    transaction.on_commit(lambda: forget(row.pk))
    return IssuedKey(row, text, signing_secret)


@transaction.atomic
def revoke_key(key_id: uuid.UUID, now: datetime, *, actor: str = "") -> None:
    """End a key, for ever and at once; doing it twice changes nothing."""
    row = ApiKey.objects.select_for_update().get(pk=key_id)
    if row.revoked_at is None:
        store(row, revoked_at=now)
        vault.destroy(workspace_id=row.workspace_id, owner_kind="api_key", owner_id=row.pk, actor=actor)
        journal.note("key_revoked", key=row.public_id)
    transaction.on_commit(lambda: forget(key_id))


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def parse(text: str) -> uuid.UUID | None:
    """The id in a well-formed key whose checksum is right, without looking it up."""
    form = _FORM.fullmatch(text)
    if form is None or form[3] != _checksum(text[: -_CHECKSUM_LENGTH - 1]):
        return None
    return ids.decode(ids.KEY, f"{ids.KEY}_{form[1]}")


def _generate(key_id: uuid.UUID) -> str:
    body = f"{PREFIX}{ids.encode(ids.KEY, key_id).removeprefix(f'{ids.KEY}_')}_{_random_text()}"
    return f"{body}_{_checksum(body)}"


def _random_text() -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(_SECRET_LENGTH))


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


# --- signing secrets ------------------------------------------------------------------------------------------------


def _renew_signing_secret(row: ApiKey, previous: str, actor: str, purpose: str) -> str | None:
    """Seal a new signing secret, and after it, parted by a space, the one before."""
    if row.kind == ApiKey.Kind.PUBLISHABLE:
        return None
    secret = SIGNING_PREFIX + _random_text()
    vault.seal(
        {"signing_secret": f"{secret} {previous}".strip()},
        workspace_id=row.workspace_id,
        owner_kind="api_key",
        owner_id=row.pk,
        kind=SIGNING_SECRET,
        actor=actor,
        purpose=purpose,
    )
    return secret


def open_signing_secrets(row: ApiKey, purpose: str) -> list[str]:
    """The signing secret of the row's version and, during a rotation, the one before; leaves an access record.

    A document older than the key's version is refused. A newer one opens: the caller has not yet seen a rotation.
    Raises CredentialRefused, and Problem 503 where a key of the operator's is missing: nothing against who calls.
    """
    try:
        opened = vault.open(
            workspace_id=row.workspace_id,
            owner_kind="api_key",
            owner_id=row.pk,
            kind=SIGNING_SECRET,
            actor=vault.this_process(),
            purpose=purpose,
            oldest_version=row.version,
        )
    except vault.KeyMissing as missing:
        words = "The encryption key of this key's signing secret is missing here; the operator has to put it back."
        raise Problem(503, detail=words) from missing
    secret: str = opened.secret["signing_secret"].reveal()
    return secret.split()


# --- looking up -----------------------------------------------------------------------------------------------------

TTL_SECONDS = 0.8
"""Below the one second after which a revoked key must be refused everywhere, with room for the query itself."""


def _lapse(_: uuid.UUID, found: tuple[float, ApiKey | None], now: float) -> float:
    return found[0] + TTL_SECONDS  # from before the look at the row: what was read may have changed since


_found: TLRUCache[uuid.UUID, tuple[float, ApiKey | None]] = TLRUCache(10_000, ttu=_lapse, timer=time.monotonic)
_unknown: TLRUCache[uuid.UUID, tuple[float, ApiKey | None]] = TLRUCache(10_000, ttu=_lapse, timer=time.monotonic)
"""Ids asked for in vain: an unknown id is looked up as seldom as a known one. Apart, as anybody can fill it."""
_lock = threading.Lock()


def find(key_id: uuid.UUID) -> ApiKey | None:
    """The key's row if there is one, live or not, at most TTL_SECONDS old. It is shared: leave it as it is."""
    with _lock:
        found = _found.get(key_id) or _unknown.get(key_id)
    if found is None:
        found = time.monotonic(), ApiKey.objects.filter(pk=key_id).first()
        with _lock:
            (_unknown if found[1] is None else _found)[key_id] = found
    return found[1]


def forget(key_id: uuid.UUID) -> None:
    """Load the key anew at its next use; other processes do so within TTL_SECONDS."""
    with _lock:
        _found.pop(key_id, None)
        _unknown.pop(key_id, None)


def verify(text: str) -> ApiKey:
    """The live key that `text` is. Raises CredentialError. Typos cost no query, and an unknown id costs what a wrong
    secret of a known one does."""
    key_id = parse(text)
    if key_id is None:
        raise CredentialError("malformed", "This is no whole API key: its form or its checksum is wrong.")
    row = find(key_id)
    presented, now = digest(text), clock.now()
    is_present = hmac.compare_digest(presented, bytes(row.secret_hash) if row else _NO_HASH)
    is_previous = hmac.compare_digest(presented, bytes((row and row.previous_hash) or _NO_HASH))
    if row is None or not (is_present or is_previous):
        raise CredentialError("unknown", "There is no such key, or this is not its secret.")
    check_live(row, now)
    if not is_present and not is_previous_live(row, now):
        raise CredentialError("expired", "This key was replaced when it was rotated.")
    return row


def check_live(row: ApiKey, now: datetime) -> None:
    """Raises CredentialError for a key that was revoked or has expired."""
    if row.revoked_at is not None:
        raise CredentialError("revoked", "This key was revoked.")
    if row.expires_at is not None and row.expires_at <= now:
        raise CredentialError("expired", "This key has expired.")


def is_previous_live(row: ApiKey, now: datetime) -> bool:
    """Whether the secrets before the last rotation are still good."""
    return row.previous_expires_at is not None and now < row.previous_expires_at


# --- when they were last used ---------------------------------------------------------------------------------------

USE_SECONDS = 60.0
"""A use is written after the answer has been sent, and at most so often."""
_USED = """
UPDATE api_keys SET last_used_at = clock_timestamp() WHERE id = ANY(%s::uuid[])
    AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - make_interval(secs => %s))
RETURNING id, workspace_id, version
"""
"""The condition keeps several processes to one write a minute between them."""

_used: TTLCache[uuid.UUID, bool] = TTLCache(10_000, USE_SECONDS)
_uses_to_write: set[uuid.UUID] = set()


def note_use(key_id: uuid.UUID) -> None:
    """Note that a key was used now; a write follows unless there was one in the last minute."""
    with _lock:
        if key_id not in _used:
            _used[key_id] = True
            _uses_to_write.add(key_id)


def write_uses(**_: Any) -> None:
    """Receiver of `request_finished`."""
    if not _uses_to_write:
        return
    with _lock:
        key_ids = list(_uses_to_write)
        _uses_to_write.clear()
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_USED, [key_ids, USE_SECONDS])
            if used := cursor.fetchall():
                vault.record_uses(used)
    except Error as error:
        logger.warning("the last use of %d keys was not written: %s", len(key_ids), error)
