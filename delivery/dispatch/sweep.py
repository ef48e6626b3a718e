"""Sweeps: what guarantees that nothing waits for a wake-up that was lost.

Each sweep looks at rows and does what they say is due. It holds an advisory lock of its own while it runs, so that any
number of sweepers may run at once, and each has a thread and a database connection of its own, so that a slow one
(dropping a partition) never delays a quick one (due retries).
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module

from django.conf import settings
from django.db import close_old_connections, connection

from connections import lifecycle
from delivery.dispatch import claims, deletion, replays, retention, sessions
from delivery.dispatch.hold import CONNECTIONS_WITH, cancel_held_of_deleted, hold, release_held
from delivery.events import setting_aside
from delivery.lanes import brokers
from delivery.lanes.control import CAPACITY
from delivery.rules import fanout
from workspaces import installation, journal
from workspaces.vault import access_log

logger = logging.getLogger(__name__)

WAKE_UP_GRACE = timedelta(seconds=3)
"""An event or delivery younger than this is left to its own wake-up."""
LOOK_BACK = timedelta(seconds=0.1)
"""For deliveries that were committed a little after they became due; what is later than that the top-up finds."""
FIRST_LOOK_BACK = timedelta(minutes=1)
MOST_DUE = 20_000
DUE_EVERY_SECONDS = 0.1
"""The look for what has become due is one short index scan when nothing has."""
TOP_UP_BELOW = CAPACITY // 2


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep: `run(now)` returns how many rows it moved, and is run again at once while that fills a batch.

    `now` is PostgreSQL's clock.
    """

    name: str
    every_seconds: float
    run: Callable[[datetime], int]
    runs_while_held: bool = False
    """Whether it also runs while the installation is held (`workspaces.installation`): nothing leaves by it, and
    nothing is lost."""


DUE = """
SELECT d.workspace_id::text, d.connection_id::text, d.id::text, d.next_attempt_at
FROM deliveries d JOIN connections c ON c.id = d.connection_id
WHERE d.status = 'pending' AND d.next_attempt_at > %s AND d.next_attempt_at <= %s AND d.lease_id IS NULL
    AND c.status = 'active' AND (c.paused_until IS NULL OR c.paused_until <= %s)
ORDER BY d.next_attempt_at LIMIT %s
"""


class DueDeliveries:
    """Enqueues deliveries as they become due, each once. It looks a little back, for rows that were committed late;
    older ones, and those of lanes that were full or paused, are the top-up's."""

    def __init__(self) -> None:
        self._seen_until: datetime | None = None
        self._enqueued: set[str] = set()

    def __call__(self, now: datetime) -> int:
        with connection.cursor() as cursor:
            cursor.execute(DUE, [(self._seen_until or now - FIRST_LOOK_BACK) - LOOK_BACK, now, now, MOST_DUE])
            due = cursor.fetchall()
        fresh = [row for row in due if row[2] not in self._enqueued]  # text until here: most are seen twice in a burst
        brokers.publish_deliveries((uuid.UUID(row[0]), uuid.UUID(row[1]), uuid.UUID(row[2])) for row in fresh)
        self._enqueued = {row[2] for row in due}
        self._seen_until = due[-1][3] if fresh and len(due) == MOST_DUE else now  # of the rest the top-up knows
        return len(fresh)


LANES_WITH_DUE = (
    CONNECTIONS_WITH.format(status="pending")
    + """
SELECT c.workspace_id, c.id, c.in_flight, c.rate, c.type, c.account_id, c.status
FROM lanes JOIN connections c ON c.id = lanes.connection_id
WHERE c.status <> 'active' OR c.paused_until IS NULL OR c.paused_until <= clock_timestamp()
"""
)

OLDEST_DUE = f"""
SELECT d.workspace_id, lane.id, d.id, d.is_leased, d.is_over FROM unnest(%s::uuid[]) AS lane (id)
CROSS JOIN LATERAL (
    SELECT d.workspace_id, d.id, d.next_attempt_at, d.lease_id IS NOT NULL AS is_leased,
        {claims.LEASE_IS_OVER} AS is_over
    FROM deliveries d
    WHERE d.connection_id = lane.id AND d.status = 'pending' AND d.next_attempt_at <= %s
    ORDER BY d.next_attempt_at LIMIT %s
) d
"""


def top_up_lanes(now: datetime) -> int:
    """Fill lanes that run low with their oldest due deliveries, hold what may not run, and end lapsed leases.

    PostgreSQL holds the backlog, a lane a window of it. Returns how many deliveries were enqueued or moved.
    """
    with connection.cursor() as cursor:
        cursor.execute(LANES_WITH_DUE)
        lanes = cursor.fetchall()
    stopped = [row[1] for row in lanes if row[6] != "active"]
    moved = hold(stopped) if stopped else 0
    active = [brokers.limits_of(*row[:6]) for row in lanes if row[6] == "active"]
    depths = brokers.depths([(lane.workspace_id, lane.connection_id) for lane in active])
    low = [lane for lane, depth in zip(active, depths, strict=True) if depth < TOP_UP_BELOW]
    brokers.limit([lane for lane in low if lane.says_something])  # again, since an emptied broker has forgotten them
    if not low:
        return moved
    with connection.cursor() as cursor:
        cursor.execute(OLDEST_DUE, [[lane.connection_id for lane in low], now - WAKE_UP_GRACE, CAPACITY])
        rows = cursor.fetchall()
    due = [row[:3] for row in rows if not row[3]]
    brokers.publish_deliveries(due)  # first, so that a lease that cannot be ended keeps nobody else waiting
    return moved + len(due) + claims.end_lapsed_leases([row[2] for row in rows if row[4]])


def fan_out_forgotten(now: datetime) -> int:
    """Enqueue events that have waited for fan-out for longer than a wake-up takes; set aside what kills workers."""
    lost = setting_aside.set_aside_lost()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT workspace_id, event_id FROM unrouted WHERE created_at < %s AND poisoned_at IS NULL"
            " AND (lease_until IS NULL OR lease_until < %s) ORDER BY created_at LIMIT %s",
            [now - WAKE_UP_GRACE, now, MOST_DUE],
        )
        forgotten = cursor.fetchall()
    brokers.publish_fanouts(forgotten)
    return lost + len(forgotten)


def end_lost_sessions(now: datetime) -> int:
    """Workers that are gone are missed no longer than `sessions.GRACE_SECONDS`: their leases end, here and in lanes.

    In this order, so that a message that is back in its lane finds its delivery free. What a broker has forgotten the
    top-up finds. Returns how many leases ended.
    """
    ended = 0
    for session_id, worker, is_over in sessions.end_missing():
        leased = brokers.leased_to(session_id)
        deliveries = claims.end_lapsed_leases(leased)
        events = fanout.end_leases(session_id)
        brokers.release(session_id)
        if deliveries + events:
            logger.warning("%s is gone: %d deliveries and %d events run again", worker, deliveries, events)
        if is_over:
            sessions.forget(session_id)
        ended += deliveries + events
    return ended


def keep_partitions(now: datetime) -> int:
    """Make partitions ahead, drop those past their retention, unless it is not known yet what they are needed for."""
    retention.ensure_partitions(now)
    return 0 if installation.is_held() else len(retention.expire(now))


def sweeps() -> list[Sweep]:
    """All sweeps, the most urgent first."""
    logins = import_module(settings.SESSION_ENGINE).SessionStore  # whoever has the cookie of an ended one is not let in
    return [
        Sweep("due", DUE_EVERY_SECONDS, DueDeliveries()),
        Sweep("top-up", 1.0, top_up_lanes),
        Sweep("release", 1.0, release_held),
        Sweep("fan-out", 1.0, fan_out_forgotten),
        Sweep("replay", 1.0, replays.advance_replays),
        Sweep("sessions", 1.0, end_lost_sessions, runs_while_held=True),
        Sweep("lanes", 5.0, lambda now: brokers.repair(), runs_while_held=True),
        Sweep("purge", 5.0, deletion.purge_deleted_workspaces),
        Sweep("cancel", 5.0, cancel_held_of_deleted),
        Sweep("recover", 15.0, lifecycle.recover),
        Sweep("journal", 5.0, lambda now: journal.write_pending(), runs_while_held=True),
        Sweep("access log", 60.0, access_log.seal, runs_while_held=True),
        Sweep("logins", 60.0, lambda now: int(logins.clear_expired()), runs_while_held=True),
        Sweep("partitions", 60.0, keep_partitions, runs_while_held=True),
    ]


LATE_AFTER = 10
"""A sweep that has not succeeded for so many of its intervals is late, but none before LATE_SECONDS."""
LATE_SECONDS = 30.0
NOTED_EVERY_SECONDS = 5.0
"""How often a sweep's success is written down."""


@dataclass(frozen=True, slots=True)
class LastRun:
    """When a sweep last succeeded, by PostgreSQL's clock (None: never), and whether that is too long ago."""

    name: str
    succeeded_at: datetime | None
    seconds_ago: float | None
    is_late: bool


def last_runs() -> list[LastRun]:
    """Of every sweep, in the order of `sweeps`. A sweeper that has stopped shows within a minute."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, succeeded_at, extract(epoch FROM clock_timestamp() - succeeded_at)::float8 FROM sweep_runs"
        )
        noted = {name: (succeeded_at, ago) for name, succeeded_at, ago in cursor.fetchall()}
    runs = []
    for each in sweeps():
        succeeded_at, ago = noted.get(each.name, (None, None))
        is_late = ago is None or ago > max(LATE_SECONDS, LATE_AFTER * each.every_seconds)
        runs.append(LastRun(each.name, succeeded_at, ago, is_late))
    return runs


def note_success(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO sweep_runs (name, succeeded_at) VALUES (%s, clock_timestamp())"
            " ON CONFLICT (name) DO UPDATE SET succeeded_at = excluded.succeeded_at",
            [name],
        )


@contextmanager
def only_one(name: str) -> Iterator[datetime | None]:
    """Hold the sweep's advisory lock: PostgreSQL's clock when it was taken; None if another sweeper has it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtext(%s)), clock_timestamp()", [f"meshes sweep {name}"])
        held, now = cursor.fetchone()
        try:
            yield now if held else None
        finally:
            if held:
                cursor.execute("SELECT pg_advisory_unlock(hashtext(%s))", [f"meshes sweep {name}"])


def run_once(sweep: Sweep) -> int | None:
    """Run a sweep now, unless it has to wait for a release. Returns how many rows it moved; None where another sweeper
    is running it."""
    with only_one(sweep.name) as now:
        if now is None:
            return None
        return 0 if installation.is_held() and not sweep.runs_while_held else sweep.run(now)


def run_until(sweep: Sweep, stopping: threading.Event) -> None:
    """Run a sweep on its interval until told to stop. A failure is logged, and the sweep goes on."""
    noted_at = -NOTED_EVERY_SECONDS
    while not stopping.is_set():
        started = time.monotonic()
        try:
            close_old_connections()
            if run_once(sweep) is not None and started - noted_at >= NOTED_EVERY_SECONDS:
                note_success(sweep.name)
                noted_at = started
        except Exception:
            logger.exception("sweep %s failed; it is run again", sweep.name)
            connection.close()
            stopping.wait(1.0)
        stopping.wait(max(0.0, sweep.every_seconds - (time.monotonic() - started)))
    connection.close()
