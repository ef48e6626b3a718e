"""What an operator types into a search box: ids, external ids and event types, each looked up by an index.

Nothing is searched for with LIKE. A word that is an id of a kind narrows the list to what belongs to that row; any
other word is the external id of a workspace, or else an event type where the list has one.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet

from meshes.kit import ids
from workspaces.models import Workspace


def narrow(queryset: QuerySet[Any], words: str, lookups: Mapping[str, str]) -> QuerySet[Any]:
    """The rows to which every word applies.

    `lookups` says by which field a word narrows the list: a TypeID prefix ("evt"), or "type" for an event type.
    """
    for word in words.split():
        condition = _condition(word, lookups)
        queryset = queryset.filter(**condition) if condition else queryset.none()
    return queryset


def _condition(word: str, lookups: Mapping[str, str]) -> dict[str, Any]:
    prefix = word.rpartition("_")[0]
    pk = ids.decode(prefix, word) if prefix else None
    if pk is not None:
        return {lookups[prefix]: pk} if prefix in lookups else {}
    if bare := ids.as_uuid(word):
        return {"pk": bare}
    if "ws" in lookups and (workspaces := workspace_ids(word)):
        return {f"{lookups['ws']}__in": workspaces}
    return {lookups["type"]: word} if "type" in lookups else {}


def workspace_ids(reference: str) -> list[uuid.UUID]:
    """The workspaces that an id or external id names: the live one, and deleted ones that had it before."""
    pk = ids.decode(ids.WORKSPACE, reference)
    if pk is not None:
        return [pk]
    if "\x00" in reference:
        return []
    return list(Workspace.objects.filter(external_id=reference).order_by().values_list("pk", flat=True)[:10])
