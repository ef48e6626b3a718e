"""Texts of a payload, escaped for the place where a vendor shows them, so that nothing in a name becomes markup."""

import html
import re
from collections.abc import Callable, Mapping
from typing import Any

from connections.metering import Meter

_URL = re.compile(r"https?://[^\s<>()\[\]|*`\\]+")
_MARKS = re.compile(r"([\\`*_~|\[\]<>])")
_LINE_MARKS = re.compile(r"^(\s*)([#+-]|[0-9]+(?=[.)]))", re.MULTILINE)


def escape_markdown(text: str) -> str:
    """As Discord and adaptive cards read it (commonmark.org, section 2.4): no link with a name, no mention, no heading.

    A bare URL stays as it is: it can only lead to where it says.
    """
    escaped, end = "", 0
    for url in _URL.finditer(text):
        escaped += _MARKS.sub(r"\\\1", text[end : url.start()]) + url[0]
        end = url.end()
    escaped += _MARKS.sub(r"\\\1", text[end:])
    return _LINE_MARKS.sub(
        lambda mark: f"{mark[1]}{mark[2]}\\" if mark[2].isdigit() else f"{mark[1]}\\{mark[2]}", escaped
    )


def escape_slack(text: str) -> str:
    """Without the characters that begin links and mentions in Slack's texts."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def escape_html(text: str) -> str:
    """For HTML's texts and quoted attributes."""
    return html.escape(text)


ESCAPES: Mapping[str, Callable[[str], str]] = {
    "html": escape_html,
    "markdown": escape_markdown,
    "slack": escape_slack,
}
"""By the name of the place."""


def escape_values(value: Any, markup: str, meter: Meter) -> Any:
    """A JSON value with every text in it escaped, and its names as they are. Raises OutOfWorkError.

    Where markup is not HTML, a text that is a URL and nothing else stays, so that it leads to where it did.
    """
    if isinstance(value, str):
        meter.charge(15 + len(value))
        return value if markup != "html" and _URL.fullmatch(value) else ESCAPES[markup](value)
    if isinstance(value, list | dict):
        meter.charge(5 + 6 * len(value))
    if isinstance(value, list):
        return [escape_values(member, markup, meter) for member in value]
    if isinstance(value, dict):
        return {name: escape_values(member, markup, meter) for name, member in value.items()}
    return value
