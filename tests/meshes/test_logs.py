"""How log lines read, with the configuration that services run with: one event, one line, and no secret link."""

import logging
import re
import subprocess
import sys
from logging.config import DictConfigurator
from typing import Any

import pytest
from django.conf import settings
from django.db import DataError, Error, IntegrityError, OperationalError, connection, transaction

from meshes import logs

FORMATTERS: Any = settings.LOGGING["formatters"]
FORMATTER = DictConfigurator({}).configure_formatter(dict(FORMATTERS["line"]))
ODD = "\n\r\x1b[2J\u2028\u2029\x85\x0b\x0c\x1c\x00\u202e\u200b\ufeff\ud800\t"
FORGED = "x\n2026-11-28T12:00:00.000Z INFO meshes.security login_succeeded"
FIRST = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR) [a-z.]+ ")


def record(message, *arguments, name="django.request", **options):
    made = logging.LogRecord(name, logging.ERROR, "", 0, message, arguments, None)
    made.__dict__ |= options
    return made


def lines(text):
    """As `str.splitlines` and more: whatever any reader takes for the end of a line."""
    return re.split("[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]", text)


def failing(error):
    try:
        raise error
    except type(error):
        return sys.exc_info()


@pytest.mark.parametrize(
    "path", ["/connect/WyIwMWEy:1xV0nA:mrSHDTkOLHKo", "/oauth/start/abc.def", "/oauth/outcome/a:b"]
)
def test_a_request_that_fails_does_not_tell_its_link(path):
    written = FORMATTER.format(record("Internal Server Error: %s", path))
    assert written.endswith(f"ERROR django.request Internal Server Error: {path.rpartition('/')[0]}/••••")


@pytest.mark.parametrize("place", ["message", "argument", "name"])
def test_control_characters_are_escaped_wherever_they_stand(place):
    given = {
        "message": record(FORGED + ODD),
        "argument": record("said %s", FORGED + ODD),
        "name": record("said", name=FORGED + ODD),
    }
    written = FORMATTER.format(given[place])
    assert len(lines(written)) == 1
    assert r"x\n2026-11-28T12:00:00.000Z INFO meshes.security login_succeeded\n\r\x1b[2J\u2028\u2029\x85\x0b" in written
    assert written.encode()


def test_a_traceback_is_indented_and_none_of_its_lines_begins_an_event():
    written = FORMATTER.format(record("failed", exc_info=failing(ValueError(FORGED + ODD)), stack_info=FORGED))
    first, *rest = lines(written)
    assert FIRST.match(first)
    assert len(rest) > 4
    assert [line for line in rest if not line.startswith(logs.INDENT)] == []
    assert rest[0] == "    Traceback (most recent call last):"


def test_what_another_formatter_kept_of_a_traceback_is_not_taken_over():
    kept = record("failed", exc_info=failing(ValueError("x")), exc_text="not\nindented")
    assert "not\nindented" not in FORMATTER.format(kept)
    assert kept.exc_text == "not\nindented"
    assert FORMATTER.format(record("failed", exc_text="not\nindented")).endswith("failed\n    not\n    indented")


def test_moments_are_of_utc_wherever_the_machine_is():
    program = (
        "import logging, os, time; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()\n"
        "from meshes.logs import FORMAT, Line\n"
        "made = logging.LogRecord('a', 20, '', 0, 'b', (), None); made.created, made.msecs = 0.25, 250.0\n"
        "print(Line(FORMAT).format(made))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "1970-01-01T00:00:00.250Z INFO a b\n"


def test_every_process_writes_by_that_formatter_alone():
    """The loggers of the settings, which Celery and gunicorn are made to keep."""
    program = (
        "import logging, meshes.wsgi, meshes.logs\n"
        "from celery.signals import setup_logging; from meshes.celery import app\n"
        "app.log.setup(loglevel='INFO', redirect_stdouts=True)\n"
        "import gunicorn.glogging, gunicorn.config\n"
        "gunicorn.glogging.Logger(gunicorn.config.Config()); meshes.logs.adopt('gunicorn.error', 'gunicorn.access')\n"
        "known = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]\n"
        "handlers = [(each.name, type(found.formatter).__name__) for each in known for found in each.handlers]\n"
        "print({kind for name, kind in handlers if kind != 'NoneType'})"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "{'Line'}", done.stdout


# --- what PostgreSQL quotes -------------------------------------------------------------------------------------------

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
    assert FORMATTER.format(record("%s: a batch of %d failed (%s)", "ingest", 3, error)).endswith(
        f"a batch of 3 failed ({told})"
    )
    try:
        raise RuntimeError("a bug on top of it") from error
    except RuntimeError:
        trace = FORMATTER.format(record("sweep failed", exc_info=sys.exc_info()))
    assert "customer" not in trace
    assert trace.count(told) == 2  # psycopg2's error, and Django's
    assert trace.endswith("RuntimeError: a bug on top of it")


def test_why_a_database_cannot_be_reached_is_told():
    error = OperationalError("connection to server failed: No such file or directory")
    assert FORMATTER.format(record("database unavailable: %s", error)).endswith(f"database unavailable: {error}")
