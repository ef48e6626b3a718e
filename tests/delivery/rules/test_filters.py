import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.rules.filters import compile_filter
from delivery.rules.patterns import RuleError
from meshes.kit.metering import RULE_STEPS, Meter, OutOfWorkError

LEAD: dict[str, Any] = {
    "event": {"id": "evt_1", "type": "lead.created", "created_at": "2024-05-01T10:00:00Z"},
    "workspace": {"id": "ws_1", "external_id": "tenant_abc", "name": "Abc"},
    "payload": {
        "score": 72,
        "ratio": 0.5,
        "email": "Ada@Example.com",
        "name": "Zoë",
        "phone": None,
        "vip": True,
        "tags": ["gift", "new", 7],
        "address": {"city": "Oslo"},
        "utm.source": "ads",
        "items": [{"sku": "A", "qty": 1}, {"sku": "B", "qty": 5}, {"bundle": [{"sku": "C"}]}],
    },
}


def matches(document: Any, context: dict[str, Any] = LEAD) -> bool:
    return compile_filter(document).matches(context)


def clause_of(path: str, operator: str, expected: Any, actual: Any, found: bool) -> dict[str, Any]:
    return {"path": path, "operator": operator, "expected": expected, "actual": actual, "found": found}


def on(field: str, condition: Any) -> bool:
    return matches({f"payload.{field}": condition})


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (72, True),
        (72.0, True),
        ("72", False),
        ({"$eq": 72}, True),
        ({"$neq": 72}, False),
        ({"$neq": "72"}, True),
        ({"$gt": 72}, False),
        ({"$gte": 72}, True),
        ({"$gte": 71.5, "$lt": 73}, True),
        ({"$lt": 10**300}, True),
        ({"$lte": "99"}, False),
        ({"$in": [1, 72]}, True),
        ({"$nin": [1, 72]}, False),
        ({"$startsWith": "7"}, False),
        ({"$contains": "7"}, False),
        ({"$regex": "72"}, False),
        ({"$exist": True}, True),
        ({"$not": {"$gt": 100}}, True),
        ({"$or": [1, {"$gt": 70}]}, True),
        ({"$and": [{"$gt": 70}, {"$lt": 71}]}, False),
    ],
)
def test_a_number(condition, expected):
    assert on("score", condition) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("Ada@Example.com", True),
        ("ada@example.com", False),
        ({"$startsWith": "Ada"}, True),
        ({"$startsWith": "ada"}, False),
        ({"$endsWith": ".com"}, True),
        ({"$contains": "@"}, True),
        ({"$contains": 1}, False),
        ({"$regex": "@example"}, False),
        ({"$regex": "(?i)@example\\.com$"}, True),
        ({"$gt": "A"}, True),
        ({"$gt": "a"}, False),
        ({"$gt": 1}, False),
    ],
)
def test_a_string_is_compared_by_code_point(condition, expected):
    assert on("email", condition) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("Zo\u00eb", True),
        ("Zoe\u0308", False),
        ("ZO\u00cb", False),
        ({"$regex": "^Zo.$"}, True),
        ({"$gt": "Zoe"}, True),
    ],
)
def test_unicode_is_neither_folded_nor_normalized(condition, expected):
    assert on("name", condition) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (True, True),
        (1, False),
        ({"$gte": 1}, False),
        ({"$in": [1, 1.0]}, False),
        ({"$neq": 1}, True),
    ],
)
def test_a_boolean_is_no_number(condition, expected):
    assert on("vip", condition) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [(None, True), ({"$neq": None}, False), ({"$exist": True}, True), ({"$gte": 0}, False), ({"$in": [None]}, True)],
)
def test_null_is_a_value(condition, expected):
    assert on("phone", condition) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (None, False),
        ({"$eq": "x"}, False),
        ({"$neq": "x"}, True),
        ({"$neq": None}, True),
        ({"$gt": 0}, False),
        ({"$lt": 0}, False),
        ({"$in": [None, 1]}, False),
        ({"$nin": [1]}, True),
        ({"$startsWith": "a"}, False),
        ({"$contains": "a"}, False),
        ({"$regex": ".*"}, False),
        ({"$exist": True}, False),
        ({"$exist": False}, True),
        ({"$not": {"$gt": 0}}, True),
    ],
)
@pytest.mark.parametrize("field", ["missing", "address.missing", "score.missing", "phone.missing", "tags.9"])
def test_what_is_missing_satisfies_negative_operators_only(field, condition, expected):
    assert on(field, condition) is expected


@pytest.mark.parametrize(
    ("field", "condition", "expected"),
    [
        ("tags", "gift", True),
        ("tags", "gif", False),
        ("tags", {"$neq": "gift"}, False),
        ("tags", {"$neq": "old"}, True),
        ("tags", ["new", "gift"], True),
        ("tags", ["gift", "old"], False),
        ("tags", {"$eq": ["gift", "new", 7]}, True),
        ("tags", {"$eq": ["new", "gift", 7]}, False),
        ("tags", {"$contains": "gift"}, True),
        ("tags", {"$contains": "gif"}, False),
        ("tags", {"$contains": 7.0}, True),
        ("tags", {"$in": ["old", "new"]}, True),
        ("tags", {"$nin": ["old", "new"]}, False),
        ("tags", {"$gt": 6}, True),
        ("tags", {"$startsWith": "gi"}, True),
        ("tags", {"$regex": "^n"}, True),
        ("tags.1", "new", True),
        ("items.sku", "B", True),
        ("items.sku", "C", False),
        ("items.sku", {"$neq": "B"}, False),
        ("items.sku", {"$exist": False}, False),
        ("items.bundle.sku", "C", True),
        ("items.0.sku", "B", False),
        ("items.1.sku", "B", True),
        ("items", {"sku": "A", "qty": 5}, True),
    ],
)
def test_an_array_stands_for_itself_and_its_members(field, condition, expected):
    assert on(field, condition) is expected


def test_objects_are_equal_as_a_whole_only_by_eq():
    assert on("address", {"$eq": {"city": "Oslo"}})
    assert not on("address", {"$eq": {}})
    assert not on("items", {"$eq": [{"sku": "A"}]})
    assert on("items", {"$eq": {"sku": "A", "qty": 1.0}})
    assert not on("items", {"$eq": {"sku": "A", "qty": True}})


def test_nested_and_dotted_forms_are_the_same():
    assert compile_filter({"payload": {"address": {"city": {"$eq": "Oslo"}}}}).matches(LEAD)
    assert compile_filter({"payload.address": {"city": "Oslo"}}).matches(LEAD)
    assert compile_filter({"payload.address.city": "Oslo"}).matches(LEAD)


def test_a_backslash_reaches_a_name_with_a_full_stop():
    assert matches({"payload": {r"utm\.source": "ads"}})
    assert not matches({"payload": {"utm.source": "ads"}})


def test_event_and_workspace_are_there_too():
    assert matches({"event.type": {"$in": ["lead.created"]}, "workspace": {"external_id": {"$startsWith": "tenant_"}}})
    assert matches({"event.created_at": {"$gte": "2024"}})
    assert not matches({"event": {"type": "lead.updated"}})


def test_event_alone_is_short_for_its_type():
    assert matches({"event": "lead.created"})
    assert matches({"event": {"$or": [{"$startsWith": "lead."}, "user.created"]}})
    assert not matches({"event": {"$nin": ["lead.created"]}})
    clause = compile_filter({"event": "a.b"}).explain(LEAD)
    assert clause == clause_of("event.type", "$eq", "a.b", "lead.created", True)


def test_the_empty_filter_matches_everything():
    assert matches({})
    assert matches({}, {})


def test_numbers_are_compared_by_exact_value_whatever_their_size():
    context = {"payload": {"id": 9007199254740993, "big": 10**400}}
    assert matches({"payload.id": 9007199254740993}, context)
    assert not matches({"payload.id": 9007199254740992.0}, context)
    assert matches({"payload.big": {"$gt": 1.7e308}}, context)


# --- the clause that failed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "clause"),
    [
        ({"event": "lead.created", "payload.score": {"$gte": 90}}, clause_of("payload.score", "$gte", 90, 72, True)),
        ({"payload": {"plan": "pro"}}, clause_of("payload.plan", "$eq", "pro", None, False)),
        ({"payload.phone": {"$neq": None}}, clause_of("payload.phone", "$neq", None, None, True)),
        ({"payload.items.sku": "Z"}, clause_of("payload.items.sku", "$eq", "Z", '["A","B"]', True)),
        ({"payload.score": {"$not": {"$gt": 1}}}, clause_of("payload.score", "$not", '{"$gt":1}', 72, True)),
        ({"$not": {"event": "lead.created"}}, clause_of("", "$not", '{"event":"lead.created"}', None, False)),
        (
            {"$or": [{"event": "a"}, {"payload.score": 1}]},
            clause_of("", "$or", '[{"event":"a"},{"payload.score":1}]', None, False),
        ),
        ({r"payload.utm\.source": "mail"}, clause_of(r"payload.utm\.source", "$eq", "mail", "ads", True)),
        ({"payload.vip": {"$exist": False}}, clause_of("payload.vip", "$exist", False, True, True)),
    ],
)
def test_explain_names_the_first_clause_that_failed(document, clause):
    assert compile_filter(document).explain(LEAD) == clause


def test_explain_is_none_for_a_match():
    assert compile_filter({"payload.score": {"$gt": 1}}).explain(LEAD) is None


@pytest.mark.parametrize(
    ("actual", "shown"),
    [
        ("x" * 300, "x" * 200 + "…"),
        ("a\x00\ud800", "a\ufffd?"),
        (10**250, "1" + "0" * 199 + "…"),
        (1 << 14_000, "an integer of 14001 bits"),
        (float("inf"), "inf"),
        ({"k": [1, "é", None, {}]}, '{"k":[1,"é",null,{}]}'),
        ([0] * 100_000, "[" + "0," * 99 + "0…"),
    ],
)
def test_what_a_clause_shows_is_short_and_fit_for_storage(actual, shown):
    clause = compile_filter({"payload.x": "never"}).explain({"payload": {"x": actual}})
    assert clause is not None
    assert clause["actual"] == shown
    assert json.loads(json.dumps(clause, allow_nan=False))["actual"] == shown


# --- refused at save --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "pointer", "message"),
    [
        ([], "", "must be an object"),
        ("x", "", "must be an object"),
        ({"payload.score": {"$above": 1}}, "/payload.score/$above", "unknown operator"),
        ({"payload": {"score": {"$gte": True}}}, "/payload/score/$gte", "takes a number or a string"),
        ({"payload": {"score": {"$gte": None}}}, "/payload/score/$gte", "takes a number or a string"),
        ({"payload.a": {"$in": "x"}}, "/payload.a/$in", "takes a list of 1 to 200 values"),
        ({"payload.a": {"$nin": []}}, "/payload.a/$nin", "takes a list of 1 to 200 values"),
        ({"payload.a": {"$in": [0] * 201}}, "/payload.a/$in", "takes a list of 1 to 200 values"),
        ({"payload.a": {"$in": [1, [2]]}}, "/payload.a/$in/1", "must be a string, a number"),
        ({"payload.a": {"$exist": 1}}, "/payload.a/$exist", "takes true or false"),
        ({"payload.a": {"$startsWith": 1}}, "/payload.a/$startsWith", "takes a string"),
        ({"payload.a": {"$endsWith": ""}}, "/payload.a/$endsWith", "takes a string"),
        ({"payload.a": {"$contains": []}}, "/payload.a/$contains", "takes a string, a number"),
        ({"payload.a": {"$regex": "(a"}}, "/payload.a/$regex", "not a regular expression of RE2: missing ): (a"),
        ({"payload.a": {"$regex": "(?=a)"}}, "/payload.a/$regex", "not a regular expression of RE2"),
        ({"payload.a": {"$regex": r"(a)\1"}}, "/payload.a/$regex", "not a regular expression of RE2"),
        ({"payload.a": {"$regex": "((a{100}){100}){100}"}}, "/payload.a/$regex", "not a regular expression of RE2"),
        ({"payload.a": {"$regex": "a" * 513}}, "/payload.a/$regex", "1 to 512 characters"),
        ({"payload.a": {"$regex": None}}, "/payload.a/$regex", "takes a regular expression"),
        ({"payload": {"a": 1, "$gt": 1}}, "/payload", "either operators or fields"),
        ({"payload.a": 1, "$or": [{"event": "x"}]}, "", "either operators or fields"),
        ({"payload": {}}, "/payload", "an empty object says nothing"),
        ({"payload.tags": []}, "/payload.tags", "an empty array says nothing"),
        ({"$or": []}, "/$or", "takes a list of at least one condition"),
        ({"$and": {}}, "/$and", "takes a list of at least one condition"),
        ({"$or": [{"event": "a"}, {}]}, "/$or/1", "an empty object says nothing"),
        ({"$or": ["a"]}, "/$or/0", "must be an object of fields or operators"),
        ({"$not": None}, "/$not", "must be an object of fields or operators"),
        ({"$eq": 1}, "/$eq", "an operator needs a field"),
        ({"data.score": 1}, "/data.score", "begins with none of event, payload, workspace"),
        ({"event.name": "a"}, "/event.name", "event has the members type, id, created_at"),
        ({"event": {"type": {"a": 1}}}, "/event/type/a", "event has the members type, id, created_at"),
        ({"workspace": "ws_1"}, "/workspace", "workspace has the members id, external_id, name"),
        ({"payload..a": 1}, "/payload..a", "a path is names joined by single full stops"),
        ({"payload": {"": 1}}, "/payload/", "a path is names joined by single full stops"),
        ({"payload.a": {"$eq": float("nan")}}, "/payload.a/$eq", "beyond the range"),
        ({"payload.a": "\x00"}, "/payload.a", "contains the character"),
        ({"payload.a": {"$eq": "x" * 70_000}}, "", "is longer than 64 KB"),
        ({"payload/a~": 1}, "/payload~1a~0", "begins with none of"),
    ],
)
def test_a_mistake_is_refused_with_its_place(document, pointer, message):
    with pytest.raises(RuleError) as caught:
        compile_filter(document)
    assert caught.value.pointer == pointer
    assert message in caught.value.message


def test_a_filter_that_was_accepted_stays_so_when_jsonb_writes_its_numbers_out():
    filled = {"payload.a": {"$eq": [1e300] * 5_000}}
    stored = {"payload.a": {"$eq": [10**300] * 5_000}}
    compile_filter(filled)
    compile_filter(stored)
    with pytest.raises(RuleError, match="is longer than 64 KB"):
        compile_filter({"payload.a": {"$eq": [1] * 9_000}})


def test_the_filters_of_the_docs_compile():
    page = (Path(__file__).parents[3] / "docs" / "routing.md").read_text()
    blocks = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    examples = [json.loads(blocks[0])["filter"], *map(json.loads, blocks[1].splitlines())]
    assert [compile_filter(example).matches(LEAD) for example in examples] == [False, False, False, True, False]


def nested(depth: int) -> dict[str, Any]:
    document: dict[str, Any] = {"payload.a": 1}
    for _ in range(depth - 1):
        document = {"$not": document}
    return document


def test_objects_nest_eight_deep_and_no_deeper():
    assert not compile_filter(nested(8)).matches({"payload": {"a": 1}})
    with pytest.raises(RuleError, match="nested more than 8 deep") as caught:
        compile_filter(nested(9))
    assert caught.value.pointer == "/$not" * 8


def test_absurd_nesting_is_refused():
    with pytest.raises(RuleError, match="nested more than 32 deep"):
        compile_filter(nested(5_000))


def test_200_nodes_compile_and_201_do_not():
    compile_filter({"$or": [{"payload.a": 1}] * 199})
    with pytest.raises(RuleError, match="more than 200 conditions and groups"):
        compile_filter({"$or": [{"payload.a": 1}] * 200})


# --- total and bounded ------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "0", ""]), inner, max_size=3)
    ),
    max_leaves=12,
)
SCALAR = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from("ab")
)
LEAF = st.one_of(
    SCALAR,
    st.fixed_dictionaries({"$eq": SCALAR | st.lists(SCALAR, max_size=2)}),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.integers() | st.sampled_from("ab")).map(
        lambda t: dict([t])
    ),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(SCALAR, min_size=1, max_size=3)).map(lambda t: dict([t])),
    st.fixed_dictionaries({"$exist": st.booleans()}),
    st.fixed_dictionaries({"$contains": SCALAR}),
    st.tuples(st.sampled_from(["$startsWith", "$endsWith", "$regex"]), st.sampled_from(["a", "b+", "[^a]$"])).map(
        lambda t: dict([t])
    ),
)
FIELD = st.dictionaries(
    st.sampled_from(["payload.a", "payload.a.b", "payload.b.0.a", "event", "workspace.id"]),
    LEAF,
    min_size=1,
    max_size=2,
)
DOCUMENT = st.recursive(
    FIELD,
    lambda inner: (
        st.fixed_dictionaries({"$not": inner})
        | st.tuples(st.sampled_from(["$or", "$and"]), st.lists(inner, min_size=1, max_size=3)).map(lambda t: dict([t]))
    ),
    max_leaves=4,
)


@given(DOCUMENT, st.dictionaries(st.sampled_from(["event", "payload", "workspace"]), JSON))
def test_evaluation_answers_for_every_json_value(document, context):
    compiled = compile_filter(document)
    clause = compiled.explain(context)
    assert compiled.matches(context) is (clause is None)
    assert compile_filter({"$not": document}).matches(context) is (clause is not None)
    if clause is not None:
        assert "\\u0000" not in json.dumps(clause, allow_nan=False)


@given(JSON)
def test_compiling_answers_for_every_json_value(document):
    with contextlib.suppress(RuleError):
        compile_filter(document)


def test_arrays_nested_deeper_than_python_recurses_are_no_trouble():
    deep: Any = [{"a": 1}]
    for _ in range(10_000):
        deep = [deep]
    assert matches({"payload.a": 1}, {"payload": deep})
    assert not matches({"payload": {"$eq": [[1]]}}, {"payload": deep})


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ({"$eq": [1, 2]}, [[1, 3]] * 40_000),
        ({"$neq": "x"}, [0] * 131_000),
        ({"$contains": "x"}, [0] * 131_000),
        ({"$contains": "ab"}, "a" * 262_000),
        ({"$regex": "(a|b)*a(a|b){90}c"}, "ab" * 131_000),
        ({"$in": ["x"]}, [{"a": {"a": 0}}] * 30_000),
    ],
)
def test_the_worst_filter_on_the_largest_payload_ends_soon(condition, value):
    worst = compile_filter({"payload.a": {"$and": [{"$or": [condition, {"$exist": False}]}] * 45}})
    started = time.process_time()
    with contextlib.suppress(OutOfWorkError):
        worst.explain({"payload": {"a": value}})
    assert time.process_time() - started < 5


@pytest.mark.parametrize("negated", [False, True])
def test_too_much_work_is_no_answer_and_names_the_clause(negated):
    document = {"payload.a": {"$and": [{"$neq": "x"}] * 100}}
    heavy, meter = compile_filter({"$not": document} if negated else document), Meter(RULE_STEPS)
    with pytest.raises(OutOfWorkError):
        heavy.explain({"payload": {"a": [0] * 131_000}}, meter)
    assert str(meter.at) == "the clause payload.a $neq"
    assert meter.spent == RULE_STEPS
