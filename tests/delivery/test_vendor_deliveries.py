"""Deliveries to vendors: several calls in one attempt, answers that rest the lane, words that quote the vendor."""

import json
from datetime import UTC, datetime

import pytest

from connections import providers
from connections.conversation import SHORTEST_NEEDLE, STEP_BODY_BYTES
from connections.messages import DELIVERY_BODY_LIMIT
from connections.models import Connection
from delivery.lanes import brokers
from delivery.models import Attempt, Delivery, RoutingLedger
from meshes.dev.vendors.registry import VENDORS
from tests.factories import deliver, fan_out, make_connection, make_event, make_rule, make_workspace
from tests.receivers import Answer

pytestmark = pytest.mark.django_db

TOKEN = "pat-na1-canary-0123456789"
UPSERTED = json.dumps({"status": "COMPLETE", "results": [{"id": "501", "new": True}]}).encode()


@pytest.fixture
def hubspot(endpoint, monkeypatch):
    """The endpoint in the place of HubSpot."""
    monkeypatch.setattr(providers.get("hubspot"), "override", endpoint.url.rpartition("/")[0])
    return endpoint


def delivered(action="upsert_contact", payload=None, mapping=None, token=TOKEN):
    """One event of a new tenant, routed, sent and settled."""
    target = make_connection(
        make_workspace(), type="hubspot", config={"id_property": "email"}, secret={"access_token": token}
    )
    make_rule(target, action=action, mapping=mapping)
    event = make_event(target.workspace, payload or {"email": "ada@example.com", "first_name": "Ada"})
    fan_out([event.pk])
    delivery = Delivery.objects.get(event=event)
    if delivery.status == "pending":
        deliver(delivery)
    return delivery


def test_the_default_mapping_shapes_the_payload_for_the_vendor(hubspot):
    hubspot.answer(200, body=UPSERTED)
    delivery = delivered()
    assert delivery.status == "succeeded"
    (got,) = hubspot.got
    assert (got.method, got.path) == ("POST", "/crm/objects/2026-09/contacts/batch/upsert")
    assert got.headers["authorization"] == f"Bearer {TOKEN}"
    (row,) = json.loads(got.body)["inputs"]
    assert row["properties"] == {"email": "ada@example.com", "firstname": "Ada"}
    assert row["objectWriteTraceId"] == delivery.public_id
    assert Attempt.objects.get(delivery=delivery).steps is None


def test_a_rule_s_mapping_overrides_one_field(hubspot):
    hubspot.answer(200, body=UPSERTED)
    delivered(mapping=[{"to": "firstname", "value": "Countess"}])
    (row,) = json.loads(hubspot.got[0].body)["inputs"]
    assert row["properties"] == {"email": "ada@example.com", "firstname": "Countess"}


def test_an_event_without_a_required_field_is_a_visible_dead_letter_that_names_it(hubspot):
    delivery = delivered(payload={"first_name": "Ada"})
    assert (delivery.status, delivery.cause) == ("dead", "mapping_failed")
    told = f"its default is payload.email (rule {delivery.rule.public_id})"
    words = f"mapping: the required field email found nothing in this event; {told}"
    assert delivery.detail == words
    (entry,) = RoutingLedger.objects.get(event=delivery.event).entries
    assert (entry["result"], entry["reason"]) == ("mapping_failed", words)
    assert hubspot.got == []


def test_every_call_of_an_action_with_steps_is_recorded(hubspot):
    hubspot.answers = lambda got: Answer(200, body=UPSERTED if got.method == "POST" else b'{"recordIdsAdded":["501"]}')
    delivery = delivered("add_to_list", mapping=[{"to": "list_id", "value": "42"}])
    assert delivery.status == "succeeded"
    assert [(got.method, got.path) for got in hubspot.got] == [
        ("POST", "/crm/objects/2026-09/contacts/batch/upsert"), ("PUT", "/crm/v3/lists/42/memberships/add"),
    ]  # fmt: skip
    assert json.loads(hubspot.got[1].body) == ["501"]
    made = Attempt.objects.get(delivery=delivery)
    assert [(step["method"], step["status"]) for step in made.steps] == [("POST", 200), ("PUT", 200)]
    assert made.steps[1]["request_body"] == '["501"]'
    assert (made.request_method, made.status_code) == ("PUT", 200)
    assert TOKEN not in json.dumps(made.steps)


@pytest.mark.parametrize(
    "says",
    [
        lambda token: b"x" * (STEP_BODY_BYTES - 10) + token,  # where the excerpt of a step ends
        lambda token: token * (1 + DELIVERY_BODY_LIMIT // len(token)),  # where the answer was cut; its masks are short
    ],
)
def test_a_step_s_record_shows_no_part_of_a_secret_where_the_answer_is_cut(hubspot, says):
    token = "pat-na1-" + "0123456789abcdef" * 24 + "!"
    answer = says(token.encode())
    hubspot.answers = lambda got: Answer(200, body=UPSERTED if got.method == "POST" else answer)
    delivery = delivered("add_to_list", mapping=[{"to": "list_id", "value": "42"}], token=token)
    steps = Attempt.objects.get(delivery=delivery).steps
    assert [step["status"] for step in steps] == [200, 200]
    assert len(steps[1]["response_body"]) <= STEP_BODY_BYTES
    assert token[:SHORTEST_NEEDLE] not in json.dumps(steps)


@pytest.mark.parametrize(
    ("slug", "action", "path", "became"),
    [
        ("hubspot", "create_note", "/batch/upsert$", ("pending", "")),
        ("hubspot", "create_note", "/notes$", ("dead", "uncertain")),
        ("intercom", "upsert_contact", "/search$", ("pending", "")),
        ("intercom", "upsert_contact", "/contacts$", ("dead", "uncertain")),
        ("pipedrive", "upsert_person", "/search$", ("pending", "")),
        ("pipedrive", "upsert_person", "/persons$", ("dead", "uncertain")),
    ],
)
def test_a_lost_answer_is_asked_for_again_unless_the_call_could_double_something(
    loopback, monkeypatch, slug, action, path, became
):
    with VENDORS[slug]() as vendor:
        monkeypatch.setattr(providers.get(slug), "override", vendor.url)
        secret = {"api_token" if slug == "pipedrive" else "access_token": vendor.token}
        target = make_connection(make_workspace(), type=slug, config={}, secret=secret)
        make_rule(target, action=action, mapping=[{"to": "note", "value": "Call"}] if slug == "hubspot" else None)
        event = make_event(target.workspace, {"email": "ada@example.com"})
        fan_out([event.pk])
        delivery = Delivery.objects.get(event=event)
        vendor.fail_next("LOSE_ANSWER", path=path)
        deliver(delivery)
    assert (delivery.outcome, delivery.status) == ("uncertain", became[0])
    assert delivery.cause.startswith(became[1] or "connection_lost")


def test_a_first_call_that_fails_is_the_last(hubspot):
    hubspot.answer(503)
    delivery = delivered("add_to_list", mapping=[{"to": "list_id", "value": "42"}])
    assert (delivery.status, delivery.outcome) == ("pending", "retry")
    assert len(hubspot.got) == 1


def test_a_207_that_means_failure_is_rejected_in_the_vendor_s_words(hubspot):
    body = {"status": "COMPLETE", "numErrors": 1, "errors": [{"category": "VALIDATION_ERROR", "message": "Bad email"}]}
    hubspot.answer(207, body=json.dumps(body).encode())
    delivery = delivered()
    assert (delivery.status, delivery.cause) == ("dead", "rejected")
    assert "Bad email" in delivery.detail


def test_words_that_quote_a_secret_are_masked(hubspot):
    hubspot.answer(400, body=json.dumps({"category": "VALIDATION_ERROR", "message": f"no such key {TOKEN}"}).encode())
    delivery = delivered()
    assert TOKEN not in delivery.detail
    assert TOKEN not in Attempt.objects.get(delivery=delivery).error


def test_a_connection_that_was_never_authorized_is_held(hubspot):
    target = make_connection(make_workspace(), type="hubspot", config={}, secret={"previous": "none"})
    make_rule(target, action="upsert_contact")
    event = make_event(target.workspace)
    fan_out([event.pk])
    delivery = Delivery.objects.get(event=event)
    deliver(delivery)
    target.refresh_from_db()
    assert (delivery.status, target.status) == ("held", "needs_reauth")
    assert hubspot.got == []


def test_a_success_with_nothing_left_of_the_limit_rests_the_lane(hubspot, monkeypatch):
    paused = []
    monkeypatch.setattr(brokers, "pause", lambda *arguments: paused.append(arguments))
    headers = {"X-HubSpot-RateLimit-Remaining": "0", "X-HubSpot-RateLimit-Interval-Milliseconds": "10000"}
    hubspot.answer(200, headers, UPSERTED)
    before = datetime.now(UTC)
    delivery = delivered()
    assert delivery.status == "succeeded"
    target = Connection.objects.get(pk=delivery.connection_id)
    assert 9 < (target.paused_until - before).total_seconds() < 12
    assert paused == [(target.workspace_id, target.pk, 10.0)]
    assert target.health.breaker == "closed"
