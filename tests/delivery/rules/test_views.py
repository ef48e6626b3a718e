"""Rules: checked when saved, and tried without sending."""

import json

import pytest
from django.db import connection as database
from django.db import models
from drf_spectacular.generators import SchemaGenerator
from rest_framework import serializers

from delivery.models import Attempt, Delivery, Event, Payload, Rule
from delivery.rules.views import RuleChangeIn, RuleIn
from meshes.kit import ids
from tests.delivery.api import account, mistakes, tenant
from tests.factories import make_connection, make_event, make_rule, make_workspace
from workspaces.vault.models import AccessRecord

pytestmark = pytest.mark.django_db


def body(connection, /, **values):
    return {
        "workspace": connection.workspace.external_id,
        "connection": connection.public_id,
        "event": "lead.*",
    } | values


def test_a_rule_is_made_and_shown(api):
    connection = make_connection(make_workspace())
    answer = api.post(
        "/rules",
        body(
            connection,
            filter={"payload.score": {"$gte": 50}},
            mapping=[{"to": "mail", "from": "payload.email"}],
        ),
    )
    assert answer.status_code == 201
    document = answer.json()
    assert document["action"] == "send"
    assert (document["enabled"], document["version"]) == (True, 1)
    assert document["workspace"] == connection.workspace.public_id
    assert document["filter"] == {"payload.score": {"$gte": 50}}
    assert api.get(f"/rules/{document['id']}").json() == document
    document_in_lists = {name: value for name, value in document.items() if name != "warnings"}
    assert api.get("/rules", workspace=connection.workspace.external_id).json()["data"] == [document_in_lists]


@pytest.mark.parametrize(
    ("change", "pointer", "rule"),
    [
        ({"event": "le ad"}, "/event", "event_pattern"),
        ({"event": "lead*"}, "/event", "event_pattern"),
        ({"event": "x" * 129}, "/event", "max_length"),
        ({"filter": {"payload.a": {"$nope": 1}}}, "/filter/payload.a/$nope", "filter"),
        ({"filter": []}, "/filter", "filter"),
        (
            {"filter": {"$or": [{"payload.a": {"$regex": rf"\pL{{20}}{n}"}} for n in range(9)]}},
            "/filter/$or/2/payload.a/$regex",
            "filter",
        ),
        ({"mapping": {"to": "a"}}, "/mapping", "mapping"),
        ({"mapping": [{"to": "a", "from": "payload.["}]}, "/mapping/0/from", "mapping"),
        ({"action": "fax"}, "/action", "action"),
        ({"enabled": "yes"}, "/enabled", "type"),
        ({"connection": "conn_1"}, "/connection", "public_id"),
        ({"workspace": "nobody"}, "/workspace", "unknown"),
        ({"version": 3}, "/version", "unknown_field"),
    ],
)
def test_a_bad_rule_is_refused_where_it_is_wrong(api, change, pointer, rule):
    answer = api.post("/rules", body(make_connection(make_workspace())) | change)
    assert answer.status_code == 422
    assert mistakes(answer) == {pointer: rule}
    assert not Rule.objects.exists()


MISSING = [("hubspot", "add_to_list", "list_id"), ("slack", "post_message", "channel"),
           ("mailchimp", "add_tags", "tags"), ("intercom", "tag_contact", "tag_id"),
           ("salesforce", "upsert_record", "object"), ("resend", "send_email", "subject")]  # fmt: skip
"""A field that an action needs and that no payload is expected to have."""
WRONG = [
    ("hubspot", "upsert_contact", {"to": "email", "value": 7}, "/mapping/0/value", "type"),
    ("hubspot", "upsert_contact", {"to": "email", "value": None}, "/mapping/0/value", "required"),
    ("hubspot", "upsert_contact", {"to": "email.work", "from": "payload.email"}, "/mapping/0/to", "type"),
    ("slack", "send_webhook", {"to": "blocks", "value": "hello"}, "/mapping/0/value", "type"),
    ("segment", "track", {"to": "properties", "from": "payload.a", "transforms": ["to_string"]},
     "/mapping/0/transforms/0", "type"),
    ("klaviyo", "track_event", {"to": "value", "value": "12"}, "/mapping/0/value", "type"),
    ("mixpanel", "track", {"to": "nickname", "value": "x"}, "/mapping/0/to", "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "action", "field"), MISSING)
def test_a_mapping_that_misses_a_required_field_is_refused_by_its_name(api, kind, action, field):
    connection = make_connection(make_workspace(), type=kind)
    refused = api.post("/rules", body(connection, action=action))
    assert mistakes(refused) == {"/mapping": "required"}
    assert field in refused.json()["errors"][0]["detail"]
    assert not Rule.objects.exists()
    mapped = api.post("/rules", body(connection, action=action, mapping=[{"to": field, "value": "42"}]))
    assert mapped.status_code == 201, mapped.content
    unmapped = api.patch(f"/rules/{mapped.json()['id']}", {"mapping": None})
    assert mistakes(unmapped) == {"/mapping": "required"}
    assert Rule.objects.get().mapping == [{"to": field, "value": "42"}]


@pytest.mark.parametrize(("kind", "action", "entry", "pointer", "rule"), WRONG)
def test_a_mapping_of_a_wrong_type_is_refused_by_the_field_s_name(api, kind, action, entry, pointer, rule):
    connection = make_connection(make_workspace(), type=kind)
    made = api.post("/rules", body(connection, action=action)).json()
    for refused in (
        api.post("/rules", body(connection, action=action, mapping=[entry])),
        api.patch(f"/rules/{made['id']}", {"mapping": [entry]}),
    ):
        assert mistakes(refused) == {pointer: rule}
        assert entry["to"].split(".")[0] in refused.json()["errors"][0]["detail"]
    assert Rule.objects.get().mapping is None


def test_a_change_of_the_action_or_of_the_connection_asks_the_mapping_again(api):
    hubspot = make_connection(make_workspace(), type="hubspot")
    made = api.post("/rules", body(hubspot, mapping=[{"to": "lifecyclestage", "value": "lead"}]))
    path = f"/rules/{made.json()['id']}"
    assert mistakes(api.patch(path, {"action": "add_to_list"})) == {"/mapping": "required"}
    slack, resend = (make_connection(hubspot.workspace, type=kind) for kind in ("slack", "resend"))
    assert mistakes(api.patch(path, {"connection": slack.public_id})) == {"/action": "action"}
    answer = api.patch(path, {"connection": resend.public_id})
    assert mistakes(answer) == {"/mapping/0/to": "unknown"}
    assert "lifecyclestage" in answer.json()["errors"][0]["detail"]
    kept = Rule.objects.get()
    assert (kept.connection_id, kept.action, kept.version) == (hubspot.pk, "upsert_contact", 1)


def test_every_mistake_in_the_documents_is_named(api):
    connection = make_connection(make_workspace())
    answer = api.post("/rules", body(connection, event="a b", filter=[], mapping=5, action="fax"))
    assert mistakes(answer) == {
        "/event": "event_pattern",
        "/filter": "filter",
        "/mapping": "mapping",
        "/action": "action",
    }


def test_a_connection_of_another_workspace_is_an_unknown_one(api):
    own, foreign = make_connection(make_workspace()), make_connection(make_workspace())
    refused = api.post("/rules", body(own, connection=foreign.public_id))
    unknown = api.post("/rules", body(own, connection=ids.encode(ids.CONNECTION, ids.uuid7())))
    assert refused.status_code == 422
    assert refused.json() == unknown.json()
    assert mistakes(refused) == {"/connection": "unknown"}


def test_a_change_makes_the_next_version(api):
    connection = make_connection(make_workspace())
    rule = make_rule(connection, filter={"payload.a": 1})
    answer = api.patch(f"/rules/{rule.public_id}", {"event": "deal.won", "filter": None, "enabled": False})
    assert answer.status_code == 200
    rule.refresh_from_db()
    assert (rule.event, rule.filter, rule.enabled, rule.version) == ("deal.won", None, False, 2)
    refused = api.patch(f"/rules/{rule.public_id}", {"filter": {"payload.x": {"$y": 1}}})
    assert mistakes(refused) == {"/filter/payload.x/$y": "filter"}
    assert mistakes(api.patch(f"/rules/{rule.public_id}", {"workspace": "w"})) == {"/workspace": "unknown_field"}
    rule.refresh_from_db()
    assert rule.version == 2


def test_a_deleted_rule_is_a_tombstone(api):
    rule = make_rule(make_connection(make_workspace()))
    assert api.delete(f"/rules/{rule.public_id}").status_code == 204
    assert api.get(f"/rules/{rule.public_id}").status_code == 404
    assert api.delete(f"/rules/{rule.public_id}").status_code == 404
    assert api.get("/rules").json()["data"] == []
    rule.refresh_from_db()
    assert (rule.deleted_at is not None, rule.enabled) == (True, False)


def test_a_foreign_rule_is_an_unknown_one():
    rule = make_rule(make_connection(make_workspace()))
    caller = tenant(make_workspace())
    unknown = ids.encode(ids.RULE, ids.uuid7())
    for ask in (
        lambda rule_id: caller.get(f"/rules/{rule_id}"),
        lambda rule_id: caller.patch(f"/rules/{rule_id}", {"enabled": False}),
        lambda rule_id: caller.delete(f"/rules/{rule_id}"),
        lambda rule_id: caller.post(f"/rules/{rule_id}/test", {"event": "a", "payload": {}}),
    ):
        assert ask(rule.public_id).status_code == 404
        assert ask(rule.public_id).content == ask(unknown).content
    rule.refresh_from_db()
    assert (rule.enabled, rule.deleted_at, rule.version) == (True, None, 1)


def test_rules_need_the_scope_config(db):
    rule = make_rule(make_connection(make_workspace()))
    caller = account("events:write", "events:read", "admin")
    assert caller.get("/rules").status_code == 403
    assert caller.post(f"/rules/{rule.public_id}/test", {}).status_code == 403


@pytest.fixture
def column(monkeypatch):
    """`note`, a column that the table and the model have, and that the body declares."""
    field = models.CharField(max_length=9, default="", db_default="")
    with database.cursor() as cursor:
        cursor.execute("ALTER TABLE rules ADD COLUMN note varchar(9) NOT NULL DEFAULT ''")
    Rule.add_to_class("note", field)
    for body_class in (RuleChangeIn, RuleIn):  # which inherits what the first declares
        declared = serializers.CharField(required=False, max_length=9, help_text="For the next one.")
        monkeypatch.setitem(body_class._declared_fields, "note", declared)
    yield
    Rule._meta.local_fields.remove(field)
    Rule._meta._expire_cache()
    del Rule.note


def test_a_field_joins_rules_by_one_line_of_their_body(api, column):
    """It is then read, checked, saved, answered and described; nothing else in the code names it."""
    made = api.post("/rules", body(make_connection(make_workspace()), note="first")).json()
    assert (made["note"], made["version"]) == ("first", 1)
    path = f"/rules/{made['id']}"
    changed = api.patch(path, {"note": "second"}).json()
    assert (changed["note"], changed["version"]) == ("second", 2)
    assert (api.get(path).json(), Rule.objects.get().note) == (changed, "second")
    assert api.get("/rules").json()["data"][0]["note"] == "second"
    assert api.patch(path, {"enabled": False}).json()["note"] == "second"
    assert mistakes(api.patch(path, {"note": "x" * 10})) == {"/note": "max_length"}
    schemas = SchemaGenerator().get_schema(public=True)["components"]["schemas"]
    bodies = ("RuleInRequest", "PatchedRuleChangeInRequest", "RuleOut", "RuleDetailOut")
    assert [name for name in bodies if "note" not in schemas[name]["properties"]] == []


WRITTEN = {
    "name": "Warm leads", "event": "deal.won", "filter": {"payload.a": 1}, "mapping": [{"to": "a", "value": 1}],
    "action": "send", "enabled": False,
}  # fmt: skip


def test_every_field_that_a_body_takes_is_stored_and_answered(api):
    connection = make_connection(make_workspace())
    rule, other = make_rule(connection), make_connection(connection.workspace)
    written = WRITTEN | {"connection": other.public_id}
    assert written.keys() == RuleChangeIn().fields.keys()
    for name, value in written.items():
        assert api.patch(f"/rules/{rule.public_id}", {name: value}).json()[name] == value
    kept = Rule.objects.get(pk=rule.pk)
    assert {name: getattr(kept, name) for name in WRITTEN} == WRITTEN
    assert (kept.connection, kept.version) == (other, 1 + len(written))


# --- trying ---------------------------------------------------------------------------------------------------------


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
