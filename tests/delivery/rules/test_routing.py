"""Rules are read once, and read anew by the next event after anybody wrote anything that they depend on."""

from datetime import UTC, datetime, timedelta

import pytest
from cachetools import LRUCache
from django.db import connection as database

from connections.models import Connection
from delivery.models import Delivery, RoutingLedger, RoutingStamp, Rule
from delivery.rules import routing
from tests.factories import fan_out, make_connection, make_event, make_rule, make_workspace
from tests.statements import counted_statements
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def rule():
    """A rule that has been used once, so that it is kept."""
    workspace = make_workspace()
    made = make_rule(make_connection(workspace), mapping=[{"to": "name", "from": "workspace.name"}])
    route(workspace)
    return made


def route(workspace):
    """Fan one more event out; its delivery, if there is one."""
    event = make_event(workspace)
    fan_out([event.pk])
    return Delivery.objects.filter(event=event).first()


def results(workspace):
    event = make_event(workspace)
    fan_out([event.pk])
    return [entry["result"] for entry in RoutingLedger.objects.get(event=event).entries]


def stamp_of(workspace):
    return RoutingStamp.objects.get(workspace=workspace).stamp


def sql(text, *parameters):
    with database.cursor() as cursor:
        cursor.execute(text, parameters)


def test_rules_that_did_not_change_are_not_read_again(rule):
    event = make_event(rule.workspace)
    with counted_statements() as statements:
        fan_out([event.pk])
    assert len([text for text in statements if "SAVEPOINT" not in text]) == 2
    assert not any(" FROM rules" in text or '"rules"' in text for text in statements)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE rules SET enabled = false, version = version + 1 WHERE id = %s",
        "UPDATE rules SET event = 'deal.won' WHERE id = %s",
        "UPDATE rules SET deleted_at = now() WHERE id = %s",
        "UPDATE connections SET status = 'paused' WHERE id = (SELECT connection_id FROM rules WHERE id = %s)",
    ],
)
def test_a_change_past_all_code_is_seen_by_the_next_event(rule, change):
    assert results(rule.workspace) == ["matched"]
    sql(change, rule.pk)
    assert results(rule.workspace) != ["matched"]


def test_a_new_rule_is_seen_by_the_next_event(rule):
    make_rule(rule.connection)
    assert results(rule.workspace) == ["matched", "matched"]


def test_the_first_rule_of_a_workspace_is_seen_by_the_next_event():
    workspace = make_workspace()
    assert results(workspace) == []
    make_rule(make_connection(workspace))
    assert results(workspace) == ["matched"]


def test_a_deleted_rule_row_is_seen_by_the_next_event():
    workspace = make_workspace()
    rule = make_rule(make_connection(workspace))
    assert results(workspace) == ["matched"]
    sql("DELETE FROM deliveries WHERE rule_id = %s", rule.pk)
    sql("DELETE FROM rules WHERE id = %s", rule.pk)
    assert results(workspace) == []


def test_a_frozen_part_of_the_config_is_that_of_the_moment(rule):
    assert route(rule.workspace).frozen == {"body": "wrapped"}
    Connection.objects.filter(pk=rule.connection_id).update(config={"url": "https://example.com/", "body": "raw"})
    assert route(rule.workspace).frozen == {"body": "raw"}


def test_a_workspaces_name_is_that_of_the_moment(rule):
    Workspace.objects.filter(pk=rule.workspace_id).update(name="Renamed")
    assert route(rule.workspace).body == '{"name":"Renamed"}'


def test_what_fan_out_does_not_go_by_moves_no_stamp(rule):
    before = stamp_of(rule.workspace)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    Connection.objects.filter(pk=rule.connection_id).update(paused_until=soon, name="Another", version=2)
    Workspace.objects.filter(pk=rule.workspace_id).update(ingest_rate=5)
    assert stamp_of(rule.workspace) == before


def test_one_statement_moves_the_stamp_of_each_workspace_once(rule):
    other = make_rule(make_connection(make_workspace()))
    before = [stamp_of(each.workspace) for each in (rule, other)]
    Rule.objects.filter(pk__in=[rule.pk, other.pk]).update(enabled=False)
    assert [stamp_of(each.workspace) for each in (rule, other)] == [number + 1 for number in before]


def test_no_more_rules_are_kept_than_allowed(rule, monkeypatch):
    monkeypatch.setattr(routing, "_kept", LRUCache(4, routing._kept.getsizeof))
    others = [make_rule(make_connection(make_workspace())) for _ in range(4)]
    for other in others:
        route(other.workspace)
    assert list(routing._kept) == [other.workspace_id for other in others[-2:]]
    assert results(rule.workspace) == ["matched"]


def test_rules_are_compiled_some_at_a_time(rule):
    for pattern in ("a", "b", r"\pL{20}", "c"):
        make_rule(rule.connection, filter={"payload.a": {"$regex": pattern}})
    rules = routing.current(rule.workspace_id)
    left = []
    while left[-1:] != [0]:
        rules.compile("lead.created", 40_000)
        left.append(rules.compilation_steps("lead.created"))
    assert left == [725_950, 15_950, 0]


def test_a_mapping_that_does_not_compile_is_tried_once(rule):
    Rule.objects.update(mapping=[{"to": "name", "from": "payload.["}])
    rules = routing.current(rule.workspace_id)
    rules.compile("lead.created", 1)
    assert rules.compilation_steps("lead.created") == 0


@pytest.mark.parametrize(
    ("entries", "length", "steps"),
    [(10, 15, 10_000), (100, 15, 100_000), (150, 88, 588_000)],
    ids=["few", "many", "long"],
)
def test_a_mapping_costs_by_its_expressions_to_compile(rule, entries, length, steps):
    Rule.objects.update(mapping=[{"to": f"f{n}", "from": "payload.".ljust(length, "a")} for n in range(entries)])
    assert routing.current(rule.workspace_id).compilation_steps("lead.created") == steps
