"""What the deletion of a workspace or a connection means for what was to be delivered.

A connection leaves a tombstone: its rules are disabled, its open deliveries cancelled, its history stays readable.
A workspace refuses new events at once and sends nothing more; then a sweep cancels what is open and removes its rows,
children first and in batches. The workspace's own row stays, and so do the access records until their time is over.
"""

import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import F
from django.dispatch import receiver

from connections.models import Connection, ConnectionHealth
from connections.oauth import grants
from delivery.dispatch import cancelling, reopening
from delivery.models import (
    Attempt,
    Delivery,
    Event,
    Payload,
    Replay,
    RoutingLedger,
    Rule,
    Unrouted,
)
from meshes.kit import clock
from workspaces.lifecycle import workspace_deleted
from workspaces.models import ApiKey, IdempotencyRecord, Workspace
from workspaces.vault import vault

BATCH = 500
"""Rows of one statement: each deletion asks the tables that refer to it, so a batch takes well below a second."""
BUDGET_SECONDS = 2.0
"""How long one call works before it leaves the rest to the next sweep."""
DELETED_WORDS = "The workspace was deleted."


# --- connections ----------------------------------------------------------------------------------------------------


def on_connection_deleted(connection_id: uuid.UUID) -> None:
    """Disable its rules and cancel its open deliveries; what takes longer than two seconds is left to the sweep."""
    now = clock.database_now()
    Rule.objects.filter(connection_id=connection_id, enabled=True).update(
        enabled=False, version=F("version") + 1, updated_at=now
    )
    _until_done(lambda: _cancel_of_connection(connection_id, now))


def cancel_for_deleted_connections(now: datetime) -> int:
    """Cancel held deliveries whose connection is deleted; how many went."""
    with connection.cursor() as cursor:
        cursor.execute(_DELETED_WITH_HELD)
        found = [row[0] for row in cursor.fetchall()]
    return sum(_cancel_of_connection(connection_id, now) for connection_id in found)


_DELETED_WITH_HELD = """
WITH RECURSIVE lanes (connection_id) AS (
    (SELECT d.connection_id FROM deliveries d WHERE d.status = 'held' ORDER BY d.connection_id LIMIT 1)
    UNION ALL
    SELECT (SELECT d.connection_id FROM deliveries d WHERE d.status = 'held' AND d.connection_id > lanes.connection_id
            ORDER BY d.connection_id LIMIT 1)
    FROM lanes WHERE lanes.connection_id IS NOT NULL
)
SELECT c.id FROM lanes JOIN connections c ON c.id = lanes.connection_id WHERE c.status = 'deleted'
"""
"""By hopping from one connection to the next in the index `deliveries_held`."""


def _cancel_of_connection(connection_id: uuid.UUID, now: datetime) -> int:
    deliveries = Delivery.objects.filter(connection_id=connection_id)
    return cancelling.cancel_some(deliveries, cancelling.CONNECTION_DELETED, now)


# --- workspaces -----------------------------------------------------------------------------------------------------


@receiver(workspace_deleted)
def on_workspace_deleted(sender: Any, workspace_id: uuid.UUID, **kwargs: Any) -> None:
    """Stop everything with two statements, whatever the workspace holds; a sweep does the rest."""
    _stop(workspace_id, clock.database_now())


def purge_deleted_workspaces(now: datetime) -> int:
    """Remove what deleted workspaces held, a few seconds' worth per call; how many rows were touched. Idempotent."""
    ended = time.monotonic() + BUDGET_SECONDS
    touched = 0
    gone = Workspace.objects.filter(deleted_at__isnull=False, purged_at=None).order_by("deleted_at")
    for workspace_id in gone.values_list("pk", flat=True)[:100]:
        touched += _purge(workspace_id, now, ended)
        if time.monotonic() > ended:
            break
    return touched


def _purge(workspace_id: uuid.UUID, now: datetime, ended: float) -> int:
    touched = _stop(workspace_id, now)
    for step in STEPS:
        while count := step(workspace_id, now):
            touched += count
            if time.monotonic() > ended:
                return touched
        if step is _cancel and _has_open(workspace_id):
            return touched  # something is in flight; it ends, and the next sweep cancels what is left of it
    with transaction.atomic():
        touched += _remove_configuration(workspace_id)
        Workspace.objects.filter(pk=workspace_id).update(purged_at=now)
    return touched


def _stop(workspace_id: uuid.UUID, now: datetime) -> int:
    """Deleted connections are not claimed and disabled rules not followed, so nothing is sent any more."""
    live = Connection.objects.filter(workspace_id=workspace_id).exclude(status=Connection.Status.DELETED)
    stopped = live.update(
        status=Connection.Status.DELETED,
        status_reason=DELETED_WORDS,
        status_changed_at=now,
        deleted_at=now,
        version=F("version") + 1,
    )
    rules = Rule.objects.filter(workspace_id=workspace_id, enabled=True)
    return stopped + rules.update(enabled=False, version=F("version") + 1, updated_at=now)


def _has_open(workspace_id: uuid.UUID) -> bool:
    return Delivery.objects.filter(workspace_id=workspace_id, status__in=cancelling.OPEN).exists()


def _cancel(workspace_id: uuid.UUID, now: datetime) -> int:
    deliveries = Delivery.objects.filter(workspace_id=workspace_id)
    return cancelling.cancel_some(deliveries, cancelling.WORKSPACE_DELETED, now)


def _remove_unrouted(workspace_id: uuid.UUID, now: datetime) -> int:
    found = list(Unrouted.objects.filter(workspace_id=workspace_id).values_list("pk", flat=True)[:BATCH])
    return Unrouted.objects.filter(pk__in=found).delete()[0]


def _remove_deliveries(workspace_id: uuid.UUID, now: datetime) -> int:
    found = list(Delivery.objects.filter(workspace_id=workspace_id).order_by("pk").values_list("pk", flat=True)[:BATCH])
    with transaction.atomic():
        reopening.unlink(found)
        removed = _remove(Attempt, delivery_id__in=found)
        return removed + _remove(Delivery, pk__in=found)


def _remove_events(workspace_id: uuid.UUID, now: datetime) -> int:
    found = list(Event.objects.filter(workspace_id=workspace_id).order_by("pk").values_list("pk", flat=True)[:BATCH])
    with transaction.atomic():
        removed = _remove(Payload, pk__in=found) + _remove(RoutingLedger, pk__in=found)
        return removed + _remove(Event, pk__in=found)


def _remove_keys_kept(workspace_id: uuid.UUID, now: datetime) -> int:
    records = IdempotencyRecord.objects.filter(scope=workspace_id)
    return _remove(IdempotencyRecord, pk__in=list(records.values_list("pk", flat=True)[:BATCH]))


def _revoke(workspace_id: uuid.UUID, now: datetime) -> int:
    """One authorization at a time, as each may take seconds of a vendor's."""
    return grants.revoke_one_of(workspace_id, "purge")


STEPS: list[Callable[[uuid.UUID, datetime], int]] = [
    _cancel,
    _remove_unrouted,
    _remove_deliveries,
    _remove_events,
    _remove_keys_kept,
    _revoke,
]


def _remove_configuration(workspace_id: uuid.UUID) -> int:
    """Rules, replays, connections and every sealed secret. Keys stay as rows, revoked: records name them."""
    owned = {"workspace_id": workspace_id}
    connections = list(Connection.objects.filter(**owned).values_list("pk", flat=True))
    destroyed = sum(
        vault.destroy(owner_kind="connection", owner_id=pk, workspace_id=workspace_id) for pk in connections
    )
    destroyed += grants.remove_apps(workspace_id)
    for pk in ApiKey.objects.filter(**owned).values_list("pk", flat=True):
        destroyed += vault.destroy(owner_kind="api_key", owner_id=pk, workspace_id=workspace_id)
    ApiKey.objects.filter(**owned, revoked_at=None).update(revoked_at=clock.database_now())
    removed = _remove(Rule, **owned) + _remove(Replay, **owned)
    return destroyed + removed + _remove(ConnectionHealth, **owned) + _remove(Connection, **owned)


def _remove(model: Any, **condition: Any) -> int:
    """Delete rows without looking for rows that refer to them: the database refuses if there are any."""
    return int(model.objects.filter(**condition)._raw_delete(using="default") or 0)


def _until_done(step: Callable[[], int]) -> None:
    ended = time.monotonic() + BUDGET_SECONDS
    while step() and time.monotonic() < ended:
        pass
