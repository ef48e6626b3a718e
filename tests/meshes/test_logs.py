"""What the log leaves out, with the configuration that services run with."""

import logging
import sys
from logging.config import DictConfigurator
from typing import Any

import pytest
from django.conf import settings
from django.db import DataError, Error, IntegrityError, OperationalError, connection, transaction


def line(words: str, *args: Any, exc_info: Any = None) -> logging.LogRecord:
    return logging.LogRecord("django.request", logging.ERROR, "", 0, words, args, exc_info)


def written(record: logging.LogRecord) -> str:
    formatters: Any = settings.LOGGING["formatters"]
    formatter = DictConfigurator({}).configure_formatter(dict(formatters["line"]))
    return formatter.format(record)


def test_a_request_that_fails_does_not_tell_its_connect_link():
    path = "/connect/WyIwMWEy:1xV0nA:mrSHDTkOLHKo"
    told = written(line("Internal Server Error: %s", path))
    assert told.endswith("ERROR django.request Internal Server Error: /connect/••••")


ROW = "INSERT INTO workspaces (name) VALUES ('ada@customer.example')"
TEXT = "SELECT 'ada@customer.example'::uuid"
FULL = "DO $$ BEGIN RAISE EXCEPTION 'ada@customer.example' USING ERRCODE = '53100'; END $$"


def refuse(statement: str, kind: type[Error]) -> Error:
    """What Django raises for it, with PostgreSQL's own words."""
    with pytest.raises(kind) as caught, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert "ada@customer.example" in str(caught.value)
    return caught.value


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("statement", "kind", "told"),
    [
        (ROW, IntegrityError, "not null violation (23502: workspaces, id)"),
        (TEXT, DataError, "invalid text representation (22P02)"),
        (FULL, OperationalError, "disk full (53100)"),
    ],
)
def test_what_postgresql_refuses_is_told_without_what_was_to_be_written(statement, kind, told):
    error = refuse(statement, kind)
    assert written(line("%s: a batch of %d failed (%s)", "ingest", 3, error)).endswith(f"a batch of 3 failed ({told})")
    try:
        raise RuntimeError("a bug on top of it") from error
    except RuntimeError:
        trace = written(line("sweep failed", exc_info=sys.exc_info()))
    assert "customer" not in trace
    assert trace.count(told) == 2  # psycopg2's error, and Django's
    assert trace.endswith("RuntimeError: a bug on top of it")


def test_why_a_database_cannot_be_reached_is_told():
    error = OperationalError("connection to server failed: No such file or directory")
    assert written(line("database unavailable: %s", error)).endswith(f"database unavailable: {error}")
