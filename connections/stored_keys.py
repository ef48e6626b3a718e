"""Whether `FERNET_KEYS` open what is stored: told when a process starts, and by `manage.py check --deploy`.

Nothing is decrypted, so there is no access to record: a Fernet token shows by its signature which key has made it.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from django.db import connection
from django.db.models import Count

from connections import vault
from connections.models import SealedDocument

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """One key, and what is wrong with what it has sealed. `is_missing`: the key is not among `FERNET_KEYS`."""

    key_id: str
    is_missing: bool
    words: str


def find_unopenable() -> Iterator[Finding]:
    """The keys in use that are missing, and of each of the others the first and the last document that it does not
    open. None in a service that holds no keys. Raises django.db.Error."""
    if "FERNET_KEYS" not in settings.MESHES_SECRETS:
        return
    keys = {vault.key_id_of(key): Fernet(key) for key in vault.sealing_keys()}
    in_use = SealedDocument.objects.values_list("key_id").annotate(Count("pk")).order_by("key_id")
    for key_id, count in in_use:
        if key_id not in keys:
            yield Finding(
                key_id, True, f"{count} sealed documents need the key {key_id}, which is not among FERNET_KEYS."
            )
            continue
        samples = vault.with_token(SealedDocument.objects.filter(key_id=key_id)).values_list("pk", "token")
        for pk, token in {*samples.order_by("pk")[:1], *samples.order_by("-pk")[:1]}:
            if not _is_signed_by(keys[key_id], token):
                yield Finding(key_id, False, f"The sealed document {pk} is damaged: its key {key_id} does not open it.")


def open_nothing() -> bool:
    """Whether there are sealed documents, and none of them has its key among `FERNET_KEYS`."""
    in_use = set(SealedDocument.objects.values_list("key_id", flat=True).distinct())
    return bool(in_use) and in_use.isdisjoint(vault.key_id_of(key) for key in vault.sealing_keys())


def tell_unopenable() -> None:
    """A line at ERROR for each, when a process starts. Raises nothing, and leaves no connection open."""
    try:
        for found in find_unopenable():
            logger.error("%s", found.words)
    except Exception as error:  # noqa: BLE001  (no process is kept from its work by what it would only tell)
        logger.info("whether FERNET_KEYS open what is stored is not known: %s", type(error).__name__)
    finally:
        connection.close()


def _is_signed_by(key: Fernet, token: str) -> bool:
    try:
        key.extract_timestamp(token.encode())
    except InvalidToken:
        return False
    return True
