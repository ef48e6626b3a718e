import contextlib
import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connections import providers
from connections.providers.base import Action, MappingField
from delivery.rules.mapping import compile_mapping, complete, field_mistakes
from delivery.rules.patterns import RuleError
from delivery.rules.transforms import ShapingError
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
    with pytest.raises(ShapingError) as caught:
        shape(*entries, context=context)
    return caught.value.pointer, caught.value.message


def refusal(document: Any) -> tuple[str, str]:
    with pytest.raises(RuleError) as caught:
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
    except ShapingError as failed:
        return failed.pointer, failed.message
    return "output", json.dumps(output, allow_nan=False)


@given(st.lists(ENTRY, min_size=1, max_size=4), JSON)
def test_applying_answers_or_fails_on_every_value_and_always_the_same(entries, payload):
    assert outcome(entries, payload) == outcome(entries, payload)


@given(JSON | st.lists(JSON, max_size=2) | st.lists(st.fixed_dictionaries({"to": JSON, "from": JSON}), max_size=2))
def test_compiling_answers_or_refuses_every_value(document):
    with contextlib.suppress(RuleError):
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


# --- the fields of an action: their defaults, what a rule puts over them, and what is refused -----------------------

SEND = Action("send", "Send the event", True)
UPSERT = Action(
    "upsert",
    "Upsert",
    True,
    fields=(
        MappingField("email", "Email", required=True, source="payload.email"),
        MappingField("first", "First name", source="payload.first_name"),
        MappingField("owner", "Owner", required=True),
        MappingField("score", "Score", type="number"),
        MappingField("tags", "Tags", type="array"),
        MappingField("extra", "Extra", type="object", source="payload"),
    ),
)
OPEN = Action("open", "Open", True, fields=UPSERT.fields[:2], is_open=True)
OWNER = {"to": "owner", "value": "x"}


def complete_keys(action, own):
    return [(entry["to"], entry.get("from", entry.get("value"))) for entry in complete(action, own) or ()]


def found(action, own):
    return [(each["pointer"], each["rule"]) for each in field_mistakes(action, own)]


def test_an_action_without_fields_takes_the_payload_or_what_the_mapping_makes():
    assert complete(SEND, None) is None
    assert complete(SEND, [OWNER]) == [OWNER]
    assert found(SEND, [{"to": "anything", "value": 1}]) == []


def test_the_default_mapping_fails_for_what_is_required_and_skips_the_rest():
    assert UPSERT.default_mapping == [
        {"to": "email", "from": "payload.email", "skip_blanks": True},
        {"to": "first", "from": "payload.first_name", "skip_blanks": True, "on_error": "skip"},
        {"to": "extra", "from": "payload", "skip_blanks": True, "on_error": "skip"},
    ]


HTML = Action("mail", "Mail", True, fields=(MappingField("html", "HTML", markup="html"), MappingField("text", "Text")))


@pytest.mark.parametrize(
    ("entry", "made"),
    [
        ({"to": "html", "from": "join('', ['<p>', payload.name, '</p>'])"}, "<p>&lt;b&gt;&amp;&#x27;x&#x27;</p>"),
        ({"to": "html", "from": "payload.name"}, "<b>&'x'"),
        ({"to": "html", "from": "payload.names[0]"}, "<i>"),
        ({"to": "html", "from": "payload.name", "escape": "html"}, "&lt;b&gt;&amp;&#x27;x&#x27;"),
        ({"to": "html", "from": "join('', [payload.name])", "escape": "none"}, "<b>&'x'"),
        ({"to": "html", "value": "<hr>"}, "<hr>"),
        ({"to": "text", "from": "join('', [payload.name])"}, "<b>&'x'"),
        ({"to": "html.a", "from": "payload.name"}, {"a": "&lt;b&gt;&amp;&#x27;x&#x27;"}),
    ],
)
def test_what_an_expression_takes_into_markup_is_escaped(entry, made):
    payload = {"name": "<b>&'x'", "names": ["<i>"]}
    shaped = compile_mapping(complete(HTML, [entry])).apply({"payload": payload})
    assert next(iter(shaped.values())) == made


def test_a_blank_is_skipped_by_a_default_and_kept_by_a_rule_s_own_entry():
    payload = {"email": "a@b.co", "first_name": "  ", "company": "", "n": {"x": "", "y": 0}}
    context = {"payload": payload, "event": {}, "workspace": {}}
    shaped = compile_mapping(complete(UPSERT, [OWNER])).apply(context)
    assert shaped == {"owner": "x", "email": "a@b.co", "extra": {"email": "a@b.co", "n": {"y": 0}}}
    own = [OWNER, {"to": "first", "from": "payload.company"}]
    assert compile_mapping(complete(UPSERT, own)).apply(context)["first"] == ""


def test_a_rule_overrides_field_by_field_and_comes_first():
    own = [{"to": "first", "from": "payload.given"}, OWNER]
    assert complete_keys(UPSERT, own) == [
        ("first", "payload.given"), ("owner", "x"), ("email", "payload.email"), ("extra", "payload"),
    ]  # fmt: skip


@pytest.mark.parametrize("to", ["extra", "extra.source"])
def test_a_default_gives_way_to_an_entry_for_its_field_or_a_part_of_it(to):
    assert "payload" not in dict(complete_keys(UPSERT, [{"to": to, "value": {}}])).values()


def test_a_default_inside_an_object_gives_way_to_the_object():
    action = Action("a", "A", True, fields=(MappingField("person.email", "Email", source="payload.email"),))
    assert complete_keys(action, [{"to": "person", "from": "payload.person"}]) == [("person", "payload.person")]


def test_what_is_made_compiles():
    compile_mapping(complete(UPSERT, [OWNER]))


def test_a_required_field_without_a_default_must_be_mapped():
    (mistake,) = field_mistakes(UPSERT, None)
    assert (mistake["pointer"], mistake["rule"]) == ("", "required")
    assert "owner (Owner)" in mistake["detail"]
    assert found(UPSERT, [OWNER]) == []


def test_a_field_that_the_action_has_not_is_refused_unless_it_is_open():
    stray = {"to": "nickname", "value": "x"}
    (mistake,) = field_mistakes(UPSERT, [OWNER, stray])
    assert (mistake["pointer"], mistake["rule"]) == ("/1/to", "unknown")
    assert "nickname" in mistake["detail"]
    assert found(OPEN, [stray]) == []
    assert found(UPSERT, [OWNER, {"to": "extra.anything", "value": "x"}]) == []


@pytest.mark.parametrize(
    ("entry", "pointer"),
    [
        ({"to": "score", "value": "high"}, "/1/value"),
        ({"to": "score", "value": True}, "/1/value"),
        ({"to": "tags", "value": "a"}, "/1/value"),
        ({"to": "score", "from": "payload.score", "transforms": ["trim"]}, "/1/transforms/0"),
        ({"to": "first", "from": "payload.a", "transforms": ["trim", {"split": ","}]}, "/1/transforms/1"),
        ({"to": "first.name", "from": "payload.a"}, "/1/to"),
    ],
)
def test_a_wrong_type_is_refused_where_the_mapping_shows_it(entry, pointer):
    (mistake,) = field_mistakes(UPSERT, [OWNER, entry])
    assert (mistake["pointer"], mistake["rule"]) == (pointer, "type")
    assert entry["to"].split(".")[0] in mistake["detail"]


@pytest.mark.parametrize("value", [None, ""])
def test_nothing_is_not_enough_for_a_required_field(value):
    (mistake,) = field_mistakes(UPSERT, [{"to": "owner", "value": value}])
    assert (mistake["pointer"], mistake["rule"]) == ("/0/value", "required")
    assert "owner" in mistake["detail"]
    assert found(UPSERT, [{"to": "owner", "value": value, "transforms": [{"default": "x"}]}]) == []


@pytest.mark.parametrize(
    "entry",
    [
        {"to": "score", "value": 1.5},
        {"to": "score", "value": None},
        {"to": "tags", "from": "payload.tags", "transforms": [{"split": ","}]},
        {"to": "tags", "from": "payload.tags", "transforms": [{"default": []}]},
        {"to": "first", "from": "payload.a"},
    ],
)
def test_what_may_be_right_is_taken(entry):
    assert found(UPSERT, [OWNER, entry]) == []


@pytest.mark.parametrize("provider", providers.all(), ids=lambda provider: provider.slug)
def test_every_declared_default_compiles(provider):
    for action in provider.actions:
        entries = action.default_mapping
        if entries:
            compile_mapping(entries)
