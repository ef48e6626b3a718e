"""Fan-out: an event becomes one delivery per matching rule, and a ledger that says what became of every rule.

Two statements around pure work (`delivery.evaluation`): the first claims the events (so that an event that kills its
worker is counted), the second writes ledger and deliveries and takes the events off `Unrouted`. A delivery's id is a
pure function of event and rule, so running twice makes no doubles. Workspaces share the statements, batch by batch;
what an event's rules cost is spent between them, by its task alone.
"""

import json
import logging
import uuid
from collections.abc import Sequence
from datetime import datetime

from django.conf import settings
from django.db import DataError, IntegrityError, connection

from connections import mapping
from delivery import publishing, routing
from delivery.batching import rows_of
from delivery.evaluation import Fact, Routed, context_of, evaluate
from delivery.models import Delivery
from delivery.routing import CompiledRule, Routing

logger = logging.getLogger(__name__)

MOST_TRIES = 5
"""Fan-outs of one event that may lose their worker before the event is set aside as poison."""


CLAIM = """
WITH claimed AS (
    UPDATE unrouted SET tries = tries + 1, lease_until = clock_timestamp() + make_interval(secs => %s)
    WHERE event_id = ANY(%s) AND poisoned_at IS NULL AND (lease_until IS NULL OR lease_until < clock_timestamp())
    RETURNING event_id, workspace_id
)
SELECT e.id, e.workspace_id, e.type, p.body, coalesce(s.stamp, 0)
FROM claimed c
JOIN events e ON e.id = c.event_id
JOIN payloads p ON p.event_id = c.event_id AND p.workspace_id = c.workspace_id
LEFT JOIN routing_stamps s ON s.workspace_id = c.workspace_id
WHERE e.id = ANY(%s) AND p.event_id = ANY(%s)
"""
"""The ids stand there again, so that PostgreSQL leaves out other partitions while it plans."""

WRITE = """
WITH ledgers AS (
    INSERT INTO routing_ledgers (event_id, workspace_id, entries, created_at) VALUES {ledgers}
    ON CONFLICT (event_id) DO NOTHING
){made}
DELETE FROM unrouted WHERE event_id = ANY(%s)
"""
INSERT_DELIVERIES = """, made AS (
    INSERT INTO deliveries (id, workspace_id, event_id, rule_id, connection_id, event_type, action, body, frozen,
        status, cause, detail, next_attempt_at, finished_at, created_at, outcome, attempt_number, budget_used, losses,
        claimed_by)
    VALUES {deliveries} ON CONFLICT (id) DO NOTHING
)"""
NOW_IF = "CASE WHEN %s THEN statement_timestamp() END"
DELIVERY_ROW = f"({'%s, ' * 12}{NOW_IF}, {NOW_IF}, statement_timestamp(), '', 0, 0, 0, '')"
LEDGER_ROW = "(%s, %s, %s, statement_timestamp())"


def fan_out(event_ids: list[uuid.UUID]) -> list[publishing.DeliveryHint]:
    """Route these events; those already routed, or being routed elsewhere, are passed over.

    Returns `(workspace id, connection id, delivery id)` hints to publish now that all is committed.
    """
    facts = [fact for fact in claim(event_ids) if fact is not None]
    rules = load_rules(facts)
    routed = [made for fact, its_rules in zip(facts, rules, strict=True) if (made := try_evaluate(fact, its_rules))]
    return [hint for hints in write(routed) for hint in hints]


def claim(event_ids: Sequence[uuid.UUID]) -> list[Fact | None]:
    """The events, in this order; None for one that is not ours to route."""
    wanted = list(event_ids)
    with connection.cursor() as cursor:
        cursor.execute(CLAIM, [settings.MESHES_LEASE_SECONDS, wanted, wanted, wanted])
        claimed = {row[0]: Fact(*row) for row in cursor.fetchall()}
    return [claimed.pop(event_id, None) for event_id in event_ids]


def load_rules(facts: Sequence[Fact]) -> list[Routing]:
    """The rules of each event's workspace, in this order."""
    stamps: dict[uuid.UUID, int] = {}
    for fact in facts:
        stamps[fact.workspace_id] = max(fact.stamp, stamps.get(fact.workspace_id, 0))
    found = routing.routings_of(stamps)
    return [found[fact.workspace_id] for fact in facts]


def try_evaluate(fact: Fact, rules: Routing) -> Routed | None:
    """What the rules make of the event. None after a fault of ours with it: it stays unrouted, and is tried again."""
    try:
        return evaluate(fact, rules)
    except Exception:
        logger.exception("fan-out of event %s failed", fact.event_id)
        return None


def write(routed: Sequence[Routed]) -> list[list[publishing.DeliveryHint]]:
    """Write ledgers and deliveries; the events wait no more. Returns the hints of each event, in this order.

    One whose rows are refused has none, stays unrouted, and is tried again.
    """
    written = {one.fact.event_id for one in _write_all(list(routed))}
    return [
        [made.hint for made in one.deliveries if made.status == "pending"] if one.fact.event_id in written else []
        for one in routed
    ]


def _write_all(routed: list[Routed]) -> list[Routed]:
    """Write all in one transaction; if a row of it is refused, each event in its own. Returns what was written."""
    try:
        _write(routed)
        return routed
    except (DataError, IntegrityError):
        if len(routed) == 1:
            logger.exception("the deliveries of event %s were refused", routed[0].fact.event_id)
            return []
        return [one for each in routed for one in _write_all([each])]


def _write(routed: list[Routed]) -> None:
    """Ledgers and deliveries, and the events wait no more: one statement, hence one transaction."""
    if not routed:
        return
    entries = [
        (one.fact.event_id, one.fact.workspace_id, json.dumps([shaped.entry for shaped in one.considered]))
        for one in routed
    ]
    ledgers, parameters = rows_of(LEDGER_ROW, entries)
    made = ""
    if rows := [(*made, made.status == "pending", made.status == "dead") for one in routed for made in one.deliveries]:
        deliveries, values = rows_of(DELIVERY_ROW, rows)
        made = INSERT_DELIVERIES.format(deliveries=deliveries)
        parameters += values
    with connection.cursor() as cursor:
        parameters.append([one.fact.event_id for one in routed])
        cursor.execute(WRITE.format(ledgers=ledgers, made=made), parameters)


def set_poison_aside(now: datetime) -> int:
    """Give up on events whose fan-out lost its worker five times; they stay visible as `Unrouted`, poisoned.

    Returns how many. Each is logged as an error, once.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE unrouted SET poisoned_at = %s WHERE poisoned_at IS NULL AND tries >= %s"
            " AND lease_until < %s RETURNING event_id",
            [now, MOST_TRIES, now],
        )
        poisoned = [row[0] for row in cursor.fetchall()]
    for event_id in poisoned:
        logger.error("fan-out of %s lost its worker %d times; it is set aside", event_id, MOST_TRIES)
    return len(poisoned)


def try_again(event_ids: list[uuid.UUID]) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """Give poisoned events their tries back. Returns `(workspace id, event id)` hints of those that were."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE unrouted SET poisoned_at = NULL, tries = 0, lease_until = NULL"
            " WHERE event_id = ANY(%s) AND poisoned_at IS NOT NULL RETURNING workspace_id, event_id",
            [event_ids],
        )
        return list(cursor.fetchall())


def reshape(deliveries: list[Delivery]) -> dict[uuid.UUID, str | None]:
    """Shape dead deliveries of cause `mapping_failed` anew, with their rules' current mappings.

    Returns the bodies of those that can be shaped now; what still fails is left out.
    """
    bodies: dict[uuid.UUID, str | None] = {}
    found = Delivery.objects.filter(pk__in=[delivery.pk for delivery in deliveries])
    for delivery in found.select_related("rule", "workspace", "event__payload"):
        payload = json.loads(delivery.event.payload.body)
        context = context_of(delivery.event_id, delivery.event_type, payload, delivery.workspace)
        try:
            bodies[delivery.pk] = CompiledRule(delivery.rule).shaped_body(context)
        except mapping.MappingFailed as error:
            logger.info("%s still cannot be shaped: %s", delivery.public_id, error)
    return bodies
