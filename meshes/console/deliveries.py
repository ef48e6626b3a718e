"""Traffic: rules, events and those that still wait for fan-out, deliveries, dead letters, attempts and replays."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from delivery import search, serializers
from delivery.dispatch import connection_health, deletion, replays
from delivery.events import setting_aside
from delivery.lanes import brokers
from delivery.models import Attempt, DeadLetter, Delivery, Event, Replay, Rule, Unrouted
from delivery.search import OUTCOMES, REPLAYABLE, STATES, narrow_deliveries
from meshes.console import display, timeline
from meshes.console.display import column, connection_link, named, reference, two_lines, workspace, workspace_link
from meshes.console.lists import PeriodFilter, WorkspaceFilter, by_choice, by_condition, by_id, by_text, chosen
from meshes.console.pages import OperatorAdmin, asks
from meshes.kit import clock, ids
from meshes.kit.metering import EVENT_STEPS

MOST_STEPS = 20 * EVENT_STEPS
"""What the mappings of one action's rows may cost: some seconds."""
LEFT = "Their mappings take long: choose them again."
CHANGED = "They changed at the same moment, or cannot be sent any more."
ConnectionFilter = by_id("connection", ids.CONNECTION, "connection_id")
WORKSPACE_WORDS = "ws_… id, the external id of a workspace, or an event"


RULE_STATES = {
    "enabled": Q(deleted_at=None, enabled=True),
    "disabled": Q(deleted_at=None, enabled=False),
    "deleted": Q(deleted_at__isnull=False),
}


@admin.register(Rule)
class RuleAdmin(OperatorAdmin):
    """Which events go to which connection. Rules are their owner's, and change through the API."""

    prefix = ids.RULE
    lookups = {ids.RULE: "pk", ids.CONNECTION: "connection_id", ids.WORKSPACE: "workspace_id", "type": "event"}
    changed = column("changed (UTC)", "updated_at", display.moment)
    list_display = (named("event", "rule"), workspace, display.connection, "action", "state", "version", changed)
    list_filter = (
        WorkspaceFilter,
        ConnectionFilter,
        by_text("event pattern", "event", "lead.*"),
        by_condition("state", "state", RULE_STATES),
    )
    list_select_related = ("workspace", "connection")
    search_help_text = f"rule_…, conn_… or {WORKSPACE_WORDS} pattern"
    fields = (
        "event", workspace, display.connection, "action", "state", "version",
        column("filter", "filter", display.document), column("mapping", "mapping", display.document),
        column("made (UTC)", "created_at", display.moment), changed,
        column("deleted (UTC)", "deleted_at", display.moment),
    )  # fmt: skip

    def state(self, rule: Rule) -> str:
        if rule.deleted_at is not None:
            return display.badge("deleted")
        return display.badge("enabled") if rule.enabled else display.badge("disabled", "quiet")


# --- events ---------------------------------------------------------------------------------------------------------


@admin.register(Event)
class EventAdmin(OperatorAdmin):
    """What was received, which rules were considered, what was sent where and what came back."""

    prefix = ids.EVENT
    viewed_kind = "event"
    lookups = {ids.EVENT: "pk", ids.WORKSPACE: "workspace_id", "type": "type"}
    list_display = (
        named("type", "event"), workspace, "status",
        column("payload", "payload_bytes", display.size), column("received (UTC)", "created_at", display.moment),
    )  # fmt: skip
    list_filter = (WorkspaceFilter, by_text("event type", "type", "lead.created"), PeriodFilter)
    search_help_text = f"evt_… or {WORKSPACE_WORDS} type"
    change_form_template = "admin/delivery/event/page.html"
    fields = ("type",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        unrouted = Unrouted.objects.filter(pk=OuterRef("pk"))
        return Event.objects.select_related("workspace").annotate(
            waits=Exists(unrouted), is_set_aside=Exists(unrouted.exclude(poisoned_at=None))
        )

    def status(self, event: Any) -> str:
        return display.badge("set_aside" if event.is_set_aside else "accepted" if event.waits else "routed")

    def page_context(self, request: HttpRequest, obj: Event) -> dict[str, Any]:
        return {"timeline": timeline.of_event(obj)}


@admin.register(Unrouted)
class UnroutedAdmin(OperatorAdmin):
    """Events before their fan-out. One that stays here is a fault of ours."""

    prefix = ids.EVENT
    lookups = {ids.EVENT: "pk", ids.WORKSPACE: "workspace_id"}
    list_display = (
        reference(ids.EVENT, "pk", "event"), workspace,
        column("state", lambda row: display.badge("set_aside" if row.poisoned_at else "waiting")),
        column("why", timeline.why_not_routed), column("workers lost", "tries"), "failures",
        column("waits since (UTC)", "created_at", display.moment),
        column("set aside (UTC)", "poisoned_at", display.moment),
    )  # fmt: skip
    list_filter = (
        WorkspaceFilter,
        by_condition("state", "state", {"waiting": Q(poisoned_at=None), "set_aside": Q(poisoned_at__isnull=False)}),
    )
    list_select_related = ("workspace",)
    search_help_text = "evt_… or ws_… id, or the external id of a workspace"
    actions = ("route_again", "route_all_again")
    fields = (*list_display, column("is routed, or rests, until (UTC)", "lease_until", display.moment))

    def buttons(self, request: HttpRequest, obj: Unrouted) -> dict[str, str]:
        return {"route_again": "Route again"} if obj.poisoned_at else {}

    @admin.action(description="Route again all that is set aside, selected or not", permissions=["operate"])
    def route_all_again(self, request: HttpRequest, queryset: QuerySet[Unrouted]) -> None:
        routed = self._route(request, lambda: setting_aside.route_all_again(None))
        more = len(routed) == setting_aside.MOST_AT_ONCE
        left = ["More are set aside: do it again."] if more else [] if routed else ["Nothing is set aside."]
        self.report(request, "routed again", len(routed), left)

    @admin.action(description="Route again what was set aside", permissions=["operate"])
    def route_again(self, request: HttpRequest, queryset: QuerySet[Unrouted]) -> None:
        rows = self.selected(request, queryset)
        routed = self._route(request, lambda: setting_aside.route_again([row.pk for row in rows]))
        self.report(request, "routed again", len(routed), ["Not set aside."] * (len(rows) - len(routed)))

    def _route(self, request: HttpRequest, route: Callable[[], list[Any]]) -> list[Any]:
        with transaction.atomic():
            routed = route()
            self.record(request, Unrouted.objects.filter(pk__in=[pk for _, pk in routed]), "Routed again.")
        brokers.publish_fanouts(routed)
        return routed


# --- deliveries -----------------------------------------------------------------------------------------------------


WHAT, ATTEMPTS = named("event_type", "delivery"), column("attempts", "attempt_number")
WHERE = column("to", lambda row: two_lines(connection_link(row), workspace_link(row)), name="where")
CAUSE = column("cause", "cause", lambda cause: display.plain(cause) or display.NOTHING)
TypeFilter = by_text("event type", "event_type", "lead.created")


class DeliveriesAdmin(OperatorAdmin):
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
    search_help_text = f"dlv_…, evt_…, conn_…, rule_…, rpl_… or {WORKSPACE_WORDS} type"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = self.model._default_manager.all()
        return rows.defer("body", "frozen").select_related("workspace", "connection__health")

    @admin.action(description="Send again; what was rejected with today's mapping", permissions=["operate"])
    def replay(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._send_again(request, queryset, replays.BY_CAUSE)

    @admin.action(description="Send again with the body that it has", permissions=["operate"])
    def replay_original(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._send_again(request, queryset, replays.Terms(replays.ORIGINAL))

    def _send_again(self, request: HttpRequest, queryset: QuerySet[Any], terms: replays.Terms) -> None:
        rows = self.selected(request, queryset)
        with transaction.atomic():
            sent = replays.send_again([row.pk for row in rows], terms, MOST_STEPS)
            done = [row for row in rows if row.pk in sent.made]
            self._record(request, [row for row in done if sent.made[row.pk] == row.pk], "Sent again.")
            for row in done:
                if sent.made[row.pk] != row.pk:
                    self._record(request, [row], f"Sent again as {ids.encode(ids.DELIVERY, sent.made[row.pk])}.")
        brokers.publish_deliveries(sent.to_publish)
        reasons = [refusal.words for refusal in sent.refused.values()] + [LEFT] * len(sent.left)
        self.report(request, "sent again", len(done), reasons)

    def _record(self, request: HttpRequest, rows: Iterable[Any], message: str) -> None:
        """Under one name in the log, whichever list they were chosen from."""
        deliveries = [Delivery(pk=row.pk, status=row.status, lease_until=row.lease_until) for row in rows]
        self.record(request, deliveries, message)

    def _cancel(
        self, request: HttpRequest, rows: list[Any], message: str, cancel: Callable[[Any, datetime], Any]
    ) -> list[Any]:
        """Those of the rows that were cancelled at this moment."""
        now = clock.database_now()
        with transaction.atomic():
            cancel([row.pk for row in rows], now)
            done = Delivery.objects.filter(pk__in=[row.pk for row in rows], status="cancelled", finished_at=now)
            found = set(done.values_list("pk", flat=True))
            cancelled = [row for row in rows if row.pk in found]
            self._record(request, cancelled, message)
        return cancelled


@admin.register(Delivery)
class DeliveryAdmin(DeliveriesAdmin):
    """One event to one connection because of one rule."""

    list_display = (
        WHAT, WHERE, column("state", "state", display.badge), CAUSE,
        ATTEMPTS, "next_attempt",
        column("made (UTC)", "created_at", display.moment),
    )  # fmt: skip
    list_filter = (
        WorkspaceFilter,
        ConnectionFilter,
        chosen(
            "state",
            "state",
            STATES,
            lambda rows, state: narrow_deliveries(rows, {"status": state}, clock.database_now()),
        ),
        TypeFilter,
        PeriodFilter,
    )
    actions = ("replay", "replay_original", "cancel")
    change_form_template = "admin/delivery/delivery/page.html"
    fields = ("event_type",)

    @admin.display(description="next attempt (UTC)")
    def next_attempt(self, delivery: Delivery) -> str:
        found = connection_health.waiting_for(delivery, clock.now())
        if found is None:
            return display.NOTHING
        reason = display.plain(found.reason)
        return two_lines(display.moment(found.until), reason) if found.until else reason

    @admin.action(description="Cancel what is pending or held, for good", permissions=["operate"])
    @asks("Cancel these deliveries, for good?")
    def cancel(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        rows = self.selected(request, queryset)
        cancelled = self._cancel(
            request, rows, "Cancelled.", lambda pks, now: deletion.cancel(pks, deletion.BY_USER, now)
        )
        left = [display.plain(row.state) for row in rows if row not in cancelled]
        refused = [f"A delivery that is {state} is not cancelled." for state in left]
        self.report(request, "cancelled", len(cancelled), refused)

    def buttons(self, request: HttpRequest, obj: Delivery) -> dict[str, str]:
        if obj.status in REPLAYABLE and obj.replaced_by_id is None:
            was_rejected = obj.status == Delivery.Status.DEAD and obj.cause == replays.REJECTED
            return {"replay": "Send again"} | ({"replay_original": "Send again as it was"} if was_rejected else {})
        return {"cancel": "Cancel"} if obj.status in deletion.OPEN and obj.lease_id is None else {}

    def page_context(self, request: HttpRequest, obj: Delivery) -> dict[str, Any]:
        return {"card": timeline.cards([obj], timeline.ATTEMPTS_ON_DELIVERY_PAGE)[0]}


@admin.register(DeadLetter)
class DeadLetterAdmin(DeliveriesAdmin):
    """Deliveries that will not be tried again by themselves, to be sent again or dismissed."""

    list_display = (
        WHAT, WHERE, CAUSE, "detail", ATTEMPTS,
        column("died (UTC)", "finished_at", display.moment),
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
    @asks("Cancel these dead letters, for good?")
    def cancel(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        rows = self.selected(request, queryset)
        cancelled = self._cancel(request, rows, "Cancelled: it was a dead letter.", deletion.dismiss)
        self.report(request, "cancelled", len(cancelled), [CHANGED] * (len(rows) - len(cancelled)))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A dead letter is a delivery, and has its page."""
        return HttpResponseRedirect(reverse("admin:delivery_delivery_change", args=[object_id]))


# --- attempts and replays -------------------------------------------------------------------------------------------


@admin.register(Attempt)
class AttemptAdmin(OperatorAdmin):
    """One try, with all that is kept of its answer."""

    prefix = ids.ATTEMPT
    viewed_kind = "attempt"
    lookups = {ids.ATTEMPT: "pk", ids.DELIVERY: "delivery_id"}
    list_display = (
        column("id", "public_id", display.code), reference(ids.DELIVERY, "delivery_id", "delivery"), "number",
        column("outcome", "outcome", display.badge), "status_code", "error_class",
        column("took", "duration_ms", lambda spent: display.NOTHING if spent is None else f"{spent:,} ms"),
        column("began (UTC)", "started_at", display.moment),
    )  # fmt: skip
    list_filter = (by_choice("outcome", "outcome", OUTCOMES), PeriodFilter)
    search_help_text = "att_… or dlv_… id"
    change_form_template = "admin/delivery/attempt/page.html"
    fields = ("number",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Attempt]:
        return Attempt.objects.defer("request_body", "response_body")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        found = super().get_object(request, object_id, from_field)
        if found is not None:
            found.refresh_from_db(fields=["request_body", "response_body"])
        return found

    def page_context(self, request: HttpRequest, obj: Attempt) -> dict[str, Any]:
        return {
            "shown": timeline.exchange(obj),
            "delivery": Delivery.objects.filter(pk=obj.delivery_id).select_related("connection").first(),
            "curl": serializers.curl_of(obj),
        }


@admin.register(Replay)
class ReplayAdmin(OperatorAdmin):
    """Requests to send a filtered set of deliveries again, and how far they are."""

    prefix = ids.REPLAY
    lookups = {ids.REPLAY: "pk", ids.WORKSPACE: "workspace_id"}
    status = column("status", "status", display.badge)
    asked = column("asked for (UTC)", "created_at", display.moment)
    finished = column("finished (UTC)", "finished_at", display.moment)
    list_display = (
        column("id", "public_id", display.code), workspace, status, "progress", "requested_by", asked, finished,
    )  # fmt: skip
    list_filter = (WorkspaceFilter, by_choice("status", "status", Replay.Status.values))
    list_select_related = ("workspace",)
    search_help_text = "rpl_… or ws_… id, or the external id of a workspace"
    actions = ("cancel",)
    fields = (
        workspace, status, "progress", column("filter", "filter", display.document), "requested_by", asked,
        column("next batch (UTC)", "next_batch_at", display.ahead), finished,
    )  # fmt: skip

    def progress(self, run: Replay) -> str:
        reasons = ", ".join(f"{display.plain(reason)} {n:,}" for reason, n in sorted(run.skipped_by_reason.items()))
        skipped = f", {run.skipped:,} skipped{f' ({reasons})' if reasons else ''}" if run.skipped else ""
        return f"{run.reopened:,} of {run.total:,}{skipped}"

    def buttons(self, request: HttpRequest, obj: Replay) -> dict[str, str]:
        return {"cancel": "Stop"} if obj.status == Replay.Status.RUNNING else {}

    @admin.action(description="Stop; what was reopened goes on", permissions=["operate"])
    @asks("Stop these replays? What they have reopened goes on.")
    def cancel(self, request: HttpRequest, queryset: QuerySet[Replay]) -> None:
        rows = self.selected(request, queryset)
        stopped = [row for row in rows if replays.cancel(row.pk, clock.database_now())]
        self.record(request, stopped, "Stopped.")
        self.report(request, "stopped", len(stopped), ["Not running."] * (len(rows) - len(stopped)))
