"""Events with their whole timeline, and those that still wait for fan-out."""

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest

from delivery.events import setting_aside
from delivery.lanes import publishing
from delivery.models import Event, Unrouted
from meshes.console import columns, display, timeline, wording
from meshes.console.filters import PeriodFilter, WorkspaceFilter, by_text
from meshes.console.pages import Button, OperatorAdmin
from meshes.console.watching import PayloadAdmin
from meshes.kit import ids


@admin.register(Event)
class EventAdmin(PayloadAdmin):
    """What was received, which rules were considered, what was sent where and what came back."""

    prefix = ids.EVENT
    viewed_kind = "event"
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
        unrouted = Unrouted.objects.filter(pk=OuterRef("pk"))
        return Event.objects.select_related("workspace").annotate(
            waits=Exists(unrouted), is_set_aside=Exists(unrouted.exclude(poisoned_at=None))
        )

    @admin.display(description="status")
    def show_status(self, event: Event) -> str:
        if event.is_set_aside:  # type: ignore[attr-defined]  # annotated
            return display.badge("set_aside")
        return display.badge("accepted" if event.waits else "routed")  # type: ignore[attr-defined]

    @admin.display(description="payload")
    def show_size(self, event: Event) -> str:
        return display.size(event.payload_bytes)

    def page_context(self, request: HttpRequest, obj: Event) -> dict[str, Any]:
        shown = timeline.of_event(obj)
        ledger = shown.ledger
        return super().page_context(request, obj) | {
            "timeline": shown,
            "routed_after": timeline.delay(obj.created_at, ledger.created_at) if ledger else "",
            "key": ids.encode(ids.KEY, obj.api_key_id) if obj.api_key_id else "",
        }


class SetAsideFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Waiting"), ("set_aside", "Set aside")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(poisoned_at__isnull=self.value() == "waiting") if self.value() else queryset


@admin.register(Unrouted)
class UnroutedAdmin(OperatorAdmin):
    """Events before their fan-out. One that stays here is a fault of ours."""

    prefix = ids.EVENT
    lookups = {ids.EVENT: "pk", ids.WORKSPACE: "workspace_id"}
    list_display = (
        *("show_event", "show_workspace", "show_state", "show_why", "show_losses", "failures"),
        *("show_since", "show_set_aside"),
    )
    list_filter = (WorkspaceFilter, SetAsideFilter)
    list_select_related = ("workspace",)
    search_help_text = "evt_… or ws_… id, or the external id of a workspace"
    actions = ("route_again", "route_all_again")
    fields = (*list_display, "show_lease")
    readonly_fields = fields
    show_event = columns.reference(ids.EVENT, "delivery.event", "pk", "event")
    show_workspace = columns.workspace()
    show_since = columns.moment("created_at", "waits since")
    show_lease = columns.moment("lease_until", "is routed, or rests, until")
    show_set_aside = columns.moment("poisoned_at", "set aside")

    @admin.display(description="state")
    def show_state(self, unrouted: Unrouted) -> str:
        return display.badge("set_aside" if unrouted.poisoned_at else "waiting")

    @admin.display(description="why")
    def show_why(self, unrouted: Unrouted) -> str:
        return wording.why_not_routed(unrouted.poisoned_at is not None, unrouted.cause, unrouted.detail)

    @admin.display(description="workers lost", ordering="tries")
    def show_losses(self, unrouted: Unrouted) -> int:
        return unrouted.tries

    def buttons(self, request: HttpRequest, obj: Unrouted) -> list[Button]:
        return [Button("route_again", "Route again")] if obj.poisoned_at else []

    @admin.action(description="Route again all that is set aside, selected or not", permissions=["operate"])
    def route_all_again(self, request: HttpRequest, queryset: QuerySet[Unrouted]) -> None:
        with transaction.atomic():
            hints = setting_aside.route_all_again(None)
            self.record(request, Unrouted.objects.filter(pk__in=[pk for _, pk in hints]), "Routed again.")
        publishing.publish_fanouts(hints)
        more = len(hints) == setting_aside.MOST_AT_ONCE
        left = ["More are set aside: do it again."] if more else [] if hints else ["Nothing is set aside."]
        self.report(request, "routed again", len(hints), left)

    @admin.action(description="Route again what was set aside", permissions=["operate"])
    def route_again(self, request: HttpRequest, queryset: QuerySet[Unrouted]) -> None:
        rows = self.selected(request, queryset)
        with transaction.atomic():
            hints = setting_aside.route_again([row.pk for row in rows])
            opened = {event_id for _, event_id in hints}
            self.record(request, [row for row in rows if row.pk in opened], "Routed again.")
        publishing.publish_fanouts(hints)
        self.report(request, "routed again", len(opened), ["Not set aside."] * (len(rows) - len(opened)))
