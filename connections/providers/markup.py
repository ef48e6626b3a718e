"""Texts of a payload, escaped for the place where a vendor shows them, so that nothing in a name becomes markup."""

import html
import re
from collections.abc import Callable, Mapping
from typing import Any

from meshes.kit.metering import Meter

_URL = re.compile(r"https?://[^\s<>()\[\]|*`\\]+")
_MARKS = "`*_~|[]<>"
_LINE_MARKS = re.compile(r"(?<![^\n\r])([^\S\n\r]*+)(?:([#+-])|([0-9]++)(?=[.)]))")
"""At the beginning of a line, which a carriage return ends too (commonmark.org, section 2.1). A run of spaces is read
once, and within its line only, so that the time is linear in the text."""


def escape_markdown(text: str) -> str:
    """As Discord and adaptive cards read it (commonmark.org, section 2.4): no link with a name, no mention, no heading.

    A bare URL stays as it is: it can only lead to where it says.
    """
    pieces, end = [], 0
    for url in _URL.finditer(text):
        pieces += [_without_marks(text[end : url.start()]), url[0]]
        end = url.end()
    pieces.append(_without_marks(text[end:]))
    return _LINE_MARKS.sub(
        lambda mark: f"{mark[1]}\\{mark[2]}" if mark[2] else f"{mark[1]}{mark[3]}\\", "".join(pieces)
    )


def _without_marks(text: str) -> str:
    text = text.replace("\\", "\\\\")
    for mark in _MARKS:
        text = text.replace(mark, "\\" + mark)
    return text


def escape_slack(text: str) -> str:
    """Without the characters that begin links and mentions in Slack's texts."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_SLACK_MENTIONS = re.compile(r"@(?<!\w@)(?=(?:here|channel|everyone)\b)", re.IGNORECASE)


def escape_slack_markup(text: str) -> str:
    """For a text object of type mrkdwn, where Slack makes a mention of the bare `@here` too (docs.slack.dev, "Automatic
    parsing"). Against `*`, `_`, `~` and backticks it has no escape."""
    return _SLACK_MENTIONS.sub("@\u200b", escape_slack(text))


def escape_html(text: str) -> str:
    """For HTML's texts and quoted attributes."""
    return html.escape(text)


def _markdown_steps(text: str) -> int:
    lines, urls = text.count("\n") + text.count("\r"), text.count("http://") + text.count("https://")
    return 35 + len(text) // 3 + 2 * lines + 5 * urls


def _slack_steps(text: str) -> int:
    width = 35 if text.isascii() else 15
    return 20 + len(text) // width + sum(map(text.count, "&<>")) // 7 + text.count("@")


def _html_steps(text: str) -> int:
    return 20 + len(text) // (35 if text.isascii() else 15) + sum(map(text.count, "&<>\"'")) // 7


ESCAPES: Mapping[str, Callable[[str], str]] = {
    "html": escape_html,
    "markdown": escape_markdown,
    "slack": escape_slack_markup,
}
"""By the name of the place."""
_STEPS: Mapping[str, Callable[[str], int]] = {
    "html": _html_steps,
    "markdown": _markdown_steps,
    "slack": _slack_steps,
}
"""What it costs to escape a text for it."""


def escape_values(value: Any, markup: str, meter: Meter) -> Any:
    """A JSON value with every text in it escaped, and its names as they are. Raises OutOfWorkError.

    Where markup is not HTML, a text that is a URL and nothing else stays, so that it leads to where it did.
    """
    if isinstance(value, str):
        meter.charge(_STEPS[markup](value))
        return value if markup != "html" and _URL.fullmatch(value) else ESCAPES[markup](value)
    if isinstance(value, list | dict):
        meter.charge(5 + 6 * len(value))
    if isinstance(value, list):
        return [escape_values(member, markup, meter) for member in value]
    if isinstance(value, dict):
        return {name: escape_values(member, markup, meter) for name, member in value.items()}
    return value
