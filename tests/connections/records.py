"""Access records for tests, and the hands of somebody who may do anything in the database."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db import connection

from meshes.kit import ids, partitions
from workspaces.vault.models import AccessRecord

TABLE = "access_records"


def make_record(**values: Any) -> AccessRecord:
    """An opening, at the moment `at` (its week's partition is made), of no workspace unless told."""
    if at := values.pop("at", None):
        partitions.ensure(TABLE, partitions.week_of(at))
        values["id"] = id_at(at)
    given = {
        "owner_kind": "connection",
        "owner_id": ids.uuid7(),
        "kind": "credentials",
        "version": 1,
        "actor": "worker-7",
        "purpose": "testing",
    }
    record: AccessRecord = AccessRecord.objects.create(**given | values)
    record.refresh_from_db()
    return record


def id_at(moment: datetime) -> uuid.UUID:
    """A UUIDv7 of that moment."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80 | (ids.uuid7().int & (1 << 80) - 1))


@contextmanager
def tampering() -> Iterator[Any]:
    """A cursor for which no trigger counts, as a superuser can have it."""
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        try:
            yield cursor
        finally:
            cursor.execute("SET session_replication_role = origin")
