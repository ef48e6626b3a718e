"""When a key was last used: noted in memory, written after the answer has been sent, at most once a minute."""

import logging
import threading
import time
import uuid
from typing import Any

from django.db import Error, connection, transaction

from workspaces.vault import vault

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0
_MAX_NOTES = 10_000

USED = """
UPDATE api_keys SET last_used_at = clock_timestamp() WHERE id = ANY(%s::uuid[])
    AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - make_interval(secs => %s))
RETURNING id, workspace_id, version
"""
"""The condition keeps several processes to one write a minute between them."""

_written: dict[uuid.UUID, float] = {}
_pending: set[uuid.UUID] = set()
_lock = threading.Lock()


def touch(key_id: uuid.UUID) -> None:
    """Note that a key was used now; a write follows unless there was one in the last minute."""
    now = time.monotonic()
    if now - _written.get(key_id, -INTERVAL_SECONDS) < INTERVAL_SECONDS:
        return
    with _lock:
        if len(_written) >= _MAX_NOTES:
            _written.clear()
        _written[key_id] = now
        _pending.add(key_id)


def write_pending(**_: Any) -> None:
    """Receiver of `request_finished`."""
    if not _pending:
        return
    with _lock:
        key_ids = list(_pending)
        _pending.clear()
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(USED, [key_ids, INTERVAL_SECONDS])
            if keys := cursor.fetchall():
                vault.record_uses(keys)
    except Error as error:
        logger.warning("the last use of %d keys was not written: %s", len(key_ids), error)
