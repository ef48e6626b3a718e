"""PostgreSQL's clock, by which every moment is made that PostgreSQL compares; and snapshots of one moment.

The clocks of hosts differ, and are set. In SQL the clock is `clock_timestamp()`, in a query set `Now()`; a moment that
Python computes with begins as `database_now()`, or as a `Reading` where there is no database at hand.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import connection, transaction


def database_now() -> datetime:
    """The moment by PostgreSQL's clock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


@dataclass(frozen=True, slots=True)
class Reading:
    """PostgreSQL's clock as it was read once. It goes on by the monotonic clock, which nobody sets."""

    moment: datetime
    _read_at: float = field(default_factory=time.monotonic, repr=False, compare=False)

    @classmethod
    def take(cls) -> "Reading":
        """Read the clock now."""
        return cls(database_now())

    @property
    def age(self) -> float:
        """Seconds since it was taken."""
        return time.monotonic() - self._read_at

    def now(self) -> datetime:
        """The moment by PostgreSQL's clock, as far as a process can know it without asking again."""
        return self.moment + timedelta(seconds=self.age)


KEPT_SECONDS = 60.0
_kept: Reading | None = None


def now() -> datetime:
    """PostgreSQL's clock by a reading of the last minute: for what is shown, or asked at every request."""
    global _kept  # noqa: PLW0603  (one reading for the process)
    reading = _kept
    if reading is None or reading.age > KEPT_SECONDS:
        _kept = reading = Reading.take()
    return reading.now()


@contextmanager
def snapshot(*, is_read_only: bool = True) -> Iterator[None]:
    """Every query inside sees the database as it was at the first of them, so that no answer shows two moments at once.
    Costs three short round trips.

    Inside a transaction it changes nothing: what that has locked, it sees as one already. Not for the time of a call
    to the outside, for no transaction may wait for one.
    """
    if connection.in_atomic_block:
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ" + (", READ ONLY" if is_read_only else ""))
        yield
