"""What a rule says and can hardly mean is refused with the right spelling, or told in `warnings`."""

import pytest

from delivery.models import Payload, Rule
from delivery.rules.expressions import compile_expression, paths_from_root
from tests.delivery.api import mistakes
from tests.factories import make_connection, make_event, make_rule, make_workspace

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
    ({">=": 50}, "/filter/>=", ">= is no operator. Did you mean $gte? An operator needs a field to look at."),
    ({"≥": 50}, "/filter/≥", "Did you mean $gte?"),
    ({"and": [{"payload.a": 1}]}, "/filter/and", "and is no operator. Did you mean $and?"),
    ({"or": [{"payload.a": 1}]}, "/filter/or", "or is no operator. Did you mean $or?"),
    ({"not": {"payload.a": 1}}, "/filter/not", "Did you mean $not?"),
    ({"gte": 5}, "/filter/gte", "Did you mean payload.gte? The operator $gte needs a field to look at."),
    ({"payload.score": {">= ": 50}}, "/filter/payload.score/>= ", ">= is no operator. Did you mean $gte?"),
    ({"payload.score": {"≥": 50}}, "/filter/payload.score/≥", "Did you mean $gte?"),
    ({"payload.score": {"$≤": 50}}, "/filter/payload.score/$≤", "Did you mean $lte?"),
    ({"payload.score": {"$greaterThan": 5}}, "/filter/payload.score/$greaterThan", "Did you mean $gt?"),
    ({"payload.score >=": 50}, "/filter/payload.score >=", 'Did you mean {"payload.score": {"$gte": 50}}?'),
    ({"payload": {"score !=": 5}}, "/filter/payload/score !=", 'Did you mean {"payload.score": {"$neq": 5}}?'),
    ({"payload.score.$gte": 50}, "/filter/payload.score.$gte", 'Did you mean {"payload.score": {"$gte": 50}}?'),
    ({"field": "payload.score", "op": ">=", "value": 50}, "/filter", 'Did you mean {"payload.score": {"$gte": 50}}?'),
    (
        {"$or": [{"path": "payload.a", "operator": "equals", "value": "x"}]},
        "/filter/$or/0",
        'Did you mean {"payload.a": {"$eq": "x"}}?',
    ),
    ({"event": "lead.*"}, "/filter/event", 'Did you mean {"$startsWith": "lead."}?'),
    ({"event.type": "lead.*"}, "/filter/event.type", 'Did you mean {"$startsWith": "lead."}?'),
    ({"event": {"$in": ["a.b", "lead.*"]}}, "/filter/event/$in", 'Did you mean {"$startsWith": "lead."}?'),
    ({"$not": {"event.type": "lead/*"}}, "/filter/$not/event.type", "No event type is or holds 'lead/*'."),
    ({"event.type": {"$contains": "é"}}, "/filter/event.type/$contains", "No event type is or holds 'é'."),
    ({"event": ["a.b", "a.c"]}, "/filter/event", 'Did you mean {"event": {"$in": ["a.b", "a.c"]}}?'),
    ({"event.type": {"$exist": False}}, "/filter/event.type/$exist", "event.type is always there."),
    ({"payload": {"$exist": False}}, "/filter/payload/$exist", "payload is always there."),
    (
        {"workspace.external_id": {"$exist": False}},
        "/filter/workspace.external_id/$exist",
        'Did you mean {"$eq": null}?',
    ),
    (
        {"event.created_at": {"$gt": 5}},
        "/filter/event.created_at/$gt",
        "event.created_at is a string, and nothing else.",
    ),
    ({"event.created_at": {"$lt": "today"}}, "/filter/event.created_at/$lt", 'such as "2026-05-01T10:00:00Z"'),
    ({"workspace.id": 5}, "/filter/workspace.id", "workspace.id is a string, and nothing else."),
    ({"workspace.id": "tenant_abc"}, "/filter/workspace.id", "Did you mean workspace.external_id?"),
    ({"event.id": {"$nin": ["evt_1"]}}, "/filter/event.id/$nin", "'evt_1' is no id of an event."),
    ({"workspace.name": None}, "/filter/workspace.name", "workspace.name is a string, and nothing else."),
    ({"payload": {"$gt": 5}}, "/filter/payload/$gt", "payload is an object: name a member of it"),
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
NEVER = [
    ("event.type.name", "what stands before it is a string. Did you mean event.type?"),
    ("workspace.name.first", "Did you mean workspace.name?"),
    ("[0].email", "an expression begins with event, payload, workspace. Did you mean payload.email?"),
    ("[*].email", "Did you mean payload.email?"),
    ("event[0].type", "Did you mean event.type?"),
    ("payload[0].email", "Did you mean payload.email?"),
    ("payload[?a].b", "Did you mean payload.b?"),
    ("event.type[0:3]", "Did you mean event.type?"),
    ("`null`", "This is null for every event."),
    ("sum(event.type)", "sum() takes an array, and argument 1 is a string."),
    ("join(', ', workspace.name)", "join() takes an array, and argument 2 is a string."),
    ("payload.a || length(`5`)", "length() takes a string or an array or an object, and argument 1 is a number."),
    ("{a: payload.a}.b", "There is no member b here; there are a."),
]
OF_OTHERS = [
    ("$.payload.email", "payload.email"),
    ("$.email", "payload.email"),
    ("{{payload.email}}", "payload.email"),
    ("${payload.email}", "payload.email"),
    ("payload['email']", "payload.email"),
    ("payload.items.0.sku", "payload.items[0].sku"),
    ("payload->email", "payload.email"),
    ("payload?.email", "payload.email"),
    ("/payload/email", "payload.email"),
]


@pytest.mark.parametrize(("source", "words"), SOURCES)
def test_an_expression_that_looks_where_nothing_is_is_refused(api, target, source, words):
    refused = save(api, target, mapping=[{"to": "a", "value": 1}, {"to": "email", "from": source}])
    assert mistakes(refused) == {"/mapping/1/from": "unknown_root"}
    assert words in details(refused)["/mapping/1/from"]


@pytest.mark.parametrize(("source", "words"), NEVER)
def test_an_expression_that_never_finds_anything_is_refused(api, target, source, words):
    refused = save(api, target, mapping=[{"to": "email", "from": source, "on_error": "skip"}])
    assert mistakes(refused) == {"/mapping/0/from": "never"}
    assert details(refused)["/mapping/0/from"].endswith(words)
    assert not Rule.objects.exists()


@pytest.mark.parametrize(("source", "meant"), OF_OTHERS)
def test_an_expression_of_another_language_is_refused_with_what_it_is_here(api, target, source, meant):
    refused = save(api, target, mapping=[{"to": "email", "from": source}])
    assert mistakes(refused) == {"/mapping/0/from": "mapping"}
    assert details(refused)["/mapping/0/from"].endswith(f" Did you mean {meant}?")


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
    (
        {"to": "a", "from": "lowercase(payload.a)"},
        "/mapping/0/from",
        'The transform lower is written "transforms": ["lower"].',
    ),
    ({"to": "a", "from": "payload.a | upper(@)"}, "/mapping/0/from", "The transform upper"),
    ({"to": "a", "from": "payload.a", "on_error": "ignore"}, "/mapping/0/on_error", "Did you mean skip?"),
    ({"to": "a", "from": "payload.a", "on_error": "Fail"}, "/mapping/0/on_error", "Did you mean fail?"),
    ({"to": "a", "from": "payload.a", "on_error": "raise"}, "/mapping/0/on_error", "Did you mean fail?"),
]
UNFIT = [
    ({"from": "payload.a", "transforms": [{"split": "@"}, "lower"]}, 1, "lower takes a string, and is given an array."),
    ({"from": "payload.a", "transforms": ["to_number", "trim"]}, 1, "trim takes a string, and is given a number."),
    ({"from": "payload.a", "transforms": ["trim", "first"]}, 1, "first takes an array, and is given a string."),
    ({"from": "payload.a", "transforms": ["first", "to_boolean", "to_number"]}, 2, "is given true or false."),
    ({"from": "payload.a[*].b", "transforms": ["trim"]}, 0, "trim takes a string, and is given an array."),
    ({"from": "length(payload.a)", "transforms": ["lower"]}, 0, "lower takes a string, and is given a number."),
    ({"value": 5, "transforms": ["lower"]}, 0, "lower takes a string, and is given a number."),
    ({"value": "abc", "transforms": ["to_number"]}, 0, "This fails for every event: the string is not a number."),
    ({"value": "tomorrow", "transforms": ["to_date"]}, 0, "the text is not an ISO 8601 date."),
    ({"value": [5], "transforms": ["first", "lower"]}, 1, "needs a string, not a number."),
    ({"value": "x", "on_error": "null", "transforms": ["trim", "to_boolean"]}, 1, "the string is none of true,"),
]


@pytest.mark.parametrize(("entry", "pointer", "words"), TRANSFORMED)
def test_a_misspelt_word_of_a_mapping_is_refused_with_the_nearest(api, target, entry, pointer, words):
    refused = save(api, target, mapping=[entry])
    assert refused.status_code == 422
    assert words in details(refused)[pointer]


@pytest.mark.parametrize(("entry", "position", "words"), UNFIT)
def test_a_transform_that_fails_on_every_event_is_refused(api, target, entry, position, words):
    refused = save(api, target, mapping=[{"to": "a", **entry}])
    pointer = f"/mapping/0/transforms/{position}"
    assert mistakes(refused) == {pointer: "never"}
    assert words in details(refused)[pointer]


FIT = [
    ["first", "lower"],
    [{"split": "@"}, "first", "lower"],
    ["to_number", "to_boolean"],
    ["to_number", "to_string", "trim"],
    [{"default": ["a"]}, {"join": ","}],
    ["to_boolean", {"default": "none"}, "lower"],
]


@pytest.mark.parametrize("transforms", FIT)
def test_transforms_that_can_follow_each_other_are_saved(api, target, transforms):
    saved = save(api, target, mapping=[{"to": "a", "from": "payload.a", "transforms": transforms}])
    assert (saved.status_code, saved.json().get("warnings")) == (201, [])


PATTERNS = [("lead.*.", "lead.*"), ("lead*", "lead.*"), ("*.created", "created.*"), ("lead/created", "leadcreated")]


@pytest.mark.parametrize(("pattern", "meant"), PATTERNS)
def test_a_pattern_that_is_none_is_refused_with_the_nearest(api, target, pattern, meant):
    refused = save(api, target, event=pattern)
    assert mistakes(refused) == {"/event": "event_pattern"}
    assert details(refused)["/event"].endswith(f"Did you mean {meant}?")


def test_rules_are_not_searched_for_a_pattern_that_is_none(api):
    assert api.get("/rules", event="lead.*").status_code == 200
    (error,) = api.get("/rules", event="lead*").json()["errors"]
    assert (error["parameter"], error["rule"]) == ("event", "event_pattern")
    assert error["detail"].endswith("Did you mean lead.*?")


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
    ({"filter": {"payload.items[0].sku": 1}}, "/filter/payload.items[0].sku", "Did you mean payload.items.0.sku?"),
    ({"filter": {"payload.items[].sku": 1}}, "/filter/payload.items[].sku", "Did you mean payload.items.sku?"),
    ({"filter": {"payload.items.*.sku": 1}}, "/filter/payload.items.*.sku", "Did you mean payload.items.sku?"),
    ({"filter": {"payload": {"a[*]": {"b": 1}}}}, "/filter/payload/a[*]", "Did you mean payload.a?"),
    ({"filter": {"payload.score ": 1}}, "/filter/payload.score ", 'called "score ". Did you mean payload.score?'),
    ({"filter": {"payload.score": {"ge": 5}}}, "/filter/payload.score/ge", "The operator is $gte."),
    ({"filter": {"payload.score": {"greater_than": 5}}}, "/filter/payload.score/greater_than", "The operator is $gt."),
    ({"filter": {"payload.s": {"beginsWith": "a"}}}, "/filter/payload.s/beginsWith", "The operator is $startsWith."),
    ({"filter": {"payload.score__gte": 50}}, "/filter/payload.score__gte", '{"payload.score": {"$gte": 50}}'),
    ({"filter": {"payload.score lt": 50}}, "/filter/payload.score lt", '{"payload.score": {"$lt": 50}}'),
    ({"filter": {"payload.score": {"$eq": ">50"}}}, "/filter/payload.score/$eq", 'is an object: {"$gt": 50}.'),
    ({"filter": {"payload.score": {"$gte": ">=50"}}}, "/filter/payload.score/$gte", 'is an object: {"$gte": 50}.'),
    ({"filter": {"payload.score": {"$in": ["≤ 5"]}}}, "/filter/payload.score/$in", 'is an object: {"$lte": 5}.'),
    (
        {"filter": {"payload.score": {"$gt": "50"}}},
        "/filter/payload.score/$gt",
        "A number is written without quotes: 50.",
    ),
    ({"filter": {"payload.email": "*@example.com"}}, "/filter/payload.email", '{"$endsWith": "@example.com"}'),
    ({"filter": {"payload.email": "%@example.com"}}, "/filter/payload.email", '{"$endsWith": "@example.com"}'),
    ({"filter": {"payload.name": {"$neq": "Ada*"}}}, "/filter/payload.name/$neq", '{"$startsWith": "Ada"}'),
    ({"filter": {"payload.tag": "/vip/i"}}, "/filter/payload.tag", '{"$regex": "(?i)vip"}'),
    ({"mapping": [{"to": "e", "from": "'payload.email'"}]}, "/mapping/0/from", "A path has no quotes around it."),
    ({"mapping": [{"to": "e", "from": "join('', ['event.id'])"}]}, "/mapping/0/from", "the very text event.id."),
    ({"mapping": [{"to": "e", "value": "{{payload.email}}"}]}, "/mapping/0/value", '"from": "payload.email"'),
    ({"mapping": [{"to": "e", "value": "${payload.email}"}]}, "/mapping/0/value", '"from": "payload.email"'),
    ({"mapping": [{"to": "e", "value": "$.payload.email"}]}, "/mapping/0/value", '"from": "payload.email"'),
    ({"mapping": [{"to": "e", "value": "payload.a[0].b"}]}, "/mapping/0/value", '"from": "payload.a[0].b"'),
    ({"mapping": [{"to": "e", "value": "Hi {{ payload.name }}"}]}, "/mapping/0/value", "a mapping has no templates"),
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


MEANT = [
    {
        "payload.$browser": "x",
        "payload.utm": "/blog/a",
        "payload.off": "50%",
        "payload.YWJj=": 1,
        "payload.stars": "**",
    },
    {"payload.in": [1], "payload.tags": ["vip", "new"], "payload.html": "<b>x</b>", "payload.less": "<"},
    {"event": {"$startsWith": "lead."}, "event.created_at": {"$gte": "2026-01-01"}, "workspace.external_id": None},
    {"event.type": {"$regex": "lead.*"}, "workspace.name": {"$neq": "*"}, "payload": {"$exist": True}},
    {"payload.date": {"$gte": "2026-01-01"}, "payload.operator": "x", "payload.field": "y", "payload.value": 1},
]


@pytest.mark.parametrize("document", MEANT)
def test_what_is_meant_is_saved_without_a_warning(api, target, document):
    saved = save(api, target, filter=document)
    assert (saved.status_code, saved.json().get("warnings")) == (201, [])


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


# --- filters of erasures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "pointer", "words"),
    [
        ({"payload.email": {">=": 5}}, "/match/payload.email/>=", "Did you mean $gte?"),
        ({"payload.email": {"=": "ada@x.org"}}, "/match/payload.email/=", "Did you mean $eq?"),
        ({"event": "lead.*"}, "/match/event", 'Did you mean {"$startsWith": "lead."}?'),
        ({"email": "ada@x.org"}, "/match/email", "Did you mean payload.email?"),
    ],
)
def test_an_erasure_refuses_what_a_rule_refuses(api, document, pointer, words):
    workspace = make_workspace()
    make_event(workspace, {"email": "ada@x.org"})
    refused = api.post(f"/workspaces/{workspace.public_id}/erasures", {"match": document})
    assert refused.status_code == 422
    assert words in details(refused)[pointer]
    assert Payload.objects.get().erased_at is None


@pytest.mark.parametrize(
    ("document", "pointer", "words"),
    [
        ({"payload.email": {"eq": "ada@x.org"}}, "/match/payload.email/eq", "The operator is $eq."),
        ({"payload.email ": "ada@x.org"}, "/match/payload.email ", "Did you mean payload.email?"),
        ({"payload.email": "*@x.org"}, "/match/payload.email", '{"$endsWith": "@x.org"}'),
    ],
)
def test_an_erasure_warns_as_a_rule_does(api, document, pointer, words):
    workspace = make_workspace()
    make_event(workspace, {"email": "ada@x.org"})
    for is_dry in (True, False):
        done = api.post(f"/workspaces/{workspace.public_id}/erasures", {"match": document, "dry_run": is_dry}).json()
        (warning,) = done["warnings"]
        assert (done["count"], warning["pointer"]) == (0, pointer)
        assert words in warning["detail"]
    asked = {"match": {"payload.email": "ada@x.org"}}
    assert api.post(f"/workspaces/{workspace.public_id}/erasures", asked).json()["warnings"] == []
