"""How log lines read, and what they leave out: one event, one line, at a moment of UTC."""

import copy
import logging
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import psycopg2
from django.db import Error

from meshes.kit.database_faults import describe, sqlstate

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
INDENT = "    "
"""Before each line of a traceback: no line of one can be taken for an event."""
_LINK = re.compile(r"(?:(?<=/connect/)|(?<=/oauth/start/)|(?<=/oauth/outcome/))[^\s?\"']+")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
"""What begins a line for somebody (C0 and C1 controls, U+2028, U+2029), moves a terminal's cursor, hides, turns the
direction of text, or cannot be encoded."""
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def to_stderr(level: str, loggers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """For `dictConfig`: every line goes to standard error in the form of `Line`, from `level` on but for `loggers`."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"class": "meshes.logs.Line", "format": FORMAT}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {"meshes.security": {"level": "INFO"}, **loggers},  # evidence, whatever else is left out
    }


class Line(logging.Formatter):
    """`2026-11-28T23:36:18.402Z LEVEL logger message`, then the lines of a traceback, indented.

    Control characters are escaped as Python writes them, wherever they come from. Left out is the part of a link that
    opens it to whoever reads, and what PostgreSQL quotes of a row or a statement, which is customers' data.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        own = copy.copy(record)  # in which another formatter may have kept its own text of the traceback
        own.exc_text = None if record.exc_info or not record.exc_text else _indent(record.exc_text)
        if isinstance(record.args, tuple):
            own.args = tuple(describe(value) if _quotes(value) else value for value in record.args)
        return super().format(own)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        return hide(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  (likewise)
        text = super().formatException(ei)
        for error in _chain(ei[1]):
            if _quotes(error):
                text = text.replace(str(error).rstrip("\n"), describe(error))
        return _indent(text)

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  (likewise)
        return _indent(super().formatStack(stack_info))


def hide(text: str) -> str:
    """The text as one line, without what must not be read."""
    return _LINK.sub("••••", _UNSAFE.sub(_escape, text))


def adopt(*names: str) -> None:
    """Let loggers of a library that writes for itself write as all others do."""
    for name in names:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.propagate = True


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _indent(text: str) -> str:
    return "\n".join(INDENT + hide(line) for line in text.split("\n"))


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
