"""What `FERNET_KEYS` mean for what is stored: whether they open it, and how it is encrypted anew when they change.

Whether they open it is told when a process starts, by `manage.py check --deploy` and `/readyz`. Nothing is decrypted
for that, so there is no access to record: a token shows which key has made it (`sealing.is_made_by`). When the keys or
the format change, documents are encrypted anew, a batch at a time, while everything runs: the secret, its version and
what the document is bound to stay the same; nobody is shown anything.
"""

import json
import logging
import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, QuerySet

from workspaces.vault import sealing
from workspaces.vault.models import AccessRecord, SealedDocument
from workspaces.vault.sealing import GIVEN_UP
from workspaces.vault.vault import BOUND_TO, binding_of

logger = logging.getLogger(__name__)

KEYS_IN_USE = """
WITH RECURSIVE used (key_id) AS (
    (SELECT key_id FROM sealed_documents ORDER BY key_id LIMIT 1)
    UNION ALL
    SELECT (SELECT key_id FROM sealed_documents WHERE key_id > used.key_id ORDER BY key_id LIMIT 1)
    FROM used WHERE used.key_id IS NOT NULL
)
SELECT key_id FROM used WHERE key_id IS NOT NULL
"""
"""By hopping from one to the next in the index `sealed_documents_by_key`: a few reads, however many documents."""


# --- whether they open ----------------------------------------------------------------------------------------------


def find_missing() -> list[str]:
    """The ids of keys that stored documents need and that are not among `FERNET_KEYS`. Cheap enough for every probe."""
    return sorted(_keys_in_use() - sealing.key_ids())


def open_nothing() -> bool:
    """Whether there are sealed documents, and none of them has its key among `FERNET_KEYS`."""
    in_use = _keys_in_use()
    return bool(in_use) and in_use.isdisjoint(sealing.key_ids())


def _keys_in_use() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(KEYS_IN_USE)
        return {key_id for (key_id,) in cursor.fetchall()} - {GIVEN_UP}


def is_missing_for(workspace_id: uuid.UUID, connection_id: uuid.UUID) -> bool:
    """Whether the key of this connection's credentials is not among `FERNET_KEYS`."""
    documents = SealedDocument.objects.filter(connection_id=connection_id, workspace_id=workspace_id)
    return documents.exclude(key_id__in=[*sealing.key_ids(), GIVEN_UP]).exists()


def find_unopenable() -> Iterator[tuple[bool, str]]:
    """The keys in use that are missing, and of each of the others the first and the last document that it does not
    open: whether the key is missing, and what is wrong. None in a service that holds no keys. Raises django.db.Error.
    """
    if "FERNET_KEYS" not in settings.MESHES_SECRETS:
        return
    keys, documents = sealing.key_ids(), SealedDocument.objects.exclude(key_id=GIVEN_UP)
    for key_id, count in documents.values_list("key_id").annotate(Count("pk")).order_by("key_id"):
        if key_id not in keys:
            yield True, f"{count} sealed documents need the key {key_id}, which is not among FERNET_KEYS."
            continue
        samples = SealedDocument.objects.filter(key_id=key_id).with_token().values_list("pk", "token")
        for pk, token in {*samples.order_by("pk")[:1], *samples.order_by("-pk")[:1]}:
            if not sealing.is_made_by(key_id, token.encode()):
                (name,) = name_owners([pk])
                yield False, f"The key {key_id} does not open what it sealed: {name} is damaged."


def tell_unopenable() -> None:
    """A line at ERROR for each, when a process starts. Raises nothing, and leaves no connection open."""
    try:
        for _, message in find_unopenable():
            logger.error("%s", message)
    except Exception as error:  # noqa: BLE001  (no process is kept from its work by what it would only tell)
        logger.info("whether FERNET_KEYS open what is stored is not known: %s", type(error).__name__)
    finally:
        connection.close()


def name_owners(document_ids: Sequence[uuid.UUID]) -> list[str]:
    """What these sealed documents belong to, for operators: `conn_… "CRM" of the workspace Acme (acme)`."""
    rows = SealedDocument.objects.filter(pk__in=document_ids).order_by("pk").defer("document")
    names = []
    for row in rows.select_related("workspace", "connection", "api_key", "oauth_app"):
        tenant = "of no workspace" if row.workspace is None else f"of the workspace {row.workspace}"
        if owner := row.connection or row.api_key:
            names.append(f'{owner.public_id} "{owner.name}" {tenant}')
        elif app := row.oauth_app:
            names.append(f'{app.public_id} "{app.type}" {tenant}')
        else:
            names.append(f"the {row.kind} {row.pk} of what is gone, {tenant}")
    return names


# --- encrypting anew ------------------------------------------------------------------------------------------------


def count_by_key() -> dict[str, int]:
    """How many documents each key has sealed, by fingerprint."""
    documents = SealedDocument.objects.exclude(key_id=GIVEN_UP)
    return dict(documents.values_list("key_id").annotate(Count("pk")).order_by("key_id"))


def count_to_reseal() -> int:
    """How many documents the newest key has not sealed in the present format."""
    return _to_reseal().count()


def _to_reseal() -> "QuerySet[Any]":
    prefix = sealing.PREFIXES[settings.MESHES_SEALING]
    documents = SealedDocument.objects.exclude(key_id=GIVEN_UP).with_token()
    return documents.exclude(key_id=sealing.newest_key_id(), token__startswith=prefix)


def give_up(key_id: str, *, actor: str) -> list[uuid.UUID]:
    """Empty the documents that this key sealed, which is lost for good; their ids.

    Their owners are as those of damaged documents from then on: their credentials are asked for anew. The rows and
    their versions stay, so that no earlier document fits again. Raises ValueError for a key at hand.
    """
    if key_id in sealing.key_ids():
        raise ValueError("this key is among FERNET_KEYS")
    with transaction.atomic():
        lost = list(SealedDocument.objects.filter(key_id=key_id).select_for_update().order_by("id").defer("document"))
        given_up = [each.pk for each in lost]
        SealedDocument.objects.filter(pk__in=given_up).update(document=b"", key_id=GIVEN_UP)
        _record(lost, actor, "deleted", set(given_up))
    return given_up


def reseal_batch(after: uuid.UUID | None, limit: int, *, actor: str) -> tuple[uuid.UUID | None, int, list[uuid.UUID]]:
    """Re-seal, with the newest key and in the present format, the next `limit` documents (by id, after `after`) of
    another. Returns where the next batch goes on (None: there was nothing), how many were re-sealed, and those that do
    not open.

    The secret, the version and what the document is bound to stay the same. A document that changes meanwhile is left
    as it was changed: the UPDATE requires the version and the key that were read.
    """
    rows = _to_reseal().order_by("id")
    if after is not None:
        rows = rows.filter(id__gt=after)
    with transaction.atomic():
        batch = list(rows[:limit])
        tokens = {old.pk: token for old in batch if (token := _reseal(old)) is not None}
        resealed = _write_tokens([(old, tokens[old.pk]) for old in batch if old.pk in tokens])
        _record(batch, actor, "key rotation", tokens)
    return batch[-1].pk if batch else None, resealed, [old.pk for old in batch if old.pk not in tokens]


def _record(rows: Sequence[SealedDocument], actor: str, purpose: str, granted: Collection[uuid.UUID]) -> None:
    AccessRecord.objects.bulk_create(
        AccessRecord.about(row.owner, row.kind, row.version, actor, purpose, granted=row.pk in granted) for row in rows
    )


def _reseal(old: Any) -> bytes | None:
    """The token anew; None where the old one does not open.

    What it is bound to is taken from inside, and not from the row: a document that was copied to another row is refused
    after as before.
    """
    token, (workspace_id, owner_kind, owner_id) = old.token.encode(), old.owner
    try:
        if sealing.format_of(token) == settings.MESHES_SEALING == sealing.FERNET:
            return MultiFernet([Fernet(key) for key in sealing.sealing_keys()]).rotate(token)
        content = sealing.unseal(token, binding_of(workspace_id, owner_kind, owner_id, old.kind, old.version))
        document = json.loads(content)
        return sealing.seal(content, {name: document[name] for name in BOUND_TO})
    except (InvalidToken, ValueError, KeyError, TypeError):
        return None


def _write_tokens(changes: Sequence[tuple[SealedDocument, bytes]]) -> int:
    """Write re-sealed tokens where the row is still the one that was read; how many were."""
    if not changes:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE sealed_documents AS sealed SET document = changed.document, key_id = %s"
            " FROM unnest(%s::uuid[], %s::int[], %s::text[], %s::bytea[]) AS changed (id, version, key_id, document)"
            " WHERE sealed.id = changed.id AND sealed.version = changed.version AND sealed.key_id = changed.key_id",
            [
                sealing.newest_key_id(),
                [old.pk for old, _ in changes],
                [old.version for old, _ in changes],
                [old.key_id for old, _ in changes],
                [token for _, token in changes],
            ],
        )
        return int(cursor.rowcount)
