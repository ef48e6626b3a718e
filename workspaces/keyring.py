"""The keys that this process has seen lately, so that a request costs no query.

A key that is revoked ends within a second in every process.
"""

import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime

from workspaces import clock
from workspaces.models import ApiKey

TTL_SECONDS = 0.8
"""Below the one second after which a revoked key must be refused everywhere, with room for the query itself."""
_MAX_RECORDS = 10_000


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key's row as it was when loaded. `signing_secrets` is filled by the first token that is verified with it."""

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
    signing_secrets: list[str] = field(default_factory=list, repr=False, compare=False)

    def is_live(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def previous_is_live(self, now: datetime) -> bool:
        return self.previous_expires_at is not None and now < self.previous_expires_at


_records: dict[uuid.UUID, tuple[float, KeyRecord]] = {}
_lock = threading.Lock()


def find(key_id: uuid.UUID) -> KeyRecord | None:
    """The key if it exists and is neither revoked nor expired, at most TTL_SECONDS old."""
    now = time.monotonic()
    loaded_at, record = _records.get(key_id, (0.0, None))
    if record is None or now - loaded_at > TTL_SECONDS:
        record = _load(key_id)
        _remember(key_id, now, record)
    return record if record is not None and record.is_live(clock.now()) else None


def forget(key_id: uuid.UUID) -> None:
    """Load the key anew at its next use; other processes do so within TTL_SECONDS."""
    with _lock:
        _records.pop(key_id, None)


def _remember(key_id: uuid.UUID, now: float, record: KeyRecord | None) -> None:
    with _lock:
        if record is None:
            _records.pop(key_id, None)
            return
        if len(_records) >= _MAX_RECORDS:
            _records.clear()
        _records[key_id] = now, record


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
    )
