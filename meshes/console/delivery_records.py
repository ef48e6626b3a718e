"""Rows that other pages show in their context, each by itself: payloads and ledgers; and workers."""

from typing import ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from delivery.dispatch import sweep
from delivery.models import Payload, RoutingLedger, RoutingStamp, SweepRun, WorkerSession
from meshes.console import columns, display
from meshes.console.filters import PeriodFilter
from meshes.console.pages import OperatorAdmin
from meshes.console.watching import PayloadAdmin
from meshes.kit import ids


@admin.register(Payload)
class PayloadRowAdmin(PayloadAdmin):
    """What events carried, as received."""

    prefix = ids.EVENT
    viewed_kind = "event"
    lookups = {ids.EVENT: "pk"}
    list_display = ("show_event", "show_workspace", "show_erased")
    list_filter = (PeriodFilter,)
    list_select_related = ("workspace",)
    search_help_text = "evt_… id"
    fields = ("show_event", "show_workspace", "show_erased", "show_body")
    readonly_fields = fields
    show_event = columns.reference(ids.EVENT, "delivery.event", "pk", "event")
    show_workspace = columns.workspace()
    show_erased = columns.moment("erased_at", "erased")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Payload]:
        return Payload.objects.defer("body").select_related("workspace")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Payload | None:
        found: Payload | None = super().get_object(request, object_id, from_field)
        if found is not None:
            found.refresh_from_db(fields=["body"])  # its text names it, so it is read with the page and not by chance
        return found

    @admin.display(description="body")
    def show_body(self, payload: Payload) -> str:
        return format_html('<pre class="document">{}</pre>', display.visible(display.indented(payload.body)))


@admin.register(RoutingLedger)
class RoutingLedgerAdmin(PayloadAdmin):
    """Which rules were considered for an event; the event's page says it in words."""

    prefix = ids.EVENT
    viewed_kind = "event"
    lookups = {ids.EVENT: "pk"}
    list_display = ("show_event", "show_workspace", "show_considered", "show_matched", "show_made")
    list_filter = (PeriodFilter,)
    list_select_related = ("workspace",)
    search_help_text = "evt_… id"
    fields = ("show_event", "show_workspace", "show_made", "show_entries")
    readonly_fields = fields
    show_event = columns.reference(ids.EVENT, "delivery.event", "pk", "event")
    show_workspace = columns.workspace()
    show_made = columns.moment("created_at", "routed")
    show_entries = columns.document("entries", "entries")

    @admin.display(description="rules considered")
    def show_considered(self, ledger: RoutingLedger) -> int:
        return len(ledger.entries)

    @admin.display(description="deliveries")
    def show_matched(self, ledger: RoutingLedger) -> int:
        return sum("delivery" in entry for entry in ledger.entries)


@admin.register(RoutingStamp)
class RoutingStampAdmin(OperatorAdmin):
    """By which state of a workspace's rules and connections events are routed."""

    list_display = ("show_id", "stamp")
    fields = ("show_workspace", "stamp")
    readonly_fields = fields
    show_id = columns.reference(ids.WORKSPACE, "workspaces.workspace", "pk", "workspace")
    show_workspace = columns.workspace()


@admin.register(WorkerSession)
class WorkerSessionAdmin(OperatorAdmin):
    """Worker processes that PostgreSQL knows to be there, and those that it has missed lately."""

    list_display = ("worker", "show_state", "show_started", "show_missing", "show_ended")
    fields = list_display
    readonly_fields = fields
    show_started = columns.moment("started_at", "began")
    show_missing = columns.moment("missing_since", "missing since")
    show_ended = columns.moment("ended_at", "its leases ended")

    @admin.display(description="state")
    def show_state(self, session: WorkerSession) -> str:
        if session.ended_at is not None:
            return display.badge("gone", "bad")
        return display.badge("missing", "warn") if session.missing_since else display.badge("there", "good")


@admin.register(SweepRun)
class SweepRunAdmin(OperatorAdmin):
    """When each sweep last succeeded."""

    list_display = ("name", "show_state", "show_succeeded")
    search_fields: ClassVar[tuple[str, ...]] = ()
    fields = list_display
    readonly_fields = fields
    show_succeeded = columns.moment("succeeded_at", "last success")

    @admin.display(description="state")
    def show_state(self, run: SweepRun) -> str:
        is_late = any(each.is_late for each in sweep.last_runs() if each.name == run.name)
        return display.badge("late", "bad") if is_late else display.badge("runs", "good")
