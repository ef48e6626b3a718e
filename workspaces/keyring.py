"""The keys that this process has seen lately, so that a request costs no query.

A key that is revoked ends within a second in every process.
"""

import threading
import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from workspaces.models import ApiKey

TTL_SECONDS = 0.8
"""Below the one second after which a revoked key must be refused everywhere, with room for the query itself."""
_MAX_RECORDS = 10_000

Reason = Literal["malformed", "unknown", "expired", "revoked"]


class CredentialError(Exception):
    """A key or token that lets nobody in.

    `reason` is told to the caller: `expired` and `revoked` only to who proves to have the secret, and a wrong secret is
    `unknown` as an unknown id is, so that it tells a guesser nothing.
    """

    def __init__(self, reason: Reason, words: str) -> None:
        super().__init__(words)
        self.reason = reason
        self.words = words

    @property
    def is_wrong(self) -> bool:
        """Whether a guesser may have sent it, and not somebody who has a secret that was good."""
        return self.reason in {"malformed", "unknown"}


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key's row as it was when loaded."""

    id: uuid.UUID
    kind: str
    workspace_id: uuid.UUID | None
    name: str
    scopes: frozenset[str]
    allowed_origins: frozenset[str]
    version: int
    secret_hash: bytes
    previous_hash: bytes | None
    previous_expires_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    audience_from_version: int | None

    def check_live(self, now: datetime) -> None:
        """Raises CredentialError for a key that was revoked or has expired."""
        if self.revoked_at is not None:
            raise CredentialError("revoked", "This key was revoked.")
        if self.expires_at is not None and self.expires_at <= now:
            raise CredentialError("expired", "This key has expired.")

    def previous_is_live(self, now: datetime) -> bool:
        return self.previous_expires_at is not None and now < self.previous_expires_at


_records: dict[uuid.UUID, tuple[float, KeyRecord]] = {}
_unknown: dict[uuid.UUID, float] = {}
"""Ids asked for in vain: an unknown id is looked up as seldom as a known one. Apart, as anybody can fill it."""
_lock = threading.Lock()


def find(key_id: uuid.UUID) -> KeyRecord | None:
    """The key if it exists, also one that is not live, at most TTL_SECONDS old."""
    now = time.monotonic()
    loaded_at, record = _records.get(key_id, (0.0, None))
    if record is not None and now - loaded_at <= TTL_SECONDS:
        return record
    if key_id in _unknown and now - _unknown.get(key_id, 0.0) <= TTL_SECONDS:
        return None
    record = _load(key_id)
    _remember(key_id, now, record)
    return record


def forget(key_id: uuid.UUID) -> None:
    """Load the key anew at its next use; other processes do so within TTL_SECONDS."""
    with _lock:
        _records.pop(key_id, None)
        _unknown.pop(key_id, None)


def _remember(key_id: uuid.UUID, now: float, record: KeyRecord | None) -> None:
    with _lock:
        _records.pop(key_id, None)
        _unknown.pop(key_id, None)
        kept: dict[uuid.UUID, Any] = _unknown if record is None else _records
        if len(kept) >= _MAX_RECORDS:
            kept.clear()
        kept[key_id] = now if record is None else (now, record)


def _load(key_id: uuid.UUID) -> KeyRecord | None:
    row = ApiKey.objects.filter(pk=key_id).first()
    if row is None:
        return None
    return KeyRecord(
        id=row.pk,
        kind=row.kind,
        workspace_id=row.workspace_id,
        name=row.name,
        scopes=frozenset(row.scopes),
        allowed_origins=frozenset(row.allowed_origins),
        version=row.version,
        secret_hash=bytes(row.secret_hash),
        previous_hash=bytes(row.previous_hash) if row.previous_hash else None,
        previous_expires_at=row.previous_expires_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        audience_from_version=row.audience_from_version,
    )
