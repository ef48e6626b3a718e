"""Worker sessions: how PostgreSQL knows that a worker process is gone, so that what it had leased runs again soon.

Each worker holds an advisory lock in a database session of its own, which dies with the process. A sweeper that finds
the lock free for a while ends the session (`worker_sessions`), and with it the leases that name it. A worker that only
lost its connection comes back under a new lock key and goes on in its session, unless that was ended; then it begins
another. While PostgreSQL does not answer at all, it takes no messages: other workers may still work on them. Behind a
proxy that pools transactions no lock says anything about a process: there leases lapse, as without.
"""

import logging
import secrets
import select
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import DEFAULT_DB_ALIAS, Error, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from delivery.lanes.transport import Channel
from meshes.kit import ids
from meshes.kit.database_faults import describe
from workspaces import installation

logger = logging.getLogger(__name__)

DIRECT = "direct"
"""The database connection that no pooling proxy may be part of: `MESHES_DIRECT_DATABASE_URL`."""
GRACE_SECONDS = 6.0
"""How long a lock may be free before its worker counts as gone: it may just be connecting anew."""
PING_SECONDS = 2.0
RECONNECT_SECONDS = 0.5
RECONNECT_AT_MOST_SECONDS = 2.0
NOT_DIRECT_SECONDS = 5.0
"""Between looks whether the connection has become a direct one, and whether PostgreSQL still answers."""
FIRST_WAIT_SECONDS = 3.0
NOT_DIRECT_WORDS = "is not a direct connection to PostgreSQL: a proxy that pools connections answers"
LAPSE_WORDS = "leases of this worker lapse until it has a session again: %s"
IDLE_WORDS = "this worker takes no messages until PostgreSQL answers it again: %s"

HELD = """EXISTS (
    SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
    AND (l.classid::bigint << 32 | l.objid::bigint) = s.lock_key
)"""
"""Whether somebody holds the lock of a worker session `s`."""

# --- in a worker ----------------------------------------------------------------------------------------------------


class Keeper:
    """Keeps this process's session, in a thread with a database connection of its own."""

    current: ClassVar[uuid.UUID | None] = None
    """The session that leases of this process name, while its lock is held as far as this process can know; None where
    it has none, and they lapse."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._id: uuid.UUID | None = None
        self._has_begun = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="worker-session", daemon=True)

    def start(self) -> None:
        """Begin, and wait a little for the session, so that the first leases have it."""
        self._thread.start()
        self._has_begun.wait(FIRST_WAIT_SECONDS)

    def _keep(self) -> None:
        database, failures = connections[DIRECT], 0
        while True:
            was_taking = Channel.is_taking
            try:
                if self._join(database):
                    failures, was_taking = 0, True
                    self._watch(database)
                wait, why = NOT_DIRECT_SECONDS, f"MESHES_DIRECT_DATABASE_URL {NOT_DIRECT_WORDS}"
            except Exception as error:  # noqa: BLE001  (whatever it was, the worker is without a session)
                Channel.is_taking = False  # until it is known whether more than the session is lost
                wait, why = min(RECONNECT_SECONDS * 2**failures, RECONNECT_AT_MOST_SECONDS), describe(error)
            Keeper.current, Channel.owner = None, ""
            database.close()
            takes = _answers(connections[DEFAULT_DB_ALIAS])
            if not failures or takes != was_taking:
                logger.warning(LAPSE_WORDS if takes else IDLE_WORDS, why)
            Channel.is_taking = takes
            failures = min(failures + 1, 10)
            time.sleep(wait)

    def _join(self, database: BaseDatabaseWrapper) -> bool:
        """Hold a new lock, and go on in the session that there was, or begin one; False without a direct connection."""
        with database.cursor() as cursor:
            installation.hold_if_moved(cursor)  # before anything is taken of a database that is new to this process
        if not is_direct(database):
            return False
        key = secrets.randbits(63)
        with database.cursor() as cursor:
            # For a host that vanishes without a word: PostgreSQL misses it within about 5 s. No effect on Unix sockets.
            cursor.execute("SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 3")
            cursor.execute("SELECT pg_advisory_lock(%s)", [key])
            cursor.execute(
                "UPDATE worker_sessions SET lock_key = %s, missing_since = NULL WHERE id = %s AND ended_at IS NULL",
                [key, self._id],
            )
            if not cursor.rowcount:
                self._id = ids.uuid7()
                cursor.execute(
                    "INSERT INTO worker_sessions (id, lock_key, worker) VALUES (%s, %s, %s)",
                    [self._id, key, self._worker],
                )
        Keeper.current, Channel.owner, Channel.is_taking = self._id, str(self._id), True
        self._has_begun.set()
        return True

    def _watch(self, database: BaseDatabaseWrapper) -> NoReturn:
        """Raise when the connection is lost: at once where the server closes it."""
        socket = select.poll()
        socket.register(database.connection.fileno(), select.POLLIN)
        while True:
            socket.poll(PING_SECONDS * 1000)
            with database.cursor() as cursor:
                cursor.execute("SELECT 1")


def _answers(database: BaseDatabaseWrapper) -> bool:
    """Whether PostgreSQL answers where this process's work is written, which may lead through a pooling proxy."""
    try:
        with database.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error:
        return False
    finally:
        database.close()
    return True


@register(Tags.database)
def check_direct_connection(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """`delivery.W001`: the connection for worker sessions leads to a pooling proxy. Asks the server, if it is there."""
    if not databases:
        return []
    try:
        if is_direct(connections[DIRECT]):
            return []
    except Error:
        return []  # whoever asks for the database at all is told by Django
    finally:
        connections[DIRECT].close()
    return [
        Warning(
            f"MESHES_DIRECT_DATABASE_URL (unset: DATABASE_URL) {NOT_DIRECT_WORDS}.",
            hint="What a worker that is gone had taken waits until its leases lapse, 90 s by default, and sweeps cannot"
            " hold their locks. Set it to PostgreSQL's own address.",
            id="delivery.W001",
        )
    ]


@register("delivery", deploy=True)
def check_direct_connection_of_deployment(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """The same, for a deployment."""
    return [] if databases else check_direct_connection([DIRECT])


def is_direct(database: BaseDatabaseWrapper) -> bool:
    """Whether a connection leads to PostgreSQL itself: a pooling proxy tells its clients process ids of its own."""
    with database.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        told: int = cursor.fetchone()[0]
    return bool(told == database.connection.info.backend_pid)


# --- in the sweeper -------------------------------------------------------------------------------------------------


def end_missing(grace_seconds: float = GRACE_SECONDS) -> list[tuple[uuid.UUID, str, bool]]:
    """End the sessions whose workers are gone. Returns them, and those that were ended before and are still known: the
    session, its worker, and whether whatever was leased in it has lapsed by itself."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE worker_sessions s SET missing_since = CASE WHEN {HELD} THEN NULL ELSE clock_timestamp() END"
            f" WHERE s.ended_at IS NULL AND (s.missing_since IS NULL) = NOT {HELD}"
        )
        cursor.execute(
            "UPDATE worker_sessions s SET ended_at = clock_timestamp() WHERE s.ended_at IS NULL"
            f" AND s.missing_since < clock_timestamp() - make_interval(secs => %s) AND NOT {HELD}",
            [grace_seconds],
        )
        cursor.execute(
            "SELECT id, worker, ended_at < clock_timestamp() - make_interval(secs => %s) FROM worker_sessions"
            " WHERE ended_at IS NOT NULL",
            [max(settings.MESHES_LEASE_SECONDS, settings.MESHES_LANE_LEASE_SECONDS)],
        )
        return list(cursor.fetchall())


def forget(session_id: uuid.UUID) -> None:
    """Whatever was leased in an ended session has lapsed."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM worker_sessions WHERE id = %s AND ended_at IS NOT NULL", [session_id])
