"""What an event's rules make of it: pure work on one event, in the thread of its own task, at its workspace's expense.

Nothing here reads a clock or a database, so running an event again gives the same ledger and the same deliveries.
"""

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from delivery.lanes import publishing
from delivery.models import Rule, event_time
from delivery.rules.routing import CompiledRule, Routing
from delivery.rules.transforms import ShapingError
from meshes.kit import ids
from meshes.kit.metering import EVENT_STEPS, RULE_STEPS, Meter, OutOfWorkError, ignore, reading_steps, share_out
from workspaces.models import Workspace

EVALUATION_LIMIT = "evaluation_limit"
STEPS_PER_RULE = 60
"""What a rule costs that asks nothing: its entry, and the row of its delivery."""


@dataclass(frozen=True, slots=True)
class Fact:
    """An event as its rules need it; `payload` is the JSON text as received, `stamp` that of the workspace's rules."""

    event_id: uuid.UUID
    workspace_id: uuid.UUID
    type: str
    payload: str
    stamp: int = 0


class NewDelivery(NamedTuple):
    """A row of `deliveries` that is to be written, but for its times."""

    id: uuid.UUID
    workspace_id: uuid.UUID
    event_id: uuid.UUID
    rule_id: uuid.UUID
    connection_id: uuid.UUID
    event_type: str
    action: str
    body: str | None
    frozen: str
    status: str
    cause: str = ""
    detail: str = ""

    @property
    def hint(self) -> publishing.DeliveryHint:
        return self.workspace_id, self.connection_id, self.id


@dataclass(frozen=True, slots=True)
class Shaped:
    """What one rule makes of one event: the ledger entry and, unless it did not match, the delivery."""

    entry: dict[str, Any]
    delivery: NewDelivery | None = None


@dataclass(frozen=True, slots=True)
class Routed:
    """An event and what every rule that names its type makes of it."""

    fact: Fact
    considered: list[Shaped]
    steps: int
    """What it cost, see `meshes.kit.metering`."""

    @property
    def deliveries(self) -> list[NewDelivery]:
        return [shaped.delivery for shaped in self.considered if shaped.delivery]

    @property
    def body_size(self) -> int:
        """Characters of all bodies that are to be written."""
        return sum(len(delivery.body or "") for delivery in self.deliveries)


def delivery_id(event_id: uuid.UUID, rule_id: uuid.UUID) -> uuid.UUID:
    """The event's 48-bit time, then UUIDv7-shaped bits of SHA-256(event id, rule id)."""
    digest = hashlib.sha256(event_id.bytes + rule_id.bytes).digest()
    tail = int.from_bytes(digest[:10], "big")
    tail = tail & ~(0xF << 76) | 0x7 << 76  # version 7
    tail = tail & ~(0x3 << 62) | 0x2 << 62  # variant 10
    return uuid.UUID(int=ids.milliseconds(event_id) << 80 | tail)


def evaluate(fact: Fact, rules: Routing, note: Callable[[int], None] = ignore) -> Routed:
    """Decide what every rule that names the event's type makes of it, within what one event may cost.

    `note` is told now and then how many steps it has taken; what it raises ends the evaluation.
    """
    named = rules.named(fact.type)
    live = [rule for rule in named if rule.is_live]
    context, reading = {}, 0
    if any(rule.reads_event for rule in live):
        reading = reading_steps(fact.payload)
        context = context_of(fact.event_id, fact.type, json.loads(fact.payload), rules.workspace)
    shaped, spent = share_out(
        live,
        EVENT_STEPS - reading,
        lambda rule, meter: shape(fact, rule, context, meter),
        lambda rule, meter: give_up(fact, rule, meter),
        lambda spent: note(reading + spent),
    )
    made = iter(shaped)
    considered = [next(made) if rule.is_live else Shaped(rule.entry | {"result": "disabled"}) for rule in named]
    return Routed(fact, considered, reading + spent)


def evaluate_one(fact: Fact, compiled: CompiledRule, rules: Routing, payload: Any) -> Shaped:
    """Decide what one rule, in use or not, makes of an event beside its workspace's others, as `evaluate` would."""
    context = context_of(fact.event_id, fact.type, payload, rules.workspace)
    steps = EVENT_STEPS - (reading_steps(fact.payload) if compiled.reads_event else 0)
    beside = [rule for rule in rules.named(fact.type) if rule.is_live and rule.rule.pk != compiled.rule.pk]
    try:
        return shape(fact, compiled, context, Meter(min(RULE_STEPS, steps // (len(beside) + 1))))
    except OutOfWorkError:
        live = sorted([compiled, *beside], key=lambda rule: rule.rule.pk)
        shaped, _ = share_out(
            live,
            steps,
            lambda rule, meter: shape(fact, rule, context, meter),
            lambda rule, meter: give_up(fact, rule, meter),
        )
        return shaped[live.index(compiled)]


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


def shape(fact: Fact, compiled: CompiledRule, context: dict[str, Any], meter: Meter) -> Shaped:
    """Decide what a live rule whose pattern names the event makes of it. Raises OutOfWorkError."""
    rule, entry = compiled.rule, compiled.entry
    meter.charge(STEPS_PER_RULE)
    clause = compiled.failed_clause(context, meter)
    if clause is not None:
        return Shaped(entry | {"result": "filtered", "clause": clause})
    made = delivery_id(fact.event_id, rule.pk)
    entry = entry | {"delivery": ids.encode(ids.DELIVERY, made)}
    try:
        body = compiled.shaped_body(context, meter)
    except ShapingError as error:
        dead = _delivery(made, fact, compiled, None, "dead", "mapping_failed", str(error))
        return Shaped(entry | {"result": "mapping_failed", "reason": str(error)}, dead)
    status, reason = rule.connection.status, rule.connection.status_reason
    if status != "active":
        held = _delivery(made, fact, compiled, body, "held", status, reason)
        return Shaped(entry | {"result": "held", "reason": status}, held)
    return Shaped(entry | {"result": "matched"}, _delivery(made, fact, compiled, body, "pending"))


def give_up(fact: Fact, compiled: CompiledRule, meter: Meter) -> Shaped:
    """A dead letter for what the rule could not decide within its steps: that is not the same as no match."""
    made = delivery_id(fact.event_id, compiled.rule.pk)
    reason = limit_words(compiled.rule, meter)
    entry = {"result": "evaluation_limit", "delivery": ids.encode(ids.DELIVERY, made), "reason": reason}
    return Shaped(
        compiled.entry | entry | {"steps": meter.given},
        _delivery(made, fact, compiled, None, "dead", EVALUATION_LIMIT, reason),
    )


def limit_words(rule: Rule, meter: Meter) -> str:
    """Which rule, where in it, and what it had."""
    return f"{rule.public_id}: {meter.at or 'the rule'} needs more than the {meter.given:,} steps that were left for it"


def _delivery(
    made: uuid.UUID,
    fact: Fact,
    compiled: CompiledRule,
    body: str | None,
    status: str,
    cause: str = "",
    detail: str = "",
) -> NewDelivery:
    rule = compiled.rule
    return NewDelivery(
        made, fact.workspace_id, fact.event_id, rule.pk, rule.connection_id, fact.type, rule.action, body,
        compiled.frozen, status, cause, detail,
    )  # fmt: skip
