"""Fan-out: an event becomes one delivery per matching rule, and a ledger that says what became of every rule.

Two statements around pure work: the first claims the events (so that an event that kills its worker is counted), the
second writes ledger and deliveries and takes the events off `Unrouted`. A delivery's id is a pure
function of event and rule, so running twice makes no doubles.
"""

import hashlib
import json
import logging
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import DataError, IntegrityError, connection

from connections import mapping
from delivery import publishing, routing
from delivery.batching import rows_of
from delivery.models import Delivery, event_time
from delivery.routing import CompiledRule, Routing
from workspaces import ids
from workspaces.models import Workspace

logger = logging.getLogger(__name__)

MOST_TRIES = 5
"""Fan-outs of one event that may lose their worker before the event is set aside as poison."""


CLAIM = """
WITH claimed AS (
    UPDATE unrouted SET tries = tries + 1, lease_until = now() + make_interval(secs => %s)
    WHERE event_id = ANY(%s) AND poisoned_at IS NULL AND (lease_until IS NULL OR lease_until < now())
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
        status, cause, detail, next_attempt_at, created_at, finished_at, outcome, attempt_number, budget_used, losses,
        claimed_by)
    VALUES {deliveries} ON CONFLICT (id) DO NOTHING
)"""
DELIVERY_ROW = f"({','.join(['%s'] * 15)}, '', 0, 0, 0, '')"


@dataclass(frozen=True, slots=True)
class Fact:
    """An event as fan-out needs it; `payload` is the JSON text as received."""

    event_id: uuid.UUID
    workspace_id: uuid.UUID
    type: str
    payload: str


@dataclass(frozen=True, slots=True)
class Shaped:
    """What one rule makes of one event: the ledger entry and, unless it did not match, the delivery's row."""

    entry: dict[str, Any]
    delivery: tuple[Any, ...] | None = None
    hint: publishing.DeliveryHint | None = None


@dataclass(frozen=True, slots=True)
class Routed:
    """An event and what every rule that names its type makes of it."""

    fact: Fact
    considered: list[Shaped]


def delivery_id(event_id: uuid.UUID, rule_id: uuid.UUID) -> uuid.UUID:
    """The event's 48-bit time, then UUIDv7-shaped bits of SHA-256(event id, rule id)."""
    digest = hashlib.sha256(event_id.bytes + rule_id.bytes).digest()
    tail = int.from_bytes(digest[:10], "big")
    tail = tail & ~(0xF << 76) | 0x7 << 76  # version 7
    tail = tail & ~(0x3 << 62) | 0x2 << 62  # variant 10
    return uuid.UUID(int=ids.milliseconds(event_id) << 80 | tail)


def fan_out(event_ids: list[uuid.UUID]) -> list[publishing.DeliveryHint]:
    """Route these events; those already routed, or being routed elsewhere, are passed over.

    Returns `(workspace id, connection id, delivery id)` hints to publish now that all is committed.
    """
    facts, stamps = _claim(event_ids)
    routings = routing.routings_of(stamps)
    now = datetime.now(UTC)
    routed = [made for fact in facts if (made := _route(fact, routings[fact.workspace_id], now))]
    written = _write_all(routed, now)
    return [shaped.hint for one in written for shaped in one.considered if shaped.hint]


def _claim(event_ids: list[uuid.UUID]) -> tuple[list[Fact], dict[uuid.UUID, int]]:
    """The events that are ours to route, and the stamps of their workspaces' rules."""
    with connection.cursor() as cursor:
        cursor.execute(CLAIM, [settings.MESHES_LEASE_SECONDS, event_ids, event_ids, event_ids])
        rows = cursor.fetchall()
    return [Fact(*row[:4]) for row in rows], {row[1]: row[4] for row in rows}


def _route(fact: Fact, rules: Routing, now: datetime) -> Routed | None:
    try:
        named = rules.named(fact.type)
        context: dict[str, Any] = {}
        if any(rule.reads_event for rule in named):
            context = context_of(fact.event_id, fact.type, json.loads(fact.payload), rules.workspace)
        return Routed(fact, [shape(fact, rule, context, now) for rule in named])
    except Exception:
        # A fault of ours with one event: it stays unrouted, is tried again, and is set aside after five tries.
        logger.exception("fan-out of event %s failed", fact.event_id)
        return None


def context_of(event_id: uuid.UUID, event_type: str, payload: Any, workspace: Workspace) -> dict[str, Any]:
    """What filters and mappings see: `{event: {id, type, created_at}, payload, workspace: {id, external_id, name}}`."""
    return {
        "event": {
            "id": ids.encode(ids.EVENT, event_id),
            "type": event_type,
            "created_at": event_time(event_id).isoformat().replace("+00:00", "Z"),
        },
        "payload": payload,
        "workspace": {"id": workspace.public_id, "external_id": workspace.external_id, "name": workspace.name},
    }


def shape(fact: Fact, compiled: CompiledRule, context: dict[str, Any], now: datetime) -> Shaped:
    """Decide what a rule whose pattern names the event makes of it. Pure: reads no clock and no database."""
    rule, entry = compiled.rule, compiled.entry
    if not rule.enabled or rule.connection.status == "deleted":
        return Shaped(entry | {"result": "disabled"})
    if compiled.filter is not None:
        clause = compiled.filter.explain(context)
        if clause is not None:
            return Shaped(entry | {"result": "filtered", "clause": clause.as_dict()})
    made = delivery_id(fact.event_id, rule.pk)
    entry = entry | {"delivery": ids.encode(ids.DELIVERY, made)}
    try:
        body = compiled.shaped_body(context)
    except mapping.MappingFailed as error:
        row = _row(made, fact, compiled, None, "dead", now, "mapping_failed", str(error))
        return Shaped(entry | {"result": "mapping_failed", "reason": str(error)}, row)
    if rule.connection.status != "active":
        row = _row(made, fact, compiled, body, "held", now, rule.connection.status, rule.connection.status_reason)
        return Shaped(entry | {"result": "held", "reason": rule.connection.status}, row)
    row = _row(made, fact, compiled, body, "pending", now)
    return Shaped(entry | {"result": "matched"}, row, (fact.workspace_id, rule.connection_id, made))


def _row(
    made: uuid.UUID,
    fact: Fact,
    compiled: CompiledRule,
    body: str | None,
    status: str,
    now: datetime,
    cause: str = "",
    detail: str = "",
) -> tuple[Any, ...]:
    rule = compiled.rule
    due, finished = (now if status == "pending" else None), (now if status == "dead" else None)
    return (made, fact.workspace_id, fact.event_id, rule.pk, rule.connection_id, fact.type, rule.action, body,
            compiled.frozen, status, cause, detail, due, now, finished)  # fmt: skip


def _write_all(routed: list[Routed], now: datetime) -> list[Routed]:
    """Write all in one transaction; if a row of it is refused, each event in its own. Returns what was written."""
    try:
        _write(routed, now)
        return routed
    except (DataError, IntegrityError):
        if len(routed) == 1:
            logger.exception("the deliveries of event %s were refused", routed[0].fact.event_id)
            return []
        return [one for each in routed for one in _write_all([each], now)]


def _write(routed: list[Routed], now: datetime) -> None:
    """Ledgers and deliveries, and the events wait no more: one statement, hence one transaction."""
    if not routed:
        return
    entries = [
        (one.fact.event_id, one.fact.workspace_id, json.dumps([shaped.entry for shaped in one.considered]), now)
        for one in routed
    ]
    ledgers, parameters = rows_of("(%s, %s, %s, %s)", entries)
    made = ""
    if rows := [shaped.delivery for one in routed for shaped in one.considered if shaped.delivery]:
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
