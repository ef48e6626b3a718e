"""The access log as a chain: records are sealed in segments, each of which carries the head of the one before.

A record is final once no transaction can bring another one with a number up to its own. Numbers are drawn from a
sequence by the INSERT itself, which holds its lock on the table from before the drawing until its transaction ends. So:
read what the sequence has drawn, see who holds such a lock, wait until all of these have ended; whatever came or will
ever come with a number up to there is then visible. It asks no clock and stops no writer. See docs/adr/0007.

How a record becomes bytes, and what a head is made of, docs/access-log.md tells for whoever wants to check it apart.
"""

import hashlib
import json
import logging
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Min

from meshes.kit import ids, partitions
from meshes.kit.partitions import Partition
from workspaces.vault import seal_heads
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
LOGGED = "access log sealed: segment %d, %d records of the week of %s, numbers %d to %d, head %s"
LOGGED_RESTORE = "access log restored: after segment %d, head %s, record %s"
"""The history of a dump goes on from there; what was logged of later segments is of a history that is lost."""
RESTORED = "restored"
"""The purpose of the record of a restore."""

Row = tuple[Any, ...]
"""A record as it is sealed: see `COLUMNS`."""

COLUMNS = """number, id::text, workspace_id::text, owner_kind, owner_id::text, kind, version, actor, purpose, granted,
    delivery_id::text, attempt_number, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

NEXT = f"SELECT {COLUMNS} FROM {TABLE} WHERE number > %s AND number <= %s ORDER BY number, id LIMIT %s"
OF_A_WEEK = (
    f"SELECT {COLUMNS} FROM {TABLE} WHERE id >= %s AND id < %s AND number > %s AND number <= %s ORDER BY number, id"
)
DRAWN = "SELECT coalesce(pg_sequence_last_value('access_records_number'), 0)"
WRITERS = f"""
SELECT DISTINCT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND relation = '{TABLE}'::regclass AND mode = 'RowExclusiveLock' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND pid IS DISTINCT FROM pg_backend_pid()
"""


@dataclass(frozen=True, slots=True)
class Tip:
    """Where the chain ends. `last` is the number up to which everything is sealed."""

    segment: int = 0
    last: int = 0
    head: str = GENESIS


# --- records as bytes -----------------------------------------------------------------------------------------------

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
        seal.sealed_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    ]
    return hashlib.sha256(_encode(parts).encode()).hexdigest()


def mark(number: int, of: bytes) -> bytes:
    """By which a check can tell which record of a segment differs: its number, and the first bytes of its digest."""
    return _MARK.pack(number, of[:8])


def read_marks(marks: bytes) -> list[tuple[int, bytes]]:
    whole = len(marks) - len(marks) % _MARK.size
    return list(_MARK.iter_unpack(marks[:whole]))


def read_week(week: date, after: int, last: int) -> list[Row]:
    """The records of a week with these numbers, in order."""
    with connection.cursor() as cursor:
        cursor.execute(OF_A_WEEK, [*Partition(TABLE, week).bounds, after, last])
        return list(cursor.fetchall())


# --- sealing --------------------------------------------------------------------------------------------------------


def seal(now: datetime) -> int:
    """Seal the records that are final and not sealed yet, for some seconds; how many were. One caller at a time.

    The heads are logged after the commit, and kept in a file where there is one (`seal_heads`). A chain
    that the file has known longer, or otherwise, is not gone on with: the database was restored, or somebody was at it.
    """
    if not seal_heads.keep(line_of):
        return 0
    sealed = _seal(now)
    seal_heads.keep(line_of)
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
    while tip.last < until and (rows := _read_next(tip.last, until)):
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
        seal_heads.add(path, words, now)
    logger.info("%s", words)
    AccessRecord.objects.create(
        id=record, workspace_id=None, owner_kind="access_log", owner_id=record, kind="access_log", version=0,
        actor="after_restore", purpose=RESTORED,
    )  # fmt: skip
    return tip


def forget_marks() -> int:
    """Empty the marks of weeks that retention has dropped; how many seals had some."""
    kept = partitions.existing(TABLE)
    oldest_marked = AccessLogSeal.objects.filter(marks__isnull=False).aggregate(week=Min("week"))["week"]
    if not kept or oldest_marked is None or oldest_marked >= kept[0].start:
        return 0
    return AccessLogSeal.objects.filter(week__lt=kept[0].start, marks__isnull=False).update(marks=None)


def _read_next(after: int, until: int) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(NEXT, [after, until, MOST_RECORDS])
        return list(cursor.fetchall())


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
            marks=b"".join(mark(row[0], of) for row, of in zip(part, digests, strict=True)),
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
            week = _week_of(row[1])
            low, high = map(str, Partition(TABLE, week).bounds)
            part = weeks.setdefault(week, [])
        part.append(row)
    return weeks


def _week_of(record_id: str) -> date:
    milliseconds = int(record_id[:8] + record_id[9:13], 16)
    return partitions.week_of(datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds))
