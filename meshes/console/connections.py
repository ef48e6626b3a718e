"""Destinations: connections, their authorizations at vendors, and the record of who opened which credential.

No page selects a sealed document, nor shows a token.
"""

import uuid
from collections.abc import Mapping
from typing import Any, cast

from django.apps import apps
from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Now
from django.http import HttpRequest
from django.utils.html import format_html

from connections import lifecycle, providers
from connections.conversation import Redactor
from connections.credentials import ConflictError
from connections.models import Connection, ConnectionHealth, OAuthApp, OAuthGrant, OAuthState
from connections.oauth import authorize, grants
from connections.providers.base import Provider
from delivery.dispatch import connection_health
from delivery.models import Delivery, Rule
from meshes.console import display, lists, overview
from meshes.console.display import column, named, page_link, reference, two_lines, workspace
from meshes.console.lists import PeriodFilter, WorkspaceFilter, by_choice, by_condition, by_text, chosen
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


_IS_OVER = Q(health__breaker=Breaker.OPEN, paused_until__lte=Now())
BREAKERS = {
    "closed": Q(health__breaker=Breaker.CLOSED),
    "open": Q(health__breaker=Breaker.OPEN) & ~_IS_OVER,
    "half_open": Q(health__breaker=Breaker.HALF_OPEN) | _IS_OVER,
}
"""As they are now: where the pause of an open one is over, it is half open."""


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
        "breaker", column("reason", lambda row: row.status_reason or display.NOTHING),
        column("paused until (UTC)", "paused_until", display.ahead),
    )  # fmt: skip
    list_filter = (
        WorkspaceFilter,
        by_choice("status", "status", Status.values),
        by_condition("breaker", "health__breaker", BREAKERS),
    )
    search_help_text = "conn_… or ws_… id, the external id of a workspace, or a kind such as webhook"
    actions = ("pause", "resume")
    change_form_template = "admin/connections/connection/page.html"
    fields = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Connection]:
        return Connection.objects.select_related("workspace", "health")

    def breaker(self, connection: Connection) -> str:
        if connection_health.health_of(connection) is None:
            return display.NOTHING
        return display.badge(connection_health.breaker_of(connection, clock.now()))

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
            except ConflictError as conflict:
                refused.append(str(conflict))
        self.record(request, resumed, "Resumed by an operator.")
        self.report(request, "resumed; held deliveries go out in order", len(resumed), refused)

    def page_context(self, request: HttpRequest, obj: Connection) -> dict[str, Any]:
        documents = SealedDocument.objects.filter(connection=obj).order_by("kind")
        sealed = list(documents.only("kind", "version", "key_id", "sealed_at", "created_at"))
        owner = {"workspace_id": obj.workspace_id, "owner_kind": "connection", "owner_id": obj.pk}
        record_views(request, [AccessRecord(**owner, kind=each.kind, version=each.version) for each in sealed])
        states = OAuthState.objects.filter(connection=obj)
        now, may_see_deliveries = clock.now(), request.user.has_perm("delivery.view_delivery")
        return {
            "is_paused": _is_paused(obj),
            "config": shown_config(obj),
            "hints": [(key, hint if is_mask(hint) else display.MASK) for key, hint in obj.credential_hints.items()],
            "sealed": sealed,
            "started": [started_of(state) for state in states.order_by("-created_at")[:NEWEST]],
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


def started_of(state: OAuthState) -> dict[str, Any]:
    """An authorization that was started: by whom, and how far it came. It may come back once."""
    kind, _, owner = state.session.partition(":")
    is_by_key = kind == authorize.KEY
    if state.used_at is not None:
        badge = display.badge("used", "good")
    elif state.expires_at <= clock.now():
        badge = display.badge("expired", "quiet")
    else:
        badge = display.badge("open" if state.opened_in or not is_by_key else "not opened", "quiet")
    by = display.id_link(ids.KEY, uuid.UUID(owner)) if is_by_key else "connect link"
    return {"at": state.created_at, "state": badge, "by": by}


STANDINGS = {
    "live": Q(ended_at=None, refresh_failures=0, refreshed_at__isnull=False),
    "failing": Q(ended_at=None, refresh_failures__gt=0, refreshed_at__isnull=False),
    "ended": Q(ended_at__isnull=False),
    "none": Q(ended_at=None, refreshed_at=None),
}
"""How an authorization stands, as `OAuthGrantAdmin.authorization` says it."""


@admin.register(OAuthGrant)
class OAuthGrantAdmin(OperatorAdmin):
    """How long a connection's token lives, and what went wrong when it was to be renewed."""

    lookups = {ids.CONNECTION: "connection_id", ids.WORKSPACE: "workspace_id"}
    connection = column("connection", lambda row: page_link("connections.connection", row.pk, str(row.connection)))
    expires = column("token lives until (UTC)", "expires_at", display.moment)
    refreshed = column("token given (UTC)", "refreshed_at", display.moment)
    error = column("last error", lambda grant: grant.last_error or display.NOTHING, name="error")
    list_display = (connection, workspace, "authorization", expires, refreshed, error)
    list_filter = (
        WorkspaceFilter,
        by_condition("authorization", "standing", STANDINGS),
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
        connection, workspace, "authorization", "client_id", "redirect_uri", "scope", expires,
        refreshed, "refresh_failures", column("not asked before (UTC)", "not_before", display.moment),
        column("ended (UTC)", "ended_at", display.moment), error,
        column("somebody asks until (UTC)", "lease_until", display.moment),
    )  # fmt: skip

    def authorization(self, grant: OAuthGrant) -> str:
        if grant.ended_at is not None:
            return display.badge("ended", "bad")
        if grant.refreshed_at is None:
            return display.badge("none")
        return display.badge("failing", "warn") if grant.refresh_failures else display.badge("live")

    @admin.display(description="redirect URI")
    def redirect_uri(self, grant: OAuthGrant) -> str:
        if not grant.client_id:
            return display.NOTHING
        return authorize.callback_path(None if grant.shared_callback else grant.connection.type)


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


@admin.register(AccessRecord)
class AccessRecordAdmin(OperatorAdmin):
    """Who opened or changed which credential, or did what to what, when, why and for which delivery."""

    prefix = ids.ACCESS
    when = column("when (UTC)", "created_at", display.moment)
    list_display = (when, "whose", "what_for", "acted_by", "for_which_attempt")
    list_filter = (
        WorkspaceFilter,
        PeriodFilter,
        by_condition("answer", "answer", {"granted": Q(granted=True), "refused": Q(granted=False)}),
        by_text("purpose", "purpose", "such as delivery"),
        by_text("actor", "actor", "key_… or host:pid"),
    )
    list_select_related = ("workspace",)
    search_help_text = "the id of a connection, key, app, rule, event, delivery, attempt or workspace; an external id"
    fields = (
        when, workspace, "owner", "kind", "version", "purpose", "acted_by", "answer",
        reference(ids.DELIVERY, "delivery_id", "delivery"), "attempt_number", "number",
    )  # fmt: skip

    def owner(self, record: AccessRecord) -> str:
        """The id of what a record is about, as a link; or that it was the log that somebody looked at."""
        if record.owner_kind == LOG:
            return "the access log"
        return display.id_link(access_log.PREFIXES[cast(access_log.OwnerKind, record.owner_kind)], record.owner_id)

    def whose(self, record: AccessRecord) -> str:
        return two_lines(self.owner(record), display.workspace_link(record))

    def answer(self, record: AccessRecord) -> str:
        return display.badge("granted" if record.granted else "refused")

    def what_for(self, record: AccessRecord) -> str:
        kind = display.plain(record.kind)
        what = record.purpose if record.granted else format_html("{} {}", record.purpose, self.answer(record))
        return two_lines(what, f"{kind} v{record.version}" if record.version else kind)

    @admin.display(description="actor")
    def acted_by(self, record: AccessRecord) -> str:
        key_id = ids.decode(ids.KEY, record.actor)
        return record.actor if key_id is None else display.id_link(ids.KEY, key_id)

    def for_which_attempt(self, record: AccessRecord) -> str:
        if record.delivery_id is None:
            return display.NOTHING
        return two_lines(display.id_link(ids.DELIVERY, record.delivery_id), f"attempt {record.attempt_number}")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """An owner is found through its workspace, since the records are indexed by that."""
        kinds = {prefix: kind for kind, prefix in access_log.PREFIXES.items() if kind != "workspace"}
        for word in search_term.split():
            prefix = word.rpartition("_")[0]
            owner_id = ids.decode(prefix, word) if prefix in kinds else None
            if owner_id is None:
                queryset = lists.narrow(queryset, word, {ids.ACCESS: "pk", ids.WORKSPACE: "workspace_id"})
                continue
            owners = apps.get_model(display.PAGES[prefix].replace("_", "."))._default_manager.filter(pk=owner_id)
            of_owner = {"owner_kind": kinds[prefix], "owner_id": owner_id}
            queryset = queryset.filter(workspace_id=owners.values_list("workspace_id", flat=True).first(), **of_owner)
        return queryset, False

    def seen(self, row: AccessRecord) -> list[AccessRecord]:
        return [log_of(row.workspace_id)]
