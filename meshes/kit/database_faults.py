"""Whose fault a failed statement is: told by its SQLSTATE (PostgreSQL 18, Appendix A), never by the exception's class.

psycopg2 makes `54xxx` and `57014` operational errors and a missing partition an integrity error, so that classes say
nothing about whether the same statement may pass later.
"""

import random
from enum import Enum

import psycopg2
from django.db import Error
from psycopg2 import errorcodes

PASSING_CLASSES = frozenset({"08", "40", "53", "55", "58"})
"""Connection, serialization and deadlock, resources such as disk space, an object in use, the system below."""
PASSING_STATES = frozenset({"25006"})
"""A read-only transaction: the server is a standby, or an operator has stopped writing."""
SHUTDOWN = "57P"
"""57P01 to 57P05: the server restarts, or the session was ended by an operator."""
ITEM_CLASSES = frozenset({"22", "23", "54"})
"""Data that no type takes, a constraint, a limit of PostgreSQL's own such as the size of a row."""
CANCELED = errorcodes.QUERY_CANCELED
"""57014: by its own `statement_timeout`, mostly."""
NO_PARTITION = errorcodes.CHECK_VIOLATION


class Fault(Enum):
    """Whose fault it is that a statement failed."""

    PASSING = "passing"
    """Ours or the machine's, and it ends by itself: the same statement is worth trying for ever."""
    ITEM = "item"
    """Of what was written: it fails again however often it is tried."""
    CANCELED = "canceled"
    """The statement took too long: what was written is at fault where others pass meanwhile, else the server is."""
    OURS = "ours"
    """A bug, or a database that is not the one this code was written for. Whether it ends, nobody knows."""


def fault_of(error: BaseException) -> Fault:
    """Whose fault an error is that a statement, or the work beside it, raised.

    No SQLSTATE means that the connection was lost. Of other errors, `MemoryError` and those of the operating system
    pass; the rest is deterministic, hence the item's.
    """
    if not isinstance(error, Error | psycopg2.Error):
        return Fault.PASSING if isinstance(error, OSError | MemoryError) else Fault.ITEM
    state = sqlstate(error)
    if not state or state[:2] in PASSING_CLASSES or state.startswith(SHUTDOWN) or state in PASSING_STATES:
        return Fault.PASSING
    driver = _driver_error(error)
    if state == NO_PARTITION and driver and driver.diag.table_name and driver.diag.constraint_name is None:
        return Fault.PASSING  # a check violation by no constraint: PostgreSQL translates messages, but no such fields
    if state == CANCELED:
        return Fault.CANCELED
    return Fault.ITEM if state[:2] in ITEM_CLASSES else Fault.OURS


def passes(error: BaseException) -> bool:
    """Whether the same thing, done again later, may well succeed."""
    return fault_of(error) is Fault.PASSING


def sqlstate(error: BaseException) -> str:
    """The five characters by which PostgreSQL names an error; '' where the server said nothing."""
    driver = _driver_error(error)
    return (driver.pgcode or "") if driver else ""


def describe(error: BaseException) -> str:
    """What went wrong, for a person: by SQLSTATE, its name and the names of things, never by a value of the row.

    PostgreSQL's own message may quote what was written, so it stays out.
    """
    state = sqlstate(error)
    if not state:
        return type(error).__name__
    driver = _driver_error(error)
    try:
        words = errorcodes.lookup(state).lower().replace("_", " ")
    except KeyError:
        words = "error"
    where = [] if driver is None else [driver.diag.table_name, driver.diag.column_name, driver.diag.constraint_name]
    named = ", ".join(name for name in where if name)
    return f"{words} ({state}{': ' + named if named else ''})"


def growing_delay(failures: int, first_seconds: float, longest_seconds: float) -> float:
    """Seconds to wait after so many failures in a row (from 1 on): doubling, bounded, spread by ± 20 %."""
    doubled = first_seconds * 2 ** min(max(failures, 1) - 1, 30)
    return float(min(doubled, longest_seconds) * random.uniform(0.8, 1.2))  # noqa: S311  (spreads those that wait)


def _driver_error(error: BaseException | None) -> psycopg2.Error | None:
    """psycopg2's error, which Django wraps."""
    while error is not None and not isinstance(error, psycopg2.Error):
        error = error.__cause__
    return error
