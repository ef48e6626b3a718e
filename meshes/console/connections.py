"""Connections and their health."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from connections import lifecycle, providers
from connections.masking import Redactor
from connections.models import Connection, ConnectionHealth
from connections.providers.base import Provider
from meshes.console import columns, display, watching
from meshes.console.filters import WorkspaceFilter, by_choice
from meshes.console.pages import Button, OperatorAdmin, Panel
from meshes.console.watching import PayloadAdmin
from meshes.kit import clock, ids
from workspaces.vault.models import AccessRecord, SealedDocument

Status = Connection.Status
PAUSED_WORDS = "Paused by an operator."
HELD = (Status.PAUSED, Status.DISABLED, Status.NEEDS_REAUTH, Status.CREDENTIAL_ERROR)


def by_breaker(breaker: str, paused_until: str) -> type[admin.SimpleListFilter]:
    """A filter by the breaker as it is now. The two lookups lead to its stored state and to its connection's pause."""
    offered = ConnectionHealth.Breaker

    class BreakerFilter(admin.SimpleListFilter):
        title, parameter_name = "breaker", breaker

        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
            return [(value, value.replace("_", " ").capitalize()) for value in offered.values]

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            over = Q(**{breaker: offered.OPEN, f"{paused_until}__lte": clock.now()})
            match self.value():
                case offered.CLOSED:
                    return queryset.filter(**{breaker: offered.CLOSED})
                case offered.OPEN:
                    return queryset.filter(**{breaker: offered.OPEN}).exclude(over)
                case offered.HALF_OPEN:
                    return queryset.filter(Q(**{breaker: offered.HALF_OPEN}) | over)
            return queryset

    return BreakerFilter


@admin.register(Connection)
class ConnectionAdmin(PayloadAdmin):
    """What holds a connection, and the way to end it. Config and credentials are their owner's, through the API."""

    prefix = ids.CONNECTION
    viewed_kind = "connection"
    quoting = "status_reason"
    lookups = {ids.CONNECTION: "pk", ids.WORKSPACE: "workspace_id", "type": "type"}
    panels: ClassVar[list[Panel]] = []
    """What higher layers add to the page: lanes, deliveries."""
    list_display = ("show_name", "type", "show_workspace", "show_status", "show_breaker", "reason", "show_until")
    list_filter = (
        WorkspaceFilter,
        by_choice("status", "status", Status.values),
        by_breaker("health__breaker", "paused_until"),
    )
    search_help_text = "conn_… or ws_… id, the external id of a workspace, or a kind such as webhook"
    actions = ("pause", "resume")
    change_form_template = "admin/connections/connection/page.html"
    fields = ("name",)
    show_name = columns.named("name", "connection")
    show_workspace = columns.workspace()
    show_status = columns.state("status", "status")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Connection]:
        return Connection.objects.select_related("workspace", "health")

    @admin.display(description="breaker")
    def show_breaker(self, connection: Connection) -> str:
        health = _health(connection)
        return display.badge(health.breaker_at(connection.paused_until, clock.now())) if health else display.NOTHING

    @admin.display(description="paused until (UTC)")
    def show_until(self, connection: Connection) -> str:
        return display.moment(connection.paused_until if _is_paused(connection) else None)

    @admin.display(description="reason")
    def reason(self, connection: Connection) -> str:
        return connection.status_reason or display.NOTHING

    def buttons(self, request: HttpRequest, obj: Connection) -> list[Button]:
        if obj.status == Status.ACTIVE:
            resume = [Button("resume", "End the pause of its lane")] if _is_paused(obj) else []
            return [Button("pause", "Pause"), *resume]
        return [Button("resume", "Resume")] if obj.status in HELD else []

    @admin.action(description="Pause: hold deliveries until resumed", permissions=["operate"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Connection]) -> None:
        paused, refused = [], []
        for connection in self.selected(request, queryset):
            if lifecycle.hold(connection, Status.PAUSED, PAUSED_WORDS):
                paused.append(connection)
            else:
                refused.append("The connection is not active.")
        self.record(request, paused, PAUSED_WORDS)
        self.report(request, "paused; their deliveries are held", len(paused), refused)

    @admin.action(description="Resume: send what is held", permissions=["operate"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Connection]) -> None:
        resumed, refused = [], []
        for connection in self.selected(request, queryset):
            if connection.status == Status.ACTIVE and not _is_paused(connection):
                refused.append("The connection is active already.")
                continue
            try:
                lifecycle.resume(connection)
                resumed.append(connection)
            except lifecycle.Conflict as conflict:
                refused.append(str(conflict))
        self.record(request, resumed, "Resumed by an operator.")
        self.report(request, "resumed; held deliveries go out in order", len(resumed), refused)

    def page_context(self, request: HttpRequest, obj: Connection) -> dict[str, Any]:
        documents = SealedDocument.objects.filter(connection=obj).only(
            "kind", "version", "key_id", "sealed_at", "created_at"
        )
        sealed = list(documents.order_by("kind"))
        owner = {"workspace_id": obj.workspace_id, "owner_kind": "connection", "owner_id": obj.pk}
        seen = [AccessRecord(**owner, kind=document.kind, version=document.version) for document in sealed]
        watching.record_views(request, seen)
        return super().page_context(request, obj) | {
            "is_paused": _is_paused(obj),
            "config": shown_config(obj),
            "hints": shown_hints(obj.credential_hints),
            "sealed": sealed,
        }


def _health(connection: Connection) -> ConnectionHealth | None:
    try:
        return connection.health
    except ConnectionHealth.DoesNotExist:
        return None


def _is_paused(connection: Connection) -> bool:
    """Whether a 429 or the breaker pauses its lane at this moment."""
    return connection.paused_until is not None and connection.paused_until > clock.now()


def shown_config(connection: Connection) -> list[tuple[str, Any]]:
    """The config as `(label, value)` pairs. What may hide a key is masked: queries of URLs, headers named like one."""
    try:
        provider: Provider | None = providers.get(connection.type)
    except KeyError:
        provider = None
    declared = {field.key: field for field in provider.config_fields} if provider else {}
    redactor = Redactor({})
    shown: list[tuple[str, Any]] = []
    for key, value in connection.config.items():
        field = declared.get(key)
        if field is None or field.sensitive:
            shown.append((field.label if field else key, display.MASK))
        elif field.type == "url":
            shown.append((field.label, redactor.url(str(value))))
        elif field.type == "headers" and isinstance(value, Mapping):
            pairs = redactor.headers((str(name), str(text)) for name, text in value.items())
            shown.append((field.label, "\n".join(f"{name}: {text}" for name, text in pairs)))
        else:
            shown.append((field.label, value))
    return shown


def shown_hints(hints: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The masks of credentials; whatever does not look like one is masked whole."""
    return [(key, hint if is_mask(hint) else display.MASK) for key, hint in hints.items()]


def is_mask(hint: Any) -> bool:
    return isinstance(hint, str) and hint.startswith(display.MASK) and len(hint) <= len(display.MASK) + 4


@admin.register(ConnectionHealth)
class ConnectionHealthAdmin(OperatorAdmin):
    """The counters that the circuit breaker decides by."""

    lookups = {ids.CONNECTION: "pk", ids.WORKSPACE: "workspace_id"}
    list_display = (
        "show_connection", "show_workspace", "show_breaker", "consecutive_failures", "show_failing", "show_failed",
        "show_succeeded",
    )  # fmt: skip
    list_filter = (WorkspaceFilter, by_breaker("breaker", "connection__paused_until"))
    list_select_related = ("connection", "workspace")
    search_help_text = "conn_… or ws_… id, or the external id of a workspace"
    fields = (
        "show_connection", "show_workspace", "show_breaker", "consecutive_failures", "opened_times", "show_probe",
        "show_failing", "show_failed", "show_succeeded",
    )  # fmt: skip
    readonly_fields = fields
    show_connection = columns.related("connection", "connections.connection")
    show_workspace = columns.workspace()
    show_probe = columns.moment("probe_until", "probe until", only_ahead=True)
    show_failing = columns.moment("first_failure_at", "failing since")
    show_failed = columns.moment("last_failure_at", "last failure")
    show_succeeded = columns.moment("last_success_at", "last success")

    @admin.display(description="breaker")
    def show_breaker(self, health: ConnectionHealth) -> str:
        return display.badge(health.breaker_at(health.connection.paused_until, clock.now()))
