"""What is known of sealed documents without opening one, the record of every opening, and the seals of the records."""

import uuid
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from connections.admin import watching
from connections.admin.watching import WatchedAdmin
from connections.models import AccessLogSeal, AccessRecord, Connection, SealedDocument
from workspaces import ids
from workspaces.models import ApiKey
from workspaces.operators import columns, display, finding
from workspaces.operators.filters import PeriodFilter, WorkspaceFilter, by_text
from workspaces.operators.pages import OperatorAdmin


@admin.register(SealedDocument)
class SealedDocumentAdmin(WatchedAdmin):
    """That a secret exists, in which version, and which key sealed it. The document itself is never selected."""

    lookups = {ids.CONNECTION: "connection_id", ids.KEY: "api_key_id", ids.WORKSPACE: "workspace_id"}
    list_display = ("show_owner", "show_workspace", "kind", "version", "key_id", "show_made")
    list_filter = (WorkspaceFilter,)
    search_help_text = "conn_…, key_… or ws_… id, or the external id of a workspace"
    fields = list_display
    readonly_fields = fields
    show_workspace = columns.workspace()
    show_made = columns.moment("created_at", "sealed")

    def get_queryset(self, request: HttpRequest) -> QuerySet[SealedDocument]:
        return SealedDocument.objects.defer("document").select_related("workspace")

    def seen(self, row: SealedDocument) -> AccessRecord:
        owners = {"connection": row.connection_id, "api_key": row.api_key_id, "oauth_app": row.oauth_app_id}
        kind, owner_id = next((kind, pk) for kind, pk in owners.items() if pk is not None)
        owner: dict[str, Any] = {"workspace_id": row.workspace_id, "owner_kind": kind, "owner_id": owner_id}
        return AccessRecord(**owner, kind=row.kind, version=row.version)

    @admin.display(description="owner")
    def show_owner(self, document: SealedDocument) -> str:
        if document.connection_id is not None:
            return owner_link("connection", document.connection_id)
        if document.oauth_app_id is not None:
            return owner_link("oauth_app", document.oauth_app_id)
        return owner_link("api_key", document.api_key_id)


def owner_link(kind: str, owner_id: uuid.UUID | None) -> str:
    """The id of what a sealed document belongs to, as a link; or that it was the log that somebody looked at."""
    if kind == watching.LOG:
        return "the access log"
    prefix, model = {
        "connection": (ids.CONNECTION, "connections.connection"),
        "api_key": (ids.KEY, "workspaces.apikey"),
    }.get(kind, ("", ""))
    if owner_id is None or not prefix:
        return str(owner_id)
    return display.id_link(model, owner_id, ids.encode(prefix, owner_id))


class AnswerFilter(admin.SimpleListFilter):
    title = "answer"
    parameter_name = "answer"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("granted", "Granted"), ("refused", "Refused")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(granted=self.value() == "granted") if self.value() else queryset


@admin.register(AccessRecord)
class AccessRecordAdmin(WatchedAdmin):
    """Who opened or changed which credential, when, why and for which delivery."""

    prefix = ids.ACCESS
    list_display = ("show_when", "show_whose", "show_what", "actor", "show_granted", "show_delivery")
    list_filter = (
        WorkspaceFilter,
        PeriodFilter,
        AnswerFilter,
        by_text("purpose", "purpose", "such as delivery"),
        by_text("actor", "actor", "key_… or host:pid"),
    )
    list_select_related = ("workspace",)
    search_help_text = "conn_…, key_… or ws_… id, or the external id of a workspace"
    fields = (
        "show_when", "show_workspace", "show_owner", "kind", "version", "purpose", "actor", "show_granted",
        "show_delivery", "attempt_number",
    )  # fmt: skip
    readonly_fields = fields
    show_when = columns.moment("created_at", "when")
    show_workspace = columns.workspace()
    show_delivery = columns.reference(ids.DELIVERY, "delivery.delivery", "delivery_id", "delivery")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """An owner is found through its workspace, since the records are indexed by that."""
        for word in search_term.split():
            queryset = self._narrow(queryset, word)
        return queryset, False

    def _narrow(self, queryset: QuerySet[Any], word: str) -> QuerySet[Any]:
        connection_id, key_id = ids.decode(ids.CONNECTION, word), ids.decode(ids.KEY, word)
        if connection_id is not None:
            workspaces = Connection.objects.filter(pk=connection_id).values("workspace_id")[:1]
            return queryset.filter(workspace_id__in=workspaces, owner_kind="connection", owner_id=connection_id)
        if key_id is not None:
            key = ApiKey.objects.filter(pk=key_id).only("workspace_id").first()
            workspace_id = key.workspace_id if key else None
            return queryset.filter(workspace_id=workspace_id, owner_kind="api_key", owner_id=key_id)
        return finding.narrow(queryset, word, {ids.ACCESS: "pk", ids.WORKSPACE: "workspace_id"})

    def seen(self, row: AccessRecord) -> AccessRecord:
        return watching.of_log(row.workspace_id)

    @admin.display(description="owner")
    def show_owner(self, record: AccessRecord) -> str:
        return owner_link(record.owner_kind, record.owner_id)

    @admin.display(description="credential of")
    def show_whose(self, record: AccessRecord) -> str:
        workspace = record.workspace.name if record.workspace else "no workspace"
        return display.two_lines(self.show_owner(record), workspace)

    @admin.display(description="what for")
    def show_what(self, record: AccessRecord) -> str:
        return display.two_lines(record.purpose, f"{record.kind} v{record.version}")

    @admin.display(description="answer")
    def show_granted(self, record: AccessRecord) -> str:
        return display.badge("granted" if record.granted else "refused")


@admin.register(AccessLogSeal)
class AccessLogSealAdmin(OperatorAdmin):
    """The chain of seals over all access records; `manage.py verify_access_log` checks it."""

    list_display = ("segment", "show_sealed", "week", "count", "head")
    search_help_text = "the number of a segment"
    fields = ("segment", "show_sealed", "week", "after", "last", "count", "content", "previous", "head")
    readonly_fields = fields
    show_sealed = columns.moment("sealed_at", "sealed")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AccessLogSeal]:
        return AccessLogSeal.objects.defer("marks")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        is_number = term.isascii() and term.isdigit() and len(term) <= 18
        return (queryset.filter(pk=int(term)) if is_number else queryset.none()), False
