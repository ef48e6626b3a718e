"""How values look on a page. Everything returned is escaped, or plain text for a template to escape."""

import json
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from meshes.kit import clock

NOTHING = "–"
MASK = "••••"

TONES = {
    "good": "ok active succeeded delivered routed matched completed closed live granted enabled",
    "busy": "pending in_flight accepted running half_open waiting",
    "warn": "held paused failing cooling_down retry uncertain open expiring replaced",
    "bad": "dead disabled needs_reauth credential_error rejected broken mapping_failed evaluation_limit set_aside"
    " refused",
}
_TONE_OF = {state: tone for tone, states in TONES.items() for state in states.split()}


def badge(state: str, tone: str = "") -> SafeString:
    """A state as a coloured word; the colour only repeats what the word says."""
    tone = tone or _TONE_OF.get(state, "quiet")
    return format_html('<span class="badge badge-{}">{}</span>', tone, state.replace("_", " "))


def moment(value: datetime | None) -> SafeString | str:
    """A moment to the second, in UTC; how long ago it was, or how long until it is, shows on hover."""
    if value is None:
        return NOTHING
    value = value.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        value.isoformat(),
        distance(value, clock.now()),
        value.strftime("%Y-%m-%d %H:%M:%S"),
    )


def distance(value: datetime, now: datetime) -> str:
    """`in 4 min` or `3 h ago`."""
    seconds = (value - now).total_seconds()
    return f"in {span(seconds)}" if seconds > 0 else f"{span(abs(seconds))} ago"


def span(seconds: float) -> str:
    """A length of time in its largest whole unit: `45 s`, `12 min`, `5 h`, `9 days`."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 or seconds == 0 else f"{seconds * 1000:.0f} ms"


def size(count: int) -> str:
    """A number of bytes: `812 bytes`, `4.2 KB`."""
    return f"{count / 1024:.1f} KB" if count >= 1024 else f"{count} bytes"


def code(text: str) -> SafeString:
    """An id or another literal, that does not wrap."""
    return format_html('<code class="id">{}</code>', text)


def page_link(model: str, pk: uuid.UUID | int | str | None, text: str) -> SafeString | str:
    """A link to the page of a row (`model` as in "delivery.event"), or the text alone where there is no such page."""
    if pk is None:
        return NOTHING
    try:
        url = reverse(f"admin:{model.lower().replace('.', '_')}_change", args=[pk])
    except NoReverseMatch:
        return text
    return format_html('<a href="{}">{}</a>', url, text)


def id_link(model: str, pk: uuid.UUID | None, public_id: str) -> SafeString | str:
    """`page_link` whose text is an id."""
    return page_link(model, pk, code(public_id)) if pk is not None else NOTHING


def two_lines(first: object, second: object) -> SafeString:
    """What matters, and below it, smaller, what it belongs to."""
    return format_html('<span class="two-lines">{}</span><span class="two-lines">{}</span>', first, second)


def document(value: Any) -> SafeString | str:
    """A JSON value, indented, in a box that scrolls."""
    if value is None:
        return NOTHING
    return format_html('<pre class="document">{}</pre>', visible(json.dumps(value, indent=2, ensure_ascii=False)))


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[{}\[\],:]|[^\s"{}\[\],:]+', re.DOTALL)


def indented(text: str) -> str:
    """JSON text with line breaks and indentation. Every token stays as it was received: `1.0` is not made `1`.

    What is not JSON is returned as it is.
    """
    try:
        json.loads(text)
    except ValueError:
        return text
    return "".join(_indent(match.group() for match in _TOKEN.finditer(text)))


def _indent(tokens: Iterator[str]) -> Iterator[str]:
    depth, opened = 0, False
    for piece in tokens:
        if piece in "}]":
            depth -= 1
            yield piece if opened else "\n" + "  " * depth + piece
            opened = False
            continue
        if opened:
            yield "\n" + "  " * depth
        opened = piece in "{["
        depth += opened
        yield {",": ",\n" + "  " * depth, ":": ": "}.get(piece, piece)


_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_INVISIBLE = re.compile("[\u0080-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def visible(value: object) -> str:
    """Text in which what would not show, or would turn the order of letters around, is written as what it is."""
    text = str(value).replace("\r\n", "\n").translate(_PICTURES)
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
