"""A database that was filled before events were set aside by cause migrates with its rows unchanged."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import psycopg2
import pytest
from django.db import connection

PROJECT = Path(__file__).resolve().parents[2]
BEFORE = ("delivery", "0005_attempt_request_body")
NAME = "filled_before"
ROWS = "SELECT event_id::text, tries, lease_until, poisoned_at, created_at FROM unrouted ORDER BY event_id"


def migrate(*target):
    """In a process of its own, on a database of its own."""
    parameters = connection.get_connection_params()
    place = f"{parameters.get('user', '')}@/{NAME}?host={parameters['host']}"
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "-v", "0", *target],
        cwd=PROJECT,
        env=os.environ | {"DATABASE_URL": f"postgresql://{place}"},
        check=True,
        capture_output=True,
        timeout=600,
    )


@pytest.fixture
def database():
    """An empty database beside that of the tests."""
    given = {name: connection.get_connection_params().get(name) for name in ("host", "user", "password")}
    server = psycopg2.connect(dbname="postgres", **given)
    server.autocommit = True
    with server.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {NAME}")
        yield lambda: psycopg2.connect(dbname=NAME, **given)
        cursor.execute(f"DROP DATABASE {NAME} WITH (FORCE)")
    server.close()


@pytest.mark.django_db
def test_events_that_wait_or_were_set_aside_before_are_as_they_were(database):
    migrate(*BEFORE)
    with database() as session, session.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # so that the rows need no events
        for tries, lease, aside in [(0, "NULL", "NULL"), (3, "now()", "NULL"), (5, "now()", "now()")]:
            cursor.execute(
                "INSERT INTO unrouted (event_id, workspace_id, created_at, tries, lease_until, poisoned_at)"
                f" VALUES (%s, %s, now(), %s, {lease}, {aside})",
                [str(uuid.uuid4()), str(uuid.uuid4()), tries],
            )
        cursor.execute(ROWS)
        before = cursor.fetchall()
    session.close()
    migrate()
    with database() as session, session.cursor() as cursor:
        cursor.execute(ROWS)
        assert cursor.fetchall() == before
        cursor.execute("SELECT DISTINCT lease_id, failures, cause, detail FROM unrouted")
        assert cursor.fetchall() == [(None, 0, "", "")]
    session.close()
