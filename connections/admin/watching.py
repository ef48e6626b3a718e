"""Operators who look at credentials, or at the records about them, leave a record too."""

import uuid
from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest, HttpResponse

from connections.models import AccessRecord
from workspaces.operators.pages import OperatorAdmin, operator_name

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
