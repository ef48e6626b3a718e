"""Views that know who calls, the rows that they may see, and how long a search may take.

Every query of a tenant's rows passes through here. Foreign and unknown are one answer: what an identity may not see, it
is told does not exist.

No search may keep PostgreSQL busy for long: a filter that hardly anything matches can mean a look at everything. A
search that no index serves takes a turn: its key has `MESHES_SEARCHES` at a time, so that whoever searches leaves
threads, and PostgreSQL's time, to those that post events.
"""

import math
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, TypeVar

from cachetools import TLRUCache
from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.db.models import F, Model, Q, QuerySet
from django.http import Http404
from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerFieldExtension
from drf_spectacular.openapi import AutoSchema
from psycopg2.errors import QueryCanceled
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
from workspaces.authentication import Identity, action_of
from workspaces.models import Workspace

_Row = TypeVar("_Row", bound=Model)
_ROOT = "/api/v1"
EXTERNAL_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")


# --- what an identity may see ---------------------------------------------------------------------------------------


def visible_workspaces(identity: Identity) -> QuerySet[Workspace]:
    """The workspaces of an identity, deleted ones too."""
    if identity.workspace_id is None:
        return Workspace.objects.all()
    return Workspace.objects.filter(pk=identity.workspace_id)


def is_named(reference: str) -> Q:
    """What finds workspaces by an id (`ws_…`) or an external id."""
    pk = ids.decode(ids.WORKSPACE, reference)
    return Q(external_id=reference) if pk is None else Q(pk=pk)


def resolve_workspace(identity: Identity, reference: object, *, include_deleted: bool = False) -> Workspace:
    """The workspace by its id (`ws_…`) or external id. Raises Http404.

    A deleted one is unknown unless asked for: what it has lived through stays readable, nothing new happens in it. An
    external id names the live workspace that has it, else the last deleted one.
    """
    if not isinstance(reference, str) or not EXTERNAL_ID.fullmatch(reference):
        raise Http404
    found = visible_workspaces(identity).filter(is_named(reference))
    if not include_deleted:
        found = found.filter(deleted_at=None)
    workspace = found.order_by(F("deleted_at").desc(nulls_first=True)).first()
    if workspace is None:
        raise Http404
    return workspace


def scope(queryset: "QuerySet[_Row]", identity: Identity, workspace: Workspace | None = None) -> "QuerySet[_Row]":
    """Rows of a tenant table (one with `workspace_id`) that the identity may see, of one workspace where given."""
    if identity.workspace_id is not None:
        queryset = queryset.filter(workspace_id=identity.workspace_id)
    if workspace is not None:
        queryset = queryset.filter(workspace_id=workspace.pk)
    return queryset


TTL_SECONDS = 0.8
"""So a limit that is changed holds everywhere within a second."""
_seen: TLRUCache[str, tuple[float, Workspace]] = TLRUCache(
    10_000, ttu=lambda _, seen, now: seen[0] + TTL_SECONDS, timer=time.monotonic
)
_seen_lock = threading.Lock()


def find_workspaces(identity: Identity, references: Iterable[str]) -> dict[str, Workspace]:
    """The live workspaces that these ids and external ids name, by them; what the caller may not see is left out.

    They are at most TTL_SECONDS old, so that an event costs no query. Whoever writes for one of them says so in the
    statement that writes (`delivery.events.intake`): nothing is ever stored for one that was deleted or renamed
    meanwhile.
    """
    wanted = {reference for reference in references if EXTERNAL_ID.fullmatch(reference)}
    with _seen_lock:
        found = {reference: seen[1] for reference in wanted if (seen := _seen.get(reference))}
    if missing := wanted - found.keys():
        began = time.monotonic()  # a workspace is as old as the beginning of the look at it
        pks = {text: ids.decode(ids.WORKSPACE, text) for text in missing}
        external_ids = [text for text, pk in pks.items() if pk is None]
        is_one_of = Q(external_id__in=external_ids) | Q(pk__in=filter(None, pks.values()))
        rows: dict[object, Workspace] = {}
        for row in Workspace.objects.filter(is_one_of, deleted_at=None).order_by():
            rows |= {row.pk: row, row.external_id: row}
        loaded = {text: rows[pk or text] for text, pk in pks.items() if (pk or text) in rows}
        with _seen_lock:
            _seen.update({reference: (began, workspace) for reference, workspace in loaded.items()})
        found |= loaded
    own = identity.workspace_id
    return {reference: workspace for reference, workspace in found.items() if own is None or workspace.pk == own}


def forget_workspaces(*_: Any, **__: Any) -> None:
    """Look every workspace up anew; other processes do so within TTL_SECONDS. Also a receiver of signals."""
    with _seen_lock:
        _seen.clear()


# --- views ----------------------------------------------------------------------------------------------------------


class WorkspaceField(serializers.Field[Workspace, str, str, Any]):
    """A live workspace in a body, by id or external id; needs `context["identity"]`. Answered as its id."""

    default_error_messages = {"unknown": "There is no such workspace."}

    def to_internal_value(self, data: Any) -> Workspace:
        try:
            return resolve_workspace(self.context["identity"], data)
        except Http404:
            self.fail("unknown")

    def to_representation(self, value: Workspace) -> str:
        return value.public_id


class Endpoint(View):
    """A view that knows who calls. Each declares `required_scope` (see workspaces.authentication.HasScope)."""

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
        if not isinstance(request.auth, Identity) or action_of(self, request) in self.own_rate_actions:
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
        except Http404:
            scope = None  # the handler says so
        return scope or self.identity.workspace_id or self.identity.key_id, self.request.path.removeprefix(_ROOT)

    def context(self) -> dict[str, Any]:
        return super().context() | {"identity": self.request.auth}


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
        return self.get_object().workspace_id or self.identity.key_id, self.request.path.removeprefix(_ROOT)

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


# --- searches -------------------------------------------------------------------------------------------------------

SEARCH_SECONDS = 10.0
WAIT_SECONDS = 1.0
"""How long a search that no index serves waits for its turn."""
TURN_SECONDS = 60.0
"""When the turn of a process that was lost lapses: above what the few queries of one search may take."""
RETRY_SECONDS = 2
NARROWER = "Wait for one to end, or name what an index serves; docs/api.md has the list."
NO_THREAD = "Too many searches that no index serves are running. Try again, or name what an index serves."
BOUND = """
SELECT set_config('statement_timeout', %s, true), set_config('max_parallel_workers_per_gather', '0', true)
"""
"""A search has one core at most."""
TOO_WIDE = "It was looked for longer than is allowed. Name a workspace, a status, or a shorter time from … to."


@contextmanager
def bounded_search(unindexed_by: uuid.UUID | None = None) -> Iterator[None]:
    """Queries inside end after `SEARCH_SECONDS` each. Raises Problem 422 then.

    For a search that no index serves, `unindexed_by` is the key that asks: it then also waits for its turn. Raises
    Problem 429 where that does not come, and 503 where this process has no thread left for it.
    """
    with nullcontext() if unindexed_by is None else _turn_of(unindexed_by):
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(BOUND, [str(int(SEARCH_SECONDS * 1000))])
                yield
                cursor.execute("SET LOCAL statement_timeout TO DEFAULT")
        except OperationalError as error:
            if isinstance(error.__cause__, QueryCanceled):
                raise Problem(422, "search-too-wide", "The search is too wide", TOO_WIDE) from error
            raise


@contextmanager
def _turn_of(key_id: uuid.UUID) -> Iterator[None]:
    """One of the key's turns, over all processes, and one of this process's threads for searches."""
    most = settings.MESHES_SEARCHES
    with _thread_for(key_id, most), limits.turn(f"searches:{key_id}", most, TURN_SECONDS, WAIT_SECONDS) as is_mine:
        if not is_mine:
            raise _too_many(most)
        yield


_lock = threading.Lock()
_threads: Counter[uuid.UUID] = Counter()
"""Of this process, those that are in a search or wait for its turn, by key."""


@contextmanager
def _thread_for(key_id: uuid.UUID, most: int) -> Iterator[None]:
    """Of one key as many wait in a process as may search; searches of all keys have half of its threads."""
    with _lock:
        if _threads[key_id] >= 2 * most:
            raise _too_many(most)
        if _threads.total() >= max(1, settings.MESHES_WEB_THREADS // 2):
            raise Problem(503, detail=NO_THREAD, headers={"Retry-After": str(RETRY_SECONDS)})
        _threads[key_id] += 1
    try:
        yield
    finally:
        with _lock:
            _threads[key_id] -= 1
            if not _threads[key_id]:
                del _threads[key_id]


def _too_many(most: int) -> Problem:
    words = f"{most} searches of this key that no index serves are running. {NARROWER}"
    return Problem(429, detail=words, headers={"Retry-After": str(RETRY_SECONDS)})


# --- for the API's schema -------------------------------------------------------------------------------------------


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
