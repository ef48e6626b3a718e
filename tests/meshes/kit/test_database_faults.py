"""Whose fault a failed statement is: one real statement of PostgreSQL's for each class."""

import threading

import psycopg2
import pytest
from django.db import DatabaseError, Error, InterfaceError, OperationalError, connection, transaction

from meshes.kit.database_faults import Fault, describe, fault_of, growing_delay, passes, sqlstate

pytestmark = pytest.mark.django_db

RAISE = "DO $$ BEGIN RAISE EXCEPTION 'a test' USING ERRCODE = '{}'; END $$"


def error_of(*statements: str) -> Error:
    """What the last of these statements raises, in a transaction that is rolled back."""
    *before, last = statements
    with transaction.atomic(), connection.cursor() as cursor:
        for statement in before:
            cursor.execute(statement)
        with pytest.raises(Error) as failed:
            cursor.execute(last)
        transaction.set_rollback(True)
    return failed.value


PASSING = (
    *("08006", "08P01", "25006", "40001", "40P01", "53100", "53200", "53300"),
    *("55006", "55P03", "57P01", "57P02", "57P03", "58030", "58P01"),
)


@pytest.mark.parametrize("state", PASSING)
def test_what_the_server_or_the_machine_lacks_passes(state):
    error = error_of(RAISE.format(state))
    assert (sqlstate(error), fault_of(error), passes(error)) == (state, Fault.PASSING, True)


@pytest.mark.parametrize("state", ["22003", "22P02", "22P05", "22021", "23502", "23503", "23505", "54000", "54001"])
def test_what_no_repetition_helps_is_the_items(state):
    error = error_of(RAISE.format(state))
    assert (sqlstate(error), fault_of(error), passes(error)) == (state, Fault.ITEM, False)


@pytest.mark.parametrize("state", ["42P01", "42703", "XX000", "P0001", "0A000"])
def test_what_is_neither_is_ours_and_nobody_elses(state):
    assert fault_of(error_of(RAISE.format(state))) is Fault.OURS


def test_a_statement_that_takes_too_long_is_told_from_a_lock_that_is_not_free():
    slow = error_of("SET LOCAL statement_timeout = 1", "SELECT pg_sleep(60)")
    assert (type(slow), sqlstate(slow), fault_of(slow)) == (OperationalError, "57014", Fault.CANCELED)


def test_a_read_only_transaction_passes():
    refused = error_of("SET LOCAL transaction_read_only = on", "DELETE FROM unrouted")
    assert (sqlstate(refused), passes(refused)) == ("25006", True)


def test_a_row_that_is_too_large_is_an_operational_error_and_the_items():
    large = error_of("SELECT array_fill(0, ARRAY[1000000000])")
    assert (sqlstate(large), fault_of(large)) == ("54000", Fault.ITEM)


def test_a_missing_partition_is_an_integrity_error_and_passes():
    nowhere = error_of(
        "CREATE TABLE parts (id int, name text CONSTRAINT short CHECK (length(name) < 3)) PARTITION BY RANGE (id)",
        "INSERT INTO parts VALUES (1, 'a')",
    )
    assert (sqlstate(nowhere), fault_of(nowhere)) == ("23514", Fault.PASSING)
    assert describe(nowhere) == "check violation (23514: parts)"


@pytest.mark.parametrize("kind", ["", "PARTITION BY RANGE (id)"])
def test_a_constraint_that_is_broken_has_the_same_state_and_is_the_items(kind):
    broken = error_of(
        f"CREATE TABLE parts (id int, name text CONSTRAINT short CHECK (length(name) < 3)) {kind}",
        "CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (9)" if kind else "SELECT 1",
        "INSERT INTO parts VALUES (1, 'a secret of the customer')",
    )
    assert (sqlstate(broken), fault_of(broken)) == ("23514", Fault.ITEM)
    assert describe(broken) == f"check violation (23514: part{'' if kind else 's'}, short)"
    assert fault_of(error_of(RAISE.format("23514"))) is Fault.ITEM, "whatever raises it by hand names no table"


def test_without_a_state_the_connection_was_lost():
    with pytest.raises(psycopg2.OperationalError) as refused:
        psycopg2.connect(host="/nowhere", dbname="none", connect_timeout=1)
    assert (sqlstate(refused.value), passes(refused.value)) == ("", True)
    assert passes(InterfaceError("connection already closed"))
    assert passes(DatabaseError("nothing more is known"))
    assert describe(refused.value) == "OperationalError"


def test_of_other_errors_the_operating_systems_pass():
    assert [passes(error) for error in (OSError(28, "No space left on device"), MemoryError())] == [True, True]
    assert [fault_of(error) for error in (ValueError(), KeyError("x"), RecursionError())] == [Fault.ITEM] * 3


def test_a_deadlock_passes_for_the_one_that_loses_it():
    """Two sessions that lock crosswise: no state that a test raises by hand is nearer to life."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        name = cursor.fetchone()[0]
    given = connection.settings_dict
    sessions = [
        psycopg2.connect(host=given["HOST"], port=given["PORT"] or None, user=given["USER"], password=given["PASSWORD"],
                         dbname=name)
        for _ in range(2)
    ]  # fmt: skip
    errors: list[psycopg2.Error] = []

    def lock(session, number):
        try:
            session.cursor().execute("SELECT pg_advisory_xact_lock(%s)", [number])
        except psycopg2.Error as error:
            errors.append(error)
            session.rollback()

    try:
        lock(sessions[0], 71_001)
        lock(sessions[1], 71_002)
        crosswise = [threading.Thread(target=lock, args=pair) for pair in zip(sessions, (71_002, 71_001), strict=True)]
        for thread in crosswise:
            thread.start()
        for thread in crosswise:
            thread.join(60)
    finally:
        for session in sessions:
            session.close()
    assert [(error.pgcode, passes(error)) for error in errors] == [("40P01", True)]


def test_a_delay_doubles_up_to_its_bound():
    for failures, expected in [(0, 1.0), (1, 1.0), (2, 2.0), (5, 16.0), (9, 30.0), (10_000, 30.0)]:
        delay = growing_delay(failures, 1.0, 30.0)
        assert 0.8 * expected <= delay <= 1.2 * expected
