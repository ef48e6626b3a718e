"""The one place that seals and opens credentials.

A sealed document is JSON that carries, beside the secret, the workspace, owner, kind and version it was sealed for,
encrypted as a whole with the newest of `FERNET_KEYS` (`sealing`). Opening compares all five with the row at
hand and refuses when one differs, so a document that was copied to another row opens nowhere. Whatever does not open
raises CredentialRefused: nothing is sent without credentials.

Every opening, granted or refused, and every change leaves an `AccessRecord`, in the transaction that opens or changes.
A new version replaces the old one in its row: nobody can read the old one any more. `stored_keys` encrypts documents
anew when the keys change.
"""

import json
import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cachetools import TTLCache, cached
from cryptography.fernet import InvalidToken
from django.db import transaction
from django.db.models.functions import Now

from meshes.kit import ids
from workspaces.vault import access_log, sealing
from workspaces.vault.models import AccessRecord, SealedDocument, SealedDocumentQuerySet, SealedOwner
from workspaces.vault.secret import Secret

logger = logging.getLogger(__name__)

CREDENTIALS = "credentials"
"""The kind of document that holds all of a connection's credentials."""

CREATED, REPLACED, ROTATED, DELETED = "created", "replaced", "rotated", "deleted"
AUTHORIZED, REFRESHED, DISCONNECTED = "authorized", "refreshed", "disconnected"
"""The purposes of records that tell of a change."""
USED = "used"
"""The purpose of a record that tells of an API key's use."""

BOUND_TO = ("workspace", "owner_kind", "owner", "kind", "version")
"""What a document says of itself beside the secret."""

SQL_OPENED = """
opened (delivery_id, sealed_version, sealed_document, sealed_key_id) AS (
    SELECT claimed.delivery_id, sealed.version, encode(sealed.document, 'escape'), sealed.key_id
    FROM claimed
    JOIN sealed_documents AS sealed
      ON sealed.workspace_id = claimed.workspace_id
     AND sealed.connection_id = claimed.connection_id
     AND sealed.kind = 'credentials'
),
recorded AS (
    INSERT INTO access_records (id, workspace_id, owner_kind, owner_id, kind, version, actor, purpose, granted,
                                delivery_id, attempt_number, created_at)
    SELECT claimed.access_id, claimed.workspace_id, 'connection', claimed.connection_id, 'credentials',
           opened.sealed_version, claimed.actor, 'delivery', true,
           claimed.delivery_id, claimed.attempt_number, clock_timestamp()
    FROM claimed
    JOIN opened USING (delivery_id)
)
"""
"""Two CTEs that bring the ciphertext of claimed deliveries and record that it was handed out, in one statement.

They read from a CTE `claimed (delivery_id uuid, workspace_id uuid, connection_id uuid, attempt_number int,
access_id uuid, actor text)`. `encode(…, 'escape')` is the identity for a token and cannot fail for a damaged one.
"""


class CredentialRefused(Exception):  # noqa: N818 - named by what happened
    """A sealed document that is missing, damaged, or not the one that belongs here.

    `.reason` says which, for operators; neither it nor the message holds any of the document.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the vault refuses: {reason}")
        self.reason = reason


class KeyMissing(CredentialRefused):
    """The document was sealed with a key that is not among `FERNET_KEYS`: the operator's fault, and nobody else's.

    It says nothing against the document, which opens again when the key is back.
    """

    def __init__(self, key_id: str) -> None:
        super().__init__(f"it was sealed with the key {key_id}, which is not among FERNET_KEYS")
        self.key_id = key_id


class Overtaken(Exception):  # noqa: N818 - named by what happened
    """The document has been replaced since the version that was to be replaced was read."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened document: `secret` as it was sealed, every string in it a `Secret`."""

    version: int
    secret: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A document that a claim handed out and that then did not open."""

    workspace_id: uuid.UUID
    connection_id: uuid.UUID
    delivery_id: uuid.UUID
    attempt_number: int
    version: int
    actor: str


def seal(
    secret: Mapping[str, Any],
    *,
    workspace_id: uuid.UUID | None,
    owner_kind: SealedOwner,
    owner_id: uuid.UUID,
    kind: str,
    actor: str = "",
    purpose: str = "",
    over: int | None = None,
) -> int:
    """Seal `secret` (JSON, Secrets allowed as strings) as the owner's document of this kind; returns its version.

    An existing document is replaced under the next version. The caller holds the owner's row, so that two do not seal
    at once. Recorded as done by `actor` (else this process) for `purpose` (else "created" or "replaced").
    Raises Overtaken where `over` is given and is not the version that would be replaced.
    """
    rows = _rows(workspace_id, owner_kind, owner_id, kind)
    with transaction.atomic():
        current = rows.select_for_update().values_list("version", flat=True).first()
        if over is not None and current != over:
            raise Overtaken
        version = (current or 0) + 1
        binding = binding_of(workspace_id, owner_kind, owner_id, kind, version)
        values = {
            "version": version,
            "document": sealing.seal(json.dumps({**binding, "secret": _reveal(secret)}).encode(), binding),
            "key_id": sealing.newest_key_id(),
            "sealed_at": Now(),
        }
        if current is None:
            owner = {"workspace_id": workspace_id, f"{owner_kind}_id": owner_id}
            SealedDocument.objects.create(kind=kind, **owner, **values)
        else:
            rows.update(**values)
        purpose = purpose or (CREATED if current is None else REPLACED)
        owned = workspace_id, owner_kind, owner_id
        AccessRecord.about(owned, kind, version, actor or this_process(), purpose).save(force_insert=True)
    return version


def open(
    *,
    workspace_id: uuid.UUID | None,
    owner_kind: SealedOwner,
    owner_id: uuid.UUID,
    kind: str,
    actor: str,
    purpose: str,
    oldest_version: int = 1,
    delivery_id: uuid.UUID | None = None,
    attempt_number: int | None = None,
) -> Opened:
    """Open the owner's document and record who did, and why, in the transaction that reads it.

    Raises CredentialRefused, also for a version before `oldest_version`. A refusal sounds the alarm, and is recorded
    too unless the caller's own transaction rolls back because of it. The delivery and its attempt are named where it is
    for one.
    """
    owner = workspace_id, owner_kind, owner_id
    opened, refused = None, None
    with transaction.atomic():
        rows = _rows(workspace_id, owner_kind, owner_id, kind).with_token()
        version, token, key_id = rows.values_list("version", "token", "key_id").first() or (0, None, "")
        try:
            if version < oldest_version:
                raise CredentialRefused("there is no document of this version")
            secret = open_document(
                token, workspace_id=workspace_id, owner_kind=owner_kind, owner_id=owner_id, kind=kind, version=version,
                key_id=key_id,
            )  # fmt: skip
            opened = Opened(version, secret)
        except CredentialRefused as error:
            refused = error
        occasion = {"delivery_id": delivery_id, "attempt_number": attempt_number}
        record = AccessRecord.about(owner, kind, version, actor, purpose, granted=opened is not None, **occasion)
        record.save(force_insert=True)
    if refused is not None:
        sound_alarm(refused, *owner)
        raise refused
    assert opened is not None  # noqa: S101 - it was opened or refused
    return opened


def imitate_opening(kind: str) -> None:
    """Ask and decrypt as `open` does, for an API key that does not exist. Records nothing, as anybody may cause it."""
    with transaction.atomic():
        _rows(None, "api_key", ids.uuid7(), kind).with_token().values_list("version", "token").first()
        sealing.unseal(sealing.seal(b"{}", {}), {})
        AccessRecord.objects.filter(pk=ids.uuid7()).exists()


def open_document(
    document: str | None,
    *,
    workspace_id: uuid.UUID | None,
    owner_kind: SealedOwner,
    owner_id: uuid.UUID,
    kind: str,
    version: int | None,
    key_id: str | None = None,
) -> dict[str, Any]:
    """The secret in a ciphertext that was read by SQL; every string in it is a `Secret`. Touches no database.

    Raises KeyMissing when it does not decrypt and `key_id` is that of no key at hand, CredentialRefused when the
    document is missing, does not decrypt, or was sealed for anything else than what is given here.
    """
    if document is None or version is None:
        raise CredentialRefused("there is no document")
    binding = binding_of(workspace_id, owner_kind, owner_id, kind, version)
    try:
        content = json.loads(sealing.unseal(document.encode(), binding))
    except InvalidToken:
        if key_id and key_id not in sealing.key_ids():
            raise KeyMissing(key_id) from None
        raise CredentialRefused("it does not decrypt with the keys at hand") from None
    except ValueError:
        raise CredentialRefused("it is not a sealed document") from None
    if not isinstance(content, dict) or not isinstance(content.get("secret"), dict):
        raise CredentialRefused("it is not a sealed document")
    for name, expected in binding.items():
        if name not in content or content[name] != expected:
            raise CredentialRefused(f"it was sealed for another {name.replace('_', ' ')}")
    opened: dict[str, Any] = _as_secrets(content["secret"])
    return opened


@cached(TTLCache(500, ttl=5.0), key=lambda token, **binding: (token, *sorted(binding.items())), lock=threading.Lock())
def open_again(document: str | None, **binding: Any) -> dict[str, Any]:
    """`open_document`, at most once in five seconds for the same ciphertext and the same binding.

    Decrypting is a fifth of what a delivery costs. Nothing is granted that `open_document` would not grant: whoever
    asks brings the ciphertext, as the row has it now. The answer is shared; leave it as it is.
    """
    return open_document(document, **binding)


def record_refusals(refusals: Iterable[Refusal]) -> None:
    """Record that documents which claims brought did not open; the claim recorded that they were handed out."""
    AccessRecord.objects.bulk_create(
        AccessRecord.about(
            (each.workspace_id, "connection", each.connection_id), CREDENTIALS, each.version, each.actor, "delivery",
            granted=False, delivery_id=each.delivery_id, attempt_number=each.attempt_number,
        )
        for each in refusals
    )  # fmt: skip


def record_uses(keys: Iterable[tuple[uuid.UUID, uuid.UUID | None, int]]) -> None:
    """Record that requests were authenticated with these API keys: id, workspace, version of each."""
    AccessRecord.objects.bulk_create(
        AccessRecord.about((workspace_id, "api_key", key_id), "key", version, ids.encode(ids.KEY, key_id), USED)
        for key_id, workspace_id, version in keys
    )


def sound_alarm(
    refused: CredentialRefused, workspace_id: uuid.UUID | None, owner_kind: SealedOwner, owner_id: uuid.UUID
) -> None:
    """The line at ERROR that operators watch for: somebody may have moved sealed documents about.

    Where a key is missing, so for all documents of it at once, one line a minute.
    """
    if isinstance(refused, KeyMissing):
        with _lock:
            if refused.key_id in _told:
                return
            _told[refused.key_id] = True
    owner = ids.encode(access_log.PREFIXES[owner_kind], owner_id)
    workspace = "no workspace" if workspace_id is None else f"workspace {ids.encode(ids.WORKSPACE, workspace_id)}"
    logger.error("credentials of %s of %s refused to open: %s", owner, workspace, refused.reason)


_told: TTLCache[str, bool] = TTLCache(1_000, ttl=60.0)
_lock = threading.Lock()


def destroy(
    *,
    workspace_id: uuid.UUID | None,
    owner_kind: SealedOwner,
    owner_id: uuid.UUID,
    actor: str = "",
    purpose: str = DELETED,
) -> int:
    """Delete all sealed documents of an owner; how many there were. Recorded one by one, as `seal` does."""
    rows = SealedDocument.objects.filter(**{"workspace_id": workspace_id, f"{owner_kind}_id": owner_id})
    with transaction.atomic():
        documents = list(rows.select_for_update().order_by("id").values_list("kind", "version"))
        rows.delete()
        owner = workspace_id, owner_kind, owner_id
        AccessRecord.objects.bulk_create(
            AccessRecord.about(owner, kind, version, actor or this_process(), purpose) for kind, version in documents
        )
    return len(documents)


def this_process() -> str:
    """The name under which a process acts for nobody in particular: `host:pid`, as workers name themselves."""
    return f"{socket.gethostname()}:{os.getpid()}"[:100]


def _rows(
    workspace_id: uuid.UUID | None, owner_kind: SealedOwner, owner_id: uuid.UUID, kind: str
) -> SealedDocumentQuerySet:
    owned = {"workspace_id": workspace_id, f"{owner_kind}_id": owner_id, "kind": kind}
    return SealedDocument.objects.filter(**owned)


def binding_of(
    workspace_id: uuid.UUID | None, owner_kind: str, owner_id: uuid.UUID, kind: str, version: int
) -> dict[str, Any]:
    """What a document belongs to, as it stands in the document."""
    workspace = None if workspace_id is None else str(workspace_id)
    return dict(zip(BOUND_TO, (workspace, owner_kind, str(owner_id), kind, version), strict=True))


def _reveal(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        return {key: _reveal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_reveal(item) for item in value]
    return value


def _as_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return Secret(value)
    if isinstance(value, dict):
        return {key: _as_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_secrets(item) for item in value]
    return value
