"""The live workspaces that this process has seen lately, by their id or external id, so that an event costs no query.

What is found is at most TTL_SECONDS old, so a limit that is changed holds everywhere within a second. Whoever writes
for a workspace found here says so in the statement that writes (`events.ingest`), so that nothing is ever stored for
one that was deleted or lost its external id meanwhile.
"""

import threading
import time
import uuid
from collections.abc import Iterable
from typing import Any

from meshes.kit import ids
from workspaces.access import EXTERNAL_ID
from workspaces.authentication import Identity
from workspaces.models import Workspace

TTL_SECONDS = 0.8
_MAX_WORKSPACES = 10_000

_seen: dict[str, tuple[float, Workspace]] = {}
_lock = threading.Lock()


def find(identity: Identity, references: Iterable[str]) -> dict[str, Workspace]:
    """The live workspaces that these ids and external ids name, by them; what the caller may not see is left out."""
    wanted = {reference for reference in references if EXTERNAL_ID.fullmatch(reference)}
    oldest = time.monotonic() - TTL_SECONDS
    found: dict[str, Workspace] = {}
    for reference in wanted:
        loaded_at, workspace = _seen.get(reference, (0.0, None))
        if workspace is not None and loaded_at >= oldest:
            found[reference] = workspace
    if missing := wanted - found.keys():
        began = time.monotonic()  # a workspace is as old as the beginning of the look at it
        loaded = _load(missing)
        _remember(loaded, began)
        found |= loaded
    own = identity.workspace_id
    return {reference: workspace for reference, workspace in found.items() if own is None or workspace.pk == own}


def forget(*_: Any, **__: Any) -> None:
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


def _remember(found: dict[str, Workspace], loaded_at: float) -> None:
    with _lock:
        if len(_seen) + len(found) > _MAX_WORKSPACES:
            _seen.clear()
        _seen.update({reference: (loaded_at, workspace) for reference, workspace in found.items()})
