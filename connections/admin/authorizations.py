"""Authorizations at vendors: how each stands, who has apps of their own, and what is on its way. No tokens."""

from datetime import UTC, datetime

from django.contrib import admin

from connections.models import OAuthApp, OAuthGrant, OAuthState
from workspaces import ids
from workspaces.operators import columns, display
from workspaces.operators.filters import WorkspaceFilter
from workspaces.operators.pages import OperatorAdmin

OF_CONNECTION = {ids.CONNECTION: "connection_id", ids.WORKSPACE: "workspace_id"}


@admin.register(OAuthGrant)
class OAuthGrantAdmin(OperatorAdmin):
    """How long a connection's token lives, and what went wrong when it was to be renewed."""

    lookups = OF_CONNECTION
    list_display = (
        "show_connection", "show_workspace", "show_state", "show_expires", "show_refreshed", "refresh_failures",
        "error",
    )  # fmt: skip
    list_filter = (WorkspaceFilter,)
    list_select_related = ("connection", "workspace")
    search_help_text = "conn_… or ws_… id, or the external id of a workspace"
    fields = (
        "show_connection", "show_workspace", "show_state", "client_id", "scope", "show_expires", "show_refreshed",
        "refresh_failures", "show_not_before", "show_ended", "error", "show_leased",
    )  # fmt: skip
    readonly_fields = fields
    show_workspace = columns.workspace()
    show_expires = columns.moment("expires_at", "token lives until")
    show_refreshed = columns.moment("refreshed_at", "token given")
    show_not_before = columns.moment("not_before", "not asked before")
    show_ended = columns.moment("ended_at", "ended")
    show_leased = columns.moment("lease_until", "somebody asks until")

    @admin.display(description="connection")
    def show_connection(self, grant: OAuthGrant) -> str:
        return display.page_link("connections.connection", grant.pk, str(grant.connection))

    @admin.display(description="authorization")
    def show_state(self, grant: OAuthGrant) -> str:
        if grant.ended_at is not None:
            return display.badge("ended", "bad")
        if grant.refreshed_at is None:
            return display.badge("none")
        return display.badge("failing", "warn") if grant.refresh_failures else display.badge("live")

    @admin.display(description="last error")
    def error(self, grant: OAuthGrant) -> str:
        return grant.last_error or display.NOTHING


@admin.register(OAuthApp)
class OAuthAppAdmin(OperatorAdmin):
    """Apps that workspaces brought themselves."""

    lookups = {ids.WORKSPACE: "workspace_id", "type": "type"}
    list_display = ("type", "show_workspace", "client_id", "secret_hint", "show_changed")
    list_filter = (WorkspaceFilter,)
    list_select_related = ("workspace",)
    search_help_text = "ws_… id, the external id of a workspace, or a kind such as hubspot"
    fields = list_display
    readonly_fields = fields
    show_workspace = columns.workspace()
    show_changed = columns.moment("updated_at", "changed")


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
    show_workspace = columns.workspace()
    show_started = columns.moment("created_at", "started")
    show_used = columns.moment("used_at", "came back")
    show_expires = columns.moment("expires_at", "good until")

    @admin.display(description="connection")
    def show_connection(self, state: OAuthState) -> str:
        return display.page_link("connections.connection", state.connection_id, str(state.connection))

    @admin.display(description="state")
    def show_state(self, state: OAuthState) -> str:
        if state.used_at is not None:
            return display.badge("used", "good")
        return display.badge("expired" if state.expires_at <= datetime.now(UTC) else "open", "quiet")

    @admin.display(description="started by")
    def show_by(self, state: OAuthState) -> str:
        return "a key" if state.session.startswith("key:") else "a connect link"
