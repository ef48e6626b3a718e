"""Which database this installation lives in, and whether anything may leave it.

A dump carries the row of `installation`, and with it the identity of the database that it was taken from. A process
that finds another identity than its database's own works on a restored one, which does not know what was sent,
refreshed, erased and revoked since the dump. So it is held: events are accepted, and nothing is routed, sent or
refreshed until an operator has run `manage.py after_restore`.
"""

import logging

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.models.functions import Now

from workspaces.models import Installation

logger = logging.getLogger(__name__)

NOT_HELD = """NOT EXISTS (
    SELECT FROM installation WHERE held_at IS NOT NULL
        OR database_oid <> (SELECT oid::bigint FROM pg_database WHERE datname = current_database())
)"""
"""For statements that begin what leaves the installation: claims of events, of deliveries, and of token refreshes. So
a database that was made anew in the same cluster is held from its first moment on."""
HELD_WORDS = (
    "this database was restored from a dump: nothing is routed or sent until `manage.py after_restore` has been run"
    " and has released it (docs/backup.md)"
)


def read_identity(cursor: CursorWrapper) -> tuple[int | None, int]:
    """The cluster's system identifier (None where this role may not ask for it), and the database's number in it.

    A database that is made anew in the same cluster has another number, and a cluster that is made anew another
    identifier. Standby servers and restored base backups have those of their primary.
    """
    cursor.execute("SELECT has_function_privilege('pg_control_system()', 'EXECUTE')")
    may_ask = bool(cursor.fetchone()[0])
    system = "(SELECT system_identifier FROM pg_control_system())" if may_ask else "NULL::bigint"
    cursor.execute(f"SELECT {system}, oid::bigint FROM pg_database WHERE datname = current_database()")
    found: tuple[int | None, int] = cursor.fetchone()
    return found


def adopt(cursor: CursorWrapper) -> None:
    """Know this database as the installation's own, unless it knows one already."""
    system, number = read_identity(cursor)
    cursor.execute(
        "INSERT INTO installation (id, system_identifier, database_oid) VALUES (1, %s, %s) ON CONFLICT (id) DO NOTHING",
        [system, number],
    )


def hold_if_moved(cursor: CursorWrapper) -> bool:
    """Hold the installation where its database is not the one that it knows as its own; whether it is held.

    From then on it knows this one. What was looked through in another database says nothing of this one.
    """
    system, number = read_identity(cursor)
    cursor.execute(
        "UPDATE installation SET held_at = coalesce(held_at, clock_timestamp()), checked_at = NULL,"
        " database_oid = %s, system_identifier = coalesce(%s, system_identifier)"
        " WHERE database_oid <> %s OR system_identifier <> %s",
        [number, system, number, system],
    )
    if cursor.rowcount:
        logger.error("%s", HELD_WORDS)
    cursor.execute(f"SELECT NOT {NOT_HELD}")
    return bool(cursor.fetchone()[0])


def hold() -> None:
    """Hold it by an operator's word, whether or not its database is known for a restored one."""
    with connection.cursor() as cursor:
        adopt(cursor)
        hold_if_moved(cursor)
    Installation.objects.filter(held_at=None).update(held_at=Now(), checked_at=None)


def note_check() -> None:
    """What is in question has been shown, and what was kept since the dump applied: now it may be released."""
    Installation.objects.update(checked_at=Now())


def release() -> bool:
    """Let things leave again, and know this database as the installation's own; False where it was not held, or
    nobody has looked since."""
    with connection.cursor() as cursor:
        system, number = read_identity(cursor)
        cursor.execute(
            "UPDATE installation SET held_at = NULL, checked_at = NULL, system_identifier = %s, database_oid = %s"
            " WHERE held_at IS NOT NULL AND checked_at IS NOT NULL",
            [system, number],
        )
        return bool(cursor.rowcount)


def is_held() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT NOT {NOT_HELD}")
        return bool(cursor.fetchone()[0])
