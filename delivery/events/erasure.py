"""Erasure of what events said about a person. That they happened, and where they were sent, stays.

Emptied are the payload, the bodies that rules shaped from it, what destinations answered, and the values that the
routing ledger repeats. What was not delivered yet is cancelled. An event that is being routed or sent at this moment is
left as it is and named, so that the caller asks again.
"""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Q

from delivery.dispatch import deletion
from delivery.models import Attempt, Delivery, Event, Payload, RoutingLedger, Unrouted
from delivery.rules.filters import Filter, compile_filter
from delivery.rules.routing import context_of
from meshes.kit import ids
from meshes.kit.metering import OutOfWorkError
from workspaces import journal
from workspaces.models import IdempotencyRecord, Workspace

BATCH = 100
"""Events of one transaction: at most 25 MB of payloads are read at once."""
BUDGET_SECONDS = 5.0
"""How long one request looks; the next one goes on where it stopped."""


class UndecidedError(Exception):
    """Whether an event matches needs more steps than a filter may take, so nothing is said to be erased of it."""

    def __init__(self, event_id: uuid.UUID) -> None:
        super().__init__(str(event_id))
        self.event_id = event_id


@dataclass(slots=True)
class Erased:
    """What one request has done. `next` is the event after which to go on; None: everything was looked at."""

    is_dry: bool = False
    scanned: int = 0
    count: int = 0
    events: int = 0
    cancelled: int = 0
    busy: list[uuid.UUID] = field(default_factory=list)
    next: uuid.UUID | None = None


def erase_events(
    workspace: Workspace, event_ids: Sequence[uuid.UUID], now: datetime, *, is_dry: bool = False
) -> Erased:
    """Erase these events of the workspace; ids that are not its own are passed over. `is_dry`: only count them."""
    own = Event.objects.filter(workspace=workspace, pk__in=list(event_ids)).order_by("pk").values_list("pk", flat=True)
    done, found = Erased(is_dry), list(own)
    for start in range(0, len(found), BATCH):
        _erase(workspace, found[start : start + BATCH], now, done)
    done.scanned = len(found)
    return done


def erase_matching(
    workspace: Workspace,
    document: dict[str, Any],
    period: Q,
    after: uuid.UUID | None,
    now: datetime,
    *,
    is_dry: bool = False,
) -> Erased:
    """Erase the events that a filter matches, in the order of their ids, for at most five seconds.

    `period` bounds the events' ids; `is_dry`: only count. Addresses match however they are typed.
    Payloads that are not kept any more are passed over. Raises UndecidedError; what
    came before is erased.
    """
    ended = time.monotonic() + BUDGET_SECONDS
    done, wanted = Erased(is_dry, next=after), compile_filter(document, folds_addresses=True)
    while time.monotonic() < ended:
        events = Event.objects.filter(period, workspace=workspace)
        if done.next is not None:
            events = events.filter(pk__gt=done.next)
        rows = list(events.order_by("pk").values_list("pk", "type")[:BATCH])
        _erase(workspace, _matching(workspace, wanted, dict(rows)), now, done)
        done.scanned += len(rows)
        if len(rows) < BATCH:
            done.next = None
            break
        done.next = rows[-1][0]
    return done


def _matching(workspace: Workspace, wanted: Filter, types: dict[uuid.UUID, str]) -> list[uuid.UUID]:
    kept = Payload.objects.filter(pk__in=list(types), workspace=workspace, erased_at=None)
    matching = []
    for event_id, body in kept.order_by("pk").values_list("pk", "body"):
        context = context_of(event_id, types[event_id], json.loads(body), workspace)
        try:
            is_wanted = wanted.matches(context)
        except OutOfWorkError:
            raise UndecidedError(event_id) from None
        if is_wanted:
            matching.append(event_id)
    return matching


def _erase(workspace: Workspace, event_ids: Sequence[uuid.UUID], now: datetime, done: Erased) -> None:
    """One transaction. The rows are locked first, so nothing is claimed between the look and the erasure."""
    done.count += len(event_ids)
    if not event_ids or done.is_dry:
        return
    with transaction.atomic():
        deliveries = Delivery.objects.filter(workspace=workspace, event_id__in=event_ids).order_by("pk")
        locked = list(deliveries.select_for_update().values_list("pk", "event_id", "lease_id"))
        waiting = list(
            Unrouted.objects.filter(pk__in=event_ids).select_for_update().values_list("pk", "lease_id", "lease_until")
        )
        busy = {event_id for _, event_id, lease in locked if lease is not None}
        busy |= {event_id for event_id, lease, until in waiting if lease is not None and until and until > now}
        free = [event_id for event_id in event_ids if event_id not in busy]
        delivery_ids = [pk for pk, event_id, _ in locked if event_id not in busy]
        done.events += len(free)
        done.busy += sorted(busy)
        done.cancelled += deletion.cancel(delivery_ids, deletion.ERASED, now)
        _empty(free, delivery_ids, now)
        _empty_answers(workspace, delivery_ids)
        _close_unrouted(workspace, [event_id for event_id, *_ in waiting if event_id not in busy], now)
        if free:
            erased = [ids.encode(ids.EVENT, event_id) for event_id in free]
            journal.note("erased", workspace=workspace.public_id, events=erased)


def _empty(event_ids: Sequence[uuid.UUID], delivery_ids: Sequence[uuid.UUID], now: datetime) -> None:
    Payload.objects.filter(pk__in=event_ids, erased_at=None).update(body="", erased_at=now)
    Delivery.objects.filter(pk__in=delivery_ids).update(body=None, detail=deletion.CANCELLED_WORDS[deletion.ERASED])
    Attempt.objects.filter(delivery_id__in=delivery_ids).update(
        request_body=None, response_body=None, response_headers=[], error="", steps=None, omitted_fields=None
    )
    for ledger in RoutingLedger.objects.filter(pk__in=event_ids):
        entries = [_without_values(entry) for entry in ledger.entries]
        RoutingLedger.objects.filter(pk=ledger.pk).update(entries=entries)


def _empty_answers(workspace: Workspace, delivery_ids: Sequence[uuid.UUID]) -> None:
    """What is kept of answers under an `Idempotency-Key` repeats attempts, and so what destinations answered."""
    named = [f"/deliveries/{ids.encode(ids.DELIVERY, pk)}/" for pk in delivery_ids]
    paths = [place + act for place in named for act in ("replay", "cancel")]
    for record in IdempotencyRecord.objects.filter(scope=workspace.pk, path__in=paths):
        record.answer = json.dumps(json.loads(record.answer) | {"attempts": []}, ensure_ascii=False)
        record.save(update_fields=["answer"])


def _without_values(entry: dict[str, Any]) -> dict[str, Any]:
    """A ledger entry whose failed clause does not repeat what the payload said."""
    return entry | {"clause": entry["clause"] | {"actual": None}} if "clause" in entry else entry


def _close_unrouted(workspace: Workspace, event_ids: Sequence[uuid.UUID], now: datetime) -> None:
    entries = [{"result": "erased", "reason": "It was erased before it was routed."}]
    RoutingLedger.objects.bulk_create(
        [RoutingLedger(event_id=pk, workspace=workspace, entries=entries, created_at=now) for pk in event_ids],
        ignore_conflicts=True,
    )
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM unrouted WHERE event_id = ANY(%s)", [list(event_ids)])
