"""Destinations: connections, their authorizations at vendors, and the record of who opened which credential.

No page selects a sealed document, nor shows a token.
"""

import uuid
from collections.abc import Mapping
from typing import Any, cast

from django.apps import apps
from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.html import format_html

from connections import lifecycle, providers
from connections.masking import Redactor
from connections.models import Connection, ConnectionHealth, OAuthApp, OAuthGrant, OAuthState
from connections.oauth import authorize, grants
from connections.providers.base import Provider
from delivery.dispatch import connection_health
from delivery.models import Delivery, Rule
from meshes.console import display, lists, overview
from meshes.console.display import column, named, page_link, reference, two_lines, workspace
from meshes.console.lists import PeriodFilter, WorkspaceFilter, by_choice, by_text, chosen
from meshes.console.pages import LOG, OperatorAdmin, log_of, record_views
from meshes.kit import clock, ids
from workspaces.vault import access_log
from workspaces.vault.models import AccessRecord, SealedDocument

Breaker, Status = ConnectionHealth.Breaker, Connection.Status
PAUSED_WORDS = "Paused by an operator."
HELD = (Status.PAUSED, Status.DISABLED, Status.NEEDS_REAUTH, Status.CREDENTIAL_ERROR)
COUNTED = (Delivery.Status.PENDING, Delivery.Status.HELD, Delivery.Status.DEAD)
NEWEST, MOST_RULES = 10, 50
OWNER_WORDS = "ws_… id, or the external id of a workspace"


def _by_breaker(rows: QuerySet[Any], breaker: str) -> QuerySet[Any]:
    """By the breaker as it is now: where the pause of an open one is over, it is half open."""
    over = Q(health__breaker=Breaker.OPEN, paused_until__lte=clock.now())
    if breaker == Breaker.HALF_OPEN:
        return rows.filter(Q(health__breaker=Breaker.HALF_OPEN) | over)
    return rows.filter(health__breaker=breaker).exclude(over)


def _breaker(connection: Connection) -> str:
    if connection_health.health_of(connection) is None:
        return display.NOTHING
    return display.badge(connection_health.breaker_of(connection, clock.now()))


def _is_paused(connection: Connection) -> bool:
    """Whether a 429 or the breaker pauses its lane at this moment."""
    return connection.paused_until is not None and connection.paused_until > clock.now()


@admin.register(Connection)
class ConnectionAdmin(OperatorAdmin):
    """What holds a connection, and the way to end it. Config and credentials are their owner's, through the API."""

    prefix = ids.CONNECTION
    viewed_kind = "connection"
    quoting = "status_reason"
    lookups = {ids.CONNECTION: "pk", ids.WORKSPACE: "workspace_id", "type": "type"}
    list_display = (
        named("name", "connection"), "type", workspace, column("status", "status", display.badge),
        column("breaker", _breaker), column("reason", lambda row: row.status_reason or display.NOTHING),
        column("paused until (UTC)", "paused_until", display.ahead),
    )  # fmt: skip
    list_filter = (
        WorkspaceFilter,
        by_choice("status", "status", Status.values),
        chosen("breaker", "health__breaker", Breaker.values, _by_breaker),
    )
    search_help_text = "conn_… or ws_… id, the external id of a workspace, or a kind such as webhook"
    actions = ("pause", "resume")
    change_form_template = "admin/connections/connection/page.html"
    fields = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Connection]:
        return Connection.objects.select_related("workspace", "health")

    def buttons(self, request: HttpRequest, obj: Connection) -> dict[str, str]:
        if obj.status == Status.ACTIVE:
            return {"pause": "Pause"} | ({"resume": "End the pause of its lane"} if _is_paused(obj) else {})
        return {"resume": "Resume"} if obj.status in HELD else {}

    @admin.action(description="Pause: hold deliveries until resumed", permissions=["operate"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Connection]) -> None:
        rows = self.selected(request, queryset)
        paused = [row for row in rows if lifecycle.hold(row, Status.PAUSED, PAUSED_WORDS)]
        self.record(request, paused, PAUSED_WORDS)
        refused = ["The connection is not active."] * (len(rows) - len(paused))
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
        documents = SealedDocument.objects.filter(connection=obj).order_by("kind")
        sealed = list(documents.only("kind", "version", "key_id", "sealed_at", "created_at"))
        owner = {"workspace_id": obj.workspace_id, "owner_kind": "connection", "owner_id": obj.pk}
        record_views(request, [AccessRecord(**owner, kind=each.kind, version=each.version) for each in sealed])
        now, may_see_deliveries = clock.now(), request.user.has_perm("delivery.view_delivery")
        return {
            "is_paused": _is_paused(obj),
            "config": shown_config(obj),
            "hints": [(key, hint if is_mask(hint) else display.MASK) for key, hint in obj.credential_hints.items()],
            "sealed": sealed,
            "started": [
                {"at": state.created_at, "state": _state_of(state), "by": _starter_of(state)}
                for state in OAuthState.objects.filter(connection=obj).order_by("-created_at")[:NEWEST]
            ],
            "health": connection_health.examine(obj, now),
            "breaker": connection_health.breaker_of(obj, now),
            "counters": connection_health.health_of(obj),
            "lane": overview.lane_stats(obj.workspace_id, obj.pk),
            **(deliveries_of(obj) if may_see_deliveries else {}),
        }


def deliveries_of(connection: Connection) -> dict[str, Any]:
    """The connection's rules, its open and dead deliveries, and its newest ones."""
    deliveries = Delivery.objects.filter(connection=connection).defer("body", "frozen")
    rules = Rule.objects.filter(connection=connection, deleted_at=None)
    return {
        "connection": connection,
        "counts": overview.count_by_status(connection.pk, COUNTED),
        "newest": list(deliveries.order_by("-pk")[:NEWEST]),
        "rules": list(rules.order_by("-pk")[:MOST_RULES]),
    }


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


def is_mask(hint: Any) -> bool:
    """Whether this is a mask of a credential; whatever does not look like one is masked whole."""
    return isinstance(hint, str) and hint.startswith(display.MASK) and len(hint) <= len(display.MASK) + 4


# --- authorizations -------------------------------------------------------------------------------------------------


def _state_of(state: OAuthState) -> str:
    """How far an authorization came that somebody has started: it may come back once."""
    if state.used_at is not None:
        return display.badge("used", "good")
    if state.expires_at <= clock.now():
        return display.badge("expired", "quiet")
    is_opened = state.opened_in or not state.session.startswith(f"{authorize.KEY}:")
    return display.badge("open" if is_opened else "not opened", "quiet")


def _starter_of(state: OAuthState) -> str:
    kind, _, owner = state.session.partition(":")
    return display.id_link(ids.KEY, uuid.UUID(owner)) if kind == authorize.KEY else "connect link"


STANDINGS = {
    "live": Q(ended_at=None, refresh_failures=0, refreshed_at__isnull=False),
    "failing": Q(ended_at=None, refresh_failures__gt=0, refreshed_at__isnull=False),
    "ended": Q(ended_at__isnull=False),
    "none": Q(ended_at=None, refreshed_at=None),
}
"""How an authorization stands, as `_standing` says it."""


def _standing(grant: OAuthGrant) -> str:
    if grant.ended_at is not None:
        return display.badge("ended", "bad")
    if grant.refreshed_at is None:
        return display.badge("none")
    return display.badge("failing", "warn") if grant.refresh_failures else display.badge("live")


def _callback(grant: OAuthGrant) -> str:
    if not grant.client_id:
        return display.NOTHING
    return authorize.callback_path(None if grant.shared_callback else grant.connection.type)


@admin.register(OAuthGrant)
class OAuthGrantAdmin(OperatorAdmin):
    """How long a connection's token lives, and what went wrong when it was to be renewed."""

    lookups = {ids.CONNECTION: "connection_id", ids.WORKSPACE: "workspace_id"}
    connection = column("connection", lambda row: page_link("connections.connection", row.pk, str(row.connection)))
    standing = column("authorization", _standing)
    expires = column("token lives until (UTC)", "expires_at", display.moment)
    refreshed = column("token given (UTC)", "refreshed_at", display.moment)
    error = column("last error", lambda grant: grant.last_error or display.NOTHING, name="error")
    list_display = (connection, workspace, standing, expires, refreshed, error)
    list_filter = (
        WorkspaceFilter,
        chosen("authorization", "standing", [*STANDINGS], lambda rows, standing: rows.filter(STANDINGS[standing])),
        chosen(
            "redirect URI",
            "callback",
            {authorize.VENDOR: "The vendor's own", authorize.SHARED: "Shared by all"},
            lambda rows, callback: rows.exclude(client_id="").filter(shared_callback=callback == authorize.SHARED),
        ),
    )
    list_select_related = ("connection", "workspace")
    search_help_text = f"conn_… or {OWNER_WORDS}"
    fields = (
        connection, workspace, standing, "client_id", column("redirect URI", _callback), "scope", expires,
        refreshed, "refresh_failures", column("not asked before (UTC)", "not_before", display.moment),
        column("ended (UTC)", "ended_at", display.moment), error,
        column("somebody asks until (UTC)", "lease_until", display.moment),
    )  # fmt: skip


@admin.register(OAuthApp)
class OAuthAppAdmin(OperatorAdmin):
    """Apps that workspaces brought themselves. `secret_version` is their sealed document's."""

    prefix = ids.APP
    lookups = {ids.APP: "pk", ids.WORKSPACE: "workspace_id", "type": "type"}
    changed = column("changed (UTC)", "updated_at", display.moment)
    list_display = (named("type", "app"), workspace, "client_id", "secret_hint", changed)
    list_filter = (WorkspaceFilter,)
    list_select_related = ("workspace",)
    search_help_text = "app_… or ws_… id, the external id of a workspace, or a kind such as hubspot"
    version = column("secret version", lambda app: str(app.secret_version or display.NOTHING))
    fields = ("type", workspace, "client_id", "secret_hint", version, changed)

    def get_queryset(self, request: HttpRequest) -> QuerySet[OAuthApp]:
        sealed = SealedDocument.objects.filter(oauth_app=OuterRef("pk"), kind=grants.APP_KIND)
        return OAuthApp.objects.annotate(secret_version=Subquery(sealed.values("version")))

    def seen(self, row: Any) -> list[AccessRecord]:
        owner = {"workspace_id": row.workspace_id, "owner_kind": "oauth_app", "owner_id": row.pk}
        return [AccessRecord(**owner, kind=grants.APP_KIND, version=row.secret_version or 0)]


# --- access records -------------------------------------------------------------------------------------------------


def _owner(record: AccessRecord) -> str:
    """The id of what a record is about, as a link; or that it was the log that somebody looked at."""
    if record.owner_kind == LOG:
        return "the access log"
    return display.id_link(access_log.PREFIXES[cast(access_log.OwnerKind, record.owner_kind)], record.owner_id)


def _answer(record: AccessRecord) -> str:
    return display.badge("granted" if record.granted else "refused")


def _what(record: AccessRecord) -> str:
    kind = display.plain(record.kind)
    what = record.purpose if record.granted else format_html("{} {}", record.purpose, _answer(record))
    return two_lines(what, f"{kind} v{record.version}" if record.version else kind)


def _actor(record: AccessRecord) -> str:
    key_id = ids.decode(ids.KEY, record.actor)
    return record.actor if key_id is None else display.id_link(ids.KEY, key_id)


def _attempt(record: AccessRecord) -> str:
    if record.delivery_id is None:
        return display.NOTHING
    return two_lines(display.id_link(ids.DELIVERY, record.delivery_id), f"attempt {record.attempt_number}")


@admin.register(AccessRecord)
class AccessRecordAdmin(OperatorAdmin):
    """Who opened or changed which credential, or did what to what, when, why and for which delivery."""

    prefix = ids.ACCESS
    when, actor = column("when (UTC)", "created_at", display.moment), column("actor", _actor)
    list_display = (
        when, column("whose", lambda record: two_lines(_owner(record), display.workspace_link(record))),
        column("what for", _what), actor, column("for which attempt", _attempt),
    )  # fmt: skip
    list_filter = (
        WorkspaceFilter,
        PeriodFilter,
        chosen(
            "answer",
            "answer",
            ("granted", "refused"),
            lambda rows, answer: rows.filter(granted=answer == "granted"),
        ),
        by_text("purpose", "purpose", "such as delivery"),
        by_text("actor", "actor", "key_… or host:pid"),
    )
    list_select_related = ("workspace",)
    search_help_text = "the id of a connection, key, app, rule, event, delivery, attempt or workspace; an external id"
    fields = (
        when, workspace, column("owner", _owner), "kind", "version", "purpose", actor, column("answer", _answer),
        reference(ids.DELIVERY, "delivery_id", "delivery"), "attempt_number", "number",
    )  # fmt: skip

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """An owner is found through its workspace, since the records are indexed by that."""
        for word in search_term.split():
            queryset = self._narrow(queryset, word)
        return queryset, False

    def _narrow(self, queryset: QuerySet[Any], word: str) -> QuerySet[Any]:
        for kind, prefix in access_log.PREFIXES.items():
            owner_id = ids.decode(prefix, word)
            if owner_id is not None and kind != "workspace":
                owners = apps.get_model(display.PAGES[prefix].replace("_", "."))._default_manager.filter(pk=owner_id)
                found = owners.values_list("workspace_id", flat=True)
                return queryset.filter(workspace_id=found.first(), owner_kind=kind, owner_id=owner_id)
        return lists.narrow(queryset, word, {ids.ACCESS: "pk", ids.WORKSPACE: "workspace_id"})

    def seen(self, row: AccessRecord) -> list[AccessRecord]:
        return [log_of(row.workspace_id)]
