"""Rules: which events go to which connection, in what shape. Whatever a rule says is checked when it is saved."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction

from connections import providers
from connections.models import Connection
from delivery.models import Rule
from delivery.rules.filters import filter_mistakes, filter_warnings
from delivery.rules.mapping import field_mistakes
from delivery.rules.mapping_spelling import mapping_mistakes, mapping_warnings
from delivery.rules.patterns import Note, RuleError, check_pattern, odd_pattern
from meshes.api.fields import store
from meshes.api.problems import Problem, invalid
from meshes.kit.spelling import suggested
from workspaces.models import Workspace


def create(workspace: Workspace, columns: Mapping[str, Any]) -> Rule:
    """A new rule. `columns` are validated in form; raises Problem 422 for what is wrong in what they say."""
    most = settings.MESHES_RULES_PER_WORKSPACE
    rule = Rule(workspace=workspace, **columns)
    with transaction.atomic():
        locked = Workspace.objects.select_for_update(no_key=True).filter(pk=workspace.pk)
        if not locked.exists():  # makers of rules wait for one another, so that each counts the others'
            raise Problem(404)
        if Rule.objects.filter(workspace=workspace, deleted_at=None)[:most].count() >= most:
            detail = f"A workspace has at most {most:,} rules (MESHES_RULES_PER_WORKSPACE); delete one first."
            raise invalid("", detail, "limit")
        _check(rule, columns)
        rule.save(force_insert=True)
    return rule


def change(rule_id: uuid.UUID, columns: Mapping[str, Any]) -> Rule:
    """Change a rule: events from now on see its next version. Raises Problem, 404 where it was deleted meanwhile."""
    with transaction.atomic():
        rule = Rule.objects.select_for_update().filter(pk=rule_id, deleted_at=None).first()
        if rule is None:
            raise Problem(404)
        for name, value in columns.items():
            setattr(rule, name, value)
        _check(rule, columns)
        store(rule, **{**columns, "action": rule.action, "version": rule.version + 1})
    return rule


def delete(rule: Rule, now: datetime) -> None:
    """Leave a tombstone: no event follows the rule any more; deliveries because of it go on and can be read."""
    living = Rule.objects.filter(pk=rule.pk, deleted_at=None)
    living.update(deleted_at=now, updated_at=now, enabled=False, version=rule.version + 1)


def warnings(rule: Rule) -> list[Note]:
    """What a rule says that may be meant, and mostly is not. `rule.connection` is at hand."""
    words = odd_pattern(rule.event)
    found = [{"pointer": "/event", "detail": words, "rule": "event_pattern"}] if words else []
    if rule.filter:
        found += filter_warnings(rule.filter, "filter")
    if rule.mapping:
        found += mapping_warnings(rule.mapping, providers.get(rule.connection.type).action(rule.action), "mapping")
    return found


def _check(rule: Rule, columns: Mapping[str, Any]) -> None:
    """Give the rule an action where it has none, the provider's first.

    Raises Problem 422 with every mistake in these columns; a filter and a mapping from before go on as they are.
    """
    if "connection_id" in columns:
        live = Connection.objects.filter(pk=rule.connection_id, workspace_id=rule.workspace_id, deleted_at=None)
        if (connection := live.first()) is None:  # a foreign one is an unknown one
            raise invalid("/connection", "This workspace has no such connection.", "unknown")
        rule.connection = connection
    mistakes: list[Note] = []
    try:
        check_pattern(rule.event)
    except RuleError as error:
        mistakes.append({"pointer": "/event", "detail": f"This {error.message}", "rule": "event_pattern"})
    if columns.get("filter") is not None:
        mistakes += filter_mistakes(rule.filter, "filter")
    if columns.get("mapping") is not None:
        mistakes += mapping_mistakes(rule.mapping, "mapping")
    provider = providers.get(rule.connection.type)
    known = [each.slug for each in provider.actions]
    rule.action = rule.action or known[0]
    if rule.action not in known:
        detail = f"{provider.name} can {', '.join(known)}.{suggested(rule.action, known)}"
        mistakes.append({"pointer": "/action", "detail": detail, "rule": "action"})
    if not mistakes:  # the mapping is asked once it is right in itself, and the action known
        in_mapping = field_mistakes(provider.action(rule.action), rule.mapping)
        mistakes = [each | {"pointer": f"/mapping{each['pointer']}"} for each in in_mapping]
    if mistakes:
        raise Problem(422, errors=mistakes)
