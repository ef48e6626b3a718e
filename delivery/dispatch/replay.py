"""Replays over a filter: what is dead or succeeded is sent again, see `delivery.dispatch.reopening`.

A replay is a row in `replays` that a sweep works off in the order of the ids, at a pace that leaves the lanes to the
events of today. Its cursor moves in the transaction that sends again, so a crash neither skips nor repeats.
"""

import logging
import math
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction

from delivery.dispatch import reopening
from delivery.dispatch.reopening import SentAgain, Terms
from delivery.lanes import publishing
from delivery.models import Replay
from delivery.search import STATES, read_replay_filter, replayed
from meshes.kit.database_faults import passes
from meshes.kit.metering import EVENT_STEPS

logger = logging.getLogger(__name__)

REPLAY_RATE = 100.0
"""Deliveries per second that one replay sends again at most."""
SHARE_OF_RATE = 0.5
"""Of a connection's own rate: the other half stays with new events."""
ROOM_IN_LANE = 50
"""A replay adds nothing to a connection that has this many deliveries due already."""
REST_SECONDS = 1.0
"""How long a replay waits where its next delivery finds no room."""
FAILED_REST = timedelta(minutes=1)
AT_ONCE = 100
"""Running replays that one call of `advance_replays` serves, oldest batch first."""


def start(
    workspace_id: uuid.UUID, document: Mapping[str, str], terms: Terms, total: int, newest: uuid.UUID, actor: str
) -> Replay:
    """A running replay of what `document` (a filter in its public form) matches up to the delivery `newest`."""
    return Replay.objects.create(
        workspace_id=workspace_id,
        filter=dict(document),
        mapping=terms.mapping,
        may_duplicate=terms.may_duplicate,
        total=total,
        until=newest,
        requested_by=actor,
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
    """One batch of each running replay whose pace allows it; how many deliveries were sent again. Safe to run twice.

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
        terms = Terms(replay.mapping, replay.may_duplicate, replay.pk)
        sent = reopening.send_again([candidate.delivery_id for candidate in batch], terms, EVENT_STEPS)
        batch = [candidate for candidate in batch if candidate.delivery_id not in sent.left]
        _move(replay, batch, sent, now, seconds, is_last=not candidates)
    publishing.publish_deliveries(sent.to_publish)
    return len(sent.made)


def _next_candidates(replay: Replay, now: datetime) -> list[Candidate]:
    """What comes next; not what the replay itself has made, as its ids may lie ahead."""
    ahead = replayed(replay.workspace_id, read_replay_filter(replay.filter), now)
    ahead = ahead.filter(pk__lte=replay.until).exclude(replay_id=replay.pk)
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
    """The candidates that may be sent again now, and the seconds until the next batch.

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
    replay: Replay, batch: Sequence[Candidate], sent: SentAgain, now: datetime, seconds: float, *, is_last: bool
) -> None:
    replay.reopened += len(sent.made)
    replay.skipped += len(sent.refused)
    reasons = Counter(refusal.reason for refusal in sent.refused.values())
    replay.skipped_by_reason = dict(Counter(replay.skipped_by_reason) + reasons)
    replay.next_batch_at = now + timedelta(seconds=seconds)
    if batch:
        replay.cursor = batch[-1].delivery_id
    if is_last:
        replay.status, replay.finished_at = Replay.Status.COMPLETED, now
        replay.total = replay.reopened + replay.skipped
    replay.save(
        update_fields=[
            "reopened", "skipped", "skipped_by_reason", "next_batch_at", "cursor", "status", "finished_at", "total",
        ]
    )  # fmt: skip
