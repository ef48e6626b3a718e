"""`manage.py migrate` on several hosts at once."""

import os
import subprocess
import sys
from contextlib import closing
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest

from meshes.dev.embedded import EmbeddedServers
from meshes.environment import PROJECT
from tests.polling import patient

WAITS = "Another migrate is running on this database; waiting for its end."


@pytest.fixture(scope="module")
def server():
    servers = EmbeddedServers()
    servers.start()
    yield servers.postgres.url
    servers.stop()


@pytest.fixture
def empty(server):
    """The URL of a new database."""
    with closing(psycopg2.connect(server)) as database:
        database.autocommit = True
        with database.cursor() as cursor:
            cursor.execute("DROP DATABASE IF EXISTS fresh")
            cursor.execute("CREATE DATABASE fresh")
    return urlunsplit(urlsplit(server)._replace(path="/fresh"))


def begin(url, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "manage.py", "migrate", *arguments],
        cwd=PROJECT,
        env=os.environ | {"DATABASE_URL": url, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ask(url, statement):
    with closing(psycopg2.connect(url)) as database, database.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()


def test_two_at_once_on_an_empty_database_both_end_well(empty):
    two = [begin(empty), begin(empty)]
    said = [each.communicate(timeout=patient(120))[0] for each in two]
    assert [each.returncode for each in two] == [0, 0], said
    assert sorted("Applying workspaces.0001_initial... OK" in each for each in said) == [False, True]
    names, rows = ask(empty, "SELECT count(DISTINCT (app, name)), count(*) FROM django_migrations")
    assert names == rows > 20


def test_a_second_one_waits_for_the_first_and_finds_nothing_to_do(empty):
    with closing(psycopg2.connect(empty)) as first, first.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtext('meshes migrate'))")
        second = begin(empty)
        assert second.stdout.readline().strip() == WAITS
        assert ask(empty, "SELECT to_regclass('django_migrations')") == (None,)
    said, _ = second.communicate(timeout=patient(60))
    assert second.returncode == 0, said


def test_one_that_only_asks_waits_for_nobody(empty):
    with closing(psycopg2.connect(empty)) as first, first.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtext('meshes migrate'))")
        asking = begin(empty, "--check")
        said, _ = asking.communicate(timeout=patient(60))
        assert asking.returncode == 1, said
        assert WAITS not in said


def test_the_lock_is_held_past_a_pooling_proxy(empty):
    """Where DATABASE_URL leads elsewhere, the lock is that of the direct connection."""
    with closing(psycopg2.connect(empty)) as first, first.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtext('meshes migrate'))")
        other = urlunsplit(urlsplit(empty)._replace(path="/postgres"))
        second = begin(other, MESHES_DIRECT_DATABASE_URL=empty)
        assert second.stdout.readline().strip() == WAITS
        second.kill()
        second.communicate()
