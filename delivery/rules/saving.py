"""Rules: which events go to which connection, in what shape. Whatever a rule says is checked when it is saved."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction

from connections import providers
from connections.models import Connection
from delivery.models import Rule
from delivery.rules import evaluation, preview, routing
from delivery.rules.filters import filter_mistakes, filter_warnings
from delivery.rules.mapping import field_mistakes
from delivery.rules.mapping_spelling import mapping_mistakes, mapping_warnings
from delivery.rules.patterns import RuleError, check_pattern, odd_pattern, pattern_matches
from delivery.rules.routing import CompiledRule
from meshes.api.problems import Problem
from meshes.kit.spelling import suggested
from workspaces.models import Workspace

SAVED = ("connection", "name", "event", "filter", "mapping", "action", "enabled", "version", "updated_at")
"""Columns that a change writes."""

Mistake = dict[str, str]


# --- saving ---------------------------------------------------------------------------------------------------------


def create(workspace: Workspace, fields: Mapping[str, Any]) -> Rule:
    """A new rule. `fields` are validated in form; raises Problem 422 for what is wrong in what they say."""
    most = settings.MESHES_RULES_PER_WORKSPACE
    rule = Rule(workspace=workspace)
    with transaction.atomic():
        locked = Workspace.objects.select_for_update(no_key=True).filter(pk=workspace.pk)
        if not locked.exists():  # makers of rules wait for one another, so that each counts the others'
            raise Problem(404)
        if Rule.objects.filter(workspace=workspace, deleted_at=None)[:most].count() >= most:
            detail = f"A workspace has at most {most:,} rules (MESHES_RULES_PER_WORKSPACE); delete one first."
            raise Problem(422, errors=[_mistake("", detail, "limit")])
        _fill(rule, fields)
        rule.save(force_insert=True)
    return rule


def change(rule_id: uuid.UUID, fields: Mapping[str, Any]) -> Rule:
    """Change a rule: events from now on see its next version. Raises Problem, 404 where it was deleted meanwhile."""
    with transaction.atomic():
        rule = Rule.objects.select_for_update().filter(pk=rule_id, deleted_at=None).first()
        if rule is None:
            raise Problem(404)
        _fill(rule, fields)
        rule.version += 1
        rule.save(update_fields=SAVED)
    return rule


def delete(rule: Rule, now: datetime) -> None:
    """Leave a tombstone: no event follows the rule any more; deliveries because of it go on and can be read."""
    living = Rule.objects.filter(pk=rule.pk, deleted_at=None)
    living.update(deleted_at=now, updated_at=now, enabled=False, version=rule.version + 1)


def _fill(rule: Rule, fields: Mapping[str, Any]) -> None:
    mistakes: list[Mistake] = []
    if "connection" in fields:
        rule.connection = _find_connection(rule.workspace_id, fields["connection"])
    for name in ("name", "event", "filter", "mapping", "enabled"):
        if name in fields:
            setattr(rule, name, fields[name])
    mistakes += _mistakes_in_documents(rule, fields)
    mistakes += _choose_action(rule, fields)
    mistakes = mistakes or _mistakes_about_fields(rule)
    if mistakes:
        raise Problem(422, errors=mistakes)


def _find_connection(workspace_id: uuid.UUID, connection_id: uuid.UUID) -> Connection:
    """A foreign connection is an unknown one; a rule and its connection are of one workspace."""
    found = Connection.objects.filter(pk=connection_id, workspace_id=workspace_id, deleted_at=None).first()
    if found is None:
        raise Problem(422, errors=[_mistake("/connection", "This workspace has no such connection.", "unknown")])
    return found


def _mistakes_in_documents(rule: Rule, fields: Mapping[str, Any]) -> list[Mistake]:
    """What is wrong with what is written now; a filter and a mapping from before go on as they are."""
    mistakes: list[Mistake] = []
    try:
        check_pattern(rule.event)
    except RuleError as error:
        mistakes.append(_mistake("/event", f"This {error}", "event_pattern"))
    if fields.get("filter") is not None:
        mistakes += filter_mistakes(fields["filter"], "filter")
    if fields.get("mapping") is not None:
        mistakes += mapping_mistakes(fields["mapping"], "mapping")
    return mistakes


def warnings(rule: Rule) -> list[Mistake]:
    """What a rule says that may be meant, and mostly is not. `rule.connection` is at hand."""
    words = odd_pattern(rule.event)
    found = [_mistake("/event", words, "event_pattern")] if words else []
    if rule.filter:
        found += filter_warnings(rule.filter, "filter")
    if rule.mapping:
        action = providers.get(rule.connection.type).action(rule.action)
        found += mapping_warnings(rule.mapping, action, "mapping")
    return found


def _choose_action(rule: Rule, fields: Mapping[str, Any]) -> list[Mistake]:
    """The action that is asked for, else the one it has, else the provider's first."""
    provider = providers.get(rule.connection.type)
    known = [action.slug for action in provider.actions]
    rule.action = fields.get("action") or rule.action or known[0]
    if rule.action in known:
        return []
    words = f"{provider.name} can {', '.join(known)}.{suggested(rule.action, known)}"
    return [_mistake("/action", words, "action")]


def _mistakes_about_fields(rule: Rule) -> list[Mistake]:
    """What a mapping that is right in itself gets wrong about its action: it is asked once the action is known."""
    action = providers.get(rule.connection.type).action(rule.action)
    return [each | {"pointer": f"/mapping{each['pointer']}"} for each in field_mistakes(action, rule.mapping)]


def _mistake(pointer: str, detail: str, rule: str) -> Mistake:
    return {"pointer": pointer, "detail": detail, "rule": rule}


# --- trying ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trial:
    """What a rule makes of an event. `reason` says why it does not match, or why nothing could be sent."""

    matched: bool
    reason: str = ""
    detail: str = ""
    clause: dict[str, Any] | None = None
    request: dict[str, Any] | None = None


def try_rule(rule: Rule, event_id: uuid.UUID, event_type: str, payload: Any, payload_text: str) -> Trial:
    """Try a rule on an event, as fan-out would. Sends nothing, stores nothing, opens no credential."""
    if not pattern_matches(rule.event, event_type):
        return Trial(False, "event", f"The rule is for {rule.event}.")
    fact = evaluation.Fact(event_id, rule.workspace_id, event_type, payload_text)
    made = evaluation.evaluate_one(fact, CompiledRule(rule), routing.current(rule.workspace_id), payload)
    if made.entry["result"] == "filtered":
        return Trial(False, "filter", "A clause of the filter failed.", made.entry["clause"])
    if made.entry["result"] in (evaluation.EVALUATION_LIMIT, "mapping_failed"):
        return Trial(made.entry["result"] == "mapping_failed", made.entry["result"], made.entry["reason"])
    body = made.delivery.body if made.delivery else None
    draft = preview.Draft(
        evaluation.delivery_id(event_id, rule.pk), event_id, event_type, body or payload_text, rule.action
    )
    rendered = preview.try_render(rule.connection, draft)
    return Trial(True, "unsendable" if rendered["error"] else "", rendered["error"], request=rendered["request"])
