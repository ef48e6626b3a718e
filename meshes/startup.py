"""What ends a process whose settings cannot be used: one line instead of a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import ImproperlyConfigured


@contextmanager
def exit_where_misconfigured(code: int = 1) -> Iterator[None]:
    """Around whatever loads the settings first: `manage.py`, the web server's module, Celery's module."""
    try:
        yield
    except ImproperlyConfigured as error:
        sys.stderr.write(f"Meshes cannot start: {' '.join(str(error).split())}\n")
        sys.exit(code)
