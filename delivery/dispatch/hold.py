"""Hold and release: what may not run is held, never lost, and goes out in order and paced when its connection runs.

PostgreSQL holds a connection's state; its lane has a copy, which is set here when the connection changes.
"""

import uuid
from datetime import datetime
from typing import Any

from django.db import connection as database
from django.dispatch import receiver

from connections.lifecycle import CLOSED_BREAKER, connection_changed
from connections.models import Connection, ConnectionHealth
from delivery.dispatch import claims, deletion
from delivery.lanes import brokers
from delivery.models import Delivery

HELD_AT_ONCE = 20_000
RELEASED_AT_ONCE = 100
"""Held deliveries of one connection that go back to pending in one sweep: a fixed endpoint is not run over."""

CONNECTIONS_WITH = """
WITH RECURSIVE lanes (connection_id) AS (
    (SELECT d.connection_id FROM deliveries d WHERE d.status = '{status}' ORDER BY d.connection_id LIMIT 1)
    UNION ALL
    SELECT (SELECT d.connection_id FROM deliveries d
            WHERE d.status = '{status}' AND d.connection_id > lanes.connection_id ORDER BY d.connection_id LIMIT 1)
    FROM lanes WHERE lanes.connection_id IS NOT NULL
)
"""
"""`lanes`: every connection with deliveries in a stored status, by hopping from one to the next in the partial index on
it (`deliveries_held`, `deliveries_due_by_lane`)."""


@receiver(connection_changed)
def follow_connection(sender: Any, connection_id: uuid.UUID, **kwargs: Any) -> None:
    """Give the lane its copy of limits and hold; a connection that was fixed starts with a closed breaker: what failed
    before counts no more, not for the breaker, not for the five days."""
    connection = Connection.objects.get(pk=connection_id)
    workspace_id, changed_at = connection.workspace_id, connection.status_changed_at
    if connection.status == Connection.Status.DELETED:
        deletion.on_connection_deleted(connection_id)
        brokers.limit([brokers.LaneLimits(workspace_id, connection_id, None, None)])
    else:
        columns = connection.in_flight, connection.rate, connection.type, connection.account_id
        brokers.limit([brokers.limits_of(workspace_id, connection_id, *columns)])
    if connection.status != Connection.Status.ACTIVE:
        brokers.purge(workspace_id, connection_id)
    elif connection.paused_until is None:
        if changed_at is not None:
            health = ConnectionHealth.objects.filter(connection=connection, last_failure_at__lte=changed_at)
            health.exclude(breaker="closed", consecutive_failures=0).update(**CLOSED_BREAKER)
        brokers.resume(workspace_id, connection_id)


HOLD = """
UPDATE deliveries d SET status = CASE WHEN c.status = 'deleted' THEN 'cancelled' ELSE 'held' END,
    cause = CASE WHEN c.status = 'deleted' THEN 'connection_deleted' ELSE c.status END,
    detail = c.status_reason, finished_at = CASE WHEN c.status = 'deleted' THEN clock_timestamp() END
FROM connections c WHERE c.id = d.connection_id AND c.status <> 'active' AND d.status = 'pending'
    AND d.lease_id IS NULL AND d.id IN (
        SELECT id FROM deliveries WHERE connection_id = ANY(%s) AND status = 'pending' AND lease_id IS NULL LIMIT %s)
"""


def hold(connection_ids: list[uuid.UUID]) -> int:
    """Pending deliveries of connections that may not run become held, or cancelled where the connection is deleted."""
    with database.cursor() as cursor:
        cursor.execute(HOLD, [connection_ids, HELD_AT_ONCE])
        held = int(cursor.rowcount)
        cursor.execute(
            "SELECT d.id FROM deliveries d WHERE d.connection_id = ANY(%s) AND d.status = 'pending'"
            f" AND {claims.LEASE_IS_OVER} LIMIT 1000",
            [connection_ids],
        )
        lapsed = [row[0] for row in cursor.fetchall()]
    return held + claims.end_lapsed_leases(lapsed)


RELEASE = f"""
{CONNECTIONS_WITH.format(status="held").rstrip()}, released AS (
    SELECT d.id FROM lanes JOIN connections c ON c.id = lanes.connection_id AND c.status = 'active'
    CROSS JOIN LATERAL (
        SELECT d.id FROM deliveries d WHERE d.connection_id = c.id AND d.status = 'held' ORDER BY d.id LIMIT %(most)s
    ) d
)
UPDATE deliveries d SET status = 'pending', cause = '', detail = '',
    next_attempt_at = greatest(d.next_attempt_at, %(now)s)
FROM released WHERE d.id = released.id AND d.status = 'held'
RETURNING d.workspace_id, d.connection_id, d.id
"""


def release_held(now: datetime) -> int:
    """Held deliveries of connections that run again become pending, in order and a few at a time."""
    with database.cursor() as cursor:
        cursor.execute(RELEASE, {"most": RELEASED_AT_ONCE, "now": now})
        released = sorted(cursor.fetchall())
    brokers.publish_deliveries(released)
    return len(released)


def cancel_held_of_deleted(now: datetime) -> int:
    """Cancel held deliveries whose connection is deleted; how many went."""
    with database.cursor() as cursor:
        cursor.execute(
            CONNECTIONS_WITH.format(status="held")
            + "SELECT c.id FROM lanes JOIN connections c ON c.id = lanes.connection_id WHERE c.status = 'deleted'"
        )
        found = [row[0] for row in cursor.fetchall()]
    return sum(
        deletion.cancel_some(Delivery.objects.filter(connection_id=pk), deletion.CONNECTION_DELETED, now)
        for pk in found
    )
