"""The check of the access log against its seals: what was removed, changed or inserted since it was sealed.

A seal is checked against the one before it, and its records against the seal. The weeks that retention has dropped are
known by their seals only. What no seal covers yet cannot be checked; the report says how much that is.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from django.conf import settings
from django.db import connection

from meshes.kit import ids, partitions
from meshes.kit.partitions import Partition
from workspaces.vault import access_log
from workspaces.vault.access_log import TABLE, Line, Row, Tip
from workspaces.vault.models import AccessLogSeal, AccessRecord

MOST_NAMED = 10
"""Records that are named of one segment; the rest is counted."""
SEALS_AT_ONCE = 200

_ROWS_BETWEEN = f"""
SELECT number, id::text FROM {TABLE} WHERE id >= %s AND id < %s AND number > %s AND number <= %s
ORDER BY number, id LIMIT %s
"""


@dataclass(slots=True)
class Report:
    """What a check has found so far. `findings` are sentences; with none, all that is sealed is whole."""

    total: int = 0
    segments: int = 0
    records: int = 0
    expired_segments: int = 0
    expired_records: int = 0
    unsealed: int = 0
    findings: list[str] = field(default_factory=list)


Heads = dict[int, set[str]]
"""By their segments."""


def read_heads(files: Iterable[Iterable[str]]) -> tuple[Heads, list[Line]]:
    """What the lines of several logs tell together: the heads, as far as they belong to the history that the database
    has, and where that was restored, oldest first. From a restore on, what was logged of later segments is void."""
    lines = [line for file in files for line in access_log.parse_heads(file)]
    logged: Heads = {}
    restores = []
    for line in sorted(lines, key=lambda line: line.at):
        if line.restored is not None:
            restores.append(line)
            logged = {segment: heads for segment, heads in logged.items() if segment <= line.segment}
        if line.segment:
            logged.setdefault(line.segment, set()).add(line.head)
    return logged, restores


def verify(now: datetime, heads: Heads, restores: Sequence[Line]) -> Iterator[Report]:
    """Check everything, oldest first. Yields the same report after every segment, and once more at the end."""
    check, last = _Check(now, heads, restores), 0
    while batch := list(AccessLogSeal.objects.filter(segment__gt=last).order_by("segment")[:SEALS_AT_ONCE]):
        for seal in batch:
            check.take(seal)
            yield check.report
        last = batch[-1].segment
    check.finish()
    yield check.report


class _Check:
    """Walks along the chain. `_floors` are the numbers up to which each week has been looked at."""

    def __init__(self, now: datetime, heads: Heads, restores: Sequence[Line]) -> None:
        self.report = Report(total=AccessLogSeal.objects.count())
        self._logged, self._restores = heads, restores
        self._tip = Tip()
        self._floors: dict[date, int] = {}
        self._floor = 0
        self._kept = {partition.start for partition in partitions.existing(TABLE)}
        self._kept_since = (now - settings.MESHES_RETENTION["access_records"]).date()
        self._vanished: set[date] = set()

    def take(self, seal: AccessLogSeal) -> None:
        expected = self._tip.segment + 1
        if seal.segment != expected:
            several = f"segments {expected} to {seal.segment - 1}: their seals are"
            self._tell(f"{several if seal.segment > expected + 1 else f'segment {expected}: its seal is'} missing")
            self._floor = seal.after  # what the missing ones covered cannot be checked
        elif seal.previous != self._tip.head:
            self._tell(f"segment {seal.segment} does not follow segment {self._tip.segment}: one of them was changed")
        if access_log.head_of(seal) != seal.head:
            self._tell(f"segment {seal.segment}: its seal was changed")
        if self._logged.get(seal.segment, {seal.head}) != {seal.head}:
            self._tell(f"segment {seal.segment}: its head is not the one that was logged")
        if seal.week in self._kept:
            self._check_records(seal)
        if seal.week not in self._kept:  # retention has dropped it, also while it was read; or somebody has
            self.report.expired_segments += 1
            self.report.expired_records += seal.count
            if Partition(TABLE, seal.week).end > self._kept_since and seal.week not in self._vanished:
                self._vanished.add(seal.week)
                self._tell(
                    f"segment {seal.segment}: the whole week of {seal.week} is gone before its time"
                    " (MESHES_RETENTION_ACCESS_DAYS)"
                )
        self._floors[seal.week] = seal.last
        self._tip = Tip(seal.segment, seal.last, seal.head)

    def finish(self) -> None:
        """What lies between the segments, and what was logged beyond them."""
        for week in sorted(self._kept):
            floor = max(self._floors.get(week, 0), self._floor)
            with connection.cursor() as cursor:
                cursor.execute(_ROWS_BETWEEN, [*Partition(TABLE, week).bounds, floor, self._tip.last, MOST_NAMED])
                inserted = cursor.fetchall()
            for number, record_id in inserted:
                self._tell(f"record {_name(record_id)} (number {number}) was inserted into what is sealed")
        for segment in sorted(number for number in self._logged if number > self._tip.segment):
            self._tell(f"segment {segment} was logged, and its seal is missing")
        for line in self._restores[-1:]:  # the records of those before may be lost with what was restored
            is_recorded = line.restored and AccessRecord.objects.filter(pk=line.restored).exists()
            if line.at[:10] >= self._kept_since.isoformat() and not is_recorded:
                self._tell(f"a restore after segment {line.segment} was logged, and there is no record of it")
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {TABLE} WHERE number > %s", [self._tip.last])
            self.report.unsealed = cursor.fetchone()[0]

    def _check_records(self, seal: AccessLogSeal) -> None:
        rows = access_log.read_week(seal.week, max(self._floors.get(seal.week, 0), self._floor), seal.last)
        digests = [access_log.digest(row) for row in rows]
        if access_log.content_of(digests) == seal.content and len(rows) == seal.count:
            self.report.segments += 1
            self.report.records += len(rows)
            return
        self._kept = {partition.start for partition in partitions.existing(TABLE)}
        if seal.week in self._kept:
            marks = access_log.read_marks(bytes(seal.marks or b""))
            differences = list(_differences(marks, rows, digests)) if marks else []
            for words in differences[:MOST_NAMED] or ["its records are not those that were sealed"]:
                self._tell(f"segment {seal.segment}: {words}")
            if len(differences) > MOST_NAMED:
                self._tell(f"segment {seal.segment}: and {len(differences) - MOST_NAMED:,} more records")

    def _tell(self, words: str) -> None:
        self.report.findings.append(words)


def _differences(marks: list[tuple[int, bytes]], rows: list[Row], digests: list[bytes]) -> Iterator[str]:
    """Which records are not as they were sealed, in words."""
    sealed: dict[int, list[bytes]] = defaultdict(list)
    present: dict[int, list[tuple[bytes, str]]] = defaultdict(list)
    for number, seen in marks:
        sealed[number].append(seen)
    for row, of in zip(rows, digests, strict=True):
        present[row[0]].append((of[:8], row[1]))
    for number in sorted(sealed.keys() | present.keys()):
        strange = [record_id for seen, record_id in present[number] if seen not in sealed[number]]
        missing = len(sealed[number]) - (len(present[number]) - len(strange))
        for record_id in strange:
            yield f"record {_name(record_id)} (number {number}) was {'changed' if missing > 0 else 'inserted'}"
            missing -= 1
        for _ in range(missing):
            yield f"the record with number {number} was removed"


def _name(record_id: str) -> str:
    return ids.encode(ids.ACCESS, uuid.UUID(record_id))
