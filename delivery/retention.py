"""Retention: partitions are made ahead and dropped when their time is over, children before what they refer to.

What is still open in rows that go is first closed visibly: deliveries become `cancelled` with the cause `expired`, and
an event that was never routed gets a ledger that says so.

Dropping takes strong locks for a moment. Each waits a third of a second at most, below PostgreSQL's deadlock check, so
whatever stands in its way wins, and the next sweep tries again.
"""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.conf import settings
from django.db import DatabaseError, connection, transaction

from delivery import cancelling, idempotency
from delivery.models import Delivery
from workspaces import partitions
from workspaces.partitions import Partition

logger = logging.getLogger(__name__)

TABLES = ("events", "payloads", "routing_ledgers", "deliveries", "attempts", "access_records")
LOCK_TIMEOUT = "300ms"
"""Below `deadlock_timeout` (1 s): in a deadlock it is this side that gives way, never a request."""
DROP_TIMEOUT = "30s"
"""The most that the look for rows that still refer to a partition may take; events are not accepted meanwhile."""
BATCH = 1000
MOST_BATCHES = 50
"""Of one call, so that the sweep comes round; the rest is the next one's."""


# --- making ---------------------------------------------------------------------------------------------------------


def ensure_partitions(now: datetime) -> int:
    """Make the partitions of last week, this week and three ahead where they are missing; how many were made."""
    made = 0
    for table in TABLES:
        try:
            with _impatient():
                made += partitions.ensure_ahead(table, now)
        except DatabaseError as error:
            logger.warning("the partitions of %s are not all made yet: %s", table, error)
    return made


@contextmanager
def _impatient() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        try:
            yield
        finally:
            cursor.execute("RESET lock_timeout")


# --- dropping -------------------------------------------------------------------------------------------------------


def expire(now: datetime) -> list[str]:
    """Drop what is past its retention; the names of the partitions that went. What cannot go yet is tried again."""
    idempotency.expire(now)
    ages: dict[str, timedelta] = settings.MESHES_RETENTION
    longest = ages["events"]
    dropped = _drop_all("attempts", now - min(ages["attempts"], longest))
    dropped += _drop_all("access_records", now - ages["access_records"])
    dropped += _expire_payloads(now, now - min(ages["payloads"], longest))
    return dropped + _expire_events(now, now - longest)


def _expire_payloads(now: datetime, before: datetime) -> list[str]:
    """A delivery without its payload cannot be sent, and a shaped body is payload too: both end with it."""
    dropped = []
    for partition in _past("payloads", before):
        if _close(partition.bounds[1], now) and _empty_bodies(partition):
            dropped += _drop(partition)
    return dropped


def _expire_events(now: datetime, before: datetime) -> list[str]:
    """Ledgers and deliveries refer to events, so each week goes in that order, and stops where a step has to wait."""
    dropped = _drop_all("routing_ledgers", before)
    for table in ("deliveries", "events"):
        for partition in _past(table, before):
            if _close(partition.bounds[1], now):
                dropped += _drop(partition)
    return dropped


def _drop_all(table: str, before: datetime) -> list[str]:
    return [name for partition in _past(table, before) for name in _drop(partition)]


def _past(table: str, before: datetime) -> list[Partition]:
    """The partitions all of whose rows are older than `before`."""
    return [partition for partition in partitions.existing(table) if partition.end <= before.date()]


def _drop(partition: Partition) -> list[str]:
    """Detach and drop; its name, or nothing where a lock was not free or a row elsewhere still refers to it."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SET LOCAL statement_timeout = '{DROP_TIMEOUT}'")
            cursor.execute(f"ALTER TABLE {partition.table} DETACH PARTITION {partition.name}")
            cursor.execute(f"DROP TABLE {partition.name}")
    except DatabaseError as error:
        logger.info("%s is not dropped yet: %s", partition.name, error)
        return []
    logger.info("dropped %s", partition.name)
    return [partition.name]


# --- closing what is open -------------------------------------------------------------------------------------------


def _close(before: uuid.UUID, now: datetime) -> bool:
    """Close what is open below an id; False while something is left, such as a delivery in flight."""
    deliveries = Delivery.objects.filter(pk__lt=before)
    for _ in range(MOST_BATCHES):
        if not cancelling.cancel_some(deliveries, cancelling.EXPIRED, now) + _close_unrouted(before, now):
            return not deliveries.filter(status__in=cancelling.OPEN).exists()
    return False


def _close_unrouted(before: uuid.UUID, now: datetime) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_CLOSE_UNROUTED, {"before": before, "now": now, "most": BATCH})
        return int(cursor.rowcount)


_CLOSE_UNROUTED = """
WITH late AS (
    DELETE FROM unrouted WHERE event_id IN (
        SELECT event_id FROM unrouted WHERE event_id < %(before)s LIMIT %(most)s FOR UPDATE SKIP LOCKED
    ) RETURNING event_id, workspace_id
)
INSERT INTO routing_ledgers (event_id, workspace_id, entries, created_at)
SELECT event_id, workspace_id, '[{"result": "expired", "reason": "It was not routed before its payload expired."}]',
    %(now)s
FROM late ON CONFLICT (event_id) DO UPDATE SET entries = routing_ledgers.entries
"""


def _empty_bodies(partition: Partition) -> bool:
    """Empty the shaped bodies of deliveries whose payloads go; False where some are left for the next sweep."""
    low, high = partition.bounds
    for _ in range(MOST_BATCHES):
        kept = Delivery.objects.filter(pk__gte=low, pk__lt=high, body__isnull=False).order_by("pk")
        found = list(kept.values_list("pk", flat=True)[:BATCH])
        Delivery.objects.filter(pk__in=found).update(body=None)
        if len(found) < BATCH:
            return True
        low = found[-1]
    return False
