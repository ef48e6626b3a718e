"""Fan-out: an event becomes one delivery per matching rule, and a ledger that says what became of every rule.

Two short transactions around pure work: the first claims the events (so that an event that kills its worker is
counted), the second writes ledger and deliveries and takes the events off `Unrouted`. A delivery's id is a pure
function of event and rule, so running twice makes no doubles.
"""

import hashlib
import json
import logging
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.db import DataError, IntegrityError, connection, transaction
from psycopg2.extras import Json, execute_values

from connections import mapping, providers
from delivery import matching, publishing
from delivery.models import Delivery, Rule, event_time
from workspaces import ids
from workspaces.models import Workspace

logger = logging.getLogger(__name__)

MOST_TRIES = 5
"""Fan-outs of one event that may lose their worker before the event is set aside as poison."""


INSERT_LEDGERS = """
    INSERT INTO routing_ledgers (event_id, workspace_id, entries, created_at) VALUES %s
    ON CONFLICT (event_id) DO NOTHING
"""
INSERT_DELIVERIES = """
    INSERT INTO deliveries (id, workspace_id, event_id, rule_id, connection_id, event_type, action, body, frozen,
        status, cause, detail, next_attempt_at, created_at, finished_at, outcome, attempt_number, budget_used, losses,
        claimed_by)
    VALUES %s ON CONFLICT (id) DO NOTHING
"""
DELIVERY_ROW = f"({','.join(['%s'] * 15)}, '', 0, 0, 0, '')"


@dataclass(frozen=True, slots=True)
class Fact:
    """An event as fan-out needs it; `payload` is the JSON text as received."""

    event_id: uuid.UUID
    workspace: Workspace
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
    facts = _load(_claim(event_ids))
    rules = _rules_of({fact.workspace.pk for fact in facts})
    now = datetime.now(UTC)
    routed = [made for fact in facts if (made := _route(fact, rules.get(fact.workspace.pk, []), now))]
    written = _write_all(routed, now)
    return [shaped.hint for one in written for shaped in one.considered if shaped.hint]


def _route(fact: Fact, rules: list[Rule], now: datetime) -> Routed | None:
    try:
        named = [rule for rule in rules if matching.pattern_matches(rule.event, fact.type)]
        context = context_of(fact.event_id, fact.type, json.loads(fact.payload), fact.workspace)
        return Routed(fact, [shape(fact, rule, context, now) for rule in named])
    except Exception:
        # A fault of ours with one event: it stays unrouted, is tried again, and is set aside after five tries.
        logger.exception("fan-out of event %s failed", fact.event_id)
        return None


def _claim(event_ids: list[uuid.UUID]) -> list[uuid.UUID]:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE unrouted SET tries = tries + 1, lease_until = now() + make_interval(secs => %s)"
            " WHERE event_id = ANY(%s) AND poisoned_at IS NULL AND (lease_until IS NULL OR lease_until < now())"
            " RETURNING event_id",
            [settings.MESHES_LEASE_SECONDS, event_ids],
        )
        return [row[0] for row in cursor.fetchall()]


def _load(event_ids: list[uuid.UUID]) -> list[Fact]:
    if not event_ids:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT e.id, e.workspace_id, e.type, p.body FROM events e"
            " JOIN payloads p ON p.event_id = e.id AND p.workspace_id = e.workspace_id WHERE e.id = ANY(%s)",
            [event_ids],
        )
        rows = cursor.fetchall()
    workspaces = Workspace.objects.in_bulk({row[1] for row in rows})
    return [Fact(row[0], workspaces[row[1]], row[2], row[3]) for row in rows]


def _rules_of(workspace_ids: set[uuid.UUID]) -> dict[uuid.UUID, list[Rule]]:
    rules: dict[uuid.UUID, list[Rule]] = {}
    live = Rule.objects.filter(workspace_id__in=workspace_ids, deleted_at=None, workspace__deleted_at=None)
    for rule in live.select_related("connection").order_by("id"):
        rules.setdefault(rule.workspace_id, []).append(rule)
    return rules


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


@lru_cache(maxsize=4096)
def _compiled_filter(rule_id: uuid.UUID, version: int, document: str) -> matching.Filter:
    return matching.compile_filter(json.loads(document))


@lru_cache(maxsize=4096)
def _compiled_mapping(rule_id: uuid.UUID, version: int, document: str) -> mapping.Mapping:
    return mapping.compile_mapping(json.loads(document))


def shape(fact: Fact, rule: Rule, context: dict[str, Any], now: datetime) -> Shaped:
    """Decide what `rule`, whose pattern names the event, makes of it. Pure: reads no clock and no database."""
    entry: dict[str, Any] = {
        "rule": rule.public_id,
        "version": rule.version,
        "connection": ids.encode(ids.CONNECTION, rule.connection_id),
    }
    if not rule.enabled or rule.connection.status == "deleted":
        return Shaped(entry | {"result": "disabled"})
    if rule.filter is not None:
        clause = _compiled_filter(rule.pk, rule.version, json.dumps(rule.filter)).explain(context)
        if clause is not None:
            return Shaped(entry | {"result": "filtered", "clause": clause.as_dict()})
    made = delivery_id(fact.event_id, rule.pk)
    entry["delivery"] = ids.encode(ids.DELIVERY, made)
    try:
        body = shaped_body(rule, context)
    except mapping.MappingFailed as error:
        row = _row(made, fact, rule, None, "dead", now, "mapping_failed", f"{error.pointer}: {error.message}")
        return Shaped(entry | {"result": "mapping_failed", "reason": f"{error.pointer}: {error.message}"}, row)
    if rule.connection.status != "active":
        row = _row(made, fact, rule, body, "held", now, rule.connection.status, rule.connection.status_reason)
        return Shaped(entry | {"result": "held", "reason": rule.connection.status}, row)
    hint = (fact.workspace.pk, rule.connection_id, made)
    return Shaped(entry | {"result": "matched"}, _row(made, fact, rule, body, "pending", now), hint)


def shaped_body(rule: Rule, context: dict[str, Any]) -> str | None:
    """The JSON text that the rule's mapping makes, or None without a mapping. Raises `mapping.MappingFailed`."""
    if rule.mapping is None:
        return None
    document = _compiled_mapping(rule.pk, rule.version, json.dumps(rule.mapping)).apply(context)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _row(
    made: uuid.UUID,
    fact: Fact,
    rule: Rule,
    body: str | None,
    status: str,
    now: datetime,
    cause: str = "",
    detail: str = "",
) -> tuple[Any, ...]:
    frozen = providers.get(rule.connection.type).frozen_config(rule.connection.config)
    due, finished = (now if status == "pending" else None), (now if status == "dead" else None)
    return (made, fact.workspace.pk, fact.event_id, rule.pk, rule.connection_id, fact.type, rule.action, body,
            Json(frozen), status, cause, detail, due, now, finished)  # fmt: skip


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
    if not routed:
        return
    event_ids = [one.fact.event_id for one in routed]
    ledgers = [
        (one.fact.event_id, one.fact.workspace.pk, Json([shaped.entry for shaped in one.considered]), now)
        for one in routed
    ]
    deliveries = [shaped.delivery for one in routed for shaped in one.considered if shaped.delivery]
    with transaction.atomic(), connection.cursor() as cursor:
        execute_values(cursor.cursor, INSERT_LEDGERS, ledgers, page_size=len(ledgers))
        if deliveries:
            execute_values(cursor.cursor, INSERT_DELIVERIES, deliveries, DELIVERY_ROW, page_size=len(deliveries))
        cursor.execute("DELETE FROM unrouted WHERE event_id = ANY(%s)", [event_ids])


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
            bodies[delivery.pk] = shaped_body(delivery.rule, context)
        except mapping.MappingFailed as error:
            logger.info("%s still cannot be shaped: %s", delivery.public_id, error)
    return bodies
