import contextlib
import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.rules.mapping import MappingError, MappingFailed, compile_mapping
from meshes.kit.metering import RULE_STEPS, Meter, OutOfWorkError

LEAD: dict[str, Any] = {
    "event": {"id": "evt_1", "type": "lead.created", "created_at": "2024-05-01T10:00:00Z"},
    "workspace": {"id": "ws_1", "external_id": "tenant_abc", "name": "Abc"},
    "payload": {
        "email": " Ada@Example.com ",
        "score": "72",
        "phone": None,
        "tags": ["new", "vip"],
        "items": [{"sku": "A", "qty": 1}, {"sku": "B", "qty": 5}],
    },
}


def shape(*entries: Any, context: Any = LEAD) -> dict[str, Any]:
    return compile_mapping(list(entries)).apply(context)


def failure(*entries: Any, context: Any = LEAD) -> tuple[str, str]:
    with pytest.raises(MappingFailed) as caught:
        shape(*entries, context=context)
    return caught.value.pointer, caught.value.message


def refusal(document: Any) -> tuple[str, str]:
    with pytest.raises(MappingError) as caught:
        compile_mapping(document)
    return caught.value.pointer, caught.value.message


def test_entries_build_an_object():
    assert shape(
        {"to": "properties.email", "from": "payload.email", "transforms": ["trim", "lower"]},
        {"to": "properties.score", "from": "payload.score", "transforms": ["to_number"]},
        {"to": "properties.tags", "from": "payload.tags", "transforms": [{"join": ";"}]},
        {"to": "source.name", "value": "meshes"},
        {"to": "source.kind", "from": "event.type", "transforms": [{"split": "."}, "first", "upper"]},
        {"to": r"utm\.tenant", "from": "workspace.external_id"},
        {"to": "lines", "from": "payload.items[?qty > `1`].{sku: sku, n: qty}"},
    ) == {
        "properties": {"email": "ada@example.com", "score": 72, "tags": "new;vip"},
        "source": {"name": "meshes", "kind": "LEAD"},
        "utm.tenant": "tenant_abc",
        "lines": [{"sku": "B", "n": 5}],
    }


def test_the_output_shares_nothing_with_its_sources():
    context = copy.deepcopy(LEAD)
    mapping = compile_mapping(
        [
            {"to": "a", "from": "payload.items"},
            {"to": "b", "value": {"c": []}},
            {"to": "d", "from": "payload.x", "transforms": [{"default": [1]}]},
            {"to": "e", "from": "`[1]`"},
        ]
    )
    first = mapping.apply(context)
    first["a"].clear()
    first["b"]["c"].append(1)
    first["d"].clear()
    first["e"].clear()
    assert mapping.apply(context) == {"a": LEAD["payload"]["items"], "b": {"c": []}, "d": [1], "e": [1]}
    assert context == LEAD


# --- what cannot be made ----------------------------------------------------------------------------------------------


def test_a_failure_fails_the_mapping_by_default():
    entry = {"to": "n", "from": "payload.email", "transforms": ["trim", "to_number"]}
    assert failure({"to": "a", "value": 1}, entry) == ("/1/transforms/1", "the string is not a number")
    assert failure({"to": "a", "value": 1}, {**entry, "on_error": "fail"})[0] == "/1/transforms/1"


def test_a_failure_may_be_skipped_or_written_as_null():
    entry = {"from": "payload.email", "transforms": ["to_number"]}
    assert shape(
        {"to": "a.b", "on_error": "skip", **entry}, {"to": "c", "on_error": "null", **entry}, {"to": "d", "value": 1}
    ) == {"c": None, "d": 1}


@pytest.mark.parametrize("source", ["payload.missing", "payload.phone", "payload.items[9]", "payload.email.deeper"])
def test_nothing_found_is_a_failure(source):
    assert failure({"to": "a", "from": source}) == ("/0/from", "found nothing in this event")
    assert shape({"to": "a", "from": source, "on_error": "skip"}) == {}
    assert shape({"to": "a", "from": source, "on_error": "null"}) == {"a": None}
    assert shape({"to": "a", "from": source, "transforms": ["trim", {"default": "x"}, "upper"]}) == {"a": "X"}


def test_a_transform_may_find_nothing_too():
    entry = {"to": "a", "from": "`[]`", "transforms": ["first"]}
    assert failure(entry) == ("/0/from", "found nothing in this event")


def test_a_literal_null_is_meant():
    assert shape({"to": "a", "value": None}) == {"a": None}


def test_null_inside_a_found_value_is_kept():
    assert shape({"to": "a", "from": "payload.{p: phone, x: missing}"}) == {"a": {"p": None, "x": None}}


def test_an_expression_that_cannot_be_evaluated_fails_in_from():
    assert failure({"to": "a", "from": "sum(payload.tags)"}) == ("/0/from", "sum() takes array-number, not str")


def test_numbers_that_json_cannot_carry_fail():
    context = {"payload": {"a": [1.7e308, 1.7e308], "b": 10**400}}
    assert failure({"to": "x", "from": "sum(payload.a)"}, context=context) == (
        "/0/from",
        "the value is not a number that JSON can carry",
    )
    assert failure({"to": "x", "from": "payload.b"}, context=context)[0] == "/0/from"


def test_half_a_surrogate_pair_cannot_be_written():
    context = {"payload": "\ud800"}
    assert failure({"to": "x", "from": "payload"}, context=context) == ("", "the output is not JSON")
    assert failure({"to": "x", "from": "payload", "transforms": ["md5"]}, context=context) == (
        "/0/transforms/0",
        "the text cannot be written as UTF-8",
    )


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_the_output_has_at_most_256_kb():
    context = {"payload": "x" * (262_144 - len('{"a":""}'))}
    assert len(json.dumps(shape({"to": "a", "from": "payload"}, context=context), separators=(",", ":"))) == 262_144
    context = {"payload": context["payload"] + "x"}
    assert failure({"to": "a", "from": "payload"}, context=context) == ("", "the output is larger than 256 KB")


def test_the_size_of_the_output_counts_bytes():
    assert failure({"to": "a", "from": "payload"}, context={"payload": "€" * 100_000})[1].endswith("than 256 KB")


def test_many_small_copies_are_too_large_together():
    entries = [{"to": f"a{i}", "from": "payload"} for i in range(200)]
    assert failure(*entries, context={"payload": "x" * 2_000}) == ("", "the output is larger than 256 KB")


def test_no_entry_can_hide_that_the_work_is_too_much():
    bomb = {"to": "a.c", "from": "map(&to_string(@), payload)", "on_error": "skip"}
    mapping, meter = compile_mapping([{"to": "b", "value": 1}, bomb]), Meter(RULE_STEPS)
    with pytest.raises(OutOfWorkError):
        mapping.apply({"payload": [1] * 131_000}, meter)
    assert str(meter.at) == "the mapping's entry to a.c"
    assert meter.spent == RULE_STEPS


def test_amplification_is_refused_before_it_happens():
    growing = [{"replace": {"find": "x", "with": "x" * 100}}] * 10
    started = time.process_time()
    assert failure({"to": "a", "from": "payload", "transforms": growing}, context={"payload": "x" * 100}) == (
        "/0/transforms/1",
        "the text would become too long",
    )
    assert time.process_time() - started < 1


# --- refused at save --------------------------------------------------------------------------------------------------

OK = {"to": "a", "from": "payload"}


@pytest.mark.parametrize(
    ("document", "pointer", "message"),
    [
        ({}, "", "must be a list of at least one entry"),
        ([], "", "must be a list of at least one entry"),
        (None, "", "must be a list of at least one entry"),
        ([OK] * 201, "", "has more than 200 entries"),
        ([OK, "x"], "/1", "must be an object"),
        ([{"to": "a"}], "/0", "needs either from or value"),
        ([{**OK, "value": 1}], "/0", "needs either from or value"),
        ([{**OK, "form": 1}], "/0/form", 'unknown: "form" is none of to, from, value, transforms, on_error'),
        ([{**OK, "escape": "xml"}], "/0/escape", "must be none, html, markdown, slack (the word)"),
        ([{**OK, "escape": ["html"]}], "/0/escape", "must be none, html, markdown, slack (the word)"),
        ([{**OK, "skip_blanks": "yes"}], "/0/skip_blanks", "must be true or false"),
        ([{"from": "payload"}], "/0/to", "must be a dotted path"),
        ([{**OK, "to": ""}], "/0/to", "a path is names joined by single full stops"),
        ([{**OK, "to": "a..b"}], "/0/to", "a path is names joined by single full stops"),
        ([{**OK, "to": "a.b.c.d.e.f.g.h.i"}], "/0/to", "a path in the output has at most 8 names"),
        ([{**OK, "from": "payload["}], "/0/from", "not JMESPath"),
        ([{**OK, "from": 1}], "/0/from", "must be a JMESPath expression"),
        ([{**OK, "from": "eval(payload)"}], "/0/from", "unknown function eval()"),
        ([{**OK, "transforms": "trim"}], "/0/transforms", "must be a list of at most 20 transforms"),
        ([{**OK, "transforms": ["trim"] * 21}], "/0/transforms", "must be a list of at most 20 transforms"),
        ([{**OK, "transforms": ["trim", "shout"]}], "/0/transforms/1", "unknown transform"),
        ([{**OK, "transforms": [{"substring": {"start": "1"}}]}], "/0/transforms/0/substring/start", "must be a whole"),
        ([{**OK, "on_error": None}], "/0/on_error", "must be fail, skip or null (the word)"),
        ([{**OK, "on_error": []}], "/0/on_error", "must be fail, skip or null (the word)"),
        ([OK, OK], "/1/to", "writes over what entry 0 writes"),
        ([OK, {**OK, "to": "a.b"}], "/1/to", "writes over what entry 0 writes"),
        ([{**OK, "to": "b"}, {**OK, "to": "a.b.c"}, {**OK, "to": "a"}], "/2/to", "writes over what entry 1 writes"),
        ([{"to": "a", "value": float("inf")}], "/0/value", "is a number beyond the range of a double"),
        ([{"to": "a", "value": ["\x00"]}], "/0/value/0", "contains the character"),
        ([{"to": "a", "value": "x" * 70_000}], "", "is longer than 64 KB"),
    ],
)
def test_a_mistake_is_refused_with_its_place(document, pointer, message):
    found = refusal(document)
    assert found[0] == pointer
    assert found[1].startswith(message)


def test_siblings_do_not_clash():
    assert shape({"to": "a.b", "value": 1}, {"to": "a.c", "value": 2}, {"to": "ab", "value": 3}) == {
        "a": {"b": 1, "c": 2},
        "ab": 3,
    }


def test_the_mapping_of_the_docs_compiles():
    page = (Path(__file__).parents[3] / "docs" / "routing.md").read_text()
    rule = json.loads(page.split("```json\n")[1].split("```")[0])
    context = {"payload": {"lead": {"email": " A@B.com"}}}
    assert shape(*rule["mapping"], context=context) == {"properties": {"email": "a@b.com", "source": "our app"}}


# --- total and deterministic ------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
SOURCES = st.sampled_from(
    ["payload", "payload.a", "payload[*].b", "payload.*", "sort(payload)", "{x: payload.a, y: event}"]
)
TRANSFORMS = st.lists(
    st.sampled_from(
        ["to_string", "to_number", "to_date", "trim", "first", "sha256", {"default": {"k": 1}}, {"join": "-"}]
    ),
    max_size=3,
)
ENTRY = st.fixed_dictionaries(
    {"from": SOURCES, "transforms": TRANSFORMS, "on_error": st.sampled_from(["fail", "skip", "null"])}
)


def outcome(entries: list[Any], payload: Any) -> tuple[str, str]:
    """What becomes of an event: the text of the output, or where and why it failed."""
    mapping = compile_mapping([{"to": f"out.k{index}", **entry} for index, entry in enumerate(entries)])
    try:
        output = mapping.apply({"event": "a.b", "payload": payload, "workspace": "w"})
    except MappingFailed as failed:
        return failed.pointer, failed.message
    return "output", json.dumps(output, allow_nan=False)


@given(st.lists(ENTRY, min_size=1, max_size=4), JSON)
def test_applying_answers_or_fails_on_every_value_and_always_the_same(entries, payload):
    assert outcome(entries, payload) == outcome(entries, payload)


@given(JSON | st.lists(JSON, max_size=2) | st.lists(st.fixed_dictionaries({"to": JSON, "from": JSON}), max_size=2))
def test_compiling_answers_or_refuses_every_value(document):
    with contextlib.suppress(MappingError):
        compile_mapping(document)


def test_a_blank_gives_way_to_the_next_where_blanks_are_skipped():
    entry = {"to": "a", "from": "payload.first || payload.second", "on_error": "skip"}
    payload = {"first": " \t", "second": "x", "third": {"b": "", "c": [" ", 1]}}
    context = {"payload": payload}
    assert compile_mapping([entry]).apply(context) == {"a": " \t"}
    assert compile_mapping([{**entry, "skip_blanks": True}]).apply(context) == {"a": "x"}
    whole = {"to": "a", "from": "payload.third", "skip_blanks": True}
    assert compile_mapping([whole]).apply(context) == {"a": {"c": [1]}}
    assert payload == {"first": " \t", "second": "x", "third": {"b": "", "c": [" ", 1]}}
