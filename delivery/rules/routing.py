"""The rules of workspaces as fan-out uses them, read once and compiled once, and what they make of an event.

Every workspace with rules has a stamp, a row of `routing_stamps`. Triggers in the database move it on whenever a rule,
or what fan-out needs to know of a connection or of the workspace, is written by anybody. Fan-out reads the stamps in
the statement that brings its events, so what was committed before that statement is seen by it: no rule is stale.

To evaluate is pure work on one event, in the thread of its own task, at its workspace's expense: nothing of it reads a
clock or a database, so running an event again gives the same ledger and the same deliveries.
"""

import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from cachetools import LRUCache

from connections import providers
from connections.providers.base import Action
from delivery.lanes import brokers
from delivery.models import RoutingStamp, Rule
from delivery.rules import mapping
from delivery.rules.conditions import Clause
from delivery.rules.filters import Filter, compile_filter
from delivery.rules.patterns import RuleError, pattern_matches
from delivery.rules.regexes import estimate_work
from delivery.rules.transforms import ShapingError
from meshes.kit import ids
from meshes.kit.metering import EVENT_STEPS, RULE_STEPS, Meter, OutOfWorkError, ignore, reading_steps, share_out
from workspaces.models import Workspace

STEPS_PER_RULE = 60
"""What a rule costs that asks nothing: its entry, and the row of its delivery."""
STEPS_PER_COMPILATION = 10_000
"""What it costs to compile an ordinary rule, which is done once. A large mapping costs more:"""
STEPS_PER_MAPPING_ENTRY, STEPS_PER_SIGN = 400, 40
STEPS_PER_MICROSECOND = 14
"""Of what regular expressions cost to compile."""
MOST_RULES_KEPT = 20_000
"""Compiled rules that a process keeps, of all workspaces together; a rule with filter and mapping has some 10 KB."""
MOST_TYPES_KEPT = 1_000
"""Event types whose rules a workspace remembers; types come from outside, and may be many."""
EVALUATION_LIMIT = "evaluation_limit"


class CompiledRule:
    """A rule with all that does not depend on the event. What does not compile raises at every use.

    Of its form `before`, filter and mapping are taken over where they were compiled and have not changed.
    """

    def __init__(self, rule: Rule, before: "CompiledRule | None" = None) -> None:
        self.rule = rule
        self._was_compiled = False
        compiled, old = (vars(before), before.rule) if before else ({}, rule)
        if "filter" in compiled and rule.filter == old.filter:
            self.filter = compiled["filter"]
        of_mapping = [(each.mapping, each.action, each.connection.type) for each in (rule, old) if compiled]
        if "mapping" in compiled and of_mapping[0] == of_mapping[1]:
            self.mapping = compiled["mapping"]
        self.entry: dict[str, Any] = {
            "rule": rule.public_id,
            "version": rule.version,
            "connection": ids.encode(ids.CONNECTION, rule.connection_id),
        }
        """What the ledger says of the rule, whatever becomes of it."""

    @cached_property
    def reads_event(self) -> bool:
        """Whether it needs the event's content, and not only its type."""
        return self.rule.filter is not None or self.mapping is not None

    @cached_property
    def filter(self) -> Filter | None:
        return None if self.rule.filter is None else compile_filter(self.rule.filter)

    @cached_property
    def mapping(self) -> mapping.Mapping | None:
        """The rule's own entries, and the defaults of the action's fields that it does not name."""
        entries = mapping.complete(self.action, self.rule.mapping)
        return None if entries is None else mapping.compile_mapping(entries)

    @property
    def action(self) -> Action:
        return providers.get(self.rule.connection.type).action(self.rule.action)

    @cached_property
    def frozen(self) -> str:
        """JSON: the part of the connection's config that shapes the body."""
        connection = self.rule.connection
        return json.dumps(providers.get(connection.type).frozen_config(connection.config))

    @property
    def is_live(self) -> bool:
        return self.rule.enabled and self.rule.connection.status != "deleted"

    @property
    def is_compiled(self) -> bool:
        return self._was_compiled or {"filter", "mapping"} <= vars(self).keys()

    def compile(self) -> None:
        """Compile what is not yet. What does not compile raises where it is used."""
        with suppress(RuleError):
            _ = self.filter, self.mapping
        self._was_compiled = True

    @cached_property
    def compilation_steps(self) -> int:
        """What it costs to compile, at most, about."""
        expressions = [str(entry.get("from", "")) for entry in self.rule.mapping or ()]
        of_mapping = sum(STEPS_PER_MAPPING_ENTRY + STEPS_PER_SIGN * len(expression) for expression in expressions)
        of_filter = sum(STEPS_PER_MICROSECOND * estimate_work(each) for each in set(_regexes_of(self.rule.filter)))
        return max(STEPS_PER_COMPILATION, of_mapping) + of_filter

    def failed_clause(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        """The first clause of the filter that does not hold, if any. Raises `metering.OutOfWorkError`."""
        return None if self.filter is None else self.filter.explain(context, meter)

    def shaped_body(self, context: dict[str, Any], meter: Meter) -> str | None:
        """The JSON text that the rule's mapping makes, or None without a mapping.

        Raises OutOfWorkError, and ShapingError that names rule, entry and expression. A default is not in the rule's
        own mapping: it is named by its field.
        """
        if self.mapping is None:
            return None
        try:
            shaped = self.mapping.apply(context, meter)
        except ShapingError as failure:
            rule, words, place = self.rule.public_id, failure.message, failure.pointer
            entries = mapping.complete(self.action, self.rule.mapping)
            if entries is None or not place:
                raise ShapingError(f"{words} (rule {rule})", "") from None
            index = int(place.split("/")[1])
            entry = entries[index]
            if index >= len(self.rule.mapping or ()):
                words = f"the required field {entry['to']} {words}; its default is {entry['from']}"
                raise ShapingError(f"{words} (rule {rule})", "") from None
            made = f"from {entry['from']}" if "from" in entry else "from its value"
            raise ShapingError(f"{words} (rule {rule}, entry {index}: {entry['to']} {made})", place) from None
        return json.dumps(shaped, ensure_ascii=False, separators=(",", ":"))


def _regexes_of(document: Any) -> Iterator[str]:
    """The regular expressions of a filter, as they are written."""
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    if isinstance(document, dict) and isinstance(pattern := document.get("$regex"), str):
        yield pattern
    for part in inner:
        yield from _regexes_of(part)


class Routing:
    """The live rules of one workspace, as they were at a stamp or a little later. Threads share it."""

    def __init__(self, stamp: int, workspace: Workspace, rules: list[Rule], before: "Routing | None" = None) -> None:
        self.stamp = stamp
        self.workspace = workspace
        compiled = {each.rule.pk: each for each in before.rules} if before else {}
        self.rules: list[CompiledRule] = [CompiledRule(rule, compiled.get(rule.pk)) for rule in rules]
        self._by_type: LRUCache[str, list[CompiledRule]] = LRUCache(MOST_TYPES_KEPT)
        self._lock = threading.Lock()

    def named(self, event_type: str) -> list[CompiledRule]:
        """The rules whose pattern names an event type, oldest first."""
        with self._lock:
            found = self._by_type.get(event_type)
            if found is None:
                found = [each for each in self.rules if pattern_matches(each.rule.event, event_type)]
                self._by_type[event_type] = found
            return found

    def compilation_steps(self, event_type: str) -> int:
        """What it costs at most to compile those rules that name an event type and are not compiled yet."""
        return sum(each.compilation_steps for each in self.named(event_type) if not each.is_compiled)

    def compile(self, event_type: str, steps: int) -> None:
        """Compile rules that name an event type: as many as cost no more than so much, and one at least."""
        done = 0
        for each in self.named(event_type):
            if not each.is_compiled:
                done += each.compilation_steps
                if done > steps and done > each.compilation_steps:
                    return
                each.compile()


# --- reading ----------------------------------------------------------------------------------------------------------

_kept: LRUCache[uuid.UUID, Routing] = LRUCache(
    MOST_RULES_KEPT, getsizeof=lambda routing: min(MOST_RULES_KEPT, len(routing.rules) + 1)
)
_lock = threading.Lock()


def current(workspace_id: uuid.UUID) -> Routing:
    """The rules of a workspace as they are now."""
    stamp = RoutingStamp.objects.filter(workspace_id=workspace_id).values_list("stamp", flat=True).first() or 0
    return routings_of({workspace_id: stamp})[workspace_id]


def kept(workspace_id: uuid.UUID, stamp: int | None = None) -> Routing | None:
    """The rules of a workspace as they were at the stamp, or at any, if this process has them."""
    with _lock:
        found = _kept.get(workspace_id)
    return found if found is not None and stamp in (None, found.stamp) else None


def keep(routing: Routing) -> Routing:
    """Keep the rules of a workspace as if they had been read here. Returns them."""
    with _lock:
        _kept[routing.workspace.pk] = routing
    return routing


def routings_of(stamps: Mapping[uuid.UUID, int]) -> dict[uuid.UUID, Routing]:
    """The rules of workspaces, by their ids, at least as new as the stamps. Two queries if any must be read.

    They are read after the stamps were, so maybe newer than these say: then the next batch has newer ones, and reads
    again.
    """
    found = {key: routing for key, stamp in stamps.items() if (routing := kept(key, stamp))}
    if missing := {key: stamp for key, stamp in stamps.items() if key not in found}:
        rules: dict[uuid.UUID, list[Rule]] = {key: [] for key in missing}
        live = Rule.objects.filter(workspace_id__in=missing, deleted_at=None, workspace__deleted_at=None)
        for rule in live.select_related("connection").order_by("id"):
            rules[rule.workspace_id].append(rule)
        workspaces = Workspace.objects.in_bulk(missing)
        for key, stamp in missing.items():
            found[key] = keep(Routing(stamp, workspaces[key], rules[key], kept(key)))
    return found


# --- evaluating -------------------------------------------------------------------------------------------------------


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
    def hint(self) -> brokers.DeliveryHint:
        return self.workspace_id, self.connection_id, self.id


Shaped = tuple[dict[str, Any], NewDelivery | None]
"""What one rule makes of one event: the ledger entry and, unless it did not match, the delivery."""


@dataclass(frozen=True, slots=True)
class Routed:
    """An event and what every rule that names its type makes of it: the ledger and the deliveries."""

    fact: Fact
    entries: list[dict[str, Any]]
    deliveries: list[NewDelivery]
    steps: int
    """What it cost, see `meshes.kit.metering`."""


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
    entries = [next(made)[0] if rule.is_live else rule.entry | {"result": "disabled"} for rule in named]
    return Routed(fact, entries, [delivery for _, delivery in shaped if delivery], reading + spent)


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
            "created_at": ids.created_at(event_id).isoformat().replace("+00:00", "Z"),
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
        return entry | {"result": "filtered", "clause": clause}, None
    made = delivery_id(fact.event_id, rule.pk)
    entry = entry | {"delivery": ids.encode(ids.DELIVERY, made)}
    try:
        body = compiled.shaped_body(context, meter)
    except ShapingError as error:
        dead = _delivery(made, fact, compiled, None, "dead", "mapping_failed", str(error))
        return entry | {"result": "mapping_failed", "reason": str(error)}, dead
    status, reason = rule.connection.status, rule.connection.status_reason
    if status != "active":
        held = _delivery(made, fact, compiled, body, "held", status, reason)
        return entry | {"result": "held", "reason": status}, held
    return entry | {"result": "matched"}, _delivery(made, fact, compiled, body, "pending")


def give_up(fact: Fact, compiled: CompiledRule, meter: Meter) -> Shaped:
    """A dead letter for what the rule could not decide within its steps: that is not the same as no match."""
    made = delivery_id(fact.event_id, compiled.rule.pk)
    reason = limit_words(compiled.rule, meter)
    entry = {"result": EVALUATION_LIMIT, "delivery": ids.encode(ids.DELIVERY, made), "reason": reason}
    dead = _delivery(made, fact, compiled, None, "dead", EVALUATION_LIMIT, reason)
    return compiled.entry | entry | {"steps": meter.given}, dead


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
