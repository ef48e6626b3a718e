"""`manage.py size`: what the database takes on disk, and what it comes to at this rate of events."""

from argparse import ArgumentParser
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from delivery.dispatch import retention
from delivery.models import Event
from meshes.kit import clock, ids, partitions

LARGEST_OTHERS = 5
LEAST_DAYS = 1 / 24
"""Of events that must lie in the past before anything is reckoned from them."""

PARTITIONS = """
SELECT parent.relname, child.relname, pg_total_relation_size(child.oid),
    greatest(child.reltuples, coalesce(s.n_live_tup, 0), 0)::bigint
FROM pg_inherits i JOIN pg_class parent ON parent.oid = i.inhparent JOIN pg_class child ON child.oid = i.inhrelid
LEFT JOIN pg_stat_user_tables s ON s.relid = child.oid
WHERE parent.oid = ANY(%s::regclass[]) AND child.relkind = 'r'
"""
OTHERS = """
SELECT c.relname, pg_total_relation_size(c.oid) FROM pg_class c
WHERE c.relkind = 'r' AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
ORDER BY 2 DESC
"""


@dataclass(slots=True)
class Table:
    """A partitioned table: its weeks, and of those that began lately bytes (with indexes) and rows, as estimated."""

    name: str
    keep: timedelta
    weeks: int = 0
    size: int = 0
    rows: int = 0
    recent_size: int = 0
    recent_rows: int = 0


class Command(BaseCommand):
    help = "Show what each table takes on disk, and what the database comes to at this rate and these retention times."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--events-per-day", type=int, help="reckon on this rate in place of the present one")

    def handle(self, *args: Any, events_per_day: int | None, **options: Any) -> None:
        if events_per_day is not None and events_per_day < 1:
            raise CommandError("--events-per-day must be 1 or more.")
        now = clock.database_now()
        tables, others, whole = self._measure(now)
        line = "{:<20}{:>7}{:>14}{:>12}{:>12}"
        self.stdout.write(line.format("table", "weeks", "rows", "size", "bytes a row"))
        for table in tables:
            each = f"{table.size / table.rows:,.0f}" if table.rows else "–"
            self.stdout.write(line.format(table.name, table.weeks, f"{table.rows:,}", readable(table.size), each))
        for name, size in others:
            self.stdout.write(line.format(name, "", "", readable(size), ""))
        self.stdout.write(line.format("the database", "", "", readable(whole), ""))
        self.stdout.write("\nRows are PostgreSQL's own estimates; sizes are with indexes.\n\n")
        self._reckon(now, tables, sum(size for _, size in others), events_per_day)

    def _measure(self, now: datetime) -> tuple[list[Table], list[tuple[str, int]], int]:
        """Partitioned tables, the largest others with the rest of them, and bytes of the whole database."""
        ages = retention.ages()
        tables = {name: Table(name, ages[name]) for name in retention.TABLES}
        lately = partitions.week_of(now) - partitions.WEEK
        with connection.cursor() as cursor:
            cursor.execute(PARTITIONS, [list(tables)])
            for name, partition, size, rows in cursor.fetchall():
                table = tables[name]
                table.weeks, table.size, table.rows = table.weeks + 1, table.size + size, table.rows + rows
                start = datetime.strptime(partition[-8:], "%Y%m%d").replace(tzinfo=UTC).date()
                if lately <= start <= now.date():
                    table.recent_size, table.recent_rows = table.recent_size + size, table.recent_rows + rows
            cursor.execute(OTHERS)
            others = cursor.fetchall()
            cursor.execute("SELECT pg_database_size(current_database())")
            whole: int = cursor.fetchone()[0]
        shown = others[:LARGEST_OTHERS]
        return list(tables.values()), [*shown, ("all others", sum(size for _, size in others[LARGEST_OTHERS:]))], whole

    def _reckon(self, now: datetime, tables: list[Table], others: int, events_per_day: int | None) -> None:
        events = next(table for table in tables if table.name == "events")
        days = recent_days(now)
        if not events.recent_rows or days < LEAST_DAYS:
            self.stdout.write("There is not an hour of events yet to reckon from.\n")
            return
        present = events.recent_rows / days
        wanted = events_per_day or present
        comes_to = others
        self.stdout.write(f"At {wanted:,.0f} events a day (lately {present:,.0f}), kept for as long as is set:\n")
        for table in tables:
            a_day = table.recent_size / events.recent_rows * wanted
            most = int(a_day * (table.keep.days + partitions.WEEK.days))
            comes_to += most
            self.stdout.write(
                f"  {table.name:<18}{readable(int(a_day)):>12} a day, kept {table.keep.days:>3} days and"
                f" the rest of a week: {readable(most)}\n"
            )
        self.stdout.write(f"The database comes to {readable(comes_to)}; its log (WAL) and dumps come on top.\n")


def recent_days(now: datetime) -> float:
    """Since the beginning of last week, or the first event after it; 0 where there is none."""
    since = partitions.first_id(partitions.week_of(now) - partitions.WEEK)
    first = Event.objects.filter(pk__gte=since).order_by("pk").values_list("pk", flat=True).first()
    return 0.0 if first is None else (now - ids.created_at(first)) / timedelta(days=1)


def readable(size: int) -> str:
    """Bytes in a unit that leaves four digits before the point at most."""
    number, units = float(size), ["B", "KB", "MB", "GB", "TB"]
    while number >= 10_000 and len(units) > 1:
        number /= 1_000
        units.pop(0)
    return f"{number:,.{0 if number >= 100 or units[0] == 'B' else 1}f} {units[0]}"
