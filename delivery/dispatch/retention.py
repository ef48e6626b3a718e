"""Retention: partitions are made ahead and dropped when their time is over, children before what they refer to.

What is still open in rows that go is first closed visibly: deliveries become `cancelled` with the cause `expired`, and
an event that was never routed gets a ledger that says so.

Making and dropping take strong locks for some milliseconds, and whoever comes while they wait for one waits behind
them. So they wait for a few hundredths of a second only, let everybody pass, and try again.
"""

import logging
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from django.conf import settings
from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction
from django.db.models import Q, QuerySet
from psycopg2.errors import LockNotAvailable

from delivery.dispatch import deletion
from delivery.models import Attempt, Delivery
from meshes.kit import partitions
from meshes.kit.partitions import Partition
from workspaces import idempotency
from workspaces.vault import access_log

logger = logging.getLogger(__name__)

T = TypeVar("T")

TABLES = ("events", "payloads", "routing_ledgers", "deliveries", "attempts", "access_records")
LOCK_TIMEOUT = "20ms"
"""More than the pipeline's transactions take, and far below `deadlock_timeout` (1 s): in a deadlock it is this side
that gives way, never a request."""
TRIES = 20
PAUSE_SECONDS = 0.1
LOCKED = {
    "events": ("routing_ledgers", "deliveries", "unrouted", "events", "payloads"),
    "deliveries": ("deliveries", "attempts", "events"),
    "routing_ledgers": ("routing_ledgers", "events"),
    "payloads": ("events", "payloads"),
    "attempts": ("deliveries", "attempts"),
}
"""What is locked before a partition is detached: what refers to it and what it refers to, in the order in which the
pipeline's statements lock tables (`intake`, `fanout`, `claims`, `settling`), so that none waits for us crosswise."""
CHANGE_TIMEOUT = "2s"
"""The most that a change may take once it has its locks; nothing is accepted meanwhile. It takes milliseconds."""
EMPTYING_SECONDS = 10.0
"""How long one call deletes rows; the rest is the next one's."""
BATCH = 1000
MOST_BATCHES = 50
"""Of one call, so that the sweep comes round; the rest is the next one's."""


# --- making ---------------------------------------------------------------------------------------------------------


def ensure_partitions(now: datetime) -> int:
    """Make the partitions of last week, this week and three ahead where they are missing; how many were made."""
    made = 0
    for table in TABLES:
        for week in partitions.weeks_ahead(now):
            try:
                made += _patiently(partial(partitions.ensure, table, week))
            except DatabaseError as error:
                logger.warning("the partition of %s from %s on is not made yet: %s", table, week, error)
    return made


def _patiently(change: Callable[[], T]) -> T:
    """What `change` returns, in a transaction that waits for no lock for long; raises its error after many tries."""
    tries = 0
    while True:
        tries += 1
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(
                    f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SET LOCAL statement_timeout = '{CHANGE_TIMEOUT}'"
                )
                return change()
        except OperationalError as error:
            if tries == TRIES or not isinstance(error.__cause__, LockNotAvailable):
                raise
            time.sleep(PAUSE_SECONDS)


# --- dropping -------------------------------------------------------------------------------------------------------


def ages() -> dict[str, timedelta]:
    """How long each table's rows are kept, in fact: none longer than what takes them along."""
    kept: dict[str, timedelta] = dict(settings.MESHES_RETENTION)
    for name in ("payloads", "routing_ledgers", "deliveries"):
        kept[name] = min(kept[name], kept["events"])
    kept["attempts"] = min(kept["attempts"], kept["deliveries"])
    return kept


OUTLIVED = {
    "replays": "finished_at < %(events)s"
    " AND NOT EXISTS (SELECT FROM deliveries d WHERE d.workspace_id = t.workspace_id AND d.replay_id = t.id)",
    "oauth_states": "expires_at < %(now)s - interval '1 hour'",
    "django_admin_log": "action_time < %(access_records)s",
}
"""Tables of no partitions that would grow for ever, and which of their rows (`t`) nobody needs. What operators did is
kept as long as the access log; a state of an authorization outlives the exchange of its code."""


def expire(now: datetime) -> list[str]:
    """Drop what is past its retention; the names of the partitions that went. What cannot go yet is tried again."""
    idempotency.expire(now)
    before = {table: now - age for table, age in ages().items()}
    with connection.cursor() as cursor:
        for table, is_outlived in OUTLIVED.items():
            cursor.execute(
                f"DELETE FROM {table} WHERE id IN (SELECT t.id FROM {table} t WHERE {is_outlived} ORDER BY t.id"
                " LIMIT %(most)s FOR UPDATE SKIP LOCKED)",
                before | {"now": now, "most": BATCH},
            )
    dropped = [name for partition in _past("attempts", before["attempts"]) for name in _drop(partition)]
    dropped += _drop_access_records(before["access_records"])
    dropped += _expire_payloads(now, before["payloads"])
    return dropped + _expire_events(now, before)


def _expire_payloads(now: datetime, before: datetime) -> list[str]:
    """A delivery without its payload cannot be sent, and a shaped body is payload too: both end with it."""
    shaped = Delivery.objects.filter(body__isnull=False)
    kept = Q(request_body__isnull=False) | Q(steps__isnull=False) | Q(omitted_fields__isnull=False)
    sent, nothing = Attempt.objects.filter(kept), dict.fromkeys(("request_body", "steps", "omitted_fields"))
    dropped = []
    for partition in _past("payloads", before):
        if (
            _close(partition.bounds[1], now)
            and _empty_all(shaped, "pk", partition, {"body": None})
            and _empty_all(sent, "delivery_id", partition, nothing)
        ):
            dropped += _drop(partition)
    return dropped


def _expire_events(now: datetime, before: dict[str, datetime]) -> list[str]:
    """Week by week: ledgers and deliveries refer to events. A week stops at the first step that has to wait."""
    dropped = []
    ended = time.monotonic() + EMPTYING_SECONDS
    past = {table: {each.start for each in _past(table, before[table])} for table in OF_EVENTS}
    waiting = {partition.start for partition in partitions.existing("payloads")}
    for week in sorted(set().union(*past.values())):
        if not _close(Partition("events", week).bounds[1], now):
            continue
        for table in (table for table in OF_EVENTS if week in past[table]):
            partition = Partition(table, week)
            if table == "events" and week in waiting:
                break
            if table in REFERRED_TO and not _empty(partition, ended):
                break
            gone = _drop(partition)
            dropped += gone
            if not gone:
                break
    return dropped


OF_EVENTS = ("routing_ledgers", "deliveries", "events")
"""In the order in which they go: each refers to those behind it."""


def _drop_access_records(before: datetime) -> list[str]:
    """The seals stay; what they keep of each record goes with it. A week that is not sealed as a whole is kept."""
    dropped = []
    for partition in _past("access_records", before):
        if access_log.is_sealed(partition):
            dropped += _drop(partition)
        else:
            logger.warning("%s is not dropped: some of its records are not sealed", partition.name)
    if dropped:
        access_log.forget_marks()
    return dropped


def _past(table: str, before: datetime) -> list[Partition]:
    """The partitions all of whose rows are older than `before`."""
    return [partition for partition in partitions.existing(table) if partition.end <= before.date()]


def _drop(partition: Partition) -> list[str]:
    """Detach and drop; its name, or nothing where a lock was not free or a row elsewhere still refers to it."""

    def detach_and_drop() -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {', '.join(LOCKED.get(partition.table, (partition.table,)))}")
            cursor.execute(f"ALTER TABLE {partition.table} DETACH PARTITION {partition.name}")
            cursor.execute(f"DROP TABLE {partition.name}")

    try:
        _patiently(detach_and_drop)
    except DatabaseError as error:
        logger.info("%s is not dropped yet: %s", partition.name, error)
        return []
    logger.info("dropped %s", partition.name)
    return [partition.name]


# --- emptying what others may refer to ------------------------------------------------------------------------------


REFERRED_TO = {
    "deliveries": "SELECT d.id FROM {name} d WHERE d.id > %s"
    " AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.delivery_id = d.id) ORDER BY d.id LIMIT %s",
    "events": "SELECT e.id FROM {name} e WHERE e.id > %s ORDER BY e.id LIMIT %s",
}
"""Which rows of tables with foreign keys upon them are deleted; what an attempt still refers to is left."""


def _empty(partition: Partition, ended: float) -> bool:
    """Delete the rows of a partition that foreign keys point to; True when none is left.

    DETACH looks in all other tables for rows that refer to the partition, while it keeps everybody out of them: seconds
    to minutes, by their size. For an empty partition there is nothing to look for. So the rows go first, in batches
    that block nobody, and each is checked by its own indexes.
    """
    last = partition.bounds[0]
    while time.monotonic() < ended:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(REFERRED_TO[partition.table].format(name=partition.name), [last, BATCH])
                gone = [row[0] for row in cursor.fetchall()]
                if partition.table == "deliveries":
                    deletion.unlink(gone)
                cursor.execute(f"DELETE FROM {partition.name} WHERE id = ANY(%s)", [gone])
        except IntegrityError as error:
            logger.warning("%s is not emptied: %s", partition.name, error)
            return False
        if len(gone) < BATCH:
            return _is_empty(partition)
        last = max(gone)
    return False


def _is_empty(partition: Partition) -> bool:
    """Whether no row is left; the planner is told, so that it plans for none."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT EXISTS (SELECT 1 FROM {partition.name})")
        if cursor.fetchone()[0]:
            return False
        cursor.execute(f"{'' if connection.in_atomic_block else 'VACUUM '}ANALYZE {partition.name}")
    return True


# --- closing what is open -------------------------------------------------------------------------------------------


CLOSE_UNROUTED = """
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


def _close(before: uuid.UUID, now: datetime) -> bool:
    """Close what is open below an id; False while something is left, such as a delivery in flight."""
    deliveries = Delivery.objects.filter(pk__lt=before)
    for _ in range(MOST_BATCHES):
        cancelled = deletion.cancel_some(deliveries, deletion.EXPIRED, now)
        with connection.cursor() as cursor:
            cursor.execute(CLOSE_UNROUTED, {"before": before, "now": now, "most": BATCH})
            if not cancelled + cursor.rowcount:
                return not deliveries.filter(status__in=deletion.OPEN).exists()
    return False


def _empty_all(rows: QuerySet[Any], key: str, partition: Partition, values: dict[str, None]) -> bool:
    """Set columns to null of rows whose `key` lies in the partition, in its order; False where some are left."""
    low, high = partition.bounds
    for _ in range(MOST_BATCHES):
        ahead = rows.filter(**{f"{key}__gte": low, f"{key}__lt": high}).order_by(key)
        found = list(ahead.values_list(key, "pk")[:BATCH])
        rows.model._default_manager.filter(pk__in=[pk for _, pk in found]).update(**values)
        if len(found) < BATCH:
            return True
        low = found[-1][0]
    return False
