"""What is known of sealed documents without opening one, the record of every opening, and the seals of the records."""

import uuid
from typing import Any, cast

from django.apps import apps
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from meshes.console import columns, display, finding, watching
from meshes.console.filters import PeriodFilter, WorkspaceFilter, by_text
from meshes.console.pages import OperatorAdmin
from meshes.console.watching import WatchedAdmin
from meshes.kit import ids
from workspaces.vault import recording
from workspaces.vault.models import AccessLogSeal, AccessRecord, SealedDocument


@admin.register(SealedDocument)
class SealedDocumentAdmin(WatchedAdmin):
    """That a secret exists, in which version, and which key sealed it. The document itself is never selected."""

    lookups = {
        ids.CONNECTION: "connection_id", ids.KEY: "api_key_id", ids.APP: "oauth_app_id", ids.WORKSPACE: "workspace_id",
    }  # fmt: skip
    list_display = ("show_owner", "show_workspace", "kind", "version", "key_id", "show_made")
    list_filter = (WorkspaceFilter,)
    search_help_text = "conn_…, key_…, app_… or ws_… id, or the external id of a workspace"
    fields = list_display
    readonly_fields = fields
    show_workspace = columns.workspace()
    show_made = columns.moment("set_at", "set")

    def get_queryset(self, request: HttpRequest) -> QuerySet[SealedDocument]:
        return SealedDocument.objects.defer("document").select_related("workspace")

    def seen(self, row: SealedDocument) -> AccessRecord:
        kind, owner_id = owner_of(row)
        owner: dict[str, Any] = {"workspace_id": row.workspace_id, "owner_kind": kind, "owner_id": owner_id}
        return AccessRecord(**owner, kind=row.kind, version=row.version)

    @admin.display(description="owner")
    def show_owner(self, document: SealedDocument) -> str:
        return owner_link(*owner_of(document))


MODELS: dict[recording.OwnerKind, str] = {
    "workspace": "workspaces.Workspace",
    "connection": "connections.Connection",
    "api_key": "workspaces.ApiKey",
    "oauth_app": "connections.OAuthApp",
    "rule": "delivery.Rule",
    "event": "delivery.Event",
    "delivery": "delivery.Delivery",
    "attempt": "delivery.Attempt",
    "replay": "delivery.Replay",
}
"""Of the owners of records, by their kind."""
SEALED: tuple[recording.OwnerKind, ...] = ("connection", "api_key", "oauth_app")
"""The kinds of owners that have sealed documents."""


def owner_of(document: SealedDocument) -> tuple[str, uuid.UUID]:
    owners = {kind: getattr(document, f"{kind}_id") for kind in SEALED}
    return next((kind, pk) for kind, pk in owners.items() if pk is not None)


def owner_link(kind: str, owner_id: uuid.UUID) -> str:
    """The id of what a record is about, as a link; or that it was the log that somebody looked at."""
    if kind == watching.LOG:
        return "the access log"
    known = cast(recording.OwnerKind, kind)
    return display.id_link(MODELS[known], owner_id, ids.encode(recording.PREFIXES[known], owner_id))


class AnswerFilter(admin.SimpleListFilter):
    title = "answer"
    parameter_name = "answer"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("granted", "Granted"), ("refused", "Refused")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(granted=self.value() == "granted") if self.value() else queryset


@admin.register(AccessRecord)
class AccessRecordAdmin(WatchedAdmin):
    """Who opened or changed which credential, or did what to what, when, why and for which delivery."""

    prefix = ids.ACCESS
    list_display = ("show_when", "show_whose", "show_what", "show_actor", "show_attempt")
    list_filter = (
        WorkspaceFilter,
        PeriodFilter,
        AnswerFilter,
        by_text("purpose", "purpose", "such as delivery"),
        by_text("actor", "actor", "key_… or host:pid"),
    )
    list_select_related = ("workspace",)
    search_help_text = "the id of a connection, key, app, rule, event, delivery, attempt or workspace; an external id"
    fields = (
        "show_when", "show_workspace", "show_owner", "kind", "version", "purpose", "show_actor", "show_granted",
        "show_delivery", "attempt_number", "number",
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
        for kind, label in MODELS.items():
            owner_id = ids.decode(recording.PREFIXES[kind], word)
            if owner_id is not None and kind != "workspace":
                rows = apps.get_model(label)._default_manager.filter(pk=owner_id)
                found = rows.values_list("workspace_id", flat=True)
                return queryset.filter(workspace_id=found.first(), owner_kind=kind, owner_id=owner_id)
        return finding.narrow(queryset, word, {ids.ACCESS: "pk", ids.WORKSPACE: "workspace_id"})

    def seen(self, row: AccessRecord) -> AccessRecord:
        return watching.of_log(row.workspace_id)

    @admin.display(description="owner")
    def show_owner(self, record: AccessRecord) -> str:
        return owner_link(record.owner_kind, record.owner_id)

    @admin.display(description="whose")
    def show_whose(self, record: AccessRecord) -> str:
        return display.two_lines(self.show_owner(record), self.show_workspace(record))

    @admin.display(description="what for")
    def show_what(self, record: AccessRecord) -> str:
        kind = record.kind.replace("_", " ")
        what = record.purpose if record.granted else format_html("{} {}", record.purpose, self.show_granted(record))
        return display.two_lines(what, f"{kind} v{record.version}" if record.version else kind)

    @admin.display(description="actor")
    def show_actor(self, record: AccessRecord) -> str:
        key_id = ids.decode(ids.KEY, record.actor)
        return record.actor if key_id is None else owner_link("api_key", key_id)

    @admin.display(description="for which attempt")
    def show_attempt(self, record: AccessRecord) -> str:
        if record.delivery_id is None:
            return display.NOTHING
        return display.two_lines(self.show_delivery(record), f"attempt {record.attempt_number}")

    @admin.display(description="answer")
    def show_granted(self, record: AccessRecord) -> str:
        return display.badge("granted" if record.granted else "refused")


@admin.register(AccessLogSeal)
class AccessLogSealAdmin(OperatorAdmin):
    """The chain of seals over all access records; `manage.py verify_access_log` checks it."""

    list_display = ("segment", "show_sealed", "week", "count", "head")
    search_help_text = "the number of a segment"
    fields = ("segment", "show_sealed", "week", "show_numbers", "count", "content", "previous", "head")
    readonly_fields = fields
    show_sealed = columns.moment("sealed_at", "sealed")

    @admin.display(description="numbers")
    def show_numbers(self, seal: AccessLogSeal) -> str:
        return f"{seal.after + 1} to {seal.last}"

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
