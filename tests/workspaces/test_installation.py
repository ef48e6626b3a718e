"""Which database this is: a restored one is held until an operator releases it."""

import logging

import psycopg2
import pytest
from django.db import connection

from workspaces import installation
from workspaces.models import Installation


@pytest.fixture
def own(db):
    """This database, known as the installation's own."""
    with connection.cursor() as cursor:
        installation.adopt(cursor)
    return Installation.objects.get()


def look():
    with connection.cursor() as cursor:
        return installation.hold_if_moved(cursor)


def test_its_own_database_is_not_held(own):
    assert look() is False
    assert installation.is_held() is False


@pytest.mark.parametrize("other", [{"database_oid": 1}, {"system_identifier": 1}])
def test_another_database_is_held_and_says_so_once(own, other, caplog):
    """A row that came with a dump names the database that was dumped."""
    Installation.objects.update(**other)
    assert (look(), look()) == (True, True)
    assert installation.is_held()
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [installation.HELD_WORDS]


def test_a_database_that_nobody_has_made_known_is_not_held(db):
    """As after an upgrade from a version that kept no identity; the next `migrate` keeps it."""
    Installation.objects.all().delete()
    assert look() is False


def test_it_is_released_only_after_somebody_has_looked(own):
    Installation.objects.update(database_oid=1)
    look()
    assert installation.release() is False
    assert installation.is_held()
    installation.note_check()
    assert installation.release() is True
    assert installation.is_held() is False
    assert look() is False
    assert Installation.objects.get().database_oid == own.database_oid


def test_what_was_looked_through_in_another_database_says_nothing_of_this_one(own):
    """A dump that was made between the look and the release has both moments."""
    installation.hold()
    installation.note_check()
    Installation.objects.update(database_oid=1)
    assert look() is True
    assert installation.release() is False
    assert look() is True
    installation.note_check()
    assert look() is True  # a process that starts meanwhile takes nothing back
    assert installation.release() is True


def test_an_operator_holds_a_database_that_nothing_tells_apart(own):
    """One that was restored from a base backup has the identity of its original."""
    installation.hold()
    assert look() is True


@pytest.fixture
def _nobody_may_ask_for_the_cluster(db):
    """What only a superuser can have it; in the tests' database alone."""
    place = connection.get_connection_params()
    server = psycopg2.connect(host=place["host"], user="postgres", dbname=place["dbname"])
    server.autocommit = True
    with server.cursor() as cursor:
        cursor.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        yield
        cursor.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
    server.close()


@pytest.mark.usefixtures("_nobody_may_ask_for_the_cluster")
def test_a_role_that_may_not_ask_for_the_cluster_goes_by_the_database(own):
    with connection.cursor() as cursor:
        assert installation.read_identity(cursor) == (None, own.database_oid)
        assert installation.hold_if_moved(cursor) is False
        cursor.execute("UPDATE installation SET database_oid = 1")
        assert installation.hold_if_moved(cursor) is True
