"""`/workspaces` and `/api-keys`."""

from datetime import datetime
from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import ErrorDetail, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from meshes.api.fields import (
    AnswerSerializer,
    FieldsOf,
    MomentField,
    OneOfField,
    PublicIdField,
    QuerySerializer,
    SecretShownField,
    StrictSerializer,
)
from meshes.api.pages import Page
from meshes.kit import clock, ids
from workspaces import keys, lifecycle
from workspaces.authentication import ORIGIN, Identity
from workspaces.endpoints import (
    EXTERNAL_ID,
    Endpoint,
    TenantViewSet,
    WorkspaceField,
    resolve_workspace,
    visible_workspaces,
)
from workspaces.idempotency import ShownOnce, once
from workspaces.keys import IssuedKey
from workspaces.models import ApiKey, Workspace

MAX_BACKLOG = 10**9
MAX_ORIGINS = 50


# --- workspaces -------------------------------------------------------------------------------------------------------


class WorkspaceIn(StrictSerializer):
    """The body that makes or changes a workspace."""

    name = serializers.CharField(max_length=200)
    external_id = serializers.RegexField(
        rf"\A{EXTERNAL_ID.pattern}\Z",
        required=False,
        allow_null=True,
        trim_whitespace=False,
        help_text="Your own id of this customer; as good as `id` wherever the API takes a workspace.",
    )
    ingest_rate = serializers.FloatField(
        required=False,
        allow_null=True,
        min_value=0.1,
        max_value=1_000_000,
        help_text="Events per second; null: the installation's default.",
    )
    backlog_limit = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=MAX_BACKLOG,
        help_text="Open deliveries above which new events are refused; null: the installation's default.",
    )

    def validate_external_id(self, value: str | None) -> str | None:
        if value is not None and ids.is_type_id(value):
            raise ValidationError("An external id may not look like one of Meshes' own ids.", code="type_id")
        return value


class WorkspaceOut(AnswerSerializer):
    id = PublicIdField(ids.WORKSPACE, source="pk")
    settings = FieldsOf(WorkspaceIn)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    deleted_at = serializers.DateTimeField(allow_null=True)


class WorkspaceViewSet(Endpoint, GenericViewSet[Workspace]):
    """The tenants. Account keys manage them; a workspace's own key sees its own."""

    queryset = Workspace.objects.all()
    lookup_field = "id"
    lookup_value_regex = "[^/]+"
    pagination_class = Page
    required_scope = {
        "list": ("config", "admin"),
        "retrieve": ("config", "admin"),
        "create": "admin",
        "partial_update": "admin",
        "destroy": "admin",
    }
    account_actions = {"create", "partial_update", "destroy"}
    problems = {"create": {409}, "partial_update": {409}}

    @extend_schema(responses=WorkspaceOut(many=True))
    def list(self, request: Request) -> Response:
        """The workspaces that this key may see, newest first, without deleted ones."""
        self.read_query(QuerySerializer)
        page = self.paginate_queryset(visible_workspaces(self.identity).filter(deleted_at=None))
        return self.get_paginated_response(WorkspaceOut(page, many=True).data)

    @extend_schema(
        request=WorkspaceIn,
        responses={201: WorkspaceOut},
        examples=[
            OpenApiExample("A tenant", {"name": "Acme", "external_id": "ws_tenant_abc"}, request_only=True),
        ],
    )
    @once
    def create(self, request: Request) -> Response:
        """Make a workspace."""
        return Response(WorkspaceOut(lifecycle.create_workspace(self.read(WorkspaceIn))).data, status=201)

    @extend_schema(responses=WorkspaceOut)
    def retrieve(self, request: Request, id: str) -> Response:
        """One workspace, by its id or external id; also one that was deleted."""
        return Response(WorkspaceOut(resolve_workspace(self.identity, id, include_deleted=True)).data)

    @extend_schema(request=WorkspaceIn(partial=True), responses=WorkspaceOut)
    def partial_update(self, request: Request, id: str) -> Response:
        """Change a workspace; what is left out stays."""
        workspace = resolve_workspace(self.identity, id)
        lifecycle.change_workspace(workspace, self.read(WorkspaceIn, partial=True))
        return Response(WorkspaceOut(workspace).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, id: str) -> Response:
        """Delete a workspace.

        It refuses new events from now on; what is still open is cancelled, then everything is purged in batches. Its
        history stays readable until then.
        """
        workspace = resolve_workspace(self.identity, id, include_deleted=True)
        lifecycle.delete_workspace(workspace, clock.database_now())
        return Response(status=204)


# --- API keys ---------------------------------------------------------------------------------------------------------


class ApiKeyIn(StrictSerializer):
    """The body that makes a key. What the caller may give away is checked here, so that errors name the field."""

    alternatives = (
        {
            "properties": {
                "kind": {"enum": ["account"]},
                "workspace": {"enum": [None]},
                "allowed_origins": {"maxItems": 0},
            },
            "required": ["scopes"],
        },
        {
            "properties": {
                "kind": {"enum": ["workspace"]},
                "workspace": {"type": "string"},
                "allowed_origins": {"maxItems": 0},
            },
            "required": ["workspace", "scopes"],
        },
        {
            "properties": {
                "kind": {"enum": ["publishable"]},
                "workspace": {"type": "string"},
                "scopes": {"items": {"enum": ["events:write"]}},
            },
            "required": ["workspace"],
        },
    )

    name = serializers.CharField(max_length=200)
    kind = OneOfField(ApiKey.Kind.choices)
    workspace = WorkspaceField(required=False, allow_null=True, help_text="Required but for account keys.")
    scopes = serializers.ListField(
        child=OneOfField(keys.SCOPES),
        min_length=1,
        max_length=len(keys.SCOPES),
        required=False,
        help_text="A publishable key has `events:write` and nothing else, also when this is left out.",
    )
    expires_at = MomentField(required=False, allow_null=True)
    allowed_origins = serializers.ListField(
        child=serializers.RegexField(rf"\A({ORIGIN.pattern})\Z", max_length=255, trim_whitespace=False),
        max_length=MAX_ORIGINS,
        required=False,
        help_text="Web origins whose pages may use a publishable key, such as `https://app.example.com`.",
    )

    def validate_expires_at(self, value: datetime | None) -> datetime | None:
        if value is not None and value <= clock.now():
            raise ValidationError("This moment has passed.", code="past")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        identity: Identity = self.context["identity"]
        kind, workspace = attrs["kind"], attrs.get("workspace")
        if kind == ApiKey.Kind.ACCOUNT and identity.kind != ApiKey.Kind.ACCOUNT:
            raise _refuse("kind", "Only an account key may make account keys.", "beyond_own_rights")
        if kind == ApiKey.Kind.ACCOUNT and workspace is not None:
            raise _refuse("workspace", "An account key has no workspace.", "forbidden_for_kind")
        if kind != ApiKey.Kind.ACCOUNT and workspace is None:
            raise _refuse("workspace", "This kind of key needs a workspace.", "required")
        if kind != ApiKey.Kind.PUBLISHABLE and attrs.get("allowed_origins"):
            raise _refuse("allowed_origins", "Only publishable keys have origins.", "forbidden_for_kind")
        if kind == ApiKey.Kind.PUBLISHABLE:
            attrs.setdefault("scopes", list(keys.PUBLISHABLE_SCOPES))
            if set(attrs["scopes"]) != set(keys.PUBLISHABLE_SCOPES):
                raise _refuse("scopes", "A publishable key has the scope events:write only.", "forbidden_for_kind")
        elif "scopes" not in attrs:
            raise _refuse("scopes", "This field is required.", "required")
        if beyond := set(attrs["scopes"]) - identity.scopes:
            words = f"Your own key lacks {', '.join(sorted(beyond))}."
            raise _refuse("scopes", words, "beyond_own_rights")
        return attrs


def _refuse(field: str, detail: str, rule: str) -> ValidationError:
    return ValidationError({field: [ErrorDetail(detail, code=rule)]})


class RotationIn(StrictSerializer):
    overlap_seconds = serializers.IntegerField(
        min_value=0,
        max_value=keys.MAX_OVERLAP_SECONDS,
        default=keys.DEFAULT_OVERLAP_SECONDS,
        help_text="How long the present key and signing secret stay good beside the new ones.",
    )


class ApiKeyOut(AnswerSerializer):
    """A key without its secrets, which nobody can read again."""

    id = PublicIdField(ids.KEY, source="pk")
    name = serializers.CharField()
    kind = serializers.ChoiceField(ApiKey.Kind.choices)
    workspace = PublicIdField(ids.WORKSPACE, source="workspace_id", allow_null=True)
    workspace_external_id = serializers.CharField(source="workspace.external_id", allow_null=True)
    workspace_name = serializers.CharField(source="workspace.name", allow_null=True)
    rights = FieldsOf(ApiKeyIn)
    version = serializers.IntegerField(help_text="1, and one more with each rotation.")
    previous_expires_at = serializers.DateTimeField(
        allow_null=True, help_text="Until when the secrets before the last rotation stay good."
    )
    expires_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="Exact to a minute.")
    revoked_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()


class IssuedKeyOut(ApiKeyOut):
    """A key that was just made or rotated, with its secrets: shown this once."""

    key = serializers.CharField(allow_null=True, help_text="null in a repetition under an `Idempotency-Key`.")
    signing_secret = serializers.CharField(
        allow_null=True, help_text="Signs machine tokens; null for publishable keys, and in a repetition."
    )
    secret_shown = SecretShownField()


class ApiKeyQuery(QuerySerializer):
    workspace = serializers.CharField(required=False, help_text="Id or external id.")


class ApiKeyViewSet(TenantViewSet):
    """API keys. A secret is in the answer of creation and rotation, and nowhere else."""

    queryset = ApiKey.objects.all()
    id_prefix = ids.KEY
    required_scope = "admin"
    problems = {"rotate": {409}}

    @extend_schema(parameters=[ApiKeyQuery], responses=ApiKeyOut(many=True))
    def list(self, request: Request) -> Response:
        """The keys that this key may manage, newest first; revoked ones too."""
        workspace = self.named_workspace(self.read_query(ApiKeyQuery))
        return self.answer_page(self.rows(workspace), ApiKeyOut)

    @extend_schema(
        request=ApiKeyIn,
        responses={201: IssuedKeyOut},
        examples=[
            OpenApiExample(
                "A tenant's own key",
                {"name": "Acme's backend", "kind": "workspace", "workspace": "ws_tenant_abc", "scopes": ["config"]},
                request_only=True,
            ),
            OpenApiExample(
                "A key for a web page",
                {
                    "name": "Acme's site",
                    "kind": "publishable",
                    "workspace": "ws_tenant_abc",
                    "allowed_origins": ["https://app.example.com"],
                },
                request_only=True,
            ),
        ],
    )
    @once
    def create(self, request: Request) -> Response:
        """Make a key, with no more scopes than your own. A workspace's key makes keys of its own workspace."""
        return _show(keys.create_key(**self.read(ApiKeyIn), actor=self.identity.actor), 201)

    @extend_schema(responses=ApiKeyOut)
    def retrieve(self, request: Request, id: str) -> Response:
        """One key, without its secrets."""
        return Response(ApiKeyOut(self.get_object()).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, id: str) -> Response:
        """Revoke a key, for ever: it is refused everywhere within a second."""
        keys.revoke_key(self.get_object().pk, clock.database_now(), actor=self.identity.actor)
        return Response(status=204)

    @extend_schema(request=RotationIn, responses=IssuedKeyOut)
    @action(detail=True, methods=["post"])
    @once
    def rotate(self, request: Request, id: str) -> Response:
        """New secrets for a key; its present ones stay good for `overlap_seconds`."""
        key = self.get_object()
        if beyond := set(key.scopes) - self.identity.scopes:
            raise PermissionDenied(f"Your own key lacks {', '.join(sorted(beyond))}, which this key has.")
        overlap_seconds = self.read(RotationIn)["overlap_seconds"]
        issued = keys.rotate_key(key.pk, overlap_seconds, clock.database_now(), actor=self.identity.actor)
        return _show(issued, 200)


def _show(issued: IssuedKey, status: int) -> ShownOnce:
    secrets = {"key": issued.key, "signing_secret": issued.signing_secret}
    return ShownOnce({**ApiKeyOut(issued.row).data, **secrets}, secrets, status)
