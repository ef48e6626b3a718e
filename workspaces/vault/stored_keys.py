"""Whether `FERNET_KEYS` open what is stored: told when a process starts, by `manage.py check --deploy` and `/readyz`.

Nothing is decrypted, so there is no access to record: a token shows which key has made it (`sealing.is_made_by`).
"""

import logging
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db import connection
from django.db.models import Count

from workspaces.vault import sealing, vault
from workspaces.vault.models import SealedDocument

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """One key, and what is wrong with what it has sealed. `is_missing`: the key is not among `FERNET_KEYS`."""

    key_id: str
    is_missing: bool
    words: str


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


def find_missing() -> list[str]:
    """The ids of keys that stored documents need and that are not among `FERNET_KEYS`. Cheap enough for every probe."""
    with connection.cursor() as cursor:
        cursor.execute(KEYS_IN_USE)
        return sorted({key_id for (key_id,) in cursor.fetchall()} - sealing.key_ids() - {sealing.GIVEN_UP})


def is_missing_for(workspace_id: uuid.UUID, connection_id: uuid.UUID) -> bool:
    """Whether the key of this connection's credentials is not among `FERNET_KEYS`."""
    documents = SealedDocument.objects.filter(connection_id=connection_id, workspace_id=workspace_id)
    return documents.exclude(key_id__in=[*sealing.key_ids(), sealing.GIVEN_UP]).exists()


def find_unopenable() -> Iterator[Finding]:
    """The keys in use that are missing, and of each of the others the first and the last document that it does not
    open. None in a service that holds no keys. Raises django.db.Error."""
    if "FERNET_KEYS" not in settings.MESHES_SECRETS:
        return
    keys = sealing.key_ids()
    in_use = (
        SealedDocument.objects.exclude(key_id=sealing.GIVEN_UP)
        .values_list("key_id")
        .annotate(Count("pk"))
        .order_by("key_id")
    )
    for key_id, count in in_use:
        if key_id not in keys:
            yield Finding(
                key_id, True, f"{count} sealed documents need the key {key_id}, which is not among FERNET_KEYS."
            )
            continue
        samples = vault.with_token(SealedDocument.objects.filter(key_id=key_id)).values_list("pk", "token")
        for pk, token in {*samples.order_by("pk")[:1], *samples.order_by("-pk")[:1]}:
            if not sealing.is_made_by(key_id, token.encode()):
                (name,) = name_owners([pk])
                yield Finding(key_id, False, f"The key {key_id} does not open what it sealed: {name} is damaged.")


def name_owners(document_ids: Sequence[uuid.UUID]) -> list[str]:
    """Whose these sealed documents are, in words for operators: `conn_… "CRM" of the workspace Acme (acme)`."""
    rows = SealedDocument.objects.filter(pk__in=document_ids).order_by("pk").defer("document")
    return [_name(row) for row in rows.select_related("workspace", "connection", "api_key", "oauth_app")]


def _name(row: SealedDocument) -> str:
    whose = "of no workspace" if row.workspace is None else f"of the workspace {row.workspace}"
    if owner := row.connection or row.api_key:
        return f'{owner.public_id} "{owner.name}" {whose}'
    if app := row.oauth_app:
        return f'{app.public_id} "{app.type}" {whose}'
    return f"the {row.kind} {row.pk} of what is gone, {whose}"


def open_nothing() -> bool:
    """Whether there are sealed documents, and none of them has its key among `FERNET_KEYS`."""
    in_use = set(SealedDocument.objects.values_list("key_id", flat=True).distinct()) - {sealing.GIVEN_UP}
    return bool(in_use) and in_use.isdisjoint(sealing.key_ids())


def tell_unopenable() -> None:
    """A line at ERROR for each, when a process starts. Raises nothing, and leaves no connection open."""
    try:
        for found in find_unopenable():
            logger.error("%s", found.words)
    except Exception as error:  # noqa: BLE001  (no process is kept from its work by what it would only tell)
        logger.info("whether FERNET_KEYS open what is stored is not known: %s", type(error).__name__)
    finally:
        connection.close()
