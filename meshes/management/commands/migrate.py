"""`manage.py migrate`: Django's own, one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management.commands import migrate
from django.db import DEFAULT_DB_ALIAS, connections

from delivery.dispatch.sessions import DIRECT
from workspaces import installation

LOCK = "meshes migrate"


class Command(migrate.Command):
    """Several hosts may start at once: the first migrates, the others wait and then find nothing to do."""

    help = f"{migrate.Command.help} One at a time: another one waits for its end."

    def handle(self, *args: Any, **options: Any) -> None:
        if options["plan"] or options["check_unapplied"]:
            super().handle(*args, **options)
            return
        with self._only_one(_locking(options["database"])):
            super().handle(*args, **options)
            if options["database"] == DEFAULT_DB_ALIAS:
                _recognize()

    @contextmanager
    def _only_one(self, alias: str) -> Iterator[None]:
        """Hold an advisory lock, which ends with this process whatever becomes of it."""
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(hashtext(%s))", [LOCK])
            if not cursor.fetchone()[0]:
                self.stdout.write("Another migrate is running on this database; waiting for its end.")
                self.stdout.flush()
                cursor.execute("SELECT pg_advisory_lock(hashtext(%s))", [LOCK])
            try:
                yield
            finally:
                cursor.execute("SELECT pg_advisory_unlock(hashtext(%s))", [LOCK])


def _locking(alias: str) -> str:
    """The connection that holds the lock: one that leads past any proxy, behind which a session is not one's own."""
    is_proxied = settings.MESHES_DIRECT_DATABASE_URL != settings.DATABASE_URL
    return DIRECT if alias == DEFAULT_DB_ALIAS and is_proxied else alias


def _recognize() -> None:
    """Know a new database as the installation's own, and hold the installation in a restored one."""
    with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
        cursor.execute("SELECT to_regclass('installation')")
        if cursor.fetchone()[0] is not None:  # `migrate workspaces 0001` leaves none
            installation.adopt(cursor)
            installation.hold_if_moved(cursor)
