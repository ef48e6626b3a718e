"""How values look: in templates, as the library `operators`, and in the columns of lists and the fields of pages.

Everything returned is escaped, or plain text for a template to escape.
"""

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from django import template
from django.contrib import admin
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from meshes.kit import clock, ids

register = template.Library()

NOTHING = "–"
MASK = "••••"

PAGES = {
    ids.WORKSPACE: "workspaces_workspace",
    ids.KEY: "workspaces_apikey",
    ids.CONNECTION: "connections_connection",
    ids.APP: "connections_oauthapp",
    ids.ACCESS: "connections_accessrecord",
    ids.RULE: "delivery_rule",
    ids.EVENT: "delivery_event",
    ids.DELIVERY: "delivery_delivery",
    ids.ATTEMPT: "delivery_attempt",
    ids.REPLAY: "delivery_replay",
}
"""By the prefix of their public ids, the models whose rows have a page: what the page's URL is called by."""

TONES = {
    "good": "ok active succeeded delivered routed matched completed closed live granted enabled used",
    "busy": "pending in_flight accepted running half_open waiting",
    "warn": "held paused failing cooling_down retry uncertain open expiring replaced",
    "bad": "dead disabled needs_reauth credential_error rejected broken mapping_failed evaluation_limit set_aside"
    " refused ended",
}
_TONE_OF = {state: tone for tone, states in TONES.items() for state in states.split()}


@register.filter
def badge(state: str | None, tone: str = "") -> SafeString | str:
    """A state as a coloured word; the colour only repeats what the word says."""
    if not state:
        return NOTHING
    tone = tone or _TONE_OF.get(state, "quiet")
    return format_html('<span class="badge badge-{}">{}</span>', tone, plain(state))


def plain(state: str) -> str:
    """`needs_reauth` as a person writes it."""
    return state.replace("_", " ")


@register.filter
def moment(value: datetime | None) -> SafeString | str:
    """A moment to the second, in UTC; how long ago it was, or how long until it is, shows on hover."""
    if value is None:
        return NOTHING
    value = value.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', value.isoformat(), away(value), value.strftime("%Y-%m-%d %H:%M:%S")
    )


def ahead(value: datetime | None) -> SafeString | str:
    """`moment`, and nothing where it is past."""
    return moment(value if value and value > clock.now() else None)


@register.filter
def away(value: datetime | None, now: datetime | None = None) -> str:
    """`in 4 min`, `3 h ago`."""
    if value is None:
        return NOTHING
    seconds = (value - (now or clock.now())).total_seconds()
    return f"in {span(seconds)}" if seconds > 0 else f"{span(abs(seconds))} ago"


def span(seconds: float) -> str:
    """A length of time in its largest whole unit: `45 s`, `12 min`, `5 h`, `9 days`."""
    for unit_seconds, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_seconds:
            return f"{int(seconds // unit_seconds)} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 or seconds == 0 else f"{seconds * 1000:.0f} ms"


@register.filter
def size(count: int) -> str:
    """A number of bytes: `812 bytes`, `4.2 KB`."""
    return f"{count / 1024:.1f} KB" if count >= 1024 else f"{count} bytes"


def code(text: str) -> SafeString:
    """An id or another literal, that does not wrap."""
    return format_html('<code class="id">{}</code>', text)


@register.simple_tag(name="page")
def page_link(model: str, pk: uuid.UUID | int | str | None, text: str) -> SafeString | str:
    """A link to the page of a row: `{% page "delivery.event" event.pk event.type %}`; the text alone without a page."""
    if pk is None:
        return NOTHING
    try:
        url = reverse(f"admin:{model.lower().replace('.', '_')}_change", args=[pk])
    except NoReverseMatch:
        return text
    return format_html('<a href="{}">{}</a>', url, text)


@register.simple_tag(name="id_page")
def id_link(prefix: str, pk: uuid.UUID | None) -> SafeString | str:
    """A public id, as a link to its page: `{% id_page "evt" delivery.event_id %}`."""
    return page_link(PAGES[prefix], pk, code(ids.encode(prefix, pk))) if pk is not None else NOTHING


def two_lines(first: object, second: object) -> SafeString:
    """What matters, and below it, smaller, what it belongs to."""
    return format_html('<span class="two-lines">{}</span><span class="two-lines">{}</span>', first, second)


def words(items: Iterable[Any] | None) -> str:
    return ", ".join(str(item) for item in items or ()) or NOTHING


@register.filter
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


@register.filter
def visible(value: object) -> str:
    """Text in which what would not show, or would turn the order of letters around, is written as what it is."""
    text = str(value).replace("\r\n", "\n").translate(_PICTURES)
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


# --- columns --------------------------------------------------------------------------------------------------------

Show = Callable[[Any], SafeString | str]


def column(title: str, value: str | Show, show: Show = str, name: str = "") -> Any:
    """A column of `list_display` and of `fields`: one field of a row, shown by one of the functions above, or what a
    function makes of the row. Style sheets know it as `field-show_<name>`.
    """

    def shown(row: Any) -> SafeString | str:
        return show(getattr(row, value)) if isinstance(value, str) else value(row)

    shown.__name__ = f"show_{name or (value if isinstance(value, str) else title)}"
    return admin.display(description=title)(shown)  # of any type, as the stubs do not know functions in `fields`


def named(field: str, title: str) -> Any:
    """What the row is called, and below it its own id."""
    return column(title, lambda row: two_lines(getattr(row, field), code(row.public_id)))


def reference(prefix: str, field: str, title: str) -> Any:
    """The id of another row, as a link to its page: `reference("evt", "event_id", "event")`."""
    return column(title, field, lambda pk: id_link(prefix, pk))


def workspace_link(row: Any) -> SafeString | str:
    """The tenant, by name."""
    if row.workspace_id is None:
        return "all workspaces"
    return page_link("workspaces.workspace", row.workspace_id, row.workspace.name)


def connection_link(row: Any) -> SafeString | str:
    return page_link("connections.connection", row.connection_id, row.connection.name)


workspace = column("workspace", workspace_link, name="workspace")
connection = column("connection", connection_link)
