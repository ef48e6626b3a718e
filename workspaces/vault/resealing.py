"""A change of the encryption keys, or of the format: sealed documents are encrypted anew, a batch at a time, while
everything runs.

The secret, its version and what the document is bound to stay the same; nobody is shown anything.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet

from workspaces.vault import sealing
from workspaces.vault.models import AccessRecord, SealedDocument
from workspaces.vault.sealing import GIVEN_UP, newest_key_id, sealing_keys
from workspaces.vault.vault import BOUND_TO, OwnerKind, binding_of, with_token


@dataclass(frozen=True, slots=True)
class Resealed:
    """What one batch of a key rotation did. `last_id` is where the next one goes on; None when there was nothing."""

    last_id: uuid.UUID | None
    resealed: int
    overtaken: int
    unreadable: list[uuid.UUID]


def count_by_key() -> dict[str, int]:
    """How many documents each key has sealed, by fingerprint."""
    counts: dict[str, int] = {}
    for key_id in SealedDocument.objects.exclude(key_id=GIVEN_UP).values_list("key_id", flat=True).iterator():
        counts[key_id] = counts.get(key_id, 0) + 1
    return counts


def count_to_reseal() -> int:
    """How many documents the newest key has not sealed in the present format."""
    return _to_reseal().count()


def _to_reseal() -> "QuerySet[SealedDocument]":
    prefix = sealing.PREFIXES[settings.MESHES_SEALING]
    documents = with_token(SealedDocument.objects.exclude(key_id=GIVEN_UP))
    return documents.exclude(key_id=newest_key_id(), token__startswith=prefix)


def give_up(key_id: str, *, actor: str) -> list[uuid.UUID]:
    """Empty the documents that this key sealed, which is lost for good; their ids.

    Their owners are as those of damaged documents from then on: their credentials are asked for anew. The rows and
    their versions stay, so that no earlier document fits again. Raises ValueError for a key at hand.
    """
    if key_id in sealing.key_ids():
        raise ValueError("this key is among FERNET_KEYS")
    rows = with_token(SealedDocument.objects.filter(key_id=key_id)).select_for_update().order_by("id")
    with transaction.atomic():
        lost = [_OldDocument(*values) for values in rows.values_list(*_OldDocument._fields)]
        given_up = [each.id for each in lost]
        SealedDocument.objects.filter(pk__in=given_up).update(document=b"", key_id=GIVEN_UP)
        AccessRecord.objects.bulk_create(each.access_record(actor, "deleted", granted=True) for each in lost)
    return given_up


def reseal_batch(after: uuid.UUID | None, limit: int, *, actor: str) -> Resealed:
    """Re-seal, with the newest key and in the present format, the next `limit` documents (by id, after `after`) of
    another.

    The secret, the version and what the document is bound to stay the same. A document that changes meanwhile is left
    as it was changed: the UPDATE requires the version and the key that were read.
    """
    rows = _to_reseal().order_by("id")
    if after is not None:
        rows = rows.filter(id__gt=after)
    with transaction.atomic():
        batch = [_OldDocument(*values) for values in rows.values_list(*_OldDocument._fields)[:limit]]
        tokens = [_reseal(old) for old in batch]
        readable = [(old, token) for old, token in zip(batch, tokens, strict=True) if token is not None]
        resealed = _write_tokens(readable)
        AccessRecord.objects.bulk_create(
            old.access_record(actor, "key rotation", granted=token is not None)
            for old, token in zip(batch, tokens, strict=True)
        )
    return Resealed(
        last_id=batch[-1].id if batch else None,
        resealed=resealed,
        overtaken=len(readable) - resealed,
        unreadable=[old.id for old, token in zip(batch, tokens, strict=True) if token is None],
    )


class _OldDocument(NamedTuple):
    id: uuid.UUID
    version: int
    key_id: str
    token: str
    workspace_id: uuid.UUID | None
    connection_id: uuid.UUID | None
    api_key_id: uuid.UUID | None
    oauth_app_id: uuid.UUID | None
    kind: str

    @property
    def owner(self) -> tuple[OwnerKind, uuid.UUID]:
        if self.connection_id is not None:
            return "connection", self.connection_id
        if self.api_key_id is not None:
            return "api_key", self.api_key_id
        assert self.oauth_app_id is not None  # noqa: S101 - the table's constraint `sealed_documents_one_owner`
        return "oauth_app", self.oauth_app_id

    def access_record(self, actor: str, purpose: str, *, granted: bool) -> AccessRecord:
        owner_kind, owner_id = self.owner
        return AccessRecord(
            workspace_id=self.workspace_id,
            owner_kind=owner_kind,
            owner_id=owner_id,
            kind=self.kind,
            version=self.version,
            actor=actor,
            purpose=purpose,
            granted=granted,
        )


def _reseal(old: _OldDocument) -> bytes | None:
    """The token anew; None where the old one does not open.

    What it is bound to is taken from inside, and not from the row: a document that was copied to another row is refused
    after as before.
    """
    token, (owner_kind, owner_id) = old.token.encode(), old.owner
    try:
        if sealing.format_of(token) == settings.MESHES_SEALING == sealing.FERNET:
            return MultiFernet([Fernet(key) for key in sealing_keys()]).rotate(token)
        content = sealing.unseal(token, binding_of(old.workspace_id, owner_kind, owner_id, old.kind, old.version))
        document = json.loads(content)
        return sealing.seal(content, {name: document[name] for name in BOUND_TO})
    except (InvalidToken, ValueError, KeyError, TypeError):
        return None


def _write_tokens(changes: Sequence[tuple[_OldDocument, bytes]]) -> int:
    """Write re-sealed tokens where the row is still the one that was read; how many were."""
    if not changes:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE sealed_documents AS sealed SET document = changed.document, key_id = %s"
            " FROM unnest(%s::uuid[], %s::int[], %s::text[], %s::bytea[]) AS changed (id, version, key_id, document)"
            " WHERE sealed.id = changed.id AND sealed.version = changed.version AND sealed.key_id = changed.key_id",
            [
                newest_key_id(),
                [old.id for old, _ in changes],
                [old.version for old, _ in changes],
                [old.key_id for old, _ in changes],
                [token for _, token in changes],
            ],
        )
        return int(cursor.rowcount)
