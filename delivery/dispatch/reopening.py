"""Sending deliveries again: the same delivery reopened, or a new one in its place that today's mapping shapes.

`original` reopens a delivery under its id and in its bytes. `current` makes a new delivery, with an id of its own, so
that neither a receiver nor a vendor takes the new body for a repeat of the old one; both name each other. What failed
before anything was sent reopens itself, shaped anew.
"""

import json
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q

from connections.models import Connection
from connections.providers.base import Outcome
from delivery.lanes import publishing
from delivery.models import Attempt, Delivery, Payload
from delivery.rules import routing
from delivery.rules.routing import EVALUATION_LIMIT, CompiledRule
from delivery.rules.transforms import ShapingError
from meshes.kit import ids
from meshes.kit.metering import RULE_STEPS, Meter, OutOfWorkError

logger = logging.getLogger(__name__)

REOPENABLE = (Delivery.Status.DEAD, Delivery.Status.SUCCEEDED)
"""`cancelled` is final: somebody, or a deletion, decided against it, or another delivery stands in its place."""
ORIGINAL, CURRENT = "original", "current"
REJECTED, UNCERTAIN, MAPPING_FAILED = "rejected", "uncertain", "mapping_failed"
UNSHAPED = (MAPPING_FAILED, EVALUATION_LIMIT)
"""Causes of dead letters that have no body: nothing was ever sent of them."""
FILTERED = "filtered"

NOT_KEPT = "The event's payload is not kept any more."
STILL_FAILS = "The rule's mapping still fails for this event"
DOES_NOT_MATCH = "The rule's filter does not match this event"
CHANGED = "It was changed at the same moment; look again."


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


class Way(Enum):
    """What sending a delivery again means."""

    REOPEN = auto()
    RESHAPE = auto()
    """Reopen it with a new body: it was never sent."""
    REPLACE = auto()
    """Make a new delivery in its place."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a delivery is not sent again: in one word for programs, and in words for people."""

    reason: str
    words: str


@dataclass(frozen=True, slots=True)
class Shape:
    """What today's rule makes of a delivery's event; `body` is None where that is the payload as it is."""

    body: str | None
    action: str
    frozen: str
    """JSON: the part of the connection's config that shapes the body."""


@dataclass(slots=True)
class SentAgain:
    """What became of a list of deliveries. Publish `to_publish` after the commit."""

    to_publish: list[publishing.DeliveryHint] = field(default_factory=list)
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
    done = SentAgain()
    reopened: list[tuple[uuid.UUID, Shape | None]] = []
    replaced: list[tuple[uuid.UUID, Shape]] = []
    for delivery, way, shape in _plan(delivery_ids, terms, steps, done):
        if way is Way.REPLACE and shape is not None:
            replaced.append((delivery.pk, shape))
        else:
            reopened.append((delivery.pk, shape))
    with transaction.atomic():
        written = _reopen(reopened, terms) + _replace(replaced, terms)
        _end_filtered({old: each.words for old, each in done.refused.items() if each.reason == FILTERED}, terms)
    for old, workspace_id, connection_id, new in written:
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


# --- deciding -------------------------------------------------------------------------------------------------------


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


def decide(delivery: Any, terms: Terms) -> Way | Refusal:
    """How a delivery of `read` is sent again, or why not. Pure."""
    if delivery.replaced_by_id is not None:
        newest = ids.encode(ids.DELIVERY, delivery.replaced_by_id)
        return Refusal("replaced", f"It was replaced by {newest}: replay that one.")
    if delivery.status not in REOPENABLE:
        reason = "cancelled" if delivery.status == Delivery.Status.CANCELLED else "in_progress"
        return Refusal(reason, f"Only a dead or succeeded delivery is sent again; this one is {delivery.state}.")
    if delivery.connection.status == Connection.Status.DELETED:
        return Refusal("connection_deleted", "Its connection was deleted.")
    way = _way(delivery, terms)
    if way is Way.REOPEN:
        return way if delivery.has_body or delivery.has_payload else Refusal("payload_gone", NOT_KEPT)
    return _against_shaping(delivery, way, terms) or way


def _way(delivery: Delivery, terms: Terms) -> Way:
    if delivery.status == Delivery.Status.DEAD and delivery.cause in UNSHAPED:
        return Way.RESHAPE
    is_rejected = delivery.status == Delivery.Status.DEAD and delivery.cause == REJECTED
    wanted = terms.mapping or (CURRENT if is_rejected else ORIGINAL)
    return Way.REPLACE if wanted == CURRENT else Way.REOPEN


def _against_shaping(delivery: Any, way: Way, terms: Terms) -> Refusal | None:
    if not delivery.has_payload:
        return Refusal("payload_gone", NOT_KEPT)
    if delivery.rule.connection_id != delivery.connection_id:
        words = "Its rule leads to another connection now, so the present mapping is not meant for this one."
        return Refusal("rule_moved", words + _other_way(way))
    if way is Way.REPLACE and delivery.rule.deleted_at is not None:
        return Refusal("rule_deleted", "Its rule was deleted, so there is no present mapping." + _other_way(way))
    if way is Way.REPLACE and not terms.may_duplicate and may_have_arrived(delivery):
        words = "It arrived, or may have: a new delivery may do the same twice. Ask for that with may_duplicate: true."
        return Refusal("may_duplicate", words + _other_way(way))
    return None


def _other_way(way: Way) -> str:
    return " Or ask for mapping: original." if way is Way.REPLACE else ""


def may_have_arrived(delivery: Any) -> bool:
    """Whether the destination has taken the delivery, or nobody knows.

    An answer that rejected it speaks for the attempts that had none: they held the same.
    """
    if delivery.status == Delivery.Status.SUCCEEDED or delivery.cause == UNCERTAIN or delivery.was_delivered:
        return True
    if delivery.cause == REJECTED and delivery.was_refused:
        return False
    return bool(delivery.was_uncertain or delivery.outcome == Outcome.UNCERTAIN)


# --- shaping --------------------------------------------------------------------------------------------------------


def _plan(
    delivery_ids: Sequence[uuid.UUID], terms: Terms, steps: int, done: SentAgain
) -> list[tuple[Delivery, Way, Shape | None]]:
    """How each is sent again, and the shape of those that get a new one; the others are in `refused` or `left`."""
    planned: list[tuple[Delivery, Way, Shape | None]] = []
    spent = 0
    for delivery in read(delivery_ids) if delivery_ids else []:
        if spent >= steps:
            done.left.add(delivery.pk)
            continue
        way, meter = decide(delivery, terms), Meter(RULE_STEPS)
        shape = None if isinstance(way, Refusal) or way is Way.REOPEN else shape_now(delivery, meter)
        spent += meter.spent
        if isinstance(way, Refusal):
            done.refused[delivery.pk] = way
        elif isinstance(shape, Refusal):
            done.refused[delivery.pk] = shape
        else:
            planned.append((delivery, way, shape))
    return planned


def shape_now(delivery: Delivery, meter: Meter) -> Shape | Refusal:
    """What today's rule makes of the delivery's event. Whether it matches is asked where that was never decided."""
    text = Payload.objects.filter(pk=delivery.event_id, erased_at=None).values_list("body", flat=True).first()
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


# --- writing --------------------------------------------------------------------------------------------------------

Written = tuple[uuid.UUID, uuid.UUID, uuid.UUID, uuid.UUID]
"""The old delivery, its workspace, its connection, the delivery that is open now."""

_KEPT = "EXISTS (SELECT 1 FROM payloads p WHERE p.event_id = d.event_id AND p.erased_at IS NULL)"
_REOPEN = f"""
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
    AND (d.body IS NOT NULL OR {_KEPT})
RETURNING d.id, d.workspace_id, d.connection_id, d.id
"""


def _reopen(deliveries: Sequence[tuple[uuid.UUID, Shape | None]], terms: Terms) -> list[Written]:
    if not deliveries:
        return []
    shapes = [shape for _, shape in deliveries]
    with connection.cursor() as cursor:
        cursor.execute(
            _REOPEN,
            {
                "ids": [delivery_id for delivery_id, _ in deliveries],
                "reshaped": [shape is not None for shape in shapes],
                "bodies": [shape.body if shape else None for shape in shapes],
                "actions": [shape.action if shape else None for shape in shapes],
                "frozen": [shape.frozen if shape else None for shape in shapes],
                "replay": terms.replay_id,
                "unshaped": list(UNSHAPED),
            },
        )
        return list(cursor.fetchall())


_END_FILTERED = f"""
UPDATE deliveries d SET status = 'cancelled', cause = '{FILTERED}', detail = w.detail, finished_at = clock_timestamp(),
    replay_id = %(replay)s, replayed_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(details)s::text[]) AS w (id, detail)
WHERE d.id = w.id AND d.id = ANY(%(ids)s::uuid[]) AND d.status = 'dead' AND d.cause = '{EVALUATION_LIMIT}'
"""


def _end_filtered(details: dict[uuid.UUID, str], terms: Terms) -> None:
    if details:
        with connection.cursor() as cursor:
            given: dict[str, Any] = {"ids": list(details), "details": list(details.values()), "replay": terms.replay_id}
            cursor.execute(_END_FILTERED, given)


_REPLACE = """
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
_NAME_NEWEST = """
UPDATE deliveries d SET replaced_by_id = w.new_id
FROM unnest(%(ids)s::uuid[], %(new_ids)s::uuid[]) AS w (id, new_id)
WHERE d.replaced_by_id = w.id AND d.replaced_by_id = ANY(%(ids)s::uuid[])
"""


def _replace(deliveries: Sequence[tuple[uuid.UUID, Shape]], terms: Terms) -> list[Written]:
    """One statement makes the new ones and ends the old ones; a second lets earlier ones name the newest."""
    if not deliveries:
        return []
    new_ids = [replacement_id(old, terms.replay_id) for old, _ in deliveries]
    parameters: dict[str, Any] = {
        "ids": [old for old, _ in deliveries],
        "new_ids": new_ids,
        "new_public_ids": [ids.encode(ids.DELIVERY, new_id) for new_id in new_ids],
        "bodies": [shape.body for _, shape in deliveries],
        "actions": [shape.action for _, shape in deliveries],
        "frozen": [shape.frozen for _, shape in deliveries],
        "replay": terms.replay_id,
    }
    with connection.cursor() as cursor:
        cursor.execute(_REPLACE, parameters)
        written: list[Written] = list(cursor.fetchall())
        if written:
            chain = {"ids": [row[0] for row in written], "new_ids": [row[3] for row in written]}
            cursor.execute(_NAME_NEWEST, chain)
    return written
