"""Cancelling: an open delivery will not be tried again, and its cause says why. And what deletion cancels and removes.

What is open is cancelled by one conditional UPDATE: of what is `pending` or `held` and not in flight. A delivery in
flight is left to its attempt; whoever must not miss it asks again. Dead letters are dismissed.

A deleted connection leaves a tombstone: its rules are disabled, its open deliveries cancelled, its history stays
readable. A deleted workspace refuses new events at once and sends nothing more; then a sweep cancels what is open and
removes its rows, children first and in batches. Its own row stays, and so do the access records until their time is
over.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import F, QuerySet, TextField, Value
from django.db.models.functions import Concat
from django.dispatch import receiver

from connections.models import Connection, ConnectionHealth
from connections.oauth import grants
from delivery.models import Attempt, Delivery, Event, Payload, Replay, RoutingLedger, Rule, Unrouted
from meshes.kit import clock, ids
from workspaces.lifecycle import workspace_deleted
from workspaces.models import ApiKey, IdempotencyRecord, Workspace
from workspaces.vault import vault

BY_USER = "cancelled_by_user"
CONNECTION_DELETED = "connection_deleted"
WORKSPACE_DELETED = "workspace_deleted"
ERASED = "erased"
EXPIRED = "expired"

CANCELLED_WORDS = {
    BY_USER: "Cancelled on request.",
    CONNECTION_DELETED: "The connection was deleted.",
    WORKSPACE_DELETED: "The workspace was deleted.",
    ERASED: "The event's payload was erased.",
    EXPIRED: "The event became older than the retention period.",
}
OPEN = (Delivery.Status.PENDING, Delivery.Status.HELD)
CANCELLED_AT_ONCE = 1000
BATCH = 500
"""Rows of one statement: each deletion asks the tables that refer to it, so a batch takes well below a second."""
BUDGET_SECONDS = 2.0
"""How long one call works before it leaves the rest to the next sweep."""


# --- deliveries -----------------------------------------------------------------------------------------------------


def cancel(delivery_ids: Iterable[uuid.UUID], cause: str, now: datetime) -> int:
    """Cancel those of these deliveries that are open and not in flight; how many were."""
    return (
        Delivery.objects.filter(pk__in=list(delivery_ids), status__in=OPEN, lease_id=None)
        .order_by()
        .update(
            status=Delivery.Status.CANCELLED,
            cause=cause,
            detail=CANCELLED_WORDS[cause],
            next_attempt_at=None,
            finished_at=now,
        )
    )


def dismiss(delivery_ids: Iterable[uuid.UUID], now: datetime) -> int:
    """Cancel those of these deliveries that are dead letters, so that no replay sends them; how many were.

    Their cause moves into the words: why they died stays readable.
    """
    began = Value(f"{CANCELLED_WORDS[BY_USER]} It was a dead letter (")
    words = Concat(began, F("cause"), Value("). "), F("detail"), output_field=TextField())
    return (
        Delivery.objects.filter(pk__in=list(delivery_ids), status=Delivery.Status.DEAD)
        .order_by()
        .update(status=Delivery.Status.CANCELLED, cause=BY_USER, detail=words, next_attempt_at=None, finished_at=now)
    )


def cancel_some(deliveries: QuerySet[Delivery], cause: str, now: datetime) -> int:
    """Cancel up to 1,000 of the open deliveries in a query set; how many went. 0 means that none is left to cancel."""
    waiting = deliveries.filter(status__in=OPEN, lease_id=None).order_by()
    return cancel(waiting.values_list("pk", flat=True)[:CANCELLED_AT_ONCE], cause, now)


def unlink(delivery_ids: Sequence[uuid.UUID]) -> None:
    """Let no other delivery name these any more: they are about to be deleted, and the database would refuse it.

    Deliveries that name each other are of one event, whose millisecond their ids begin with.
    """
    if not delivery_ids:
        return
    lowest, highest = ids.milliseconds(min(delivery_ids)) << 80, (ids.milliseconds(max(delivery_ids)) + 1) << 80
    near = Delivery.objects.filter(pk__gte=uuid.UUID(int=lowest), pk__lt=uuid.UUID(int=highest)).order_by()
    near.filter(replay_of__in=delivery_ids).update(replay_of=None)
    near.filter(replaced_by__in=delivery_ids).update(replaced_by=None)


# --- connections ----------------------------------------------------------------------------------------------------


def on_connection_deleted(connection_id: uuid.UUID) -> None:
    """Disable its rules and cancel its open deliveries; what takes longer than two seconds is left to the sweep."""
    now, ended = clock.database_now(), time.monotonic() + BUDGET_SECONDS
    _disable(Rule.objects.filter(connection_id=connection_id), now)
    deliveries = Delivery.objects.filter(connection_id=connection_id)
    while cancel_some(deliveries, CONNECTION_DELETED, now) and time.monotonic() < ended:
        pass


def _disable(rules: QuerySet[Rule], now: datetime) -> int:
    return rules.filter(enabled=True).update(enabled=False, version=F("version") + 1, updated_at=now)


# --- workspaces -----------------------------------------------------------------------------------------------------


@receiver(workspace_deleted)
def on_workspace_deleted(sender: Any, workspace_id: uuid.UUID, **kwargs: Any) -> None:
    """Stop everything with two statements, whatever the workspace holds; a sweep does the rest."""
    _stop(workspace_id, clock.database_now())


def purge_deleted_workspaces(now: datetime) -> int:
    """Remove what deleted workspaces held, a few seconds' worth per call; how many rows were touched. Idempotent."""
    ended, touched = time.monotonic() + BUDGET_SECONDS, 0
    gone = Workspace.objects.filter(deleted_at__isnull=False, purged_at=None).order_by("deleted_at")
    for workspace_id in gone.values_list("pk", flat=True)[:100]:
        touched += _stop(workspace_id, now)
        for step in STEPS:
            while count := step(workspace_id, now):
                touched += count
                if time.monotonic() > ended:
                    return touched
            if step is _cancel and Delivery.objects.filter(workspace_id=workspace_id, status__in=OPEN).exists():
                break  # something is in flight; it ends, and the next sweep cancels what is left of it
        else:
            with transaction.atomic():
                touched += _remove_configuration(workspace_id)
                Workspace.objects.filter(pk=workspace_id).update(purged_at=now)
        if time.monotonic() > ended:
            break
    return touched


def _stop(workspace_id: uuid.UUID, now: datetime) -> int:
    """Deleted connections are not claimed and disabled rules not followed, so nothing is sent any more."""
    live = Connection.objects.filter(workspace_id=workspace_id).exclude(status=Connection.Status.DELETED)
    stopped = live.update(
        status=Connection.Status.DELETED,
        status_reason=CANCELLED_WORDS[WORKSPACE_DELETED],
        status_changed_at=now,
        deleted_at=now,
        version=F("version") + 1,
    )
    return stopped + _disable(Rule.objects.filter(workspace_id=workspace_id), now)


def _cancel(workspace_id: uuid.UUID, now: datetime) -> int:
    return cancel_some(Delivery.objects.filter(workspace_id=workspace_id), WORKSPACE_DELETED, now)


def _remove_some(
    model: Any, owner: str, children: Sequence[tuple[Any, str]], workspace_id: uuid.UUID, now: datetime
) -> int:
    """The next batch of the workspace's rows with what refers to them; 0 where none is left."""
    rows = model.objects.filter(**{owner: workspace_id}).order_by("pk")
    found = list(rows.values_list("pk", flat=True)[:BATCH])
    if not found:
        return 0
    with transaction.atomic():
        if model is Delivery:
            unlink(found)
        removed = sum(_remove(child, **{f"{key}__in": found}) for child, key in children)
        return removed + _remove(model, pk__in=found)


REMOVED: tuple[tuple[Any, str, Sequence[tuple[Any, str]]], ...] = (
    (Unrouted, "workspace_id", ()),
    (Delivery, "workspace_id", ((Attempt, "delivery_id"),)),
    (Event, "workspace_id", ((Payload, "pk"), (RoutingLedger, "pk"))),
    (IdempotencyRecord, "scope", ()),
)
"""In the order in which they go; each with the column that names its workspace, and its children with their keys.

Each is a step of its own: to look for the last row of a table walks past all that were just deleted, so it is done once
and not again with each batch of the next table."""


STEPS: tuple[Callable[[uuid.UUID, datetime], int], ...] = (
    _cancel,
    *(partial(_remove_some, *each) for each in REMOVED),
    lambda workspace_id, now: grants.revoke_one_of(workspace_id, "purge"),  # each may take seconds of a vendor's
)


def _remove_configuration(workspace_id: uuid.UUID) -> int:
    """Rules, replays, connections and every sealed secret. Keys stay as rows, revoked: records name them."""
    owned = {"workspace_id": workspace_id}
    destroyed = 0
    for pk in Connection.objects.filter(**owned).values_list("pk", flat=True):
        destroyed += vault.destroy(owner_kind="connection", owner_id=pk, workspace_id=workspace_id)
    for pk in ApiKey.objects.filter(**owned).values_list("pk", flat=True):
        destroyed += vault.destroy(owner_kind="api_key", owner_id=pk, workspace_id=workspace_id)
    destroyed += grants.remove_apps(workspace_id)
    ApiKey.objects.filter(**owned, revoked_at=None).update(revoked_at=clock.database_now())
    return destroyed + sum(_remove(model, **owned) for model in (Rule, Replay, ConnectionHealth, Connection))


def _remove(model: Any, **condition: Any) -> int:
    """Delete rows without looking for rows that refer to them: the database refuses if there are any."""
    return int(model.objects.filter(**condition)._raw_delete(using="default") or 0)
