"""The journal: what must not come back with an old dump, in a file outside the database (`MESHES_JOURNAL`).

Whoever restores a dump restores what was erased, deleted, revoked and disconnected since. The journal keeps that it
was, by ids alone and never what was matched; `manage.py after_restore` applies it. An entry is on disk before the
change that it tells of is committed: a crash in between leaves an entry of what did not happen, and applying it does
what somebody had asked for. To apply one twice changes nothing.

Where the file cannot be written, the change is made all the same, since a person's erasure must not wait for a volume
of ours: the entry stands in the log at ERROR, and in the database until a sweep has written it.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from django.conf import settings
from django.db import transaction

from meshes.kit import clock
from meshes.kit.files import append_line
from workspaces.models import JournalEntry

logger = logging.getLogger(__name__)

Did = Literal[
    "erased", "workspace_deleted", "connection_deleted", "connection_disconnected", "key_revoked", "key_rotated"
]
BATCH = 500


def note(did: Did, **facts: str | int | list[str]) -> None:
    """Keep that this was done, as the last step of the transaction that does it. Without a journal it does nothing."""
    if not settings.MESHES_JOURNAL:
        return
    entry = {"at": clock.database_now().isoformat(), "did": did, **facts}
    try:
        append_line(settings.MESHES_JOURNAL, json.dumps(entry))
    except OSError as error:
        message = "the journal cannot be written (%s); until it can, this stands in the database alone: %s"
        logger.error(message, error.strerror, json.dumps(entry))
        JournalEntry.objects.create(entry=entry)


def write_pending() -> int:
    """Write what could not be written when it was done; how many entries went. Raises OSError while it cannot be."""
    if not settings.MESHES_JOURNAL:
        return 0
    with transaction.atomic():
        pending = list(JournalEntry.objects.select_for_update().order_by("pk")[:BATCH])
        for row in pending:
            append_line(settings.MESHES_JOURNAL, json.dumps(row.entry))
        JournalEntry.objects.filter(pk__in=[row.pk for row in pending]).delete()
    return len(pending)


def read(paths: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]] | None]:
    """What was done according to several journals, and the ids it was done to, oldest first; None for a line that
    cannot be read. Raises OSError."""
    entries = []
    for line in [line for path in paths for line in Path(path).read_text(errors="replace").splitlines() if line]:
        try:
            facts = json.loads(line)
            entries.append((str(facts.pop("at")), str(facts.pop("did")), facts))
        except (ValueError, KeyError, AttributeError, TypeError):
            yield None
    for _, did, facts in sorted(entries, key=itemgetter(0)):
        yield did, facts
