"""What a rule would make of an event, shown without sending or storing anything."""

import json

import pytest

from delivery.models import Attempt, Delivery, Event, Payload
from delivery.rules.preview import differences
from meshes.kit import ids
from tests.delivery.api import mistakes
from tests.factories import make_connection, make_event, make_rule, make_workspace
from workspaces.vault.models import AccessRecord

pytestmark = pytest.mark.django_db


def try_rule(api, rule, document):
    answer = api.post(f"/rules/{rule.public_id}/test", document)
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_a_trial_shows_the_exact_request_with_secrets_masked(api):
    secret = {"signing_secret": "whsec_" + "c2VjcmV0" * 4, "previous": [], "token": "my-very-secret-token"}
    connection = make_connection(
        make_workspace(),
        config={"url": "https://example.com/in?key=abc", "headers": {"x-team": "sales"}},
        secret=secret,
        credential_hints={"token": "••••oken", "signing_secret": "••••"},
    )
    rule = make_rule(connection)
    text = '{"event":"lead.created","payload":{"z":1.50,  "a":"é"}}'
    trial = try_rule(api, rule, text)
    assert trial["matched"] is True
    assert trial["reason"] == ""
    request = trial["request"]
    headers = dict(map(tuple, request["headers"]))
    assert (request["method"], request["url"]) == ("POST", "https://example.com/in?key=••••")
    assert headers["authorization"] == "Bearer ••••"
    assert headers["webhook-signature"] == "••••"
    assert headers["x-team"] == "sales"
    assert headers["webhook-id"].startswith("dlv_")
    assert '"data":{"z":1.50,  "a":"é"}' in request["body"]
    assert "secret" not in json.dumps(trial)


def test_a_trial_stores_nothing_sends_nothing_and_opens_nothing(api):
    rule = make_rule(make_connection(make_workspace()))
    opened = AccessRecord.objects.exclude(purpose="used")
    before = opened.count()
    try_rule(api, rule, {"event": "a.b", "payload": {}})
    assert opened.count() == before
    assert not Event.objects.exists()
    assert not Delivery.objects.exists()
    assert not Attempt.objects.exists()


def test_a_trial_names_what_did_not_match(api):
    connection = make_connection(make_workspace())
    pattern = try_rule(api, make_rule(connection, event="deal.*"), {"event": "lead.created", "payload": {}})
    assert (pattern["matched"], pattern["reason"], pattern["request"]) == (False, "event", None)
    rule = make_rule(connection, filter={"payload.score": {"$gte": 50}})
    failed = try_rule(api, rule, {"event": "lead.created", "payload": {"score": 7}})
    assert (failed["matched"], failed["reason"], failed["request"]) == (False, "filter", None)
    assert (failed["clause"]["path"], failed["clause"]["operator"]) == ("payload.score", "$gte")
    assert (failed["clause"]["expected"], failed["clause"]["actual"]) == (50, 7)


def test_a_trial_shapes_the_body_or_says_why_it_cannot(api):
    connection = make_connection(make_workspace(), config={"url": "https://example.com/in", "body": "raw"})
    rule = make_rule(connection, mapping=[{"to": "mail", "from": "payload.email", "on_error": "fail"}])
    shaped = try_rule(api, rule, {"event": "lead.created", "payload": {"email": "a@b.c"}})
    assert shaped["request"]["body"] == '{"mail":"a@b.c"}'
    failed = try_rule(api, rule, {"event": "lead.created", "payload": {}})
    assert (failed["matched"], failed["reason"], failed["request"]) == (True, "mapping_failed", None)


def test_a_received_event_can_be_tried(api):
    workspace = make_workspace()
    rule = make_rule(make_connection(workspace))
    event = make_event(workspace, {"email": "x@y.z"})
    trial = try_rule(api, rule, {"event_id": event.public_id})
    assert '"data":{"email": "x@y.z"}' in trial["request"]["body"]
    assert f'"id":"{event.public_id}"' in trial["request"]["body"]


@pytest.mark.parametrize(
    ("document", "pointer", "rule"),
    [
        ({}, "/event", "required"),
        ({"event": "a.b"}, "/payload", "required"),
        ({"event": "a b", "payload": {}}, "/event", "event_type"),
        ({"event": "a.b", "payload": []}, "/payload", "not_a_dict"),
        ({"event_id": "evt_1"}, "/event_id", "public_id"),
        ({"event_id": ids.encode(ids.EVENT, ids.uuid7())}, "/event_id", "unknown"),
        ({"event_id": ids.encode(ids.EVENT, ids.uuid7()), "event": "a.b"}, "/event", "exclusive"),
    ],
)
def test_a_bad_trial_is_refused(api, document, pointer, rule):
    answer = api.post(f"/rules/{make_rule(make_connection(make_workspace())).public_id}/test", document)
    assert answer.status_code == 422
    assert mistakes(answer) == {pointer: rule}


def test_an_event_of_another_workspace_cannot_be_tried(api):
    rule = make_rule(make_connection(make_workspace()))
    foreign = make_event(make_workspace())
    assert mistakes(api.post(f"/rules/{rule.public_id}/test", {"event_id": foreign.public_id})) == {
        "/event_id": "unknown"
    }


def test_an_erased_event_cannot_be_tried(api):
    workspace = make_workspace()
    event, rule = make_event(workspace), make_rule(make_connection(workspace))
    Payload.objects.update(body="", erased_at=event.created_at)
    assert api.post(f"/rules/{rule.public_id}/test", {"event_id": event.public_id}).status_code == 409


def test_bodies_differ_place_by_place():
    before, after = '{"a": 1, "b": [1, {"c/d": null}], "e": true}', '{"a": 1.0, "b": [1, {}, 2], "e": 1, "f": "x"}'
    assert differences(before, after, 10) == [
        {"pointer": "/b/1/c~1d", "before": None},
        {"pointer": "/b/2", "after": 2},
        {"pointer": "/e", "before": True, "after": 1},
        {"pointer": "/f", "after": "x"},
    ]
    assert len(differences(before, after, 2)) == 2
