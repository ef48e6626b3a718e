"""How log lines read, and what they leave out."""

import logging
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

import psycopg2
from django.db import Error

from workspaces.database_faults import describe, sqlstate

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_LINK = re.compile(r"(?<=/connect/)[^\s?\"']+")


class Line(logging.Formatter):
    """One line, or a traceback: without the part of a connect link that opens it to whoever reads, and without what
    PostgreSQL quotes of a row or a statement, which is customers' data."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple) and any(_quotes(value) for value in record.args):
            args = tuple(describe(value) if _quotes(value) else value for value in record.args)
            record = logging.makeLogRecord(record.__dict__ | {"args": args})
        return _LINK.sub("••••", super().format(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  (the library's name)
        text = super().formatException(ei)
        for error in _chain(ei[1]):
            if _quotes(error):
                text = text.replace(str(error).rstrip("\n"), describe(error))
        return text


def _quotes(value: object) -> TypeGuard[Exception]:
    """Whether it is an error that PostgreSQL answered with. Where the connection failed, the words tell why."""
    return isinstance(value, Error | psycopg2.Error) and sqlstate(value) != ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those because of which it was raised."""
    told: list[BaseException] = []
    while error is not None and error not in told:
        told.append(error)
        yield error
        error = error.__cause__ or error.__context__
