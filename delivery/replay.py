"""Replay: what is dead or succeeded is sent again, as the same delivery with a fresh budget.

`reopen` takes a list. A replay over a filter is a row in `replays` that a sweep works off in the order of the ids, at a
pace that leaves the lanes to the events of today. Its cursor moves in the transaction that reopens, so a crash neither
skips nor repeats.
"""

import logging
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import Q

from delivery import fanout, publishing
from delivery.models import Delivery, Payload, Replay
from delivery.search import STATES, read_replay_filter, replayed
from workspaces.database_faults import passes

logger = logging.getLogger(__name__)

REOPENABLE = (Delivery.Status.DEAD, Delivery.Status.SUCCEEDED)
"""`cancelled` is final: somebody, or a deletion, decided against it."""
MAPPING_FAILED = "mapping_failed"
NOT_KEPT = "The event's payload is not kept any more."
STILL_FAILS = "The rule's mapping still fails for this event."

REPLAY_RATE = 100.0
"""Deliveries per second that one replay reopens at most."""
SHARE_OF_RATE = 0.5
"""Of a connection's own rate: the other half stays with new events."""
ROOM_IN_LANE = 50
"""A replay adds nothing to a connection that has this many deliveries due already."""
REST_SECONDS = 1.0
"""How long a replay waits where its next delivery finds no room."""
FAILED_REST = timedelta(minutes=1)
AT_ONCE = 100
"""Running replays that one call of `advance_replays` serves, oldest batch first."""


# --- reopening ------------------------------------------------------------------------------------------------------


def reopen(
    delivery_ids: Sequence[uuid.UUID], now: datetime, replay_id: uuid.UUID | None = None
) -> list[publishing.DeliveryHint]:
    """Reopen those of these deliveries that can be; returns a hint of each that was.

    A delivery can be reopened while it is dead or succeeded, its connection exists, and its payload is kept. It becomes
    pending and due (held, where its connection is), with a fresh budget; attempt numbers go on. One that died because
    its mapping failed is shaped anew by the rule's present mapping, and stays dead where that fails too. Call
    `publishing.publish_deliveries` with the result after the commit.
    """
    if not delivery_ids:
        return []
    bodies = _reshaped(delivery_ids)
    wanted = list(delivery_ids)
    with connection.cursor() as cursor:
        cursor.execute(
            _REOPEN,
            {
                "ids": wanted,
                "bodies": [bodies.get(delivery_id) for delivery_id in wanted],
                "reshaped": [delivery_id in bodies for delivery_id in wanted],
                "replay": replay_id,
                "now": now,
            },
        )
        return list(cursor.fetchall())


_KEPT = "EXISTS (SELECT 1 FROM payloads p WHERE p.event_id = d.event_id AND p.erased_at IS NULL)"
_REOPEN = f"""
UPDATE deliveries d
SET status = CASE WHEN c.status = 'active' THEN 'pending' ELSE 'held' END,
    cause = CASE WHEN c.status = 'active' THEN '' ELSE c.status END,
    detail = CASE WHEN c.status = 'active' THEN '' ELSE c.status_reason END,
    next_attempt_at = CASE WHEN c.status = 'active' THEN %(now)s END,
    body = CASE WHEN w.reshaped THEN w.body ELSE d.body END,
    budget_used = 0, losses = 0, finished_at = NULL, replay_id = coalesce(%(replay)s, d.replay_id)
FROM unnest(%(ids)s::uuid[], %(bodies)s::text[], %(reshaped)s::boolean[]) AS w (id, body, reshaped), connections c
WHERE d.id = w.id AND d.status IN ('dead', 'succeeded')
    AND c.id = d.connection_id AND c.workspace_id = d.workspace_id AND c.status <> 'deleted'
    AND (w.reshaped OR d.cause <> '{MAPPING_FAILED}')
    AND (d.body IS NOT NULL OR {_KEPT})
RETURNING d.workspace_id, d.connection_id, d.id
"""


def _reshaped(delivery_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str | None]:
    failed = Delivery.objects.filter(
        pk__in=delivery_ids,
        status=Delivery.Status.DEAD,
        cause=MAPPING_FAILED,
        event__payload__isnull=False,
        event__payload__erased_at=None,
    )
    found = list(failed.order_by())
    return fanout.reshape(found) if found else {}


def refusal(delivery: Delivery) -> str:
    """Why a delivery cannot be reopened, in words for the user; empty where nothing speaks against it."""
    if delivery.status not in REOPENABLE:
        return f"Only a dead or succeeded delivery is sent again; this one is {delivery.state}."
    if delivery.connection.status == "deleted":
        return "Its connection was deleted."
    if not Delivery.objects.filter(
        Q(body__isnull=False) | Q(event__payload__erased_at=None, event__payload__isnull=False), pk=delivery.pk
    ).exists():
        return NOT_KEPT
    if delivery.cause == MAPPING_FAILED and not _reshaped([delivery.pk]):
        return STILL_FAILS
    return ""


def body_now(delivery: Delivery) -> tuple[str | None, str]:
    """The body that a replay would send, else None and why not."""
    body, is_shaped = delivery.body, delivery.cause != MAPPING_FAILED
    if not is_shaped:
        shaped = _reshaped([delivery.pk])
        if delivery.pk not in shaped:
            return None, STILL_FAILS
        body = shaped[delivery.pk]
    if body is None:
        body = Payload.objects.filter(pk=delivery.event_id, erased_at=None).values_list("body", flat=True).first()
    return body, "" if body is not None else NOT_KEPT


# --- replays over a filter ------------------------------------------------------------------------------------------


def start(workspace_id: uuid.UUID, document: Mapping[str, str], total: int, newest: uuid.UUID, actor: str) -> Replay:
    """A running replay of what `document` (a filter in its public form) matches up to the delivery `newest`."""
    return Replay.objects.create(
        workspace_id=workspace_id, filter=dict(document), total=total, until=newest, requested_by=actor
    )


def count_states(replay: Replay, now: datetime, most: int) -> dict[str, int]:
    """Of what the replay reopened, how many deliveries are in each state now; no more than `most` are looked at."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT CASE WHEN status = 'pending' AND lease_until > %s THEN 'in_flight' ELSE status END, count(*)"
            " FROM (SELECT status, lease_until FROM deliveries WHERE replay_id = %s LIMIT %s) AS sent GROUP BY 1",
            [now, replay.pk, most],
        )
        found = dict(cursor.fetchall())
    return {state: found.get(state, 0) for state in STATES}


def cancel(replay_id: uuid.UUID, now: datetime) -> bool:
    """Stop a running replay; False where it does not run. What it has reopened goes on."""
    running = Replay.objects.filter(pk=replay_id, status=Replay.Status.RUNNING)
    return running.update(status=Replay.Status.CANCELLED, finished_at=now) == 1


def advance_replays(now: datetime) -> int:
    """One batch of each running replay whose pace allows it; how many deliveries were reopened. Safe to run twice.

    A replay whose batch fails is left as it was before the batch, and tried again after a minute. Raises errors of the
    database that pass by themselves.
    """
    due = Replay.objects.filter(status=Replay.Status.RUNNING, next_batch_at__lte=now).order_by("next_batch_at")
    return sum(_try_advance(replay_id, now) for replay_id in due.values_list("pk", flat=True)[:AT_ONCE])


def _try_advance(replay_id: uuid.UUID, now: datetime) -> int:
    try:
        return _advance(replay_id, now)
    except Exception as error:
        if passes(error):
            raise  # nothing can be written now, of any replay; the sweep is run again
        logger.exception("a batch of replay %s failed", replay_id)
        Replay.objects.filter(pk=replay_id).update(next_batch_at=now + FAILED_REST)
        return 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A delivery that a replay comes to next, and what its connection allows."""

    delivery_id: uuid.UUID
    connection_id: uuid.UUID
    rate: float | None
    """The connection's own limit in requests per second."""


def _advance(replay_id: uuid.UUID, now: datetime) -> int:
    with transaction.atomic():
        running = Replay.objects.select_for_update(skip_locked=True)
        replay = running.filter(pk=replay_id, status=Replay.Status.RUNNING, next_batch_at__lte=now).first()
        if replay is None:
            return 0
        candidates = _next_candidates(replay, now)
        batch, seconds = paced(candidates, _room(candidates, now))
        hints = reopen([candidate.delivery_id for candidate in batch], now, replay.pk)
        _move(replay, batch, len(hints), now, seconds, is_last=not candidates)
    publishing.publish_deliveries(hints)
    return len(hints)


def _next_candidates(replay: Replay, now: datetime) -> list[Candidate]:
    ahead = replayed(replay.workspace_id, read_replay_filter(replay.filter), now).filter(pk__lte=replay.until)
    if replay.cursor is not None:
        ahead = ahead.filter(pk__gt=replay.cursor)
    rows = ahead.order_by("pk").values_list("pk", "connection_id", "connection__rate")
    return [Candidate(*row) for row in rows[: math.ceil(REPLAY_RATE)]]


def _room(candidates: Sequence[Candidate], now: datetime) -> dict[uuid.UUID, int]:
    """How many more deliveries each connection may have due, counted no further than `ROOM_IN_LANE`."""
    connections = list({candidate.connection_id for candidate in candidates})
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.id, (SELECT count(*) FROM (SELECT 1 FROM deliveries d WHERE d.connection_id = c.id"
            " AND d.status = 'pending' AND d.next_attempt_at <= %s LIMIT %s) AS due)"
            " FROM unnest(%s::uuid[]) AS c (id)",
            [now, ROOM_IN_LANE, connections],
        )
        return {row[0]: ROOM_IN_LANE - row[1] for row in cursor.fetchall()}


def paced(candidates: Sequence[Candidate], room: Mapping[uuid.UUID, int]) -> tuple[list[Candidate], float]:
    """The candidates that may be reopened now, and the seconds until the next batch.

    Order is kept, so a batch ends at the first candidate whose connection has had its share: a replay over several
    connections goes at the pace of the slowest.
    """
    batch: list[Candidate] = []
    taken: dict[uuid.UUID, int] = {}
    seconds = 0.0
    for candidate in candidates:
        pace = min(REPLAY_RATE, candidate.rate * SHARE_OF_RATE) if candidate.rate else REPLAY_RATE
        count = taken.get(candidate.connection_id, 0) + 1
        if count > min(max(1, math.floor(pace)), room.get(candidate.connection_id, 0)):
            break
        taken[candidate.connection_id] = count
        batch.append(candidate)
        seconds = max(seconds, count / pace)
    return batch, max(seconds, len(batch) / REPLAY_RATE) if batch else REST_SECONDS


def _move(
    replay: Replay, batch: Sequence[Candidate], reopened: int, now: datetime, seconds: float, *, is_last: bool
) -> None:
    replay.reopened += reopened
    replay.skipped += len(batch) - reopened
    replay.next_batch_at = now + timedelta(seconds=seconds)
    if batch:
        replay.cursor = batch[-1].delivery_id
    if is_last:
        replay.status, replay.finished_at = Replay.Status.COMPLETED, now
        replay.total = replay.reopened + replay.skipped
    replay.save(update_fields=["reopened", "skipped", "next_batch_at", "cursor", "status", "finished_at", "total"])
