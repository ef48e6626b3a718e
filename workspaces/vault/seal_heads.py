"""The heads of the access log's seals in a file outside the database, to which lines are only added.

Whoever can do everything in the database can make the chain of seals anew, or cut off its end: that shows against what
was logged elsewhere. Logs end with restarts and containers, this file (`MESHES_SEAL_HEADS`) does not. It has the line
of every segment, after the moment at which it was sealed, and one for each restore, from which history goes on.
"""

import logging
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings

from meshes.kit.durable_files import append_line
from workspaces.vault.models import AccessLogSeal

logger = logging.getLogger(__name__)

UNKNOWN_WORDS = (
    "the access log is not sealed: segment %d, as MESHES_SEAL_HEADS has it, is not in its chain. After a restore run"
    " `manage.py after_restore`; otherwise somebody has changed the chain"
)
UNWRITTEN_WORDS = "MESHES_SEAL_HEADS cannot be written (%s): its heads stand in this log alone until it can"

_SEALED = re.compile(r"access log sealed: segment (\d+), .* head ([0-9a-f]{64})")
_RESTORED = re.compile(r"access log restored: after segment (\d+), head ([0-9a-f]{64}), record ([0-9a-f-]{36})")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,6})?")
_TAIL_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Line:
    """What one line tells: the head of a segment; with `restored`, that history goes on after it. `at` orders lines of
    several files: ISO 8601, in UTC, as text."""

    at: str
    segment: int
    head: str
    restored: uuid.UUID | None = None


def parse(lines: Iterator[str]) -> Iterator[Line]:
    """What the lines of a log tell of the chain. One without a moment has that of the line before it."""
    at = ""
    for line in lines:
        moment = _MOMENT.search(line)
        at = moment[0].replace(" ", "T").replace(",", ".") if moment else at
        if found := _SEALED.search(line):
            yield Line(at, int(found[1]), found[2])
        elif found := _RESTORED.search(line):
            yield Line(at, int(found[1]), found[2], uuid.UUID(found[3]))


def keep(line_of: Callable[[AccessLogSeal], str]) -> bool:
    """Add the heads that the file has not, as `line_of` writes them; False where the last one that it has is not in
    the chain.

    Its first line is that of the newest segment: what was sealed before is for the logs of that time to tell.
    """
    path = settings.MESHES_SEAL_HEADS
    if not path:
        return True
    try:
        last = _last(path)
        seals = AccessLogSeal.objects.order_by("segment")
        if last is None:
            seals = seals.filter(pk__in=AccessLogSeal.objects.values("pk")[:1])
        elif last.segment and not seals.filter(segment=last.segment, head=last.head).exists():
            logger.error(UNKNOWN_WORDS, last.segment)
            return False
        else:
            seals = seals.filter(segment__gt=last.segment)
        for seal in seals.defer("marks").iterator():
            add(path, line_of(seal), seal.sealed_at)
    except OSError as error:
        logger.error(UNWRITTEN_WORDS, error.strerror)
    return True


def add(path: str, text: str, now: datetime) -> None:
    """Add a line. Raises OSError."""
    append_line(path, f"{_text(now)} {text}")


def _last(path: str) -> Line | None:
    """What the file's last line tells that tells anything."""
    file = Path(path)
    if not file.exists():
        return None
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, 2) - _TAIL_BYTES))
        text = opened.read().decode(errors="replace")
    lines = list(parse(iter(text.splitlines())))
    return lines[-1] if lines else None


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
