"""The rules of workspaces as fan-out uses them: read once, compiled once, and never stale.

Every workspace with rules has a stamp, a row of `routing_stamps`. Triggers in the database move it on whenever a rule,
or what fan-out needs to know of a connection or of the workspace, is written by anybody. Fan-out reads the stamps in
the statement that brings its events, so what was committed before that statement is seen by it.
"""

import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from connections import providers
from connections.providers.base import Action
from delivery.models import RoutingStamp, Rule
from delivery.rules.conditions import Clause
from delivery.rules.filters import Filter, compile_filter
from delivery.rules.mapping import Mapping as CompiledMapping
from delivery.rules.mapping import compile_mapping, complete
from delivery.rules.patterns import RuleError, pattern_matches
from delivery.rules.regexes import estimate_work
from delivery.rules.transforms import ShapingError
from meshes.kit import ids
from meshes.kit.metering import Meter
from workspaces.models import Workspace

STEPS_PER_COMPILATION = 10_000
"""What it costs to compile an ordinary rule, which is done once. A large mapping costs more:"""
STEPS_PER_ENTRY, STEPS_PER_SIGN = 400, 40
STEPS_PER_MICROSECOND = 14
"""Of what regular expressions cost to compile."""
MOST_RULES_KEPT = 20_000
"""Compiled rules that a process keeps, of all workspaces together; a rule with filter and mapping has some 10 KB."""
MOST_TYPES_KEPT = 1_000
"""Event types whose rules a workspace remembers; types come from outside, and may be many."""


class CompiledRule:
    """A rule with all that does not depend on the event. What does not compile raises at every use.

    Of its form `before`, filter and mapping are taken over where they were compiled and have not changed.
    """

    def __init__(self, rule: Rule, before: "CompiledRule | None" = None) -> None:
        self.rule = rule
        self._was_compiled = False
        if before is not None:
            self._take_over(before)
        self.entry: dict[str, Any] = {
            "rule": rule.public_id,
            "version": rule.version,
            "connection": ids.encode(ids.CONNECTION, rule.connection_id),
        }
        """What the ledger says of the rule, whatever becomes of it."""

    def _take_over(self, before: "CompiledRule") -> None:
        compiled, rule, old = vars(before), self.rule, before.rule
        if "filter" in compiled and rule.filter == old.filter:
            self.filter = before.filter
        of_mapping = [(each.mapping, each.action, each.connection.type) for each in (rule, old)]
        if "mapping" in compiled and of_mapping[0] == of_mapping[1]:
            self.mapping = before.mapping

    @cached_property
    def reads_event(self) -> bool:
        """Whether it needs the event's content, and not only its type."""
        return self.rule.filter is not None or self.mapping is not None

    @cached_property
    def filter(self) -> Filter | None:
        return None if self.rule.filter is None else compile_filter(self.rule.filter)

    @cached_property
    def mapping(self) -> CompiledMapping | None:
        """The rule's own entries, and the defaults of the action's fields that it does not name."""
        entries = complete(self.action, self.rule.mapping)
        return None if entries is None else compile_mapping(entries)

    @property
    def action(self) -> Action:
        return providers.get(self.rule.connection.type).action(self.rule.action)

    @cached_property
    def frozen(self) -> str:
        """JSON: the part of the connection's config that shapes the body."""
        connection = self.rule.connection
        return json.dumps(providers.get(connection.type).frozen_config(connection.config))

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
        of_mapping = sum(STEPS_PER_ENTRY + STEPS_PER_SIGN * len(expression) for expression in expressions)
        patterns = set(_regexes_of(self.rule.filter))
        of_filter = sum(STEPS_PER_MICROSECOND * estimate_work(pattern) for pattern in patterns)
        return max(STEPS_PER_COMPILATION, of_mapping) + of_filter

    @property
    def is_live(self) -> bool:
        return self.rule.enabled and self.rule.connection.status != "deleted"

    def failed_clause(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        """The first clause of the filter that does not hold, if any. Raises `metering.OutOfWorkError`."""
        return None if self.filter is None else self.filter.explain(context, meter)

    def shaped_body(self, context: dict[str, Any], meter: Meter) -> str | None:
        """The JSON text that the rule's mapping makes, or None without a mapping.

        Raises `ShapingError`, `metering.OutOfWorkError`.
        """
        if self.mapping is None:
            return None
        try:
            shaped = self.mapping.apply(context, meter)
        except ShapingError as failure:
            raise _explained(self, failure) from None
        return json.dumps(shaped, ensure_ascii=False, separators=(",", ":"))


def _regexes_of(document: Any) -> Iterator[str]:
    """The regular expressions of a filter, as they are written."""
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    if isinstance(document, dict) and isinstance(pattern := document.get("$regex"), str):
        yield pattern
    for part in inner:
        yield from _regexes_of(part)


def _explained(compiled: CompiledRule, failure: ShapingError) -> ShapingError:
    """Named by rule, entry and expression. A default stands nowhere in the rule's own mapping: it is named by field."""
    index = failure.pointer.partition("/")[2].partition("/")[0]
    entries = complete(compiled.action, compiled.rule.mapping)
    if entries is None or not index:
        return ShapingError(f"{failure.message} (rule {compiled.rule.public_id})", "")
    entry = entries[int(index)]
    if int(index) >= len(compiled.rule.mapping or ()):
        words = f"the required field {entry['to']} {failure.message}; its default is {entry['from']}"
        return ShapingError(f"{words} (rule {compiled.rule.public_id})", "")
    made = f"from {entry['from']}" if "from" in entry else "from its value"
    words = f"{failure.message} (rule {compiled.rule.public_id}, entry {index}: {entry['to']} {made})"
    return ShapingError(words, failure.pointer)


class Routing:
    """The live rules of one workspace, as they were at a stamp or a little later."""

    def __init__(self, stamp: int, workspace: Workspace, rules: list[Rule], before: "Routing | None" = None) -> None:
        self.stamp = stamp
        self.workspace = workspace
        compiled = {each.rule.pk: each for each in before.rules} if before else {}
        self.rules: list[CompiledRule] = [CompiledRule(rule, compiled.get(rule.pk)) for rule in rules]
        self._by_type: dict[str, list[CompiledRule]] = {}

    def named(self, event_type: str) -> list[CompiledRule]:
        """The rules whose pattern names an event type, oldest first."""
        found = self._by_type.get(event_type)
        if found is None:
            if len(self._by_type) >= MOST_TYPES_KEPT:
                self._by_type.clear()
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


_kept: dict[uuid.UUID, Routing] = {}
"""The least lately used first."""
_lock = threading.Lock()


def current(workspace_id: uuid.UUID) -> Routing:
    """The rules of a workspace as they are now."""
    stamp = RoutingStamp.objects.filter(workspace_id=workspace_id).values_list("stamp", flat=True).first() or 0
    return routings_of({workspace_id: stamp})[workspace_id]


def kept(workspace_id: uuid.UUID, stamp: int | None = None) -> Routing | None:
    """The rules of a workspace as they were at the stamp, or at any, if this process has them."""
    with _lock:
        found = _kept.get(workspace_id)
        if found is None or stamp not in (None, found.stamp):
            return None
        _kept[workspace_id] = _kept.pop(workspace_id)
        return found


def keep(routing: Routing) -> Routing:
    """Keep the rules of a workspace as if they had been read here. Returns them."""
    with _lock:
        _kept.pop(routing.workspace.pk, None)
        _kept[routing.workspace.pk] = routing
        _drop_beyond(MOST_RULES_KEPT)
    return routing


def routings_of(stamps: Mapping[uuid.UUID, int]) -> dict[uuid.UUID, Routing]:
    """The rules of workspaces, by their ids, at least as new as the stamps. Two queries if any must be read."""
    with _lock:
        found = {key: kept for key, stamp in stamps.items() if (kept := _kept.get(key)) and kept.stamp == stamp}
    if missing := {key: stamp for key, stamp in stamps.items() if key not in found}:
        found |= _load(missing)
    with _lock:
        for key, routing in found.items():
            _kept.pop(key, None)
            _kept[key] = routing
        if missing:
            _drop_beyond(MOST_RULES_KEPT)
    return found


def _load(stamps: Mapping[uuid.UUID, int]) -> dict[uuid.UUID, Routing]:
    """Read after the stamps were, so maybe newer than they say: then the next batch has newer ones, and reads again."""
    rules: dict[uuid.UUID, list[Rule]] = {}
    live = Rule.objects.filter(workspace_id__in=stamps, deleted_at=None, workspace__deleted_at=None)
    for rule in live.select_related("connection").order_by("id"):
        rules.setdefault(rule.workspace_id, []).append(rule)
    workspaces = Workspace.objects.in_bulk(stamps)
    return {key: Routing(stamp, workspaces[key], rules.get(key, []), _kept.get(key)) for key, stamp in stamps.items()}


def _drop_beyond(most: int) -> None:
    size = sum(len(routing.rules) + 1 for routing in _kept.values())
    while size > most and len(_kept) > 1:
        oldest = next(iter(_kept))
        size -= len(_kept.pop(oldest).rules) + 1
