"""What is read together is read from one snapshot of the database: no answer shows two moments at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

_BEGIN = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"


@contextmanager
def snapshot(*, is_read_only: bool = True) -> Iterator[None]:
    """Every query inside sees the database as it was at the first of them. Costs three short round trips.

    Inside a transaction it changes nothing: what that has locked, it sees as one already. Not for the time of a call
    to the outside, for no transaction may wait for one.
    """
    if connection.in_atomic_block:
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(_BEGIN + (", READ ONLY" if is_read_only else ""))
        yield
