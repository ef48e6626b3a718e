"""Deliveries, dead letters and attempts."""

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from delivery import search, serializers
from delivery.dispatch import connection_health, deletion, reopening
from delivery.lanes import publishing
from delivery.models import Attempt, DeadLetter, Delivery
from delivery.search import OUTCOMES, STATES, narrow_deliveries
from meshes.console import columns, display, timeline, wording
from meshes.console.filters import PeriodFilter, WorkspaceFilter, by_choice, by_id, by_text
from meshes.console.pages import Button
from meshes.console.watching import PayloadAdmin
from meshes.kit import clock, ids
from meshes.kit.metering import EVENT_STEPS

MOST_STEPS = 20 * EVENT_STEPS
"""What the mappings of one action's rows may cost: some seconds."""
LEFT = "Their mappings take long: choose them again."
CHANGED = "They changed at the same moment, or cannot be sent any more."
ConnectionFilter = by_id("connection", "connection", ids.CONNECTION, "connection_id")
TypeFilter = by_text("event type", "event_type", "lead.created")


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, state.replace("_", " ").capitalize()) for state in STATES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in STATES:
            return queryset
        return narrow_deliveries(queryset, {"status": self.value()}, clock.database_now())


class DeliveriesAdmin(PayloadAdmin):
    """What lists of deliveries have in common."""

    prefix = ids.DELIVERY
    viewed_kind = "delivery"
    permission_model = "delivery.delivery"
    lookups = {
        ids.DELIVERY: "pk",
        ids.EVENT: "event_id",
        ids.CONNECTION: "connection_id",
        ids.RULE: "rule_id",
        ids.REPLAY: "replay_id",
        ids.WORKSPACE: "workspace_id",
        "type": "event_type",
    }
    search_help_text = (
        "dlv_…, evt_…, conn_…, rule_…, rpl_… or ws_… id, the external id of a workspace, or an event type"
    )
    show_made = columns.moment("created_at", "made")
    show_finished = columns.moment("finished_at", "died")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = self.model._default_manager.all()
        return rows.defer("body", "frozen").select_related("workspace", "connection__health")

    @admin.display(description="state")
    def show_state(self, delivery: Delivery) -> str:
        return display.badge(delivery.state)

    @admin.display(description="delivery")
    def show_what(self, delivery: Delivery) -> str:
        return display.two_lines(delivery.event_type, display.code(delivery.public_id))

    @admin.display(description="to")
    def show_where(self, delivery: Delivery) -> str:
        return display.two_lines(
            display.page_link("connections.connection", delivery.connection_id, delivery.connection.name),
            display.page_link("workspaces.workspace", delivery.workspace_id, delivery.workspace.name),
        )

    @admin.display(description="next attempt (UTC)")
    def show_next(self, delivery: Delivery) -> str:
        found = connection_health.waiting_for(delivery, clock.now())
        if found is None:
            return display.NOTHING
        reason = found.reason.replace("_", " ")
        return display.two_lines(display.moment(found.until), reason) if found.until else reason

    @admin.display(description="attempts")
    def show_attempts(self, delivery: Delivery) -> int:
        return delivery.attempt_number

    @admin.display(description="cause")
    def show_cause(self, delivery: Delivery) -> str:
        return delivery.cause.replace("_", " ") or display.NOTHING

    @admin.action(description="Send again; what was rejected with today's mapping", permissions=["operate"])
    def replay(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._send_again(request, queryset, reopening.BY_CAUSE)

    @admin.action(description="Send again with the body that it has", permissions=["operate"])
    def replay_original(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._send_again(request, queryset, reopening.Terms(reopening.ORIGINAL))

    def _send_again(self, request: HttpRequest, queryset: QuerySet[Any], terms: reopening.Terms) -> None:
        rows = self.selected(request, queryset)
        with transaction.atomic():
            sent = reopening.send_again([row.pk for row in rows], terms, MOST_STEPS)
            done = [row for row in rows if row.pk in sent.made]
            self.record(request, _as_deliveries(row for row in done if sent.made[row.pk] == row.pk), "Sent again.")
            for row in done:
                if sent.made[row.pk] != row.pk:
                    newest = ids.encode(ids.DELIVERY, sent.made[row.pk])
                    self.record(request, _as_deliveries([row]), f"Sent again as {newest}.")
        publishing.publish_deliveries(sent.to_publish)
        reasons = [refusal.words for refusal in sent.refused.values()] + [LEFT] * len(sent.left)
        self.report(request, "sent again", len(done), reasons)


def _as_deliveries(rows: Any) -> list[Delivery]:
    """Under one name in the log, whichever list they were chosen from."""
    return [Delivery(pk=row.pk, status=row.status, lease_until=row.lease_until) for row in rows]


def _cancelled(rows: list[Any], now: datetime) -> list[Any]:
    """Those of the rows that were cancelled at this moment."""
    done = Delivery.objects.filter(pk__in=[row.pk for row in rows], status="cancelled", finished_at=now)
    found = set(done.values_list("pk", flat=True))
    return [row for row in rows if row.pk in found]


@admin.register(Delivery)
class DeliveryAdmin(DeliveriesAdmin):
    """One event to one connection because of one rule."""

    list_display = (
        "show_what", "show_where", "show_state", "show_cause", "show_attempts", "show_next", "show_made",
    )  # fmt: skip
    list_filter = (WorkspaceFilter, ConnectionFilter, StateFilter, TypeFilter, PeriodFilter)
    actions = ("replay", "replay_original", "cancel")
    change_form_template = "admin/delivery/delivery/page.html"
    fields = ("event_type",)

    @admin.action(description="Cancel what is pending or held, for good", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> HttpResponse | None:
        if asked := self.confirm(request, queryset, "cancel", "Cancel these deliveries, for good?"):
            return asked
        rows, now = self.selected(request, queryset), clock.database_now()
        with transaction.atomic():
            deletion.cancel([row.pk for row in rows], deletion.BY_USER, now)
            cancelled = _cancelled(rows, now)
            self.record(request, _as_deliveries(cancelled), "Cancelled.")
        left = [row.state.replace("_", " ") for row in rows if row not in cancelled]
        refused = [f"A delivery that is {state} is not cancelled." for state in left]
        self.report(request, "cancelled", len(cancelled), refused)
        return None

    def buttons(self, request: HttpRequest, obj: Delivery) -> list[Button]:
        if obj.status in reopening.REOPENABLE and obj.replaced_by_id is None:
            as_it_was = obj.status == Delivery.Status.DEAD and obj.cause == reopening.REJECTED
            original = [Button("replay_original", "Send again as it was")] if as_it_was else []
            return [Button("replay", "Send again"), *original]
        if obj.status in deletion.OPEN and obj.lease_id is None:
            return [Button("cancel", "Cancel", is_grave=True)]
        return []

    def page_context(self, request: HttpRequest, obj: Delivery) -> dict[str, Any]:
        return super().page_context(request, obj) | {
            "card": timeline.cards([obj], timeline.ATTEMPTS_ON_DELIVERY_PAGE)[0],
            "event_id": ids.encode(ids.EVENT, obj.event_id),
            "rule_id": ids.encode(ids.RULE, obj.rule_id),
            "replay_of": ids.encode(ids.DELIVERY, obj.replay_of_id) if obj.replay_of_id else "",
            "replaced_by": ids.encode(ids.DELIVERY, obj.replaced_by_id) if obj.replaced_by_id else "",
            "replay_id": ids.encode(ids.REPLAY, obj.replay_id) if obj.replay_id else "",
            "lease_is_live": obj.state == "in_flight",
        }


@admin.register(DeadLetter)
class DeadLetterAdmin(DeliveriesAdmin):
    """Deliveries that will not be tried again by themselves, to be sent again or dismissed."""

    list_display = (
        "show_what", "show_where", "show_cause", "detail", "show_attempts", "show_finished",
    )  # fmt: skip
    quoting = "detail"
    list_filter = (
        WorkspaceFilter,
        ConnectionFilter,
        by_choice("cause", "cause", search.DEAD_CAUSES),
        TypeFilter,
        PeriodFilter,
    )
    actions = ("replay", "replay_original", "cancel")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).filter(status=Delivery.Status.DEAD)

    @admin.action(description="Cancel: take them off this list, for good", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        if asked := self.confirm(request, queryset, "cancel", "Cancel these dead letters, for good?"):
            return asked
        rows, now = self.selected(request, queryset), clock.database_now()
        with transaction.atomic():
            deletion.dismiss([row.pk for row in rows], now)
            cancelled = _cancelled(rows, now)
            self.record(request, _as_deliveries(cancelled), "Cancelled: it was a dead letter.")
        self.report(request, "cancelled", len(cancelled), [CHANGED] * (len(rows) - len(cancelled)))
        return None

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A dead letter is a delivery, and has its page."""
        return HttpResponseRedirect(reverse("admin:delivery_delivery_change", args=[object_id]))


@admin.register(Attempt)
class AttemptAdmin(PayloadAdmin):
    """One try, with all that is kept of its answer."""

    prefix = ids.ATTEMPT
    viewed_kind = "attempt"
    lookups = {ids.ATTEMPT: "pk", ids.DELIVERY: "delivery_id"}
    list_display = (
        "show_id", "show_delivery", "number", "show_outcome", "status_code", "error_class", "show_took", "show_started",
    )  # fmt: skip
    list_filter = (by_choice("outcome", "outcome", OUTCOMES), PeriodFilter)
    search_help_text = "att_… or dlv_… id"
    change_form_template = "admin/delivery/attempt/page.html"
    fields = ("number",)
    show_id = columns.public_id()
    show_delivery = columns.reference(ids.DELIVERY, "delivery.delivery", "delivery_id", "delivery")
    show_outcome = columns.state("outcome", "outcome")
    show_started = columns.moment("started_at", "began")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Attempt]:
        return Attempt.objects.defer("request_body", "response_body")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        found = super().get_object(request, object_id, from_field)
        if found is not None:
            found.refresh_from_db(fields=["request_body", "response_body"])
        return found

    @admin.display(description="took")
    def show_took(self, attempt: Attempt) -> str:
        return display.NOTHING if attempt.duration_ms is None else f"{attempt.duration_ms:,} ms"

    def page_context(self, request: HttpRequest, obj: Attempt) -> dict[str, Any]:
        delivery = Delivery.objects.filter(pk=obj.delivery_id).select_related("connection").first()
        return super().page_context(request, obj) | {
            "shown": timeline.card(obj),
            "delivery": delivery,
            "delivery_id": ids.encode(ids.DELIVERY, obj.delivery_id),
            "cause_words": wording.cause(obj.error_class),
            "curl": serializers.curl_of(obj),
        }
