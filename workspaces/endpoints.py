"""What every API view is made of, and the one module of this package that the layers below may import.

Problem, invalid, invalid_parameter      an answer that is an error (RFC 9457)
StrictJSONParser, parsed_body            how bodies are read
Page                                     how lists are answered
StrictSerializer, QuerySerializer, unknown_field  how requests are read; fields: PublicIdField, WorkspaceField,
                                         SecretShownField, OneOfField, MomentField
PeriodIn, period_bounds, bounded_search  lists that are searched by time, and how long that may take
once, once_prepared, once_outside        handlers of POST that take an `Idempotency-Key`
ShownOnce, DryRun                        their answers that are not kept as they are
takes_idempotency_key, stamp_of, refusing_reuse, send  for a handler that looks after its key itself
snapshot                                 what is read inside is of one moment; the handlers of GET run in one
Endpoint                                 the base of a single view
TenantViewSet                            the base of a resource whose rows belong to workspaces, and of its searches
"""

import math
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeVar

from django.conf import settings
from django.db.models import Model, QuerySet
from django.http import HttpResponseBase
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from meshes.api.bodies import StrictJSONParser, parsed_body
from meshes.api.fields import (
    OneOfField,
    PublicIdField,
    QuerySerializer,
    SecretShownField,
    StrictSerializer,
    unknown_field,
)
from meshes.api.pages import Page
from meshes.api.problems import Problem, invalid, invalid_parameter, problem_response
from meshes.api.searching import MomentField, PeriodIn, bounded_search, period_bounds
from meshes.kit import ids
from meshes.kit.snapshots import snapshot
from meshes.kit.spelling import none_of
from workspaces import limits
from workspaces.access import UnknownWorkspace, resolve_workspace, scope
from workspaces.authentication import Identity
from workspaces.models import Workspace
from workspaces.once import (
    DryRun,
    ShownOnce,
    once,
    once_outside,
    once_prepared,
    refusing_reuse,
    send,
    stamp_of,
    takes_idempotency_key,
)

__all__ = [
    "DryRun",
    "Endpoint",
    "MomentField",
    "OneOfField",
    "Page",
    "PeriodIn",
    "Problem",
    "PublicIdField",
    "QuerySerializer",
    "SecretShownField",
    "ShownOnce",
    "StrictJSONParser",
    "StrictSerializer",
    "TenantViewSet",
    "WorkspaceField",
    "bounded_search",
    "invalid",
    "invalid_parameter",
    "once",
    "once_outside",
    "once_prepared",
    "parsed_body",
    "period_bounds",
    "problem_response",
    "refusing_reuse",
    "send",
    "snapshot",
    "stamp_of",
    "takes_idempotency_key",
    "unknown_field",
]

_Row = TypeVar("_Row", bound=Model)

PAGE_PARAMETERS = frozenset({"limit", "cursor"})


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


class Endpoint(APIView):
    """What all views share. Each declares `required_scope` (see workspaces.permissions.HasScope)."""

    metadata_class = None
    http_method_names = ["get", "post", "put", "patch", "delete", "head"]
    body_limit: int = settings.MESHES_BODY_LIMIT
    required_scope: ClassVar[str | tuple[str, ...] | Mapping[str, str | tuple[str, ...]]] = {}
    publishable_actions: ClassVar[Collection[str]] = ()
    account_actions: ClassVar[Collection[str]] = ()
    problems: ClassVar[Mapping[str, Collection[int]]] = {}
    """Statuses that an action may answer beside those that follow from its form; see meshes.api.schema."""
    without_snapshot: ClassVar[Collection[str]] = ()
    """Actions of GET that ask somebody outside, or read nothing from the database."""
    credential_actions: ClassVar[Collection[str]] = ()
    """Actions of POST whose bodies may hold credentials: an `Idempotency-Key` keeps an HMAC of them."""
    own_rate_actions: ClassVar[Collection[str]] = ()
    """Actions that have rates of their own, and do not count against MESHES_API_RATE."""
    not_repeated: ClassVar[Mapping[str, str]] = {}
    """Actions of POST that take no `Idempotency-Key`, and why."""

    @property
    def default_response_headers(self) -> dict[str, str]:
        """What is answered is one tenant's, and may hold a secret that is shown once: nobody on the way keeps it."""
        return {**super().default_response_headers, "Cache-Control": "no-store"}

    def perform_authentication(self, request: Request) -> None:
        """Who calls, and whether they have called too often. Raises Problem 429."""
        super().perform_authentication(request)
        action = getattr(self, "action", None) or str(request.method).lower()
        if not isinstance(request.auth, Identity) or action in self.own_rate_actions:
            return
        if (wait := limits.take_request(request.auth.key_id)) is not None:
            words = f"A key may make {settings.MESHES_API_RATE} requests a second, beside posting events."
            raise Problem(429, detail=words, headers={"Retry-After": str(math.ceil(wait))})

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Who calls and may they; then a GET is answered from one snapshot."""
        super().initial(request, *args, **kwargs)
        verb = str(request.method).lower()
        if verb in ("get", "head") and getattr(self, "action", verb) not in self.without_snapshot:
            handler = getattr(self, verb, None)
            if handler is not None:
                setattr(self, verb, _reading_at_once(handler))

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

    def read(self, serializer_class: type[StrictSerializer], **options: Any) -> Any:
        """The body's validated data. Raises 422 with pointers. `options` go to the serializer (instance, partial)."""
        context = {"request": self.request, "identity": self.identity, "view": self}
        serializer = serializer_class(data=self.request.data, context=context, **options)
        serializer.is_valid(raise_exception=True)
        return serializer.validated_data

    def read_query(self, serializer_class: type[QuerySerializer]) -> dict[str, Any]:
        """The query's validated parameters. Raises 422.

        Unknown ones are refused too: a filter with a typo would select too much.
        """
        query = self.request.query_params
        serializer = serializer_class(data=query.dict(), context={"request": self.request, "identity": self.identity})
        known = PAGE_PARAMETERS | serializer.fields.keys()
        for name, values in query.lists():
            if name not in known:
                words = f"This parameter is not known here: {none_of(name, sorted(known))}"
                raise invalid_parameter(name, words, "unknown_parameter")
            if len(values) > 1:
                raise invalid_parameter(name, "This parameter is given more than once.", "repeated")
        if not serializer.is_valid():
            raise _parameters(serializer.errors)
        return dict(serializer.validated_data)


def _below_root(request: Request) -> str:
    return request.path.removeprefix("/api/v1")


def _reading_at_once(handler: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    def read(*args: Any, **kwargs: Any) -> HttpResponseBase:
        with snapshot():
            return handler(*args, **kwargs)

    return read


def _parameters(errors: Mapping[str, Any]) -> Problem:
    mistakes = [
        {"parameter": name, "detail": str(detail), "rule": str(getattr(detail, "code", "invalid"))}
        for name, details in errors.items()
        for detail in details
    ]
    return Problem(422, errors=mistakes)


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
        context = {"request": self.request, "identity": self.identity, "view": self}
        return self.get_paginated_response(serializer_class(page, many=True, context=context).data)
