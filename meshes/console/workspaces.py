"""Tenants: workspaces and their API keys."""

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin import SimpleListFilter
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest

from meshes.console import display, lists
from meshes.console.display import column, named, workspace
from meshes.console.lists import WorkspaceFilter, by_choice, by_condition
from meshes.console.pages import OperatorAdmin, asks, operator_name
from meshes.kit import clock, ids
from workspaces import keys
from workspaces.models import ApiKey, Workspace


class LifeFilter(SimpleListFilter):
    """Live ones, unless deleted ones are asked for."""

    title = parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("deleted", "Deleted"), ("all", "All")]

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        for value, label in [(None, "Live"), *self.lookup_choices]:
            query = changelist.get_query_string({self.parameter_name: value})
            yield {"selected": self.value() == value, "query_string": query, "display": label}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "all":
            return queryset
        return queryset.filter(deleted_at__isnull=self.value() != "deleted")


class WorkspaceForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    ingest_rate = forms.FloatField(required=False, min_value=0, help_text="Events per second; empty: the default.")
    backlog_limit = forms.IntegerField(required=False, min_value=0, help_text="Open deliveries; empty: the default.")

    def clean_external_id(self) -> str | None:
        external_id: str | None = self.cleaned_data["external_id"] or None
        if external_id is None:
            return None
        if ids.is_type_id(external_id):
            raise forms.ValidationError("An external id must not look like an id of Meshes.")
        others = Workspace.objects.filter(deleted_at=None).exclude(pk=self.instance.pk)
        if self.instance.deleted_at is None and others.filter(external_id=external_id).exists():
            raise forms.ValidationError("Another live workspace has this external id.")
        return external_id


@admin.register(Workspace)
class WorkspaceAdmin(OperatorAdmin):
    """Name and limits are edited here; a workspace is made and deleted through the API."""

    prefix = ids.WORKSPACE
    is_editable = True
    form = WorkspaceForm
    change_form_template = "admin/workspaces/workspace/page.html"
    made = column("made (UTC)", "created_at", display.moment)
    list_display = (named("name", "workspace"), "external_id", "state", "ingest_rate", "backlog_limit", made)
    list_filter = (LifeFilter,)
    search_help_text = "ws_… id, external id, or a part of the name"
    readonly_fields = (
        "state", made, column("changed (UTC)", "updated_at", display.moment),
        column("deleted (UTC)", "deleted_at", display.moment), column("purged (UTC)", "purged_at", display.moment),
    )  # fmt: skip
    fieldsets = (
        (None, {"fields": ("name", "external_id")}),
        ("Limits", {"fields": ("ingest_rate", "backlog_limit")}),
        ("Record", {"fields": readonly_fields}),
    )

    def state(self, workspace: Workspace) -> str:
        if workspace.deleted_at is None:
            return display.badge("live")
        return display.badge("purged" if workspace.purged_at else "deleted")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Tenants are few beside their events, so that a part of a name may be looked for."""
        term = search_term.strip()
        if not term:
            return queryset, False
        named = lists.workspace_ids(term)
        return queryset.filter(pk__in=named) if named else queryset.filter(name__icontains=term), False


KEY_STATES = {
    "live": Q(expires_at=None, revoked_at=None) | Q(expires_at__gt=Now(), revoked_at=None),
    "expired": Q(expires_at__lte=Now(), revoked_at=None),
    "revoked": Q(revoked_at__isnull=False),
}


@admin.register(ApiKey)
class ApiKeyAdmin(OperatorAdmin):
    """Keys without their hashes, which never leave the database for a page."""

    prefix = ids.KEY
    lookups = {ids.KEY: "pk", ids.WORKSPACE: "workspace_id"}
    kind, scopes = column("kind", "kind"), column("scopes", "scopes", display.words)
    used = column("last used (UTC)", "last_used_at", display.moment)
    expires = column("expires (UTC)", "expires_at", display.moment)
    list_display = (named("name", "key"), kind, workspace, scopes, "state", used, expires)
    list_filter = (
        WorkspaceFilter,
        by_choice("kind", "kind", ApiKey.Kind.values),
        by_condition("state", "state", KEY_STATES),
    )
    search_help_text = "key_… or ws_… id, or the external id of a workspace"
    actions = ("revoke",)
    fields = (
        "name", "kind", workspace, scopes, "state", column("allowed origins", "allowed_origins", display.words),
        "version", column("made (UTC)", "created_at", display.moment), used, expires,
        column("replaced secret good until (UTC)", "previous_expires_at", display.moment),
        column("revoked (UTC)", "revoked_at", display.moment),
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        return ApiKey.objects.defer("secret_hash", "previous_hash").select_related("workspace")

    def state(self, key: ApiKey) -> str:
        if key.revoked_at is not None:
            return display.badge("revoked")
        return display.badge("expired" if key.expires_at is not None and key.expires_at <= clock.now() else "live")

    def buttons(self, request: HttpRequest, obj: ApiKey) -> dict[str, str]:
        return {"revoke": "Revoke"} if obj.revoked_at is None else {}

    @admin.action(description="Revoke: they end at once, for ever", permissions=["operate"])
    @asks("End these keys, at once and for ever?")
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        rows = self.selected(request, queryset)
        live = [key for key in rows if key.revoked_at is None]
        for key in live:
            keys.revoke_key(key.pk, clock.database_now(), actor=operator_name(request))
        self.record(request, live, "Revoked.")
        self.report(request, "revoked", len(live), ["Already revoked."] * (len(rows) - len(live)))
