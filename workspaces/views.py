"""`/workspaces` and `/api-keys`."""

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from meshes.api.fields import QuerySerializer
from meshes.api.pages import Page
from meshes.api.problems import Problem, invalid
from meshes.kit import clock, ids
from workspaces import keys, lifecycle
from workspaces.access import resolve_workspace, visible_workspaces
from workspaces.endpoints import Endpoint, TenantViewSet
from workspaces.keys import IssuedKey
from workspaces.models import ApiKey, Workspace
from workspaces.once import ShownOnce, once
from workspaces.serializers import ApiKeyIn, ApiKeyOut, IssuedKeyOut, RotationIn, WorkspaceIn, WorkspaceOut

_TAKEN = Problem(
    409, errors=[{"pointer": "/external_id", "detail": "Another workspace has this external id.", "rule": "taken"}]
)


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
        try:
            workspace = lifecycle.create_workspace(self.read(WorkspaceIn))
        except lifecycle.ExternalIdTaken:
            raise _TAKEN from None
        return Response(WorkspaceOut(workspace).data, status=201)

    @extend_schema(responses=WorkspaceOut)
    def retrieve(self, request: Request, id: str) -> Response:
        """One workspace, by its id or external id; also one that was deleted."""
        return Response(WorkspaceOut(resolve_workspace(self.identity, id, include_deleted=True)).data)

    @extend_schema(request=WorkspaceIn(partial=True), responses=WorkspaceOut)
    def partial_update(self, request: Request, id: str) -> Response:
        """Change a workspace; what is left out stays."""
        workspace = resolve_workspace(self.identity, id)
        try:
            lifecycle.change_workspace(workspace, self.read(WorkspaceIn, partial=True))
        except lifecycle.ExternalIdTaken:
            raise _TAKEN from None
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
        given = self.read(ApiKeyIn)
        try:
            issued = keys.create_key(**given, actor=self.identity.actor)
        except keys.TooManyKeys as full:
            raise invalid("/workspace", str(full), "limit") from None
        return _show(issued, 201)

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
        try:
            issued = keys.rotate_key(key.pk, overlap_seconds, clock.database_now(), actor=self.identity.actor)
        except keys.KeyNotLive:
            raise Problem(409, detail="A revoked or expired key cannot be rotated.") from None
        return _show(issued, 200)


def _show(issued: IssuedKey, status: int) -> ShownOnce:
    secrets = {"key": issued.key, "signing_secret": issued.signing_secret}
    return ShownOnce({**ApiKeyOut(issued.row).data, **secrets}, secrets, status)
