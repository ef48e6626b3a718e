"""Authorizations at vendors: how each stands, who has apps of their own, and what is on its way. No tokens."""

import uuid
from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest

from connections.models import OAuthApp, OAuthGrant, OAuthState
from connections.oauth import authorize, grants
from meshes.console import columns, display
from meshes.console.access_records import owner_link
from meshes.console.filters import WorkspaceFilter
from meshes.console.pages import OperatorAdmin
from meshes.console.watching import WatchedAdmin
from meshes.kit import clock, ids
from workspaces.vault.models import AccessRecord, SealedDocument

OF_CONNECTION = {ids.CONNECTION: "connection_id", ids.WORKSPACE: "workspace_id"}


STANDINGS = {
    "live": Q(ended_at=None, refresh_failures=0, refreshed_at__isnull=False),
    "failing": Q(ended_at=None, refresh_failures__gt=0, refreshed_at__isnull=False),
    "ended": Q(ended_at__isnull=False),
    "none": Q(ended_at=None, refreshed_at=None),
}
"""How an authorization stands, as `OAuthGrantAdmin.show_state` says it."""


class StandingFilter(admin.SimpleListFilter):
    title = "authorization"
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(standing, standing.capitalize()) for standing in STANDINGS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        standing = STANDINGS.get(self.value() or "")
        return queryset if standing is None else queryset.filter(standing)


class CallbackFilter(admin.SimpleListFilter):
    title = "redirect URI"
    parameter_name = "callback"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(authorize.VENDOR, "The vendor's own"), (authorize.SHARED, "Shared by all")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() is None:
            return queryset
        return queryset.exclude(client_id="").filter(shared_callback=self.value() == authorize.SHARED)


@admin.register(OAuthGrant)
class OAuthGrantAdmin(OperatorAdmin):
    """How long a connection's token lives, and what went wrong when it was to be renewed."""

    lookups = OF_CONNECTION
    list_display = ("show_connection", "show_workspace", "show_state", "show_expires", "show_refreshed", "error")
    list_filter = (WorkspaceFilter, StandingFilter, CallbackFilter)
    list_select_related = ("connection", "workspace")
    search_help_text = "conn_… or ws_… id, or the external id of a workspace"
    fields = (
        "show_connection", "show_workspace", "show_state", "client_id", "show_callback", "scope", "show_expires",
        "show_refreshed", "refresh_failures", "show_not_before", "show_ended", "error", "show_leased",
    )  # fmt: skip
    readonly_fields = fields
    show_connection = columns.related("connection", "connections.connection")
    show_workspace = columns.workspace()
    show_expires = columns.moment("expires_at", "token lives until")
    show_refreshed = columns.moment("refreshed_at", "token given")
    show_not_before = columns.moment("not_before", "not asked before")
    show_ended = columns.moment("ended_at", "ended")
    show_leased = columns.moment("lease_until", "somebody asks until")

    @admin.display(description="authorization")
    def show_state(self, grant: OAuthGrant) -> str:
        if grant.ended_at is not None:
            return display.badge("ended", "bad")
        if grant.refreshed_at is None:
            return display.badge("none")
        return display.badge("failing", "warn") if grant.refresh_failures else display.badge("live")

    @admin.display(description="redirect URI")
    def show_callback(self, grant: OAuthGrant) -> str:
        if not grant.client_id:
            return display.NOTHING
        return authorize.callback_path(None if grant.shared_callback else grant.connection.type)

    @admin.display(description="last error")
    def error(self, grant: OAuthGrant) -> str:
        return grant.last_error or display.NOTHING


@admin.register(OAuthApp)
class OAuthAppAdmin(WatchedAdmin):
    """Apps that workspaces brought themselves."""

    prefix = ids.APP
    lookups = {ids.APP: "pk", ids.WORKSPACE: "workspace_id", "type": "type"}
    list_display = ("show_app", "show_workspace", "client_id", "secret_hint", "show_changed")
    list_filter = (WorkspaceFilter,)
    list_select_related = ("workspace",)
    search_help_text = "app_… or ws_… id, the external id of a workspace, or a kind such as hubspot"
    fields = ("type", "show_workspace", "client_id", "secret_hint", "secret_version", "show_changed")
    readonly_fields = fields
    show_app = columns.named("type", "app")
    show_workspace = columns.workspace()
    show_changed = columns.moment("updated_at", "changed")

    def get_queryset(self, request: HttpRequest) -> QuerySet[OAuthApp]:
        sealed = SealedDocument.objects.filter(oauth_app=OuterRef("pk"), kind=grants.APP_KIND)
        return OAuthApp.objects.annotate(secret_version=Subquery(sealed.values("version")))

    @admin.display(description="secret version")
    def secret_version(self, app: Any) -> str:
        return display.NOTHING if app.secret_version is None else str(app.secret_version)

    def seen(self, row: Any) -> AccessRecord:
        owner = {"workspace_id": row.workspace_id, "owner_kind": "oauth_app", "owner_id": row.pk}
        return AccessRecord(**owner, kind=grants.APP_KIND, version=row.secret_version or 0)


@admin.register(OAuthState)
class OAuthStateAdmin(OperatorAdmin):
    """Authorizations that were started lately: each may come back once."""

    lookups = OF_CONNECTION
    list_display = ("show_started", "show_connection", "show_workspace", "show_state", "show_by")
    list_filter = (WorkspaceFilter,)
    list_select_related = ("connection", "workspace")
    search_help_text = "conn_… or ws_… id, or the external id of a workspace"
    fields = (*list_display, "client_id", "redirect_uri", "show_used", "show_expires")
    readonly_fields = fields
    show_connection = columns.related("connection", "connections.connection")
    show_workspace = columns.workspace()
    show_started = columns.moment("created_at", "started")
    show_used = columns.moment("used_at", "came back")
    show_expires = columns.moment("expires_at", "good until")

    @admin.display(description="state")
    def show_state(self, state: OAuthState) -> str:
        if state.used_at is not None:
            return display.badge("used", "good")
        if state.expires_at <= clock.now():
            return display.badge("expired", "quiet")
        is_opened = state.opened_in or not state.session.startswith(f"{authorize.KEY}:")
        return display.badge("open" if is_opened else "not opened", "quiet")

    @admin.display(description="started by")
    def show_by(self, state: OAuthState) -> str:
        kind, _, owner = state.session.partition(":")
        return owner_link("api_key", uuid.UUID(owner)) if kind == authorize.KEY else "connect link"
