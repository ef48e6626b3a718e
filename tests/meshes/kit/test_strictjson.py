import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshes.kit import strictjson
from meshes.kit.strictjson import (
    InvalidJson,
    check_value,
    elements,
    join_path,
    loads,
    members,
    payload_slices,
    split_path,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5), max_leaves=30
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=5)
STYLES = st.sampled_from([{}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":")}])


def read(raw: bytes, **limits: int) -> Any:
    return loads(raw, **{"max_bytes": 262_144, **limits}).value


def refusal(raw: bytes, **limits: int) -> InvalidJson:
    with pytest.raises(InvalidJson) as caught:
        read(raw, **limits)
    return caught.value


@given(VALUES, STYLES)
def test_good_json_reads_as_the_standard_library_reads_it(value, style):
    text = json.dumps(value, **style)
    parsed = loads(text.encode(), max_bytes=1_000_000)
    assert repr(parsed.value) == repr(json.loads(text))
    assert parsed.text == text


@given(st.binary(max_size=64) | TEXT.map(str.encode))
def test_whatever_the_bytes_the_answer_is_a_value_or_a_refusal(raw):
    try:
        value = read(raw)
    except InvalidJson:
        return
    assert repr(value) == repr(json.loads(raw))


@pytest.mark.parametrize(
    ("raw", "pointer", "rule"),
    [
        (b"", "", "syntax"),
        (b"{", "", "syntax"),
        (b"{} {}", "", "syntax"),
        (b"[01]", "", "syntax"),
        (b'["\n"]', "", "syntax"),
        (b'{"a":"\x00"}', "", "syntax"),
        (b'"\xff"', "", "encoding"),
        (b'"\xed\xa0\x80"', "", "encoding"),
        (b'\xef\xbb\xbf{"a":1}', "", "encoding"),
        ('{"a":1}'.encode("utf-16"), "", "encoding"),
        ('{"a":1}'.encode("utf-16-le"), "", "encoding"),
        ('{"a":1}'.encode("utf-32-be"), "", "encoding"),
        (b'{"a":[1,NaN]}', "/a/1", "not_finite"),
        (b'{"a":-Infinity}', "/a", "not_finite"),
        (b"Infinity", "", "not_finite"),
        (b'{"a":{"b":1e400}}', "/a/b", "not_finite"),
        (b'{"a":-1e400}', "/a", "not_finite"),
        (b'{"a":' + b"9" * 310 + b"}", "/a", "integer_digits"),
        (b'{"a":-' + b"9" * 4_000 + b"}", "/a", "integer_digits"),
        (b'{"a":' + b"9" * 200_000 + b"}", "/a", "integer_digits"),
        (b'{"a":{"b":1,"c":2,"b":1}}', "/a/b", "duplicate_key"),
        (b'{"x":[{"a/b":1,"a\\/b":1}]}', "/x/0/a~1b", "duplicate_key"),
        (b'{"a":["x","\\u0000"]}', "/a/1", "nul"),
        (b'{"a":{"\\u0000b":1}}', "/a", "nul"),
        (b'{"a":"\\ud800"}', "/a", "surrogate"),
        (b'{"a":"\\uDE00\\uD83D"}', "/a", "surrogate"),
        (b'{"a":"\\\\\\ud83d"}', "/a", "surrogate"),
        (b'{"a":{"\\udfff":1}}', "/a", "surrogate"),
    ],
)
def test_a_refusal_names_the_place_and_the_rule(raw, pointer, rule):
    fault = refusal(raw)
    assert (fault.pointer, fault.rule) == (pointer, rule)


def test_a_syntax_error_says_where():
    fault = refusal(b'{"a": 1,\n "b" 2}')
    assert fault.position == 14
    assert fault.message == "not valid JSON: Expecting ':' delimiter (line 2, column 6)"


def test_escaped_backslashes_before_u_are_not_escapes():
    assert read(rb'["\\u0000", "\\ud800", "\u00e9"]') == ["\\u0000", "\\ud800", "é"]


def test_a_pair_of_surrogate_escapes_is_one_character():
    assert read(rb'["\ud83d\ude00"]') == ["\U0001f600"]


def test_numbers_at_the_edge_are_kept():
    edge = "9" * 309
    assert read(f"[{edge}, -{edge}, 1e308, 1e-400]".encode()) == [int(edge), -int(edge), 1e308, 0.0]


@given(
    st.integers(0, 250),
    st.sampled_from(["", "-"]),
    st.integers(1, 330),
    st.integers(0, 12),
    st.sampled_from(["", "e", "E", "e+", "E+", "e-"]),
    st.integers(0, 420),
)
def test_a_number_is_refused_where_it_is_beyond_a_double_and_nowhere_else(offset, sign, digits, fraction, e, exponent):
    """Wherever it stands: the quick look for such numbers goes by blocks of the text."""
    number = f"{sign}{'9' * digits}{'.' * bool(fraction)}{'5' * fraction}{f'{e}{exponent}' * bool(e)}"
    raw = f'["{"x" * offset}", {number}]'.encode()
    if fraction or e:
        expected = "not_finite" if math.isinf(float(number)) else None
    else:
        expected = "integer_digits" if digits > 309 else None
    if expected:
        assert (refusal(raw).pointer, refusal(raw).rule) == ("/1", expected)
    else:
        assert repr(read(raw)) == repr(json.loads(raw))


def test_the_size_limit_counts_bytes():
    assert read('"é"'.encode(), max_bytes=4) == "é"
    fault = refusal('"é"'.encode(), max_bytes=3)
    assert (fault.rule, fault.message) == ("too_large", "is 4 bytes long; at most 3 are accepted")


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":[', b"]}")])
def test_nesting_is_accepted_to_the_limit_and_no_further(opening, closing):
    levels = len(opening.replace(b'"a":', b""))
    assert read(opening * (100 // levels) + closing * (100 // levels))
    fault = refusal(opening * (100 // levels + 1) + closing * (100 // levels + 1))
    assert (fault.rule, fault.message) == ("depth", "is nested more than 100 deep")


def test_the_pointer_of_a_depth_fault_ends_at_the_top_member():
    assert refusal(b'{"payload":' + b"[" * 100 + b"]" * 100 + b"}").pointer == "/payload"


@pytest.mark.parametrize("raw", [b"[" * 262_144, b'{"a":' * 43_690, b"[" * 131_072 + b"]" * 131_072])
def test_absurd_nesting_is_refused_without_recursion(raw):
    assert refusal(raw).rule == "depth"


def test_many_shallow_containers_are_no_nesting():
    assert len(read(b"[" + b"[],{}," * 5_000 + b"0]")) == 10_001


def test_keys_are_counted_over_the_whole_document():
    half = ",".join(f'"k{i}":0' for i in range(499))
    assert read(f'{{"a":{{{half}}},"b":{{{half}}}}}'.encode())["b"]["k498"] == 0
    fault = refusal(f'{{"a":{{{half}}},"b":{{{half},"x":0}}}}'.encode())
    assert (fault.pointer, fault.rule) == ("/b", "too_many_keys")


def test_the_callers_own_limit_of_keys_holds():
    assert refusal(b'[{"a":1},{"b":2,"c":3}]', max_keys=2).pointer == "/1"


@pytest.mark.parametrize(
    ("value", "pointer", "rule"),
    [
        ({"a": [float("nan")]}, "/a/0", "not_finite"),
        ([10**309], "/0", "integer_digits"),
        ([-(10**5000)], "/0", "integer_digits"),
        ("\ud800", "", "surrogate"),
        ({"a": {"\x00": 1}}, "/a", "nul"),
        ({"a": {1: 1}}, "/a", "syntax"),
        ({"a": object()}, "/a", "syntax"),
    ],
)
def test_parsed_values_are_held_to_the_same_rules(value, pointer, rule):
    with pytest.raises(InvalidJson) as caught:
        check_value(value)
    assert (caught.value.pointer, caught.value.rule) == (pointer, rule)


def test_a_parsed_value_may_have_as_many_keys_as_the_limit():
    check_value([{"a": 1}, {"a": 2}], max_keys=2)
    with pytest.raises(InvalidJson, match="more than 2 keys"):
        check_value([{"a": 1}, {"a": 2, "b": 3}], max_keys=2)


@given(OBJECTS, STYLES)
def test_slices_of_members_read_as_the_members(value, style):
    text = loads(json.dumps(value, **style).encode(), max_bytes=1_000_000).text
    assert repr({name: json.loads(text[slice(*span)]) for name, span in members(text).items()}) == repr(value)


@given(st.lists(VALUES, max_size=5), STYLES)
def test_slices_of_elements_read_as_the_elements(values, style):
    text = json.dumps(values, **style)
    assert repr([json.loads(text[slice(*span)]) for span in elements(text)]) == repr(values)


@given(st.lists(OBJECTS | st.none() | OBJECTS.map(lambda payload: {"payload": payload, "event": "a.b"}), max_size=4))
def test_slices_of_a_bulk_body_read_as_the_payloads(events):
    text = json.dumps({"before": [1], "events": events, "after": {}})
    spans = payload_slices(text)
    found = [None if span is None else json.loads(text[slice(*span)]) for span in spans]
    assert repr(found) == repr([(event or {}).get("payload") for event in events])


def test_a_slice_keeps_every_byte_as_received():
    payload = '{ "b":1.0,\t"a" : 1e5, "c":"\\u00e9é", "d":-0 }'
    text = f' {{"event":"x","pay\\u006coad": {payload} , "workspace":"w"}}\n'
    assert text[slice(*members(text)["payload"])] == payload


def test_slices_start_anywhere():
    text = '{"a": {"b": [1, 22 ]}}'
    inner = members(text)["a"]
    numbers = members(text, inner[0])["b"]
    assert [text[slice(*span)] for span in elements(text, numbers[0])] == ["1", "22"]


@pytest.mark.parametrize("text", ["[1]", '"a"', "{}", '{"events":3}', '{"events":null}', '{"events":[]}'])
def test_a_body_of_another_form_has_no_payload_slices(text):
    assert payload_slices(text) == []


def test_members_of_what_is_no_object_are_refused():
    with pytest.raises(ValueError, match=r"no \{\} begins at character 0"):
        members("[]")


def test_the_digits_limit_does_not_hang_on_the_interpreters_own():
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        assert refusal(b"9" * 200_000).rule == "integer_digits"
    finally:
        sys.set_int_max_str_digits(before)


# --- names of places ------------------------------------------------------------------------------------------------


def test_pointer_escapes_tilde_and_slash():
    assert strictjson.pointer("a/b", 3, "m~n") == "/a~1b/3/m~0n"


def test_pointer_to_the_whole_document_is_empty():
    assert strictjson.pointer() == ""


def test_a_backslash_keeps_a_full_stop_inside_a_name():
    assert split_path(r"payload.utm\.source.a\\b") == ("payload", "utm.source", "a\\b")


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5))
def test_paths_survive_joining_and_splitting(names):
    assert split_path(join_path(names)) == tuple(names)


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "a\\", r"a\b", "a" * 513])
def test_what_is_not_a_path_is_refused(path):
    with pytest.raises(ValueError, match="path"):
        split_path(path)
