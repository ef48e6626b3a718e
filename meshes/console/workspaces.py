"""Workspaces, their API keys, and what was answered under an `Idempotency-Key`."""

from collections.abc import Iterator
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from meshes.console import columns, display, finding
from meshes.console.filters import WorkspaceFilter, by_choice
from meshes.console.pages import Button, OperatorAdmin, Panel, operator_name
from meshes.kit import clock, ids
from workspaces import keys
from workspaces.models import ApiKey, IdempotencyRecord, Installation, JournalEntry, Workspace


class LifeFilter(admin.SimpleListFilter):
    """Live ones, unless deleted ones are asked for."""

    title = "state"
    parameter_name = "state"

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
        if external_id is not None and ids.is_type_id(external_id):
            raise forms.ValidationError("An external id must not look like an id of Meshes.")
        if self.instance.deleted_at is None and self._is_taken(external_id):
            raise forms.ValidationError("Another live workspace has this external id.")
        return external_id

    def _is_taken(self, external_id: str | None) -> bool:
        others = Workspace.objects.live().exclude(pk=self.instance.pk)
        return external_id is not None and others.filter(external_id=external_id).exists()


@admin.register(Workspace)
class WorkspaceAdmin(OperatorAdmin):
    """Name and limits are edited here; a workspace is made and deleted through the API."""

    prefix = ids.WORKSPACE
    is_editable = True
    form = WorkspaceForm
    panels: ClassVar[list[Panel]] = []
    list_display = ("show_name", "external_id", "show_state", "ingest_rate", "backlog_limit", "show_made")
    list_filter = (LifeFilter,)
    search_help_text = "ws_… id, external id, or a part of the name"
    readonly_fields = ("show_state", "show_made", "show_changed", "show_deleted", "show_purged")
    fieldsets = (
        (None, {"fields": ("name", "external_id")}),
        ("Limits", {"fields": ("ingest_rate", "backlog_limit")}),
        ("Record", {"fields": readonly_fields}),
    )
    show_name = columns.named("name", "workspace")
    show_made = columns.moment("created_at", "made")
    show_changed = columns.moment("updated_at", "changed")
    show_deleted = columns.moment("deleted_at", "deleted")
    show_purged = columns.moment("purged_at", "purged")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Tenants are few beside their events, so that a part of a name may be looked for."""
        term = search_term.strip()
        if not term:
            return queryset, False
        named = finding.workspace_ids(term)
        return queryset.filter(pk__in=named) if named else queryset.filter(name__icontains=term), False

    @admin.display(description="state")
    def show_state(self, workspace: Workspace) -> SafeString:
        if workspace.deleted_at is None:
            return display.badge("live")
        return display.badge("purged" if workspace.purged_at else "deleted")


class KeyStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("live", "Live"), ("expired", "Expired"), ("revoked", "Revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = clock.database_now()
        match self.value():
            case "live":
                return queryset.filter(Q(expires_at=None) | Q(expires_at__gt=now), revoked_at=None)
            case "expired":
                return queryset.filter(expires_at__lte=now, revoked_at=None)
            case "revoked":
                return queryset.filter(revoked_at__isnull=False)
        return queryset


@admin.register(ApiKey)
class ApiKeyAdmin(OperatorAdmin):
    """Keys without their hashes, which never leave the database for a page."""

    prefix = ids.KEY
    lookups = {ids.KEY: "pk", ids.WORKSPACE: "workspace_id"}
    list_display = ("show_name", "show_kind", "show_workspace", "show_scopes", "show_state", "show_used", "show_expiry")
    list_filter = (WorkspaceFilter, by_choice("kind", "kind", ApiKey.Kind.values), KeyStateFilter)
    search_help_text = "key_… or ws_… id, or the external id of a workspace"
    actions = ("revoke",)
    fields = (
        "name", "kind", "show_workspace", "show_scopes", "show_state", "show_origins", "version", "show_made",
        "show_used", "show_expiry", "show_overlap", "show_revoked",
    )  # fmt: skip
    readonly_fields = fields
    show_name = columns.named("name", "key")
    show_workspace = columns.workspace()
    show_scopes = columns.words("scopes", "scopes")
    show_origins = columns.words("allowed_origins", "allowed origins")
    show_made = columns.moment("created_at", "made")
    show_used = columns.moment("last_used_at", "last used")
    show_expiry = columns.moment("expires_at", "expires")
    show_overlap = columns.moment("previous_expires_at", "replaced secret good until")
    show_revoked = columns.moment("revoked_at", "revoked")

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        return ApiKey.objects.defer("secret_hash", "previous_hash").select_related("workspace")

    def buttons(self, request: HttpRequest, obj: ApiKey) -> list[Button]:
        return [Button("revoke", "Revoke", is_grave=True)] if obj.revoked_at is None else []

    @admin.action(description="Revoke: they end at once, for ever", permissions=["operate"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        if asked := self.confirm(request, queryset, "revoke", "End these keys, at once and for ever?"):
            return asked
        rows = self.selected(request, queryset)
        live = [key for key in rows if key.revoked_at is None]
        for key in live:
            keys.revoke_key(key.pk, clock.database_now(), actor=operator_name(request))
        self.record(request, live, "Revoked.")
        self.report(request, "revoked", len(live), ["Already revoked."] * (len(rows) - len(live)))
        return None

    @admin.display(description="kind")
    def show_kind(self, key: ApiKey) -> str:
        return key.kind

    @admin.display(description="state")
    def show_state(self, key: ApiKey) -> SafeString:
        if key.revoked_at is not None:
            return display.badge("revoked")
        is_expired = key.expires_at is not None and key.expires_at <= clock.now()
        return display.badge("expired" if is_expired else "live")


@admin.register(IdempotencyRecord)
class IdempotencyRecordAdmin(OperatorAdmin):
    """What was answered to an `Idempotency-Key`, for 24 hours."""

    list_display = ("key", "path", "show_scope", "status_code", "show_made")
    search_help_text = "ws_… or key_… id, or a key in full"
    fields = ("key", "path", "show_scope", "status_code", "show_answer", "show_made")
    readonly_fields = fields
    show_made = columns.moment("created_at", "answered")
    show_answer = columns.document("answer", "answer")

    def get_queryset(self, request: HttpRequest) -> QuerySet[IdempotencyRecord]:
        return IdempotencyRecord.objects.defer("body_hash")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[IdempotencyRecord], search_term: str
    ) -> tuple[QuerySet[IdempotencyRecord], bool]:
        for word in search_term.split():
            scope = ids.decode(ids.WORKSPACE, word) or ids.decode(ids.KEY, word)
            queryset = queryset.filter(scope=scope) if scope else queryset.filter(key=word)
        return queryset, False

    @admin.display(description="scope")
    def show_scope(self, record: IdempotencyRecord) -> str:
        return display.code(str(record.scope))


@admin.register(Installation)
class InstallationAdmin(OperatorAdmin):
    """Whether this database was restored from a dump and is held; `manage.py after_restore` releases it."""

    list_display = ("show_state", "show_held", "show_checked")
    list_display_links = ("show_state",)
    search_fields: ClassVar[tuple[str, ...]] = ()
    fields = (*list_display, "system_identifier", "database_oid")
    readonly_fields = fields
    show_held = columns.moment("held_at", "held since")
    show_checked = columns.moment("checked_at", "checked")

    @admin.display(description="state")
    def show_state(self, installation: Installation) -> SafeString:
        return display.badge("held", "bad") if installation.held_at else display.badge("running", "good")


@admin.register(JournalEntry)
class JournalEntryAdmin(OperatorAdmin):
    """What could not be written to the file of `MESHES_JOURNAL` yet; the sweeper writes it."""

    list_display = ("pk", "show_made")
    search_fields: ClassVar[tuple[str, ...]] = ()
    fields = ("show_made", "show_entry")
    readonly_fields = fields
    show_made = columns.moment("created_at", "waits since")
    show_entry = columns.document("entry", "entry")
