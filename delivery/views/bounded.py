"""No list may keep PostgreSQL busy for long: a filter that hardly anything matches can mean a look at everything."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import OperationalError, connection, transaction
from psycopg2.errors import QueryCanceled

from meshes.api import Problem

SEARCH_SECONDS = 10.0
TOO_WIDE = "It was looked for longer than is allowed. Name a workspace, a status, or a shorter time from … to."


@contextmanager
def bounded_search() -> Iterator[None]:
    """Queries inside end after `SEARCH_SECONDS` each. Raises Problem 422 then."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(int(SEARCH_SECONDS * 1000))])
            yield
            cursor.execute("SELECT set_config('statement_timeout', '0', true)")
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise Problem(422, "search-too-wide", "The search is too wide", TOO_WIDE) from error
        raise
