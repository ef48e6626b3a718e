"""Tables that are RANGE-partitioned by ISO week on their UUIDv7 primary key.

Partitions are named `<table>_p<first day, YYYYMMDD>`. There is no DEFAULT partition: a row outside every partition is
an error, so partitions are made ahead (`ensure_ahead`), and `/readyz` watches which there are (`existing`).
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.apps.registry import Apps
from django.db import connection, transaction
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations import CreateModel, RunPython
from django.db.migrations.state import ProjectState

from meshes.kit import clock

AHEAD = 3
"""Partitions that exist beyond the current one: three weeks in which a stopped sweeper is noticed."""
WEEK = timedelta(days=7)
FILLFACTOR = {"deliveries": 70}
"""Per cent of a page that inserts fill: the rest is room for HOT updates of rows that change several times."""
_ADVISORY_LOCK = 0x4D455348  # "MESH": partition changes come one after the other
_ON_TRUNCATE = 32  # TRIGGER_TYPE_TRUNCATE of PostgreSQL's catalog/pg_trigger.h


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: ids of events from `start` (a Monday, UTC) up to a week later."""

    table: str
    start: date

    @property
    def name(self) -> str:
        return f"{self.table}_p{self.start:%Y%m%d}"

    @property
    def end(self) -> date:
        return self.start + WEEK

    @property
    def bounds(self) -> tuple[uuid.UUID, uuid.UUID]:
        return first_id(self.start), first_id(self.end)


def first_id(day: date) -> uuid.UUID:
    """The lowest UUID whose first 48 bits are the day's first millisecond."""
    moment = datetime.combine(day, time(), tzinfo=UTC)
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)


def week_of(moment: datetime) -> date:
    """The Monday (UTC) of the week in which `moment` lies."""
    day = moment.astimezone(UTC).date()
    return day - timedelta(days=day.weekday())


def existing(table: str) -> list[Partition]:
    """The attached partitions of `table`, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = %s::regclass ORDER BY c.relname",
            [table],
        )
        names = [row[0] for row in cursor.fetchall()]
    return [Partition(table, datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=UTC).date()) for name in names]


def ensure(table: str, start: date) -> bool:
    """Make the partition that begins at `start` if it is missing; True if it was made, or attached again.

    It is built apart and then attached, because `CREATE TABLE … PARTITION OF` would lock the parent against everything.
    """
    partition = Partition(table, start)
    low, high = partition.bounds
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
        cursor.execute(
            "SELECT c.oid, EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) FROM pg_class c"
            " WHERE c.oid = to_regclass(%s)",
            [partition.name],
        )
        found = cursor.fetchone()
        if found is not None and found[1]:
            return False
        if found is None:
            cursor.execute(
                f"CREATE TABLE {partition.name}"
                f" (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)"
            )
        if table in FILLFACTOR:
            cursor.execute(f"ALTER TABLE {partition.name} SET (fillfactor = {FILLFACTOR[table]})")
        cursor.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {partition.name} FOR VALUES FROM (%s) TO (%s)", [low, high]
        )
        guard_against_truncate(partition)
    return True


def guard_against_truncate(partition: Partition) -> None:
    """Give a partition its parent's triggers on TRUNCATE. Those on rows it has from PostgreSQL itself; these not."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tgname, tgfoid::regproc::text FROM pg_trigger t WHERE tgrelid = %s::regclass AND tgtype & %s <> 0"
            " AND NOT EXISTS (SELECT FROM pg_trigger has WHERE has.tgrelid = %s::regclass AND has.tgname = t.tgname)",
            [partition.table, _ON_TRUNCATE, partition.name],
        )
        for name, function in cursor.fetchall():
            cursor.execute(f"CREATE TRIGGER {name} BEFORE TRUNCATE ON {partition.name} EXECUTE FUNCTION {function}()")


def ensure_ahead(table: str, now: datetime) -> int:
    """Make last week's, this week's and the next `AHEAD` weeks' partitions; how many were made."""
    return sum(ensure(table, week) for week in weeks_ahead(now))


def weeks_ahead(now: datetime) -> list[date]:
    """Last week, this week and the next `AHEAD` weeks."""
    return [week_of(now) + WEEK * offset for offset in range(-1, AHEAD + 1)]


class CreatePartitionedModel(CreateModel):
    """`CreateModel` whose table is partitioned by its primary key, with the first partitions."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        model = to_state.apps.get_model(app_label, self.name)
        stock = schema_editor.sql_create_table
        schema_editor.sql_create_table = f"{stock} PARTITION BY RANGE ({model._meta.pk.column})"
        try:
            super().database_forwards(app_label, schema_editor, from_state, to_state)
        finally:
            schema_editor.sql_create_table = stock


class CreatePartitions(RunPython):
    """The first partitions of some tables, after their foreign keys."""

    def __init__(self, *tables: str) -> None:
        self.tables = tables
        super().__init__(self.create, RunPython.noop)

    def create(self, apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
        for table in self.tables:
            ensure_ahead(table, clock.database_now())

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        return self.__class__.__name__, list(self.tables), {}
