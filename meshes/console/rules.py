"""Rules and replays."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from delivery.dispatch import replay
from delivery.models import Replay, Rule
from meshes.console import columns, display
from meshes.console.filters import WorkspaceFilter, by_choice, by_id, by_text
from meshes.console.pages import Button, OperatorAdmin
from meshes.kit import clock, ids


class RuleStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("enabled", "Enabled"), ("disabled", "Disabled"), ("deleted", "Deleted")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "deleted":
                return queryset.filter(deleted_at__isnull=False)
            case "enabled" | "disabled":
                return queryset.filter(deleted_at=None, enabled=self.value() == "enabled")
        return queryset


@admin.register(Rule)
class RuleAdmin(OperatorAdmin):
    """Which events go to which connection. Rules are their owner's, and change through the API."""

    prefix = ids.RULE
    lookups = {
        ids.RULE: "pk",
        ids.CONNECTION: "connection_id",
        ids.WORKSPACE: "workspace_id",
        "type": "event",
    }
    list_display = (
        "show_rule", "show_workspace", "show_connection", "action", "show_state", "version", "show_changed",
    )  # fmt: skip
    list_filter = (
        WorkspaceFilter,
        by_id("connection", "connection", ids.CONNECTION, "connection_id"),
        by_text("event pattern", "event", "lead.*"),
        RuleStateFilter,
    )
    list_select_related = ("workspace", "connection")
    search_help_text = "rule_…, conn_… or ws_… id, the external id of a workspace, or an event pattern"
    fields = (
        "event", "show_workspace", "show_connection", "action", "show_state", "version", "show_filter", "show_mapping",
        "show_made", "show_changed", "show_deleted",
    )  # fmt: skip
    readonly_fields = fields
    show_rule = columns.named("event", "rule")
    show_workspace = columns.workspace()
    show_filter = columns.document("filter", "filter")
    show_mapping = columns.document("mapping", "mapping")
    show_made = columns.moment("created_at", "made")
    show_changed = columns.moment("updated_at", "changed")
    show_deleted = columns.moment("deleted_at", "deleted")

    @admin.display(description="connection")
    def show_connection(self, rule: Rule) -> str:
        return display.page_link("connections.connection", rule.connection_id, rule.connection.name)

    @admin.display(description="state")
    def show_state(self, rule: Rule) -> str:
        if rule.deleted_at is not None:
            return display.badge("deleted")
        return display.badge("enabled") if rule.enabled else display.badge("disabled", "quiet")


@admin.register(Replay)
class ReplayAdmin(OperatorAdmin):
    """Requests to send a filtered set of deliveries again, and how far they are."""

    prefix = ids.REPLAY
    lookups = {ids.REPLAY: "pk", ids.WORKSPACE: "workspace_id"}
    list_display = (
        "show_id",
        "show_workspace",
        "show_status",
        "show_progress",
        "requested_by",
        "show_made",
        "show_end",
    )
    list_filter = (WorkspaceFilter, by_choice("status", "status", Replay.Status.values))
    list_select_related = ("workspace",)
    search_help_text = "rpl_… or ws_… id, or the external id of a workspace"
    actions = ("cancel",)
    fields = (
        "show_workspace", "show_status", "show_progress", "show_filter", "requested_by", "show_made", "show_next",
        "show_end",
    )  # fmt: skip
    readonly_fields = fields
    show_id = columns.public_id()
    show_workspace = columns.workspace()
    show_status = columns.state("status", "status")
    show_filter = columns.document("filter", "filter")
    show_made = columns.moment("created_at", "asked for")
    show_next = columns.moment("next_batch_at", "next batch", only_ahead=True)
    show_end = columns.moment("finished_at", "finished")

    @admin.display(description="progress")
    def show_progress(self, run: Replay) -> str:
        reasons = ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in sorted(run.skipped_by_reason.items()))
        skipped = f", {run.skipped:,} skipped{f' ({reasons})' if reasons else ''}" if run.skipped else ""
        return f"{run.reopened:,} of {run.total:,}{skipped}"

    def buttons(self, request: HttpRequest, obj: Replay) -> list[Button]:
        return [Button("cancel", "Stop", is_grave=True)] if obj.status == Replay.Status.RUNNING else []

    @admin.action(description="Stop; what was reopened goes on", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Replay]) -> HttpResponse | None:
        if asked := self.confirm(request, queryset, "cancel", "Stop these replays? What they have reopened goes on."):
            return asked
        rows = self.selected(request, queryset)
        stopped = [row for row in rows if replay.cancel(row.pk, clock.database_now())]
        self.record(request, stopped, "Stopped.")
        self.report(request, "stopped", len(stopped), ["Not running."] * (len(rows) - len(stopped)))
        return None
