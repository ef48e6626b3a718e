"""Columns of lists and fields of pages that many of them have, as functions that make them.

Each is assigned in a ModelAdmin's body: `show_made = columns.moment("created_at", "made")`.
"""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.utils.safestring import SafeString

from meshes.console import display
from meshes.kit import clock, ids

Column = Callable[[Any, Any], SafeString | str]


def moment(field: str, title: str, *, only_ahead: bool = False) -> Column:
    """A moment, in UTC to the second; `only_ahead`: nothing where it is past."""

    @admin.display(description=f"{title} (UTC)")
    def show(self: Any, row: Any) -> SafeString | str:
        value = getattr(row, field)
        return display.moment(None if only_ahead and value and value <= clock.now() else value)

    return show


def public_id(title: str = "id") -> Column:
    """The row's own id as the API shows it."""

    @admin.display(description=title)
    def show(self: Any, row: Any) -> SafeString | str:
        return display.code(row.public_id)

    return show


def named(field: str, title: str) -> Column:
    """What the row is called, and below it its own id."""

    @admin.display(description=title)
    def show(self: Any, row: Any) -> SafeString | str:
        return display.two_lines(getattr(row, field), display.code(row.public_id))

    return show


def reference(prefix: str, model: str, attribute: str, title: str) -> Column:
    """The id of another row, as a link to its page: `reference("evt", "delivery.event", "event_id", "event")`."""

    @admin.display(description=title)
    def show(self: Any, row: Any) -> SafeString | str:
        pk = getattr(row, attribute)
        return display.id_link(model, pk, ids.encode(prefix, pk)) if pk is not None else display.NOTHING

    return show


def related(attribute: str, model: str) -> Column:
    """Another row by what it is called, as a link to its page: `related("connection", "connections.connection")`."""

    @admin.display(description=attribute)
    def show(self: Any, row: Any) -> SafeString | str:
        return display.page_link(model, getattr(row, f"{attribute}_id"), str(getattr(row, attribute)))

    return show


def workspace() -> Column:
    """The tenant, by name."""

    @admin.display(description="workspace")
    def show(self: Any, row: Any) -> SafeString | str:
        if row.workspace_id is None:
            return "all workspaces"
        return display.page_link("workspaces.workspace", row.workspace_id, row.workspace.name)

    return show


def state(field: str, title: str = "state") -> Column:
    """A state as a coloured word."""

    @admin.display(description=title)
    def show(self: Any, row: Any) -> SafeString | str:
        value = getattr(row, field)
        return display.badge(value) if value else display.NOTHING

    return show


def document(field: str, title: str) -> Column:
    """A JSON value, indented."""

    @admin.display(description=title)
    def show(self: Any, row: Any) -> SafeString | str:
        return display.document(getattr(row, field))

    return show


def words(field: str, title: str) -> Column:
    """A list of short texts."""

    @admin.display(description=title)
    def show(self: Any, row: Any) -> SafeString | str:
        return ", ".join(str(item) for item in getattr(row, field) or ()) or display.NOTHING

    return show
