"""Erasure of a person's payloads."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from django.db.models import Q

from delivery.events import erasure
from delivery.models import Attempt, Delivery, Event, Payload, RoutingLedger, Unrouted
from meshes.kit import ids
from tests.delivery.api import account, mistakes, tenant
from tests.factories import fan_out, make_connection, make_event, make_rule, make_workspace

pytestmark = pytest.mark.django_db

ADA = {"email": "ada@example.com"}


def routed(workspace, payload):
    """An event with a shaped delivery, an attempt that quotes it, and a rule that filtered it."""
    event = make_event(workspace, payload)
    fan_out([event.pk])
    for delivery in Delivery.objects.filter(event=event):
        Attempt.objects.create(
            workspace=workspace, delivery=delivery, number=1, started_at=datetime.now(UTC), outcome="retry",
            response_body=f"who is {payload['email']}?".encode(), error=f"{payload['email']} is unknown",
        )  # fmt: skip
    return event


@pytest.fixture
def workspace(db):
    made = make_workspace()
    connection = make_connection(made)
    make_rule(connection, mapping=[{"to": "mail", "from": "payload.email"}])
    make_rule(connection, filter={"payload.email": {"$eq": "nobody"}})
    return made


def erase(api, workspace, document):
    return api.post(f"/workspaces/{workspace.external_id}/erasures", document)


def traces_of(text):
    """Where the database still says it."""
    return [
        *Payload.objects.filter(body__contains=text),
        *Delivery.objects.filter(body__contains=text),
        *Delivery.objects.filter(detail__contains=text),
        *[row for row in Attempt.objects.all() if text.encode() in bytes(row.response_body or b"")],
        *Attempt.objects.filter(error__contains=text),
        *RoutingLedger.objects.filter(entries__icontains=text),
    ]


def test_a_matching_persons_payloads_are_emptied_everywhere(api, workspace):
    event, other = routed(workspace, ADA), routed(workspace, {"email": "bob@example.org"})
    assert traces_of("ada@")
    answer = erase(api, workspace, {"match": {"payload.email": "ada@example.com"}})
    assert answer.status_code == 200
    assert answer.json() == {
        "dry_run": False,
        "count": 1,
        "scanned": 2,
        "erased": 1,
        "cancelled": 1,
        "busy": [],
        "next": None,
        "warnings": [],
    }
    assert traces_of("ada@") == []
    shown = api.get(f"/events/{event.public_id}").json()
    assert [row["status"] for row in shown["deliveries"]] == ["cancelled"]
    assert shown["deliveries"][0]["cause"] == "erased"
    assert shown["deliveries"][0]["attempts"][0]["outcome"] == "retry"
    assert [entry["result"] for entry in shown["routing"]] == ["matched", "filtered"]
    assert api.get(f"/events/{event.public_id}/payload").status_code == 410
    assert Payload.objects.get(pk=other.pk).body == '{"email": "bob@example.org"}'
    assert Delivery.objects.get(event=other).status == "pending"


def test_history_stays_as_it_was(api, workspace):
    event = routed(workspace, ADA)
    Delivery.objects.update(status="succeeded", next_attempt_at=None)
    assert erase(api, workspace, {"events": [event.public_id]}).json()["cancelled"] == 0
    assert Delivery.objects.get().status == "succeeded"
    assert Event.objects.filter(pk=event.pk).exists()


def test_an_event_that_waits_for_fan_out_is_closed(api, workspace):
    event = make_event(workspace, ADA)
    assert erase(api, workspace, {"events": [event.public_id]}).json()["erased"] == 1
    assert not Unrouted.objects.exists()
    assert RoutingLedger.objects.get().entries[0]["result"] == "erased"
    assert fan_out([event.pk]) == []


def test_what_is_sent_or_routed_at_this_moment_is_named(api, workspace):
    sent, fanned = routed(workspace, ADA), make_event(workspace, ADA)
    soon = datetime.now(UTC) + timedelta(seconds=60)
    Delivery.objects.update(lease_id=ids.uuid7(), lease_until=soon)
    Unrouted.objects.update(lease_id=ids.uuid7(), lease_until=soon)
    answer = erase(api, workspace, {"match": {"payload.email": "ada@example.com"}}).json()
    assert (answer["erased"], answer["busy"]) == (0, [sent.public_id, fanned.public_id])
    assert Payload.objects.filter(erased_at=None).count() == 2
    Delivery.objects.update(lease_id=None, lease_until=None)
    Unrouted.objects.update(lease_until=None)
    assert erase(api, workspace, {"events": answer["busy"]}).json()["erased"] == 2


def test_a_long_search_goes_on_where_it_stopped(api, workspace, monkeypatch):
    events = [make_event(workspace, ADA) for _ in range(5)]
    monkeypatch.setattr(erasure, "BATCH", 2)
    moments = iter([0.0, 1.0, 99.0])
    with monkeypatch.context() as patch:
        patch.setattr(erasure, "time", SimpleNamespace(monotonic=lambda: next(moments)))  # no other thread's clock
        first = erasure.erase_matching(workspace, {"payload.email": "ada@example.com"}, Q(), None, datetime.now(UTC))
    assert (first.scanned, first.events, first.next) == (2, 2, events[1].pk)
    rest = erase(api, workspace, {"match": {"payload.email": "ada@example.com"}, "after": events[1].public_id}).json()
    assert (rest["scanned"], rest["erased"], rest["next"]) == (3, 3, None)


def test_a_period_bounds_the_search(api, workspace):
    make_event(workspace, ADA)
    answer = erase(api, workspace, {"match": {"payload.email": "ada@example.com"}, "to": "2020-01-01"})
    assert answer.json()["scanned"] == 0
    assert Payload.objects.get().erased_at is None


def test_twice_is_as_once(api, workspace):
    event = routed(workspace, ADA)
    erase(api, workspace, {"events": [event.public_id]})
    erased_at = Payload.objects.get().erased_at
    again = erase(api, workspace, {"match": {"payload.email": "ada@example.com"}}).json()
    assert (again["scanned"], again["erased"]) == (1, 0)
    assert Payload.objects.get().erased_at == erased_at


@pytest.mark.parametrize(
    ("document", "pointer", "rule"),
    [
        ({}, "/match", "exclusive"),
        ({"match": {}}, "/match", "required"),
        ({"match": {"payload.a": {"$x": 1}}}, "/match/payload.a/$x", "filter"),
        ({"events": []}, "/events", "min_length"),
        ({"events": ["evt_1"]}, "/events", "public_id"),
        ({"events": [ids.encode(ids.EVENT, ids.uuid7())], "match": {"payload.a": 1}}, "/match", "exclusive"),
        ({"events": [ids.encode(ids.EVENT, ids.uuid7())], "from": "2026-01-01"}, "/from", "exclusive"),
        ({"who": "ada"}, "/who", "unknown_field"),
    ],
)
def test_a_bad_erasure_is_refused(api, workspace, document, pointer, rule):
    make_event(workspace, ADA)
    answer = erase(api, workspace, document)
    assert answer.status_code == 422
    assert rule in mistakes(answer).values()
    assert any(place.startswith(pointer) for place in mistakes(answer))
    assert Payload.objects.get().erased_at is None


def test_events_of_others_are_passed_over(api, workspace):
    foreign = make_event(make_workspace(), ADA)
    answer = erase(api, workspace, {"events": [foreign.public_id]}).json()
    assert (answer["scanned"], answer["erased"]) == (0, 0)
    assert Payload.objects.get().erased_at is None


def test_a_foreign_workspace_is_an_unknown_one(workspace):
    event = make_event(workspace, ADA)
    caller = tenant(make_workspace())
    document = {"events": [event.public_id]}
    foreign = erase(caller, workspace, document)
    unknown = caller.post("/workspaces/nobody/erasures", document)
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.content == unknown.content
    assert Payload.objects.get().erased_at is None


def test_erasure_needs_the_scope_admin(workspace):
    assert erase(account("config", "events:read", "events:write"), workspace, {"events": []}).status_code == 403


def test_an_event_that_the_filter_cannot_decide_is_named_and_not_passed_over():
    workspace = make_workspace()
    first, large = make_event(workspace, {"l": []}), make_event(workspace, {"l": list(range(40_000))})
    dear = {"$and": [{"payload.l": {"$neq": [1, 2, index]}} for index in range(22)]}
    answer = account("admin", "events:write").post(f"/workspaces/{workspace.public_id}/erasures", {"match": dear})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["rule"]) == ("/match", "evaluation_limit")
    assert large.public_id in error["detail"]
    large.payload.refresh_from_db()
    assert large.payload.erased_at is None
    first.payload.refresh_from_db()
    assert first.payload.erased_at is None  # of the same batch
