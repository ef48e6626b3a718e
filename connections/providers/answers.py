"""What is found in an answer: in its document, its headers, its words. Total where nothing else is said: any bytes."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from connections.messages import Response

MAX_RETRY_AFTER_SECONDS = 24 * 3600.0
"""A receiver may ask for a pause of at most a day; more is cut to that."""
MAX_MESSAGE = 300
"""Characters of a vendor's message that are shown."""
Path = Sequence[str | int]
"""Keys and indexes into a document, as `text_at` follows them."""
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
_SECONDS = re.compile(r"[0-9]{1,10}")
_QUOTED = re.compile(r"\"[^\"]*\"|“[^“”]*”|`[^`]*`|'[^']*'")


def text_at(document: Any, *path: str | int) -> str:
    """The string (or number, as text) at a path of keys and indexes into a document or an answer; empty where there is
    none. It can be stored and sent: what PostgreSQL or UTF-8 does not take is replaced."""
    document = document.json() if isinstance(document, Response) else document
    for step in path:
        if isinstance(step, str) and isinstance(document, dict):
            document = document.get(step)
        elif isinstance(step, int) and isinstance(document, list) and -len(document) <= step < len(document):
            document = document[step]
        else:
            return ""
    if isinstance(document, bool) or not isinstance(document, str | int | float):
        return ""
    return _UNSTORABLE.sub("\ufffd", str(document))


def rows_at(document: Any, *path: str | int) -> list[Any]:
    """The list at a path into a document or an answer; empty where there is none."""
    document = document.json() if isinstance(document, Response) else document
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    return document if isinstance(document, list) else []


def is_cut_object(response: Response) -> bool:
    """Whether the body is a JSON object that was not read to its end, as one that repeats what was sent may be."""
    return response.truncated and response.body.lstrip().startswith(b"{")


def is_no_page(response: Response) -> bool:
    """Whether the body is not one for people, by which a proxy or a portal answers in a vendor's stead."""
    return not response.body.lstrip().startswith(b"<")


def shown(message: str) -> str:
    """A vendor's message on one line, cut. What stands in quotes keeps its spaces, the unusual ones spelled out."""
    line, end = "", 0
    message = message[: 4 * MAX_MESSAGE].strip()
    for quoted in _QUOTED.finditer(message):
        line += _on_one_line(message[end : quoted.start()])
        line += "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in quoted[0])
        end = quoted.end()
    line += _on_one_line(message[end:])
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"


def _on_one_line(text: str) -> str:
    return re.sub(r" {2,}", " ", "".join(letter if letter.isprintable() else " " for letter in text))


def header(response: Response, name: str) -> str | None:
    """The first header of this name, in lower case, without spaces around it."""
    return next((value.strip() for key, value in response.headers if key.lower() == name), None)


def number_header(response: Response, name: str) -> float | None:
    """A header that holds a number of at most ten digits before its point."""
    text = header(response, name)
    if text is None or len(text) > 20 or not text.replace(".", "", 1).isdecimal() or not text.isascii():
        return None
    return float(text)


def retry_after(response: Response) -> float | None:
    """Seconds that `Retry-After` (RFC 9110, section 10.2.3) asks for, 0 to 86,400; None without a readable one.

    A date counts from the answer's own `Date`, so that the receiver's clock need not agree with ours; without a `Date`
    it counts from now.
    """
    text = header(response, "retry-after")
    if text is None:
        return None
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    else:
        until, since = read_date(text), read_date(header(response, "date"))
        if until is None:
            return None
        seconds = (until - (since or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def seconds_until(response: Response, moment: float) -> float:
    """From the answer's own `Date`, or without one from now, to a moment in unix seconds; 0 to 86,400."""
    since = read_date(header(response, "date")) or datetime.now(UTC)
    return min(max(moment - since.timestamp(), 0.0), MAX_RETRY_AFTER_SECONDS)


def read_date(text: str | None) -> datetime | None:
    """The moment in a header such as `Date`; None where it is not readable."""
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
