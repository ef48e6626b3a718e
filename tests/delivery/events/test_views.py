"""What became of events, as the API shows it."""

from datetime import UTC, datetime, timedelta

import pytest

from delivery.events import setting_aside
from delivery.lanes import brokers
from delivery.models import Attempt, Delivery, Payload, Unrouted
from meshes.kit import ids
from tests.delivery.api import account, mistakes, tenant
from tests.factories import fan_out, make_connection, make_deliveries, make_event, make_rule, make_workspace

pytestmark = pytest.mark.django_db


def summary_of(api, event):
    return api.get(f"/events/{event.public_id}").json()["routing_summary"]


def test_an_event_whose_type_no_rule_names_says_so(api):
    workspace = make_workspace()
    rule = make_rule(make_connection(workspace), event="deal.*")
    event = make_event(workspace)
    assert summary_of(api, event) == {"rules": 0, "results": {}, "detail": "It has not been routed yet."}
    fan_out([event.pk])
    detail = "No rule of the workspace names the event type lead.created, so nothing is delivered."
    assert summary_of(api, event) == {"rules": 0, "results": {}, "detail": detail}
    rule.event, rule.enabled = "lead.created", False
    rule.save()
    event = make_event(workspace)
    fan_out([event.pk])
    detail = "1 rule names the event type lead.created: 1 disabled."
    assert summary_of(api, event) == {"rules": 1, "results": {"disabled": 1}, "detail": detail}


def test_an_event_that_was_erased_before_it_was_routed_says_so(api):
    event = make_event(make_workspace())
    api.post(f"/workspaces/{event.workspace.public_id}/erasures", {"events": [event.public_id]})
    detail = "It was erased before it was routed."
    assert summary_of(api, event) == {"rules": 0, "results": {}, "detail": detail}


def test_an_event_shows_its_routing_deliveries_and_attempts(api):
    workspace = make_workspace()
    connection = make_connection(workspace)
    rule = make_rule(connection, event="lead.*")
    filtered = make_rule(connection, filter={"payload.email": {"$eq": "nobody"}})
    event = make_event(workspace)
    assert api.get(f"/events/{event.public_id}").json()["status"] == "accepted"
    fan_out([event.pk])
    delivery = Delivery.objects.get()
    attempt = Attempt.objects.create(
        workspace=workspace,
        delivery=delivery,
        number=1,
        started_at=datetime.now(UTC),
        outcome="retry",
        status_code=503,
        response_body=b"busy",
        error="The endpoint answered 503.",
    )
    document = api.get(f"/events/{event.public_id}").json()
    assert document["status"] == "routed"
    assert document["routing_summary"] == {
        "rules": 2,
        "results": {"matched": 1, "filtered": 1},
        "detail": "2 rules name the event type lead.created: 1 matched, 1 filtered.",
    }
    assert document["workspace"] == workspace.public_id
    assert [(entry["rule"], entry["result"]) for entry in document["routing"]] == [
        (rule.public_id, "matched"),
        (filtered.public_id, "filtered"),
    ]
    assert document["routing"][1]["clause"]["path"] == "payload.email"
    (shown,) = document["deliveries"]
    assert (shown["id"], shown["rule"], shown["status"]) == (delivery.public_id, rule.public_id, "pending")
    assert shown["attempts"] == [
        {
            "id": attempt.public_id,
            "number": 1,
            "started_at": attempt.started_at.isoformat().replace("+00:00", "Z"),
            "duration_ms": None,
            "outcome": "retry",
            "status_code": 503,
            "error_class": "",
            "error": "The endpoint answered 503.",
        }
    ]


def test_lists_are_pages_newest_first(api):
    workspace = make_workspace()
    events = [make_event(workspace) for _ in range(5)]
    newest_first = [event.public_id for event in reversed(events)]
    page = api.get("/events", workspace=workspace.external_id, limit=2).json()
    assert [row["id"] for row in page["data"]] == newest_first[:2]
    rest = api.get("/events", workspace=workspace.external_id, limit=200, cursor=page["next"]).json()
    assert [row["id"] for row in rest["data"]] == newest_first[2:]
    assert rest["next"] is None


def test_events_are_selected_by_type_status_connection_and_time(api):
    workspace = make_workspace()
    connection = make_connection(workspace)
    make_rule(connection, event="deal.won")
    lead, deal = make_event(workspace), make_event(workspace, type="deal.won")
    fan_out([deal.pk])

    def found(**query):
        return [row["id"] for row in api.get("/events", workspace=workspace.public_id, **query).json()["data"]]

    assert found(event="lead.created") == [lead.public_id]
    assert found(status="accepted") == [lead.public_id]
    assert found(status="routed") == [deal.public_id]
    assert found(connection=connection.public_id) == [deal.public_id]
    assert found(connection=ids.encode(ids.CONNECTION, ids.uuid7())) == []
    soon = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    assert found(**{"from": soon}) == []
    assert found(to=soon) == [deal.public_id, lead.public_id]
    assert found(**{"from": "2020-01-01", "to": "2020-01-02"}) == []


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ({"event": "a b"}, "event_type"),
        ({"event": "a\0"}, "event_type"),
        ({"status": "new"}, "invalid_choice"),
        ({"connection": "conn_1"}, "public_id"),
        ({"from": "yesterday"}, "date_time"),
        ({"from": "2026-13-01"}, "date_time"),
        ({"from": "2026-01-01T00:00:00"}, "date_time"),
        ({"to": "0001-01-01T00:00:00+14:00"}, "date_time"),
        ({"sort": "id"}, "unknown_parameter"),
        ({"limit": "201"}, "range"),
        ({"cursor": "x"}, "cursor"),
    ],
)
def test_a_bad_parameter_is_named(api, query, rule):
    answer = api.get("/events", **query)
    assert answer.status_code == 422
    assert mistakes(answer) == {next(iter(query)): rule}


def test_a_period_that_ends_before_it_begins_is_refused(api):
    answer = api.get("/events", **{"from": "2026-02-01", "to": "2026-01-01"})
    assert mistakes(answer) == {"to": "order"}


@pytest.mark.parametrize("path", ["", "/payload"])
def test_a_foreign_event_is_an_unknown_one(path):
    event = make_event(make_workspace())
    caller = tenant(make_workspace())
    foreign = caller.get(f"/events/{event.public_id}{path}")
    unknown = caller.get(f"/events/{ids.encode(ids.EVENT, ids.uuid7())}{path}")
    malformed = caller.get(f"/events/evt_1{path}")
    assert {answer.status_code for answer in (foreign, unknown, malformed)} == {404}
    assert foreign.content == unknown.content == malformed.content


def test_a_tenant_sees_its_own_events_only():
    own, foreign = make_workspace(), make_workspace()
    event = make_event(own)
    make_event(foreign)
    caller = tenant(own)
    assert [row["id"] for row in caller.get("/events").json()["data"]] == [event.public_id]
    assert caller.get("/events", workspace=foreign.external_id).status_code == 404


def test_reading_needs_its_scope(db):
    event = make_event(make_workspace())
    writer = account("events:write")
    assert writer.get("/events").status_code == 403
    assert writer.get(f"/events/{event.public_id}").status_code == 403
    assert account("events:read").get("/events").status_code == 200


def test_an_erased_payload_is_gone(api):
    event = make_event(make_workspace())
    Payload.objects.update(body="", erased_at=datetime.now(UTC))
    answer = api.get(f"/events/{event.public_id}/payload")
    assert answer.status_code == 410
    assert answer.json()["type"] == "urn:meshes:problem:payload-gone"


def test_the_detail_of_an_event_costs_few_queries(api, django_assert_max_num_queries):
    workspace = make_workspace()
    connection = make_connection(workspace)
    for _ in range(5):
        make_rule(connection)
    (first, *_) = make_deliveries(connection, 1)
    api.get("/events")  # notes that the key is used
    with django_assert_max_num_queries(8):
        document = api.get(f"/events/{ids.encode(ids.EVENT, first.event_id)}").json()
    assert len(document["deliveries"]) == 5


# --- set aside ------------------------------------------------------------------------------------------------------


def set_aside(workspace, cause="refused", detail="numeric value out of range (22003)"):
    event = make_event(workspace)
    at = datetime.now(UTC)
    Unrouted.objects.filter(event=event).update(cause=cause, detail=detail, poisoned_at=at, tries=2, failures=3)
    return event, at


@pytest.mark.parametrize(("stored", "shown"), [("refused", "refused"), ("", "not_recorded")])
def test_an_event_that_was_set_aside_says_why(api, stored, shown):
    event, at = set_aside(make_workspace(), stored)
    document = api.get(f"/events/{event.public_id}").json()
    assert (document["status"], document["routing"], document["deliveries"]) == ("set_aside", [], [])
    words = "It was set aside and is routed again when somebody asks for it: numeric value out of range (22003)."
    assert document["routing_summary"] == {"rules": 0, "results": {}, "detail": words}
    assert document["set_aside"] == {
        "cause": shown,
        "detail": "numeric value out of range (22003)",
        "at": at.isoformat().replace("+00:00", "Z"),
    }


def test_events_are_selected_by_whether_they_were_set_aside(api):
    workspace = make_workspace()
    aside, waiting, done = set_aside(workspace)[0], make_event(workspace), make_event(workspace)
    fan_out([done.pk])
    for status, event in [("set_aside", aside), ("accepted", waiting), ("routed", done)]:
        (found,) = api.get(f"/events?workspace={workspace.public_id}&status={status}").json()["data"]
        assert (found["id"], found["status"]) == (event.public_id, status)
    assert api.get(f"/events/{done.public_id}").json()["set_aside"] is None


def test_one_event_is_routed_again(api, redis_client, django_capture_on_commit_callbacks):
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    (event, _), (other, _) = set_aside(workspace), set_aside(workspace)
    with django_capture_on_commit_callbacks(execute=True):
        answer = api.post(f"/events/{event.public_id}/route", {})
    assert (answer.status_code, answer.json()["status"], answer.json()["set_aside"]) == (202, "accepted", None)
    assert brokers.flush()
    assert brokers.lanes_for(workspace.pk).depth(f"fanout.{workspace.pk}") == 1
    row = Unrouted.objects.get(event=event)
    assert (row.tries, row.failures, row.cause, row.detail, row.lease_until) == (0, 0, "", "", None)
    assert len(fan_out([event.pk, other.pk])) == 1
    assert Unrouted.objects.get(event=other).poisoned_at is not None


def test_only_what_was_set_aside_is_routed_again(api):
    workspace = make_workspace()
    waiting, done = make_event(workspace), make_event(workspace)
    fan_out([done.pk])
    for event in (waiting, done):
        answer = api.post(f"/events/{event.public_id}/route", {})
        assert answer.status_code == 409
        assert answer.json()["detail"] == "Only an event that was set aside is routed again."


def test_all_events_of_a_workspace_or_of_all_are_routed_again(
    api, redis_client, monkeypatch, django_capture_on_commit_callbacks
):
    one, two, three = make_workspace(), make_workspace(), make_workspace()
    for workspace in (one, one, two, three):
        set_aside(workspace)

    def route(caller, body):
        with django_capture_on_commit_callbacks(execute=True):
            return caller.post("/events/route", body).json()

    assert route(api, {"workspace": one.public_id}) == {"events": 2, "remaining": False}
    assert Unrouted.objects.exclude(poisoned_at=None).count() == 2
    assert route(tenant(two, "events:write"), {}) == {"events": 1, "remaining": False}
    assert Unrouted.objects.exclude(poisoned_at=None).get().workspace_id == three.pk
    monkeypatch.setattr(setting_aside, "MOST_AT_ONCE", 1)
    assert route(api, {}) == {"events": 1, "remaining": True}
    assert route(api, {}) == {"events": 0, "remaining": False}
    assert brokers.flush()
    depths = [brokers.lanes_for(each.pk).depth(f"fanout.{each.pk}") for each in (one, two, three)]
    assert depths == [2, 1, 1]


def test_a_repeated_request_routes_nothing_twice(api):
    workspace = make_workspace()
    set_aside(workspace)
    key = {"idempotency_key": "again"}
    first = api.post("/events/route", {"workspace": workspace.external_id}, **key)
    set_aside(workspace)
    again = api.post("/events/route", {"workspace": workspace.external_id}, **key)
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert first.json() == {"events": 1, "remaining": False}
    assert Unrouted.objects.exclude(poisoned_at=None).count() == 1
