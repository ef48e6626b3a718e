"""Which workspaces and rows an identity may see. Every query of a tenant's rows passes through here.

Foreign and unknown are one answer: what an identity may not see, it is told does not exist.
"""

import re
import threading
import time
import uuid
from collections.abc import Iterable
from typing import Any, TypeVar

from cachetools import TLRUCache
from django.db.models import F, Model, Q, QuerySet
from django.http import Http404

from meshes.kit import ids
from workspaces.authentication import Identity
from workspaces.models import Workspace

_M = TypeVar("_M", bound=Model)

EXTERNAL_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def visible_workspaces(identity: Identity) -> QuerySet[Workspace]:
    """The workspaces of an identity, deleted ones too."""
    if identity.workspace_id is None:
        return Workspace.objects.all()
    return Workspace.objects.filter(pk=identity.workspace_id)


def resolve_workspace(identity: Identity, reference: object, *, include_deleted: bool = False) -> Workspace:
    """The workspace by its id (`ws_…`) or external id. Raises Http404.

    A deleted one is unknown unless asked for: what it has lived through stays readable, nothing new happens in it. An
    external id names the live workspace that has it, else the last deleted one.
    """
    if not isinstance(reference, str) or not EXTERNAL_ID.fullmatch(reference):
        raise Http404
    pk = ids.decode(ids.WORKSPACE, reference)
    found = visible_workspaces(identity).filter(Q(external_id=reference) if pk is None else Q(pk=pk))
    if not include_deleted:
        found = found.filter(deleted_at=None)
    workspace = found.order_by(F("deleted_at").desc(nulls_first=True)).first()
    if workspace is None:
        raise Http404
    return workspace


def scope(queryset: "QuerySet[_M]", identity: Identity, workspace: Workspace | None = None) -> "QuerySet[_M]":
    """Rows of a tenant table (one with `workspace_id`) that the identity may see, of one workspace where given."""
    if identity.workspace_id is not None:
        queryset = queryset.filter(workspace_id=identity.workspace_id)
    if workspace is not None:
        queryset = queryset.filter(workspace_id=workspace.pk)
    return queryset


# --- without a query ------------------------------------------------------------------------------------------------

TTL_SECONDS = 0.8
"""So a limit that is changed holds everywhere within a second."""
_seen: TLRUCache[str, tuple[float, Workspace]] = TLRUCache(
    10_000, ttu=lambda _, seen, now: seen[0] + TTL_SECONDS, timer=time.monotonic
)
_lock = threading.Lock()


def find_workspaces(identity: Identity, references: Iterable[str]) -> dict[str, Workspace]:
    """The live workspaces that these ids and external ids name, by them; what the caller may not see is left out.

    They are at most TTL_SECONDS old, so that an event costs no query. Whoever writes for one of them says so in the
    statement that writes (`events.ingest`): nothing is ever stored for one that was deleted or renamed meanwhile.
    """
    wanted = {reference for reference in references if EXTERNAL_ID.fullmatch(reference)}
    with _lock:
        found = {reference: seen[1] for reference in wanted if (seen := _seen.get(reference))}
    if missing := wanted - found.keys():
        began = time.monotonic()  # a workspace is as old as the beginning of the look at it
        loaded = _load(missing)
        with _lock:
            _seen.update({reference: (began, workspace) for reference, workspace in loaded.items()})
        found |= loaded
    own = identity.workspace_id
    return {reference: workspace for reference, workspace in found.items() if own is None or workspace.pk == own}


def forget_workspaces(*_: Any, **__: Any) -> None:
    """Look every workspace up anew; other processes do so within TTL_SECONDS. Also a receiver of signals."""
    with _lock:
        _seen.clear()


def _load(references: Iterable[str]) -> dict[str, Workspace]:
    wanted = {text: ids.decode(ids.WORKSPACE, text) for text in references}
    live = Workspace.objects.filter(deleted_at=None).order_by()
    found: dict[str | uuid.UUID | None, Workspace] = {}
    if names := [text for text, pk in wanted.items() if pk is None]:
        found |= {workspace.external_id: workspace for workspace in live.filter(external_id__in=names)}
    if pks := [pk for pk in wanted.values() if pk is not None]:
        found |= {workspace.pk: workspace for workspace in live.filter(pk__in=pks)}
    return {text: found[pk or text] for text, pk in wanted.items() if (pk or text) in found}
