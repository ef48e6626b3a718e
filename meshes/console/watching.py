"""Operators who look at credentials, at the records about them, or at what events carried leave a record too."""

import uuid
from collections.abc import Iterable
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse

from meshes.console.pages import OperatorAdmin, operator_name
from workspaces.vault import recording
from workspaces.vault.models import AccessRecord

PURPOSE = "viewed in the admin"
LOG = "access_log"
"""The kind of what was looked at where it was the log itself."""


def record_views(request: HttpRequest, seen: Iterable[AccessRecord]) -> None:
    """Record that the user sees these, each once. `seen` are records that say what was looked at, and no more."""
    once = {(each.workspace_id, each.owner_kind, each.owner_id, each.kind): each for each in seen}
    for each in once.values():
        each.actor, each.purpose = operator_name(request)[:200], PURPOSE
    AccessRecord.objects.bulk_create(once.values())


def of_log(workspace_id: uuid.UUID | None) -> AccessRecord:
    """The records of one workspace (or of none) were looked at."""
    owner_id = workspace_id or uuid.UUID(int=0)
    return AccessRecord(workspace_id=workspace_id, owner_kind=LOG, owner_id=owner_id, kind=LOG, version=0)


def record_payload_views(request: HttpRequest, kind: recording.OwnerKind, rows: Iterable[Any]) -> None:
    """Record that the user sees what an event carried, or words that may quote it, on a page with these rows."""
    owners = {(row.workspace_id, kind, row.pk) for row in rows}
    recording.record_actions(owners, actor=operator_name(request), purpose="viewed")


class PayloadAdmin(OperatorAdmin):
    """Pages that show what events carried, or answers and errors that may quote it: each look is recorded."""

    viewed_kind: ClassVar[recording.OwnerKind]
    """What the rows are in the records."""
    quoting: ClassVar[str] = ""
    """The column of the list, if any, whose words may quote a payload."""

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        answer = super().changelist_view(request, extra_context)
        shown = getattr(answer, "context_data", None) or {}
        if "cl" in shown and self.quoting:
            quoting = [row for row in shown["cl"].result_list if getattr(row, self.quoting)]
            record_payload_views(request, self.viewed_kind, quoting)
        return answer

    def page_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        record_payload_views(request, self.viewed_kind, [obj])
        return super().page_context(request, obj)


class WatchedAdmin(OperatorAdmin):
    """Pages whose opening is recorded before anything is shown. Subclasses write `seen`."""

    def seen(self, row: Any) -> AccessRecord:
        """What somebody sees who sees this row."""
        raise NotImplementedError

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        answer = super().changelist_view(request, extra_context)
        shown = getattr(answer, "context_data", None) or {}
        if "cl" in shown:
            record_views(request, map(self.seen, shown["cl"].result_list))
        return answer

    def page_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        record_views(request, [self.seen(obj)])
        return super().page_context(request, obj)
