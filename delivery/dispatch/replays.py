"""Replay: deliveries are sent again, the same one reopened, or a new one in its place that today's mapping shapes.

`original` reopens a delivery under its id and in its bytes. `current` makes a new delivery, with an id of its own, so
that neither a receiver nor a vendor takes the new body for a repeat of the old one; both name each other. What failed
before anything was sent reopens itself, shaped anew.

A replay over a filter is a row in `replays` that a sweep works off in the order of the ids, at a pace that leaves the
lanes to the events of today. Its cursor moves in the transaction that sends again: a crash neither skips nor repeats.
"""

import json
import logging
import math
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q

from connections.models import Connection
from connections.providers.base import Outcome
from delivery.lanes import brokers
from delivery.models import Attempt, Delivery, Payload, Replay
from delivery.rules import routing
from delivery.rules.routing import EVALUATION_LIMIT, CompiledRule
from delivery.rules.transforms import ShapingError
from delivery.search import REPLAYABLE, STATES, read_replay_filter, replayed
from meshes.kit import ids
from meshes.kit.database_faults import passes
from meshes.kit.metering import EVENT_STEPS, RULE_STEPS, Meter, OutOfWorkError

logger = logging.getLogger(__name__)

ORIGINAL, CURRENT = "original", "current"
REJECTED, UNCERTAIN, MAPPING_FAILED = "rejected", "uncertain", "mapping_failed"
UNSHAPED = (MAPPING_FAILED, EVALUATION_LIMIT)
"""Causes of dead letters that have no body: nothing was ever sent of them."""
FILTERED = "filtered"
REOPEN, RESHAPE, REPLACE = "reopen", "reshape", "replace"
"""Ways to send a delivery again: as it is, with a new body since it was never sent, or by a new one in its place."""

NOT_KEPT = "The event's payload is not kept any more."
STILL_FAILS = "The rule's mapping still fails for this event"
DOES_NOT_MATCH = "The rule's filter does not match this event"
CHANGED = "It was changed at the same moment; look again."
REPLAY_RATE = 100.0
"""Deliveries per second that one replay sends again at most."""
SHARE_OF_RATE = 0.5
"""Of a connection's own rate: the other half stays with new events."""
ROOM_IN_LANE = 50
"""A replay adds nothing to a connection that has this many deliveries due already."""
PAUSE_SECONDS = 1.0
"""How long a replay waits where its next delivery finds no room."""
FAILED_PAUSE = timedelta(minutes=1)
AT_ONCE = 100
"""Running replays that one call of `advance_replays` serves, oldest batch first."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How deliveries are to be sent again.

    `mapping` is `original` or `current`; empty: `current` for what was rejected, else `original`. `may_duplicate`
    allows a new delivery although the old one arrived, or may have. `replay_id` names a replay over a filter.
    """

    mapping: str = ""
    may_duplicate: bool = False
    replay_id: uuid.UUID | None = None


BY_CAUSE = Terms()


class Refusal(NamedTuple):
    """Why a delivery is not sent again: in one word for programs, and in words for people."""

    reason: str
    words: str


class Shape(NamedTuple):
    """What today's rule makes of a delivery's event; `body` is None where that is the payload as it is."""

    body: str | None
    action: str
    frozen: str
    """JSON: the part of the connection's config that shapes the body."""


@dataclass(slots=True)
class SentAgain:
    """What became of a list of deliveries. Publish `to_publish` after the commit."""

    to_publish: list[brokers.DeliveryHint] = field(default_factory=list)
    """Of those that are open now, also where they are held."""
    made: dict[uuid.UUID, uuid.UUID] = field(default_factory=dict)
    """The delivery that is open now, of each that was sent again: itself, or the one that replaced it."""
    refused: dict[uuid.UUID, Refusal] = field(default_factory=dict)
    left: set[uuid.UUID] = field(default_factory=set)
    """The last ones, in the order of their ids, that were not looked at: the steps were used up."""


def send_again(delivery_ids: Sequence[uuid.UUID], terms: Terms = BY_CAUSE, steps: int = RULE_STEPS) -> SentAgain:
    """Send again those of these deliveries that can be.

    What is open then is pending and due, or held where its connection is, with a fresh budget. A reopened delivery goes
    on with its attempt numbers. An id that does not exist is refused like one that was changed meanwhile. One of which
    it was not known whether its rule matches, and whose rule does not, is refused as `filtered`, and ended so.
    Once evaluating rules has cost `steps` in all, the rest is `left`; one delivery at least is looked at.
    """
    done, spent = SentAgain(), 0
    planned: list[tuple[uuid.UUID, str, Shape | None]] = []
    for delivery in read(delivery_ids):
        if spent >= steps:
            done.left.add(delivery.pk)
            continue
        way, meter = decide(delivery, terms), Meter(RULE_STEPS)
        shape = way if isinstance(way, Refusal) else None if way == REOPEN else shape_now(delivery, meter)
        spent += meter.spent
        if isinstance(shape, Refusal):
            done.refused[delivery.pk] = shape
        else:
            planned.append((delivery.pk, str(way), shape))
    for old, workspace_id, connection_id, new in _write(planned, done.refused, terms.replay_id):
        done.to_publish.append((workspace_id, connection_id, new))
        done.made[old] = new
    for delivery_id in delivery_ids:
        if delivery_id not in done.made and delivery_id not in done.left:
            done.refused.setdefault(delivery_id, Refusal("changed", CHANGED))
    return done


def replacement_id(old: uuid.UUID, replay_id: uuid.UUID | None) -> uuid.UUID:
    """The id of the delivery that takes the place of another: a function of it and of the replay over a filter.

    So a repeated call makes no second one. It begins with the event's 48-bit time as the old one's does, and is
    therefore in the same partition.
    """
    return routing.delivery_id(old, replay_id or uuid.UUID(int=0))


# --- deciding ---------------------------------------------------------------------------------------------------------


def read(delivery_ids: Sequence[uuid.UUID]) -> list[Delivery]:
    """The deliveries with what `decide` looks at, in the order of their ids."""
    attempts = Attempt.objects.filter(delivery_id=OuterRef("pk"), workspace_id=OuterRef("workspace_id"))
    kept = Payload.objects.filter(pk=OuterRef("event_id"), workspace_id=OuterRef("workspace_id"), erased_at=None)
    found = (
        Delivery.objects.filter(pk__in=delivery_ids)
        .select_related("connection", "rule__connection", "workspace")
        .annotate(
            has_payload=Exists(kept),
            has_body=Q(body__isnull=False),
            was_delivered=Exists(attempts.filter(outcome=Outcome.DELIVERED)),
            was_uncertain=Exists(attempts.filter(outcome=Outcome.UNCERTAIN)),
            was_refused=Exists(attempts.filter(outcome=Outcome.REJECTED, status_code__isnull=False)),
        )
    )
    return list(found.defer("body", "frozen").order_by("pk"))


def decide(delivery: Any, terms: Terms) -> str | Refusal:
    """How a delivery of `read` is sent again, or why not. Pure."""
    if delivery.replaced_by_id is not None:
        newest = ids.encode(ids.DELIVERY, delivery.replaced_by_id)
        return Refusal("replaced", f"It was replaced by {newest}: replay that one.")
    if delivery.status not in REPLAYABLE:
        reason = "cancelled" if delivery.status == Delivery.Status.CANCELLED else "in_progress"
        return Refusal(reason, f"Only a dead or succeeded delivery is sent again; this one is {delivery.state}.")
    if delivery.connection.status == Connection.Status.DELETED:
        return Refusal("connection_deleted", "Its connection was deleted.")
    way, is_dead = REOPEN, delivery.status == Delivery.Status.DEAD
    if is_dead and delivery.cause in UNSHAPED:
        way = RESHAPE
    elif (terms.mapping or (CURRENT if is_dead and delivery.cause == REJECTED else ORIGINAL)) == CURRENT:
        way = REPLACE
    if way == REOPEN:
        return way if delivery.has_body or delivery.has_payload else Refusal("payload_gone", NOT_KEPT)
    return _against_shaping(delivery, way, terms) or way


def _against_shaping(delivery: Any, way: str, terms: Terms) -> Refusal | None:
    """What keeps the present mapping from shaping the delivery's event."""
    if not delivery.has_payload:
        return Refusal("payload_gone", NOT_KEPT)
    other_way = " Or ask for mapping: original." if way == REPLACE else ""
    if delivery.rule.connection_id != delivery.connection_id:
        words = "Its rule leads to another connection now, so the present mapping is not meant for this one."
        return Refusal("rule_moved", words + other_way)
    if way == REPLACE and delivery.rule.deleted_at is not None:
        return Refusal("rule_deleted", "Its rule was deleted, so there is no present mapping." + other_way)
    if way == REPLACE and not terms.may_duplicate and may_have_arrived(delivery):
        words = "It arrived, or may have: a new delivery may do the same twice. Ask for that with may_duplicate: true."
        return Refusal("may_duplicate", words + other_way)
    return None


def may_have_arrived(delivery: Any) -> bool:
    """Whether the destination has taken the delivery, or nobody knows.

    An answer that rejected it speaks for the attempts that had none: they held the same.
    """
    if delivery.status == Delivery.Status.SUCCEEDED or delivery.cause == UNCERTAIN or delivery.was_delivered:
        return True
    if delivery.cause == REJECTED and delivery.was_refused:
        return False
    return bool(delivery.was_uncertain or delivery.outcome == Outcome.UNCERTAIN)


# --- shaping ----------------------------------------------------------------------------------------------------------


def payload_of(delivery: Delivery) -> str | None:
    """The text of the event's payload; None where it is not kept any more."""
    kept = Payload.objects.filter(pk=delivery.event_id, workspace_id=delivery.workspace_id, erased_at=None)
    return kept.values_list("body", flat=True).first()


def shape_now(delivery: Delivery, meter: Meter) -> Shape | Refusal:
    """What today's rule makes of the delivery's event. Whether it matches is asked where that was never decided."""
    text = payload_of(delivery)
    if text is None:
        return Refusal("payload_gone", NOT_KEPT)
    context = routing.context_of(delivery.event_id, delivery.event_type, json.loads(text), delivery.workspace)
    compiled = CompiledRule(delivery.rule)
    try:
        if delivery.cause == EVALUATION_LIMIT and (clause := compiled.failed_clause(context, meter)):
            return Refusal(FILTERED, f"{DOES_NOT_MATCH}: {clause['path']} {clause['operator']}".rstrip())
        return Shape(compiled.shaped_body(context, meter), delivery.rule.action, compiled.frozen)
    except ShapingError as error:
        return Refusal(MAPPING_FAILED, f"{STILL_FAILS}: {error}")
    except OutOfWorkError:
        return Refusal(EVALUATION_LIMIT, routing.limit_words(delivery.rule, meter))


# --- writing ----------------------------------------------------------------------------------------------------------


KEPT = """EXISTS (SELECT 1 FROM payloads p
    WHERE p.event_id = d.event_id AND p.workspace_id = d.workspace_id AND p.erased_at IS NULL)"""
REOPEN_SQL = f"""
UPDATE deliveries d
SET status = CASE WHEN c.status = 'active' THEN 'pending' ELSE 'held' END,
    cause = CASE WHEN c.status = 'active' THEN '' ELSE c.status END,
    detail = CASE WHEN c.status = 'active' THEN '' ELSE c.status_reason END,
    next_attempt_at = CASE WHEN c.status = 'active' THEN clock_timestamp() END,
    body = CASE WHEN w.reshaped THEN w.body ELSE d.body END,
    action = CASE WHEN w.reshaped THEN w.action ELSE d.action END,
    frozen = CASE WHEN w.reshaped THEN w.frozen::jsonb ELSE d.frozen END,
    budget_used = 0, losses = 0, finished_at = NULL, replay_id = %(replay)s, replayed_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(reshaped)s::boolean[], %(bodies)s::text[], %(actions)s::text[], %(frozen)s::text[])
    AS w (id, reshaped, body, action, frozen), connections c
WHERE d.id = w.id AND d.id = ANY(%(ids)s::uuid[]) AND d.status IN ('dead', 'succeeded') AND d.replaced_by_id IS NULL
    AND c.id = d.connection_id AND c.workspace_id = d.workspace_id AND c.status <> 'deleted'
    AND (w.reshaped OR d.status = 'succeeded' OR d.cause <> ALL(%(unshaped)s))
    AND (d.body IS NOT NULL OR {KEPT})
RETURNING d.id, d.workspace_id, d.connection_id, d.id
"""
END_FILTERED_SQL = f"""
UPDATE deliveries d SET status = 'cancelled', cause = '{FILTERED}', detail = w.detail, finished_at = clock_timestamp(),
    replay_id = %(replay)s, replayed_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(details)s::text[]) AS w (id, detail)
WHERE d.id = w.id AND d.id = ANY(%(ids)s::uuid[]) AND d.status = 'dead' AND d.cause = '{EVALUATION_LIMIT}'
"""
REPLACE_SQL = """
WITH replaced AS (
    UPDATE deliveries d
    SET replaced_by_id = w.new_id,
        status = CASE d.status WHEN 'dead' THEN 'cancelled' ELSE d.status END,
        cause = CASE d.status WHEN 'dead' THEN 'replaced' ELSE d.cause END,
        detail = CASE d.status WHEN 'dead' THEN
            format('Replaced by %%s, which today''s mapping shaped. It was a dead letter (%%s). %%s',
                   w.new_public_id, d.cause, d.detail) ELSE d.detail END,
        finished_at = CASE d.status WHEN 'dead' THEN clock_timestamp() ELSE d.finished_at END
    FROM unnest(%(ids)s::uuid[], %(new_ids)s::uuid[], %(new_public_ids)s::text[], %(bodies)s::text[],
                %(actions)s::text[], %(frozen)s::text[])
        AS w (id, new_id, new_public_id, body, action, frozen), connections c
    WHERE d.id = w.id AND d.id = ANY(%(ids)s::uuid[]) AND d.status IN ('dead', 'succeeded')
        AND d.replaced_by_id IS NULL
        AND c.id = d.connection_id AND c.workspace_id = d.workspace_id AND c.status <> 'deleted'
    RETURNING d.id, d.workspace_id, d.event_id, d.rule_id, d.connection_id, d.event_type, w.new_id, w.body, w.action,
        w.frozen, c.status AS hold, c.status_reason
)
INSERT INTO deliveries (id, workspace_id, event_id, rule_id, connection_id, event_type, action, body, frozen,
    replay_id, replay_of_id, status, cause, detail, next_attempt_at, created_at, outcome, attempt_number, budget_used,
    losses, claimed_by)
SELECT new_id, workspace_id, event_id, rule_id, connection_id, event_type, action, body, frozen::jsonb,
    %(replay)s, id,
    CASE hold WHEN 'active' THEN 'pending' ELSE 'held' END,
    CASE hold WHEN 'active' THEN '' ELSE hold END,
    CASE hold WHEN 'active' THEN '' ELSE status_reason END,
    CASE hold WHEN 'active' THEN clock_timestamp() END, clock_timestamp(), '', 0, 0, 0, ''
FROM replaced
ON CONFLICT (id) DO NOTHING
RETURNING replay_of_id, workspace_id, connection_id, id
"""
LOCK_SQL = "SELECT 1 FROM deliveries WHERE id = ANY(%s::uuid[]) ORDER BY id FOR NO KEY UPDATE"
"""Before any of the above, whose plans take rows in orders of their own: two that replay the same would deadlock."""
NAME_NEWEST_SQL = """
UPDATE deliveries d SET replaced_by_id = w.new_id
FROM unnest(%(ids)s::uuid[], %(new_ids)s::uuid[]) AS w (id, new_id)
WHERE d.replaced_by_id = w.id AND d.replaced_by_id = ANY(%(ids)s::uuid[])
"""


def _write(
    planned: Sequence[tuple[uuid.UUID, str, Shape | None]], refused: Mapping[uuid.UUID, Refusal], replay: Any
) -> list[tuple[uuid.UUID, uuid.UUID, uuid.UUID, uuid.UUID]]:
    """Of each that was sent again: the old delivery, its workspace, its connection, the delivery that is open now."""
    reopened = [(old, shape) for old, way, shape in planned if way != REPLACE]
    replaced = [(old, shape) for old, way, shape in planned if way == REPLACE]
    filtered = {old: each.words for old, each in refused.items() if each.reason == FILTERED}
    written = []
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(LOCK_SQL, [[*(old for old, _, _ in planned), *filtered]])
        if reopened:
            is_reshaped = [shape is not None for _, shape in reopened]
            given = _columns(reopened, replay) | {"reshaped": is_reshaped, "unshaped": list(UNSHAPED)}
            cursor.execute(REOPEN_SQL, given)
            written += cursor.fetchall()
        if replaced:  # one statement ends the old ones and makes the new ones; another has earlier ones name the newest
            new_ids = [replacement_id(old, replay) for old, _ in replaced]
            public_ids = [ids.encode(ids.DELIVERY, new_id) for new_id in new_ids]
            cursor.execute(REPLACE_SQL, _columns(replaced, replay) | {"new_ids": new_ids, "new_public_ids": public_ids})
            if made := cursor.fetchall():
                cursor.execute(NAME_NEWEST_SQL, {"ids": [row[0] for row in made], "new_ids": [row[3] for row in made]})
                written += made
        if filtered:
            details = list(filtered.values())
            cursor.execute(END_FILTERED_SQL, {"ids": list(filtered), "details": details, "replay": replay})
    return written


def _columns(deliveries: Sequence[tuple[uuid.UUID, Shape | None]], replay: Any) -> dict[str, Any]:
    shapes = [shape or (None, None, None) for _, shape in deliveries]
    return {
        "ids": [old for old, _ in deliveries],
        "bodies": [body for body, _, _ in shapes],
        "actions": [action for _, action, _ in shapes],
        "frozen": [frozen for _, _, frozen in shapes],
        "replay": replay,
    }


# --- over a filter ----------------------------------------------------------------------------------------------------


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
    done = 0
    for replay_id in list(due.values_list("pk", flat=True)[:AT_ONCE]):
        try:
            done += _advance(replay_id, now)
        except Exception as error:
            if passes(error):
                raise  # nothing can be written now, of any replay; the sweep is run again
            logger.exception("a batch of replay %s failed", replay_id)
            Replay.objects.filter(pk=replay_id).update(next_batch_at=now + FAILED_PAUSE)
    return done


def _advance(replay_id: uuid.UUID, now: datetime) -> int:
    with transaction.atomic():
        running = Replay.objects.select_for_update(skip_locked=True)
        replay = running.filter(pk=replay_id, status=Replay.Status.RUNNING, next_batch_at__lte=now).first()
        if replay is None:
            return 0
        candidates = _next_candidates(replay, now)
        batch, seconds = paced(candidates, _room({connection_id for _, connection_id, _ in candidates}, now))
        terms = Terms(replay.mapping, replay.may_duplicate, replay.pk)
        sent = send_again([delivery_id for delivery_id, *_ in batch], terms, EVENT_STEPS)
        done = [delivery_id for delivery_id, *_ in batch if delivery_id not in sent.left]
        _move(replay, done, sent, now, seconds, is_last=not candidates)
    brokers.publish_deliveries(sent.to_publish)
    return len(sent.made)


Candidate = tuple[uuid.UUID, uuid.UUID, float | None]
"""A delivery that a replay comes to next, its connection, and that one's own limit in requests per second."""


def _next_candidates(replay: Replay, now: datetime) -> list[Candidate]:
    """What comes next; not what the replay itself has made, as its ids may lie ahead."""
    ahead = replayed(replay.workspace_id, read_replay_filter(replay.filter), now)
    ahead = ahead.filter(pk__lte=replay.until).exclude(replay_id=replay.pk)
    if replay.cursor is not None:
        ahead = ahead.filter(pk__gt=replay.cursor)
    return list(ahead.order_by("pk").values_list("pk", "connection_id", "connection__rate")[: math.ceil(REPLAY_RATE)])


def _room(connection_ids: set[uuid.UUID], now: datetime) -> dict[uuid.UUID, int]:
    """How many more deliveries each connection may have due, counted no further than `ROOM_IN_LANE`."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.id, (SELECT count(*) FROM (SELECT 1 FROM deliveries d WHERE d.connection_id = c.id"
            " AND d.status = 'pending' AND d.next_attempt_at <= %s LIMIT %s) AS due)"
            " FROM unnest(%s::uuid[]) AS c (id)",
            [now, ROOM_IN_LANE, list(connection_ids)],
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
        _, connection_id, rate = candidate
        pace = min(REPLAY_RATE, rate * SHARE_OF_RATE) if rate else REPLAY_RATE
        count = taken.get(connection_id, 0) + 1
        if count > min(max(1, math.floor(pace)), room.get(connection_id, 0)):
            break
        taken[connection_id] = count
        batch.append(candidate)
        seconds = max(seconds, count / pace)
    return batch, max(seconds, len(batch) / REPLAY_RATE) if batch else PAUSE_SECONDS


def _move(
    replay: Replay, done: Sequence[uuid.UUID], sent: SentAgain, now: datetime, seconds: float, *, is_last: bool
) -> None:
    reasons = Counter(refusal.reason for refusal in sent.refused.values())
    moved: dict[str, Any] = {
        "reopened": replay.reopened + len(sent.made),
        "skipped": replay.skipped + len(sent.refused),
        "skipped_by_reason": dict(Counter(replay.skipped_by_reason) + reasons),
        "next_batch_at": now + timedelta(seconds=seconds),
    }
    if done:
        moved["cursor"] = done[-1]
    if is_last:
        total = moved["reopened"] + moved["skipped"]
        moved |= {"status": Replay.Status.COMPLETED, "finished_at": now, "total": total}
    Replay.objects.filter(pk=replay.pk).update(**moved)
