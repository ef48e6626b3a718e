"""Views that know who calls, and the base of a resource whose rows belong to workspaces."""

import math
import uuid
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeVar

from django.conf import settings
from django.db.models import Model, QuerySet
from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerFieldExtension
from drf_spectacular.openapi import AutoSchema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from meshes.api.pages import Page
from meshes.api.problems import Problem
from meshes.api.views import View
from meshes.kit import ids
from workspaces import limits
from workspaces.access import UnknownWorkspace, resolve_workspace, scope
from workspaces.authentication import Identity
from workspaces.models import Workspace
from workspaces.searches import bounded_search

_Row = TypeVar("_Row", bound=Model)


class WorkspaceField(serializers.Field[Workspace, str, str, Any]):
    """A live workspace in a body, by id or external id; needs `context["identity"]`. Answered as its id."""

    default_error_messages = {"unknown": "There is no such workspace."}

    def to_internal_value(self, data: Any) -> Workspace:
        try:
            return resolve_workspace(self.context["identity"], data)
        except UnknownWorkspace:
            self.fail("unknown")

    def to_representation(self, value: Workspace) -> str:
        return value.public_id


class Endpoint(View):
    """A view that knows who calls. Each declares `required_scope` (see workspaces.permissions.HasScope)."""

    required_scope: ClassVar[str | tuple[str, ...] | Mapping[str, str | tuple[str, ...]]] = {}
    publishable_actions: ClassVar[Collection[str]] = ()
    account_actions: ClassVar[Collection[str]] = ()
    credential_actions: ClassVar[Collection[str]] = ()
    """Actions of POST whose bodies may hold credentials: an `Idempotency-Key` keeps an HMAC of them."""
    own_rate_actions: ClassVar[Collection[str]] = ()
    """Actions that have rates of their own, and do not count against MESHES_API_RATE."""
    not_repeated: ClassVar[Mapping[str, str]] = {}
    """Actions of POST that take no `Idempotency-Key`, and why."""

    def perform_authentication(self, request: Request) -> None:
        """Who calls, and whether they have called too often. Raises Problem 429."""
        super().perform_authentication(request)
        action = getattr(self, "action", None) or str(request.method).lower()
        if not isinstance(request.auth, Identity) or action in self.own_rate_actions:
            return
        if (wait := limits.take_request(request.auth.key_id)) is not None:
            words = f"A key may make {settings.MESHES_API_RATE} requests a second, beside posting events."
            raise Problem(429, detail=words, headers={"Retry-After": str(math.ceil(wait))})

    @property
    def identity(self) -> Identity:
        """Who calls. Only where a permission demands one."""
        identity = self.request.auth
        if not isinstance(identity, Identity):
            raise TypeError("This view lets callers in without a key.")
        return identity

    def named_place(self) -> tuple[uuid.UUID, str]:
        """What an `Idempotency-Key` belongs to: the workspace that the body names, else who calls; and the path."""
        body = self.request.data
        reference = body.get("workspace") if isinstance(body, dict) else None
        try:
            scope = resolve_workspace(self.identity, reference).pk if reference is not None else None
        except UnknownWorkspace:
            scope = None  # the handler says so
        return scope or self.identity.workspace_id or self.identity.key_id, _below_root(self.request)

    def holds_credentials(self) -> bool:
        return getattr(self, "action", "post") in self.credential_actions

    def context(self) -> dict[str, Any]:
        return super().context() | {"identity": self.request.auth}


def _below_root(request: Request) -> str:
    return request.path.removeprefix("/api/v1")


class TenantViewSet(Endpoint, GenericViewSet[Any]):
    """A resource whose rows have a `workspace_id`.

    `id_prefix` is the prefix of its public ids. `rows()` is the only way to its rows: those that the caller may see.
    """

    id_prefix: ClassVar[str]
    lookup_field = "id"
    lookup_value_regex = "[^/]+"
    pagination_class = Page

    def rows(self, workspace: Workspace | None = None) -> "QuerySet[Any]":
        return scope(super().get_queryset().select_related("workspace"), self.identity, workspace)

    def get_queryset(self) -> "QuerySet[Any]":
        return self.rows()

    def named_place(self) -> tuple[uuid.UUID, str]:
        if "id" not in self.kwargs:
            return super().named_place()
        return self.get_object().workspace_id or self.identity.key_id, _below_root(self.request)

    def get_object(self) -> Any:
        """The row that the path names. Raises 404, for foreign and unknown alike."""
        return self.find(self.rows(), self.kwargs["id"])

    def find(self, rows: "QuerySet[_Row]", public_id: str) -> _Row:
        row = rows.filter(pk=self.decode(public_id)).first()
        if row is None:
            raise NotFound
        return row

    def decode(self, public_id: str) -> uuid.UUID:
        pk = ids.decode(self.id_prefix, public_id)
        if pk is None:
            raise NotFound
        return pk

    def named_workspace(self, parameters: Mapping[str, Any]) -> Workspace | None:
        """The workspace of a list's `workspace` parameter, deleted ones too; 404 where there is none."""
        reference = parameters.get("workspace")
        return None if reference is None else resolve_workspace(self.identity, reference, include_deleted=True)

    def names_one_workspace(self, wanted: Mapping[str, Any]) -> bool:
        """Whether a search is within one workspace: the key's own, or the one that is named."""
        return self.identity.workspace_id is not None or "workspace" in wanted

    def search(self, *, is_indexed: bool) -> AbstractContextManager[None]:
        """For the queries of a search; where no index serves it, the key has to wait for its turn."""
        return bounded_search(None if is_indexed else self.identity.key_id)

    def answer_page(self, rows: "QuerySet[Any]", serializer_class: type[serializers.BaseSerializer[Any]]) -> Response:
        """One page of rows, as the serializer shows them."""
        page = self.paginate_queryset(rows)
        return self.get_paginated_response(serializer_class(page, many=True, context=self.context()).data)


class KeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # the library is typed in part
    target_class = "workspaces.authentication.KeyAuthentication"
    name = "key"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key (`mesh_live_…`) or a machine token (JWT, HS256, at most 60 s).",
        }


class WorkspaceScheme(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # the library is typed in part
    target_class = "workspaces.endpoints.WorkspaceField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: str) -> dict[str, Any]:
        return {"type": "string", "description": "Id or external id.", "pattern": "^[A-Za-z0-9_.-]{1,128}$"}
