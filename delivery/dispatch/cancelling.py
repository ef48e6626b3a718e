"""Cancelling: an open delivery will not be tried again, and its cause says why. It is final.

What is open is cancelled by one conditional UPDATE: of what is `pending` or `held` and not in flight. A delivery in
flight is left to its attempt; whoever must not miss it asks again. Dead letters are dismissed.
"""

import uuid
from collections.abc import Iterable
from datetime import datetime

from django.db.models import F, QuerySet, TextField, Value
from django.db.models.functions import Concat

from delivery.models import Delivery

BY_USER = "cancelled_by_user"
CONNECTION_DELETED = "connection_deleted"
WORKSPACE_DELETED = "workspace_deleted"
ERASED = "erased"
EXPIRED = "expired"

WORDS = {
    BY_USER: "Cancelled on request.",
    CONNECTION_DELETED: "The connection was deleted.",
    WORKSPACE_DELETED: "The workspace was deleted.",
    ERASED: "The event's payload was erased.",
    EXPIRED: "The event became older than the retention period.",
}
OPEN = (Delivery.Status.PENDING, Delivery.Status.HELD)
BATCH = 1000


def cancel(delivery_ids: Iterable[uuid.UUID], cause: str, now: datetime) -> int:
    """Cancel those of these deliveries that are open and not in flight; how many were."""
    return (
        Delivery.objects.filter(pk__in=list(delivery_ids), status__in=OPEN, lease_id=None)
        .order_by()
        .update(
            status=Delivery.Status.CANCELLED, cause=cause, detail=WORDS[cause], next_attempt_at=None, finished_at=now
        )
    )


def dismiss(delivery_ids: Iterable[uuid.UUID], now: datetime) -> int:
    """Cancel those of these deliveries that are dead letters, so that no replay sends them; how many were.

    Their cause moves into the words: why they died stays readable.
    """
    began = Value(f"{WORDS[BY_USER]} It was a dead letter (")
    words = Concat(began, F("cause"), Value("). "), F("detail"), output_field=TextField())
    return (
        Delivery.objects.filter(pk__in=list(delivery_ids), status=Delivery.Status.DEAD)
        .order_by()
        .update(status=Delivery.Status.CANCELLED, cause=BY_USER, detail=words, next_attempt_at=None, finished_at=now)
    )


def cancel_some(deliveries: QuerySet[Delivery], cause: str, now: datetime, most: int = BATCH) -> int:
    """Cancel up to `most` of the open deliveries in a query set; how many went. 0 means that none is left to cancel."""
    waiting = deliveries.filter(status__in=OPEN, lease_id=None).order_by()
    return cancel(waiting.values_list("pk", flat=True)[:most], cause, now)
