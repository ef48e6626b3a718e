"""Events with their whole timeline, and those that still wait for fan-out."""

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest

from delivery import publishing, setting_aside
from delivery.admin import timeline
from delivery.models import Event, Unrouted
from workspaces import ids
from workspaces.operators import columns, display
from workspaces.operators.filters import PeriodFilter, WorkspaceFilter, by_text
from workspaces.operators.pages import Button, OperatorAdmin


@admin.register(Event)
class EventAdmin(OperatorAdmin):
    """What was received, which rules were considered, what was sent where and what came back."""

    prefix = ids.EVENT
    lookups = {ids.EVENT: "pk", ids.WORKSPACE: "workspace_id", "type": "type"}
    list_display = ("show_event", "show_workspace", "show_status", "show_size", "show_received")
    list_filter = (WorkspaceFilter, by_text("event type", "type", "lead.created"), PeriodFilter)
    search_help_text = "evt_… or ws_… id, the external id of a workspace, or an event type"
    change_form_template = "admin/delivery/event/page.html"
    fields = ("type",)
    show_event = columns.named("type", "event")
    show_workspace = columns.workspace()
    show_received = columns.moment("created_at", "received")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        waits = Exists(Unrouted.objects.filter(pk=OuterRef("pk")))
        return Event.objects.select_related("workspace").annotate(waits=waits)

    @admin.display(description="status")
    def show_status(self, event: Event) -> str:
        return display.badge("accepted" if event.waits else "routed")  # type: ignore[attr-defined]  # annotated

    @admin.display(description="payload")
    def show_size(self, event: Event) -> str:
        return display.size(event.payload_bytes)

    def page_context(self, request: HttpRequest, obj: Event) -> dict[str, Any]:
        shown = timeline.of_event(obj)
        ledger = shown.ledger
        return {
            "timeline": shown,
            "routed_after": timeline.delay(obj.created_at, ledger.created_at) if ledger else "",
            "key": ids.encode(ids.KEY, obj.api_key_id) if obj.api_key_id else "",
        }


class PoisonFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Waiting"), ("poisoned", "Poisoned")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(poisoned_at__isnull=self.value() == "waiting") if self.value() else queryset


@admin.register(Unrouted)
class UnroutedAdmin(OperatorAdmin):
    """Events before their fan-out. One that stays here is a fault of ours."""

    prefix = ids.EVENT
    lookups = {ids.EVENT: "pk", ids.WORKSPACE: "workspace_id"}
    list_display = ("show_event", "show_workspace", "show_state", "tries", "show_since", "show_poisoned")
    list_filter = (WorkspaceFilter, PoisonFilter)
    list_select_related = ("workspace",)
    search_help_text = "evt_… or ws_… id, or the external id of a workspace"
    actions = ("route_again",)
    fields = (*list_display, "show_lease")
    readonly_fields = fields
    show_event = columns.reference(ids.EVENT, "delivery.event", "pk", "event")
    show_workspace = columns.workspace()
    show_since = columns.moment("created_at", "waits since")
    show_lease = columns.moment("lease_until", "being routed until")
    show_poisoned = columns.moment("poisoned_at", "set aside")

    @admin.display(description="state")
    def show_state(self, unrouted: Unrouted) -> str:
        return display.badge("poisoned" if unrouted.poisoned_at else "waiting")

    def buttons(self, request: HttpRequest, obj: Unrouted) -> list[Button]:
        return [Button("route_again", "Route again")] if obj.poisoned_at else []

    @admin.action(description="Route again what was set aside as poison", permissions=["operate"])
    def route_again(self, request: HttpRequest, queryset: QuerySet[Unrouted]) -> None:
        rows = self.selected(request, queryset)
        with transaction.atomic():
            hints = setting_aside.route_again([row.pk for row in rows])
            opened = {event_id for _, event_id in hints}
            self.record(request, [row for row in rows if row.pk in opened], "Routed again.")
        publishing.publish_fanouts(hints)
        self.report(request, "routed again", len(opened), ["Not set aside."] * (len(rows) - len(opened)))
