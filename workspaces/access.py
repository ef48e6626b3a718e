"""Which rows an identity may see. Every query of a tenant's rows passes through here.

Foreign and unknown are one answer: what an identity may not see, it is told does not exist.
"""

import re
from typing import TypeVar

from django.db.models import F, Model, Q, QuerySet
from django.http import Http404

from meshes.kit import ids
from workspaces.authentication import Identity
from workspaces.models import Workspace

_M = TypeVar("_M", bound=Model)

EXTERNAL_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class UnknownWorkspace(Http404):  # names what was looked up
    """No workspace that this identity may see has that id or external id."""


def visible_workspaces(identity: Identity) -> QuerySet[Workspace]:
    """The workspaces of an identity, deleted ones too."""
    if identity.workspace_id is None:
        return Workspace.objects.all()
    return Workspace.objects.filter(pk=identity.workspace_id)


def resolve_workspace(identity: Identity, reference: object, *, include_deleted: bool = False) -> Workspace:
    """The workspace by its id (`ws_…`) or external id. Raises UnknownWorkspace.

    A deleted one is unknown unless asked for: what it has lived through stays readable, nothing new happens in it. An
    external id names the live workspace that has it, else the last deleted one.
    """
    if not isinstance(reference, str) or not EXTERNAL_ID.fullmatch(reference):
        raise UnknownWorkspace
    pk = ids.decode(ids.WORKSPACE, reference)
    found = visible_workspaces(identity).filter(Q(external_id=reference) if pk is None else Q(pk=pk))
    if not include_deleted:
        found = found.filter(deleted_at=None)
    workspace = found.order_by(F("deleted_at").desc(nulls_first=True)).first()
    if workspace is None:
        raise UnknownWorkspace
    return workspace


def scope(queryset: "QuerySet[_M]", identity: Identity, workspace: Workspace | None = None) -> "QuerySet[_M]":
    """Rows of a tenant table (one with `workspace_id`) that the identity may see, of one workspace where given."""
    if identity.workspace_id is not None:
        queryset = queryset.filter(workspace_id=identity.workspace_id)
    if workspace is not None:
        queryset = queryset.filter(workspace_id=workspace.pk)
    return queryset
