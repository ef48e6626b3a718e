"""Rules are checked when they are saved, and shown as they are."""

import pytest
from django.db import connection as database
from django.db import models
from rest_framework import serializers

from delivery.models import Rule
from delivery.rules.views import RuleChangeIn, RuleIn
from meshes.kit import ids
from tests.delivery.api import account, mistakes, tenant
from tests.factories import make_connection, make_rule, make_workspace

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


def test_a_field_joins_rules_by_one_line_of_their_body(api, column, schemas):
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
    described = schemas()
    bodies = ("RuleInRequest", "PatchedRuleChangeInRequest", "RuleOut", "RuleDetailOut")
    assert [name for name in bodies if "note" not in described[name]["properties"]] == []


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
