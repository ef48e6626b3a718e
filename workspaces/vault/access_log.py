"""The access log: records of what was done and opened, sealed as a chain of segments with the head of the one before.

A record is final once no transaction can bring another one with a number up to its own. Numbers are drawn from a
sequence by the INSERT itself, which holds its lock on the table from before the drawing until its transaction ends. So:
read what the sequence has drawn, see who holds such a lock, wait until all of these have ended; whatever came or will
ever come with a number up to there is then visible. It asks no clock and stops no writer. See docs/adr/0007.

How a record becomes bytes, and what a head is made of, docs/access-log.md tells for whoever wants to check it apart.
"""

import hashlib
import json
import logging
import re
import struct
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Min

from meshes.kit import ids, partitions
from meshes.kit.files import append_line
from meshes.kit.partitions import Partition
from workspaces.vault.models import AccessLogSeal, AccessRecord

logger = logging.getLogger(__name__)

TABLE = "access_records"
MOST_RECORDS = 10_000
"""Of one segment: some 10 MB while it is read."""
BUDGET_SECONDS = 20.0
"""How long one call seals; after an outage the rest is the next one's."""
WAIT_SECONDS = 60.0
"""How long a call waits for transactions that were writing when it began; each takes milliseconds."""
LOOK_SECONDS = 0.02
GENESIS = "0" * 64
"""The head before the first segment."""

# --- actions --------------------------------------------------------------------------------------------------------
# What somebody did that opened no sealed document: an operator who looks at a customer's payload, a connection that is
# moved to another host, a connect link that is made or used. `owner_kind` and `owner_id` say what it was done to.

OwnerKind = Literal["workspace", "connection", "api_key", "oauth_app", "rule", "event", "delivery", "attempt", "replay"]
Purpose = Literal["moved", "viewed", "link_made", "link_used"]

ACTION = "action"
"""The kind of these records."""
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
PREFIXES: dict[OwnerKind, str] = {
    "workspace": ids.WORKSPACE,
    "connection": ids.CONNECTION,
    "api_key": ids.KEY,
    "oauth_app": ids.APP,
    "rule": ids.RULE,
    "event": ids.EVENT,
    "delivery": ids.DELIVERY,
    "attempt": ids.ATTEMPT,
    "replay": ids.REPLAY,
}
"""The prefix of the owner's public id."""
MAX_ACTOR = 200


def record_action(
    *, workspace_id: uuid.UUID | None, owner_kind: OwnerKind, owner_id: uuid.UUID, actor: str, purpose: Purpose
) -> None:
    """Record that `actor` did this to the owner, in the caller's transaction: there is not the one without the other.

    `actor` is an API key's public id, `operator ada`, `connect link`, a command, or a process.
    """
    record_actions({(workspace_id, owner_kind, owner_id)}, actor=actor, purpose=purpose)


def record_actions(
    owners: Collection[tuple[uuid.UUID | None, OwnerKind, uuid.UUID]], *, actor: str, purpose: Purpose
) -> None:
    """`record_action` for many `(workspace_id, owner_kind, owner_id)`, in one statement."""
    AccessRecord.objects.bulk_create(
        AccessRecord.about(owner, ACTION, 0, actor[:MAX_ACTOR], purpose) for owner in owners
    )


# --- records as bytes -----------------------------------------------------------------------------------------------

Row = tuple[Any, ...]
"""A record as it is sealed: see `COLUMNS`."""

COLUMNS = """number, id::text, workspace_id::text, owner_kind, owner_id::text, kind, version, actor, purpose, granted,
    delivery_id::text, attempt_number, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_MARK = struct.Struct(">q8s")


def digest(row: Row) -> bytes:
    """SHA-256 of a record: of its columns as a JSON array in UTF-8."""
    return hashlib.sha256(_encode(row).encode()).digest()


def content_of(digests: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()


def head_of(seal: AccessLogSeal) -> str:
    """What the head must be, by everything else that the seal says (but for its marks)."""
    parts = [
        "meshes access log 1",
        seal.segment,
        seal.week.isoformat(),
        seal.after,
        seal.last,
        seal.count,
        seal.content,
        seal.previous,
        _as_text(seal.sealed_at),
    ]
    return hashlib.sha256(_encode(parts).encode()).hexdigest()


def read_marks(marks: bytes) -> list[tuple[int, bytes]]:
    whole = len(marks) - len(marks) % _MARK.size
    return list(_MARK.iter_unpack(marks[:whole]))


def read_week(week: date, after: int, last: int) -> list[Row]:
    """The records of a week with these numbers, in order."""
    where = "id >= %s AND id < %s AND number > %s AND number <= %s"
    low, high = Partition(TABLE, week).bounds
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {COLUMNS} FROM {TABLE} WHERE {where} ORDER BY number, id", [low, high, after, last])
        return list(cursor.fetchall())


# --- sealing --------------------------------------------------------------------------------------------------------

LOGGED = "access log sealed: segment %d, %d records of the week of %s, numbers %d to %d, head %s"
LOGGED_RESTORE = "access log restored: after segment %d, head %s, record %s"
"""The history of a dump goes on from there; what was logged of later segments is of a history that is lost."""
RESTORED = "restored"
"""The purpose of the record of a restore."""
NEXT = f"SELECT {COLUMNS} FROM {TABLE} WHERE number > %s AND number <= %s ORDER BY number, id LIMIT %s"
DRAWN = "SELECT coalesce(pg_sequence_last_value('access_records_number'), 0)"
WRITERS = f"""
SELECT DISTINCT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND relation = '{TABLE}'::regclass AND mode = 'RowExclusiveLock' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND pid IS DISTINCT FROM pg_backend_pid()
"""


class Tip(NamedTuple):
    """Where the chain ends. `last` is the number up to which everything is sealed."""

    segment: int = 0
    last: int = 0
    head: str = GENESIS


def seal(now: datetime) -> int:
    """Seal the records that are final and not sealed yet, for some seconds; how many were. One caller at a time.

    The heads are logged after the commit, and kept in a file where there is one. A chain that the file has known
    longer, or otherwise, is not gone on with: the database was restored, or somebody was at it.
    """
    if not keep_heads():
        return 0
    sealed = _seal(now)
    keep_heads()
    return sealed


def line_of(seal: AccessLogSeal) -> str:
    """What is logged of a segment."""
    return LOGGED % (seal.segment, seal.count, seal.week, seal.after + 1, seal.last, seal.head)


def _seal(now: datetime) -> int:
    until = final_number()
    if until is None:
        logger.warning("the access log is not sealed: a transaction has been writing records for %d s", WAIT_SECONDS)
        return 0
    tip, sealed = read_tip(), 0
    ended = time.monotonic() + BUDGET_SECONDS
    while tip.last < until:
        with connection.cursor() as cursor:
            cursor.execute(NEXT, [tip.last, until, MOST_RECORDS])
            rows = cursor.fetchall()
        if not rows:
            break
        tip = _write(tip, rows, rows[-1][0] if len(rows) == MOST_RECORDS else until, now)
        sealed += len(rows)
        if time.monotonic() > ended:
            break
    return sealed


def final_number() -> int | None:
    """The number up to which no record can come any more; None where a writer does not end in time."""
    ended = time.monotonic() + WAIT_SECONDS
    with connection.cursor() as cursor:
        cursor.execute(DRAWN)
        drawn: int = cursor.fetchone()[0]
        cursor.execute(WRITERS)
        while writers := [row[0] for row in cursor.fetchall()]:
            if time.monotonic() > ended:
                return None
            time.sleep(LOOK_SECONDS)
            cursor.execute(f"{WRITERS} AND virtualtransaction = ANY(%s)", [writers])
    return drawn


def read_tip() -> Tip:
    newest = AccessLogSeal.objects.values_list("segment", "last", "head").first()
    return Tip(*newest) if newest else Tip()


def is_sealed(partition: Partition) -> bool:
    """Whether every record of the week is sealed, so that the chain tells of it when the week is gone."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT NOT EXISTS (SELECT FROM {partition.name} WHERE number > %s)", [read_tip().last])
        return bool(cursor.fetchone()[0])


def record_restore(paths: set[str], now: datetime) -> Tip:
    """Say in the chain, and in files of heads, that the database was restored: the chain goes on from its tip here.

    The files first: a mark in them without its record would be found by the check, and the caller does it again.
    """
    tip, record = read_tip(), ids.uuid7()
    words = LOGGED_RESTORE % (tip.segment, tip.head, record)
    for path in sorted(paths):
        _add_line(path, words, now)
    logger.info("%s", words)
    owner = None, "access_log", record
    AccessRecord.about(owner, "access_log", 0, "after_restore", RESTORED, id=record).save(force_insert=True)
    return tip


def forget_marks() -> int:
    """Empty the marks of weeks that retention has dropped; how many seals had some."""
    kept = partitions.existing(TABLE)
    oldest_marked = AccessLogSeal.objects.filter(marks__isnull=False).aggregate(week=Min("week"))["week"]
    if not kept or oldest_marked is None or oldest_marked >= kept[0].start:
        return 0
    return AccessLogSeal.objects.filter(week__lt=kept[0].start, marks__isnull=False).update(marks=None)


def _write(tip: Tip, rows: Sequence[Row], last: int, now: datetime) -> Tip:
    """One segment for each week that the records are of: a week goes as a whole, and its seals with it."""
    seals, head = [], tip.head
    for segment, (week, part) in enumerate(sorted(_by_week(rows).items()), start=tip.segment + 1):
        digests = [digest(row) for row in part]
        made = AccessLogSeal(
            segment=segment,
            week=week,
            after=tip.last,
            last=last,
            count=len(part),
            content=content_of(digests),
            previous=head,
            sealed_at=now,
            marks=b"".join(_MARK.pack(row[0], of[:8]) for row, of in zip(part, digests, strict=True)),
        )
        made.head = head = head_of(made)
        seals.append(made)
    with transaction.atomic():
        AccessLogSeal.objects.bulk_create(seals)
    for made in seals:
        logger.info("%s", line_of(made))
    return Tip(seals[-1].segment, last, head)


def _by_week(rows: Sequence[Row]) -> dict[date, list[Row]]:
    """The records by the partition that holds them: the week of the moment in their ids."""
    weeks: dict[date, list[Row]] = {}
    low = high = ""
    part: list[Row] = []
    for row in rows:
        if not low <= row[1] < high:
            week = partitions.week_of(datetime.fromtimestamp(ids.milliseconds(uuid.UUID(row[1])) / 1000, UTC))
            low, high = map(str, Partition(TABLE, week).bounds)
            part = weeks.setdefault(week, [])
        part.append(row)
    return weeks


# --- heads in a file ------------------------------------------------------------------------------------------------
# Whoever can do everything in the database can make the chain of seals anew, or cut off its end: that shows against
# what was logged elsewhere. Logs end with restarts and containers, this file (`MESHES_SEAL_HEADS`), to which lines are
# only added, does not. It has the line of every segment, after the moment at which it was sealed, and one for each
# restore, from which history goes on.

UNKNOWN_WORDS = (
    "the access log is not sealed: segment %d, as MESHES_SEAL_HEADS has it, is not in its chain. After a restore run"
    " `manage.py after_restore`; otherwise somebody has changed the chain"
)
UNWRITTEN_WORDS = "MESHES_SEAL_HEADS cannot be written (%s): its heads stand in this log alone until it can"

_SEALED = re.compile(r"access log sealed: segment (\d+), .* head ([0-9a-f]{64})")
_RESTORED = re.compile(r"access log restored: after segment (\d+), head ([0-9a-f]{64}), record ([0-9a-f-]{36})")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,6})?")
_TAIL_BYTES = 65_536


class Line(NamedTuple):
    """What one line tells: the head of a segment; with `restored`, that history goes on after it. `at` orders lines of
    several files: ISO 8601, in UTC, as text."""

    at: str
    segment: int
    head: str
    restored: uuid.UUID | None = None


def parse_heads(lines: Iterable[str]) -> Iterator[Line]:
    """What the lines of a log tell of the chain. One without a moment has that of the line before it."""
    at = ""
    for line in lines:
        moment = _MOMENT.search(line)
        at = moment[0].replace(" ", "T").replace(",", ".") if moment else at
        if found := _SEALED.search(line):
            yield Line(at, int(found[1]), found[2])
        elif found := _RESTORED.search(line):
            yield Line(at, int(found[1]), found[2], uuid.UUID(found[3]))


def keep_heads() -> bool:
    """Add the heads that the file has not; False where the last one that it has is not in the chain.

    Its first line is that of the newest segment: what was sealed before is for the logs of that time to tell.
    """
    path = settings.MESHES_SEAL_HEADS
    if not path:
        return True
    try:
        last = _last_head(path)
        seals = AccessLogSeal.objects.order_by("segment")
        if last is None:
            seals = seals.filter(pk__in=AccessLogSeal.objects.values("pk")[:1])
        elif last.segment and not seals.filter(segment=last.segment, head=last.head).exists():
            logger.error(UNKNOWN_WORDS, last.segment)
            return False
        else:
            seals = seals.filter(segment__gt=last.segment)
        for seal in seals.defer("marks").iterator():
            _add_line(path, line_of(seal), seal.sealed_at)
    except OSError as error:
        logger.error(UNWRITTEN_WORDS, error.strerror)
    return True


def _add_line(path: str, text: str, now: datetime) -> None:
    """Raises OSError."""
    append_line(path, f"{_as_text(now)} {text}")


def _last_head(path: str) -> Line | None:
    """What the file's last line tells that tells anything."""
    file = Path(path)
    if not file.exists():
        return None
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, 2) - _TAIL_BYTES))
        text = opened.read().decode(errors="replace")
    lines = list(parse_heads(text.splitlines()))
    return lines[-1] if lines else None


def _as_text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
