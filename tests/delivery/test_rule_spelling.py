"""What a rule says and can hardly mean is refused with the right spelling, or told in `warnings`."""

import pytest

from connections.context import paths_from_root
from connections.expressions import compile_expression
from delivery.models import Rule
from tests.delivery.api import mistakes
from tests.factories import make_connection, make_rule, make_workspace

pytestmark = pytest.mark.django_db


@pytest.fixture
def target():
    return make_connection(make_workspace())


def save(api, target, **fields):
    body = {"workspace": target.workspace.public_id, "connection": target.public_id, "event": "lead.*"}
    return api.post("/rules", body | fields)


def details(answer):
    return {error["pointer"]: error["detail"] for error in answer.json()["errors"]}


# --- refused --------------------------------------------------------------------------------------------------------

FILTERS = [
    ({"payload.score": {">=": 50}}, "/filter/payload.score/>=", ">= is no operator. Did you mean $gte?"),
    ({"payload": {"score": {"=": 5}}}, "/filter/payload/score/=", "= is no operator. Did you mean $eq?"),
    ({"payload.score.<": 5}, "/filter/payload.score.<", "< is no operator. Did you mean $lt?"),
    ({"$or": [{"payload.a": {"!=": 1}}]}, "/filter/$or/0/payload.a/!=", "!= is no operator. Did you mean $neq?"),
    ({"payload.a": {"$not": {"<>": 1}}}, "/filter/payload.a/$not/<>", "<> is no operator. Did you mean $neq?"),
    ({"payload.score": {"$gtee": 5}}, "/filter/payload.score/$gtee", "Did you mean $gte?"),
    ({"payload.a": {"$startswith": "x"}}, "/filter/payload.a/$startswith", "Did you mean $startsWith?"),
    ({"payload.a": {"$ne": 5}}, "/filter/payload.a/$ne", "Did you mean $neq?"),
    ({"payload.a": {"$exists": True}}, "/filter/payload.a/$exists", "Did you mean $exist?"),
    ({"email": "a"}, "/filter/email", "Did you mean payload.email?"),
    ({"paylod.email": "a"}, "/filter/paylod.email", "Did you mean payload.email?"),
    ({"event.payload.email": "a"}, "/filter/event.payload.email", "Did you mean payload.email?"),
    ({"workspace.externalid": "a"}, "/filter/workspace.externalid", "Did you mean external_id?"),
    ({"event.typ": "a"}, "/filter/event.typ", "Did you mean type?"),
    ({"payload.a": {"$regex": "(?=x)"}}, "/filter/payload.a/$regex", "not a regular expression of RE2"),
]


@pytest.mark.parametrize(("document", "pointer", "words"), FILTERS)
def test_a_filter_that_never_finds_anything_is_refused(api, target, document, pointer, words):
    refused = save(api, target, filter=document)
    assert refused.status_code == 422
    assert words in details(refused)[pointer]
    assert not Rule.objects.exists()


SOURCES = [
    ("email", "email begins with none of event, payload, workspace. Did you mean payload.email?"),
    ("paylod.email", "Did you mean payload.email?"),
    ("Payload.email", "Did you mean payload.email?"),
    ("lead.email", "Did you mean payload.lead.email?"),
    ("event.payload.email", "Did you mean payload"),
    ("workspace.externalid", "Did you mean external_id?"),
    ("event.created", "Did you mean created_at?"),
    ("@.email", "Did you mean payload.email?"),
    ("not_null(payload.mail, email)", "Did you mean payload.email?"),
    ("join(' ', [payload.first, last])", "Did you mean payload.last?"),
    ("{a: payload.a, b: b}.a", "Did you mean payload.b?"),
    ("items[?price > `5`].name", "Did you mean payload.items?"),
    ("payload.a || mail", "Did you mean payload.mail?"),
    ("data[0].id", "Did you mean payload.data"),
    ("tags[]", "Did you mean payload.tags?"),
]


@pytest.mark.parametrize(("source", "words"), SOURCES)
def test_an_expression_that_looks_where_nothing_is_is_refused(api, target, source, words):
    refused = save(api, target, mapping=[{"to": "a", "value": 1}, {"to": "email", "from": source}])
    assert mistakes(refused) == {"/mapping/1/from": "unknown_root"}
    assert words in details(refused)["/mapping/1/from"]


FINDING = [
    "payload.items[?price > `5`].name",
    "payload.items[*].{id: id, sku: sku.code}",
    "payload | email",
    "event",
    "map(&email, payload.people)",
    "sort_by(payload.people, &age)[0].name",
    "'email'",
    "`1`",
    "@",
    "payload.*.id",
    "payload.a[].b[]",
    "workspace.external_id",
    "event.type == 'x' && payload.a",
    "@.payload.email",
    "keys(payload)",
    'payload."odd name"',
]


@pytest.mark.parametrize("source", FINDING)
def test_what_may_find_something_is_saved_without_a_warning(api, target, source):
    saved = save(api, target, mapping=[{"to": "email", "from": source}])
    assert saved.status_code == 201, saved.content
    assert saved.json()["warnings"] == []


def test_the_paths_of_an_expression_are_those_from_the_root():
    tree = compile_expression("not_null(payload.a.b, event.type) | x.y").tree
    assert list(paths_from_root(tree)) == [["payload", "a"], ["event", "type"]]


TRANSFORMED = [
    ({"to": "a", "from": "payload.a", "transforms": ["lowr"]}, "/mapping/0/transforms/0", "Did you mean lower?"),
    ({"to": "a", "from": "payload.a", "transforms": ["trimm"]}, "/mapping/0/transforms/0", "Did you mean trim?"),
    ({"to": "a", "from": "payload.a", "transforms": [{"substr": {}}]}, "/mapping/0/transforms/0/substr", "substring?"),
    ({"to": "a", "from": "lenght(payload.a)"}, "/mapping/0/from", "Did you mean length?"),
    ({"to": "a", "from": "payload.a", "transform": []}, "/mapping/0/transform", "Did you mean transforms?"),
]


@pytest.mark.parametrize(("entry", "pointer", "words"), TRANSFORMED)
def test_a_misspelt_word_of_a_mapping_is_refused_with_the_nearest(api, target, entry, pointer, words):
    refused = save(api, target, mapping=[entry])
    assert refused.status_code == 422
    assert words in details(refused)[pointer]


PATTERNS = [("lead.*.", "lead.*"), ("lead*", "lead.*"), ("*.created", "created.*"), ("lead/created", "leadcreated")]


@pytest.mark.parametrize(("pattern", "meant"), PATTERNS)
def test_a_pattern_that_is_none_is_refused_with_the_nearest(api, target, pattern, meant):
    refused = save(api, target, event=pattern)
    assert mistakes(refused) == {"/event": "event_pattern"}
    assert details(refused)["/event"].endswith(f"Did you mean {meant}?")


def test_an_action_and_a_target_are_refused_with_the_nearest(api, target):
    assert details(save(api, target, action="sent"))["/action"] == "Webhook can send. Did you mean send?"
    closed = make_connection(make_workspace(), type="segment", config={}, secret={"write_key": "k"})
    refused = save(api, closed, action="identify", mapping=[{"to": "trait", "from": "payload.a"}])
    assert "Did you mean traits?" in details(refused)["/mapping/0/to"]


# --- told -----------------------------------------------------------------------------------------------------------

WARNED = [
    ({"filter": {"payload.score": {"gte": 50}}}, "/filter/payload.score/gte", "The operator is $gte."),
    ({"filter": {"payload.a.exists": True}}, "/filter/payload.a.exists", "The operator is $exist."),
    ({"filter": {"payload.score": ">= 50"}}, "/filter/payload.score", "A comparison is an object"),
    ({"mapping": [{"to": "email", "value": "payload.email"}]}, "/mapping/0/value", '"from": "payload.email"'),
    ({"mapping": [{"to": "email", "from": "payload.email | lower"}]}, "/mapping/0/from", '"transforms": ["lower"]'),
    ({"event": "lead."}, "/event", "Did you mean lead or lead.*?"),
    ({"event": "lead..*"}, "/event", "Did you mean lead or lead.*?"),
]


@pytest.mark.parametrize(("fields", "pointer", "words"), WARNED)
def test_what_may_be_meant_is_saved_with_a_warning(api, target, fields, pointer, words):
    saved = save(api, target, **fields)
    assert saved.status_code == 201, saved.content
    (warning,) = saved.json()["warnings"]
    assert warning["pointer"] == pointer
    assert words in warning["detail"]
    path = f"/rules/{saved.json()['id']}"
    assert api.get(path).json()["warnings"] == api.patch(path, {"enabled": False}).json()["warnings"] == [warning]


def test_a_field_near_a_declared_one_of_an_open_action_is_told(api):
    target = make_connection(make_workspace(), type="hubspot", config={}, secret={"access_token": "x"})
    mapping = [{"to": "fristname", "from": "payload.name"}, {"to": "shoe_size", "from": "payload.size"}]
    (warning,) = save(api, target, mapping=mapping).json()["warnings"]
    assert warning["pointer"] == "/mapping/0/to"
    assert warning["detail"].endswith("Did you mean firstname?")


# --- what was saved before ------------------------------------------------------------------------------------------


def test_a_rule_from_before_goes_on_and_may_be_changed_elsewhere(api, target):
    rule = make_rule(target, filter={"payload.score": {">=": 50}}, mapping=[{"to": "a", "from": "email"}])
    path = f"/rules/{rule.public_id}"
    assert api.patch(path, {"enabled": False}).status_code == 200
    assert mistakes(api.patch(path, {"mapping": rule.mapping})) == {"/mapping/0/from": "unknown_root"}
    tried = api.post(f"{path}/test", {"event": "a.b", "payload": {"score": 60}})
    assert tried.json()["reason"] == "filter"
