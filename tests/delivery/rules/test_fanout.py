"""From an event to deliveries and a ledger."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import IntegrityError, connection, connections, transaction
from hypothesis import given
from hypothesis import strategies as st

from delivery.dispatch import replays
from delivery.models import Delivery, RoutingLedger, Unrouted
from delivery.rules import routing
from meshes.kit import ids
from tests.factories import fan_out, make_connection, make_event, make_rule, make_workspace

pytestmark = pytest.mark.django_db


def ledger_of(event):
    return RoutingLedger.objects.get(event=event).entries


@given(st.uuids(), st.uuids())
def test_delivery_id_is_a_uuid7_at_the_events_moment(event_id, rule_id):
    made = routing.delivery_id(event_id, rule_id)
    assert made == routing.delivery_id(event_id, rule_id)
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert ids.milliseconds(made) == ids.milliseconds(event_id)


def test_every_matching_rule_makes_one_delivery():
    workspace = make_workspace()
    connection = make_connection(workspace)
    rules = [make_rule(connection, event="lead.*"), make_rule(connection), make_rule(connection, event="deal.won")]
    event = make_event(workspace)
    hints = fan_out([event.pk])
    made = Delivery.objects.filter(event=event)
    assert {row.rule_id for row in made} == {rules[0].pk, rules[1].pk}
    assert set(hints) == {(row.workspace_id, connection.pk, row.pk) for row in made}
    assert {row.status for row in made} == {"pending"}
    assert {row.body for row in made} == {None}
    assert not Unrouted.objects.filter(event=event).exists()
    assert [entry["result"] for entry in ledger_of(event)] == ["matched", "matched"]


def test_running_twice_makes_no_doubles():
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    event = make_event(workspace)
    fan_out([event.pk])
    Unrouted.objects.create(event=event, workspace=workspace, created_at=event.created_at)
    fan_out([event.pk])
    assert Delivery.objects.filter(event=event).count() == 1


@pytest.mark.django_db(transaction=True)
def test_fan_outs_at_once_make_no_doubles():
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    events = [make_event(workspace) for _ in range(20)]

    def run(_):
        try:
            return fan_out([event.pk for event in events])
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        hints = [hint for result in pool.map(run, range(4)) for hint in result]
    assert len(hints) == 20
    assert Delivery.objects.filter(workspace=workspace).count() == 20


def test_a_filter_that_refuses_leaves_its_clause_in_the_ledger():
    workspace = make_workspace()
    make_rule(make_connection(workspace), filter={"payload.score": {"$gte": 50}})
    event = make_event(workspace, {"score": 12})
    assert fan_out([event.pk]) == []
    (entry,) = ledger_of(event)
    assert entry["result"] == "filtered"
    assert (entry["clause"]["path"], entry["clause"]["actual"]) == ("payload.score", 12)
    assert not Delivery.objects.filter(event=event).exists()


def test_a_disabled_rule_is_named_in_the_ledger():
    workspace = make_workspace()
    make_rule(make_connection(workspace), enabled=False)
    event = make_event(workspace)
    fan_out([event.pk])
    assert [entry["result"] for entry in ledger_of(event)] == ["disabled"]


@pytest.mark.parametrize("status", ["paused", "disabled", "needs_reauth", "credential_error"])
def test_a_connection_that_may_not_run_holds_its_deliveries(status):
    workspace = make_workspace()
    make_rule(make_connection(workspace, status=status))
    event = make_event(workspace)
    assert fan_out([event.pk]) == []
    delivery = Delivery.objects.get(event=event)
    assert (delivery.status, delivery.cause) == ("held", status)
    assert ledger_of(event)[0]["result"] == "held"


def test_a_mapping_shapes_the_body():
    workspace = make_workspace()
    mapping = [{"to": "contact.email", "from": "payload.email", "transforms": ["lower"]}]
    make_rule(make_connection(workspace), mapping=mapping)
    event = make_event(workspace, {"email": "ADA@Example.com"})
    fan_out([event.pk])
    assert Delivery.objects.get(event=event).body == '{"contact":{"email":"ada@example.com"}}'


def test_a_mapping_that_fails_is_a_dead_letter_that_can_be_reshaped():
    workspace = make_workspace()
    mapping = [{"to": "score", "from": "payload.score", "transforms": ["to_number"]}]
    rule = make_rule(make_connection(workspace), mapping=mapping)
    event = make_event(workspace, {"score": "many"})
    assert fan_out([event.pk]) == []
    delivery = Delivery.objects.get(event=event)
    assert (delivery.status, delivery.cause) == ("dead", "mapping_failed")
    assert ledger_of(event)[0]["result"] == "mapping_failed"
    assert replays.send_again([delivery.pk]).refused[delivery.pk].reason == "mapping_failed"
    rule.mapping = [{"to": "score", "from": "payload.score"}]
    rule.version += 1
    rule.save(update_fields=["mapping", "version"])
    assert replays.send_again([delivery.pk]).made == {delivery.pk: delivery.pk}
    delivery.refresh_from_db()
    assert (delivery.status, delivery.body) == ("pending", '{"score":"many"}')


def test_one_event_that_cannot_be_routed_leaves_the_others_alone():
    workspace = make_workspace()
    make_rule(make_connection(workspace), filter={"payload.email": {"$exist": True}})
    broken, sound = make_event(workspace), make_event(workspace)
    broken.payload.body = "{"
    broken.payload.save(update_fields=["body"])
    assert len(fan_out([broken.pk, sound.pk])) == 1
    assert Unrouted.objects.get(event=broken).tries == 0
    assert not Unrouted.objects.filter(event=sound).exists()


def test_rules_of_another_workspace_see_nothing():
    mine, other = make_workspace(), make_workspace()
    make_rule(make_connection(other))
    event = make_event(mine)
    assert fan_out([event.pk]) == []
    assert ledger_of(event) == []


@pytest.mark.parametrize("column", ["event_id", "rule_id", "connection_id"])
def test_the_database_refuses_a_delivery_that_points_into_another_workspace(column):
    mine, other = make_workspace(), make_workspace()
    rules = {each: make_rule(make_connection(each)) for each in (mine, other)}
    events = {each: make_event(each) for each in (mine, other)}
    fan_out([events[mine].pk])
    foreign = {
        "event_id": events[other].pk,
        "rule_id": rules[other].pk,
        "connection_id": rules[other].connection_id,
    }[column]
    with pytest.raises(IntegrityError, match="in_workspace"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE deliveries SET {column} = %s WHERE event_id = %s", [foreign, events[mine].pk])
