"""What ends a process that cannot work: one line instead of a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError

from workspaces.vault.secret import refuse_unsound

READ_NO_DATA = frozenset({"help", "--help", "-h", "version", "--version", "makemigrations", "write_integration_docs"})
"""Commands of `manage.py` that neither seal nor open anything."""


def refuse_unsound_keys(command: str = "") -> None:
    """Raise ImproperlyConfigured where FERNET_KEYS may not seal: before a process serves, or a command runs."""
    if command not in READ_NO_DATA and settings.FERNET_KEYS:  # which not every service has
        refuse_unsound(settings.FERNET_KEYS)


@contextmanager
def exit_where_misconfigured(code: int = 1) -> Iterator[None]:
    """Around whatever loads the settings first: `manage.py`, the web server's module, Celery's module."""
    try:
        yield
    except ImproperlyConfigured as error:
        sys.stderr.write(f"Meshes cannot start: {' '.join(str(error).split())}\n")
        sys.exit(code)


@contextmanager
def exit_without_database() -> Iterator[None]:
    """Around a command of `manage.py`: where PostgreSQL takes no connection, that is all there is to say."""
    try:
        yield
    except OperationalError as error:
        if getattr(error.__cause__, "pgcode", None):  # the server answered a statement
            raise
        sys.stderr.write(f"{words_of(error)}\n")
        sys.exit(1)


def words_of(error: OperationalError) -> str:
    """Why PostgreSQL cannot be reached, in one line. libpq names server and user, and never a password."""
    return f"PostgreSQL cannot be reached: {' '.join(str(error).split())}"
