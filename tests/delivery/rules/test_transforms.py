import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.rules.patterns import RuleError
from delivery.rules.transforms import ShapingError, compile_transform
from meshes.kit.metering import Meter


def shape(transform: Any, value: Any) -> Any:
    return compile_transform(transform).shape(value, Meter(1_000_000))


EPOCHS = "seconds since 1970 become one by from_epoch, milliseconds by from_epoch_ms"
NO_SUCH_DAY = "the text is not an ISO 8601 date: there is no such day or time"
NO_SUCH_MOMENT = "the number is not a moment between the years 1 and 9999"


@pytest.mark.parametrize(
    ("transform", "value", "expected"),
    [
        ("to_string", "a", "a"),
        ("to_string", 1, "1"),
        ("to_string", 1.0, "1.0"),
        ("to_string", True, "true"),
        ("to_string", {"a": ["é", None]}, '{"a":["é",null]}'),
        ("to_number", 7, 7),
        ("to_number", " -12 ", -12),
        ("to_number", "1.50", 1.5),
        ("to_number", "1e3", 1000.0),
        ("to_number", "9" * 309, int("9" * 309)),
        ("to_boolean", True, True),
        ("to_boolean", " YES ", True),
        ("to_boolean", "off", False),
        ("to_boolean", 0, False),
        ("to_boolean", 1.0, True),
        ("to_date", "2024-05-01T23:30:00-02:00", "2024-05-02"),
        ("to_date", "2024-05-01", "2024-05-01"),
        ("to_date", "2026-02-02 05:51:52+02:00", "2026-02-02"),
        ("to_date", "20260202", "2026-02-02"),
        ("to_date", "2026-W06-1", "2026-02-02"),
        ("to_datetime", "2024-05-01T10:00:00+02:00", "2024-05-01T08:00:00Z"),
        ("to_datetime", "2024-05-01T10:00:00", "2024-05-01T10:00:00Z"),
        ("to_datetime", " 20240501T100000.25Z ", "2024-05-01T10:00:00.250000Z"),
        ("to_datetime", "2026-02-02 05:51:52.345Z", "2026-02-02T05:51:52.345000Z"),
        ("to_datetime", "2026-02-02t05:51:52z", "2026-02-02T05:51:52Z"),
        ("to_datetime", "2026-02-02 05:51:52 +0200", "2026-02-02T03:51:52Z"),
        ("from_epoch_ms", "1770011512345", "2026-02-02T05:51:52.345000Z"),
        ("from_epoch_ms", 1_770_011_512_345, "2026-02-02T05:51:52.345000Z"),
        ("from_epoch", 1_714_557_600, "2024-05-01T10:00:00Z"),
        ("from_epoch", " 1714557600.25 ", "2024-05-01T10:00:00.250000Z"),
        ("from_epoch", -0.5, "1969-12-31T23:59:59.500000Z"),
        ("from_epoch", 0, "1970-01-01T00:00:00Z"),
        ("trim", "\u00a0 a b \n", "a b"),
        ("lower", "ÀB", "àb"),
        ("upper", "straße", "STRASSE"),
        ({"substring": {"start": 1, "end": 3}}, "añbc", "ñb"),
        ({"substring": {"start": -2}}, "abcd", "cd"),
        ({"substring": {"end": 99}}, "ab", "ab"),
        ({"replace": {"find": ".", "with": ""}}, "a.b.c", "abc"),
        ({"replace": {"find": "a", "with": "\\1"}}, "aa", "\\1\\1"),
        ({"split": ","}, "a,,b", ["a", "", "b"]),
        ({"join": ", "}, ["a", 1, None, 2.5, False], "a, 1, 2.5, false"),
        ({"join": ""}, [], ""),
        ("first", [None, 1], None),
        ("first", [], None),
        ("first", [[1], 2], [1]),
        ("md5", "é", "66ddcd97cfdeabb2f6fb8a999b4bc76f"),
        ("sha256", "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ({"default": []}, None, []),
        ({"default": "x"}, "", ""),
    ],
)
def test_a_transform_shapes(transform, value, expected):
    shaped = shape(transform, value)
    assert (type(shaped), shaped) == (type(expected), expected)


@pytest.mark.parametrize(
    ("transform", "value", "message"),
    [
        ("to_number", "", "the string is not a number"),
        ("to_number", "0x1f", "the string is not a number"),
        ("to_number", "007", "the string is not a number"),
        ("to_number", "1_000", "the string is not a number"),
        ("to_number", "\u0661", "the string is not a number"),
        ("to_number", "nan", "the string is not a number"),
        ("to_number", "9" * 4_000, "the string is not a number"),
        ("to_number", "1e400", "the number is too large"),
        ("to_number", True, "needs a string, not a boolean"),
        ("to_number", [1], "needs a string, not an array"),
        ("to_boolean", "maybe", "the string is none of true, yes, on, 1, false, no, off, 0"),
        ("to_boolean", 2, "only the numbers 0 and 1 are booleans"),
        ("to_boolean", {}, "needs a string, not an object"),
        ("to_date", "tomorrow", "the text is not an ISO 8601 date"),
        ("to_date", "2026", f"the text is not an ISO 8601 date; {EPOCHS}"),
        ("to_date", "1770011512345", f"the text is not an ISO 8601 date; {EPOCHS}"),
        ("to_datetime", "1770011512", f"the text is not an ISO 8601 date; {EPOCHS}"),
        ("to_datetime", 1_770_011_512_345, f"a number is not a date; {EPOCHS}"),
        ("to_datetime", 0.5, f"a number is not a date; {EPOCHS}"),
        ("to_date", "2026-02-02x05:51", "the text is not an ISO 8601 date"),
        ("to_date", "2024-02-30", NO_SUCH_DAY),
        ("to_datetime", "2024-02-03T24:01", NO_SUCH_DAY),
        ("to_datetime", "0001-01-01T00:00:00+14:00", NO_SUCH_DAY),
        ("from_epoch", 1e300, NO_SUCH_MOMENT),
        ("from_epoch_ms", 10**300, NO_SUCH_MOMENT),
        ("from_epoch_ms", math.nan, NO_SUCH_MOMENT),
        ("from_epoch_ms", "2026-02-02", "the string is not a number"),
        ("to_datetime", False, "needs a string, not a boolean"),
        ("trim", 1, "needs a string, not a number"),
        ("lower", None, "needs a string, not null"),
        ("sha256", 1, "needs a string, not a number"),
        ("upper", "ß" * 140_000, "the text is longer than 256 KB"),
        ({"replace": {"find": "a", "with": "b" * 1000}}, "a" * 1000, "the text would become too long"),
        ({"split": ","}, ["a"], "needs a string, not an array"),
        ({"join": ","}, "ab", "needs an array, not a string"),
        ({"join": ","}, ["a", ["b"]], "joins strings, numbers and booleans, not an array"),
        ({"join": "x" * 1000}, ["a"] * 1000, "the joined text is too long"),
        ({"substring": {"start": 1}}, 123, "needs a string, not a number"),
        ("first", "abc", "needs an array, not a string"),
        ("to_string", [["x" * 1000]] * 300, "the value is larger than 256 KB"),
    ],
)
def test_a_transform_refuses_what_it_does_not_take(transform, value, message):
    with pytest.raises(ShapingError) as caught:
        shape(transform, value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("document", "tokens", "message"),
    [
        ("shout", (), "unknown transform"),
        ("split", (), 'needs an argument: {"split": …}'),
        (1, (), "must be a name"),
        ({}, (), "must be a name"),
        ({"trim": {}, "lower": {}}, (), "must be a name"),
        ({"trim": {}}, ("trim",), 'takes no argument: write "trim"'),
        ({"shout": 1}, ("shout",), "unknown transform"),
        ({"default": None}, ("default",), "needs a value other than null"),
        ({"split": ""}, ("split",), "needs a string of at least one character"),
        ({"join": 1}, ("join",), "needs a string"),
        ({"substring": 3}, ("substring",), "needs an object of start and end"),
        ({"substring": {}}, ("substring",), "needs an object of start and end"),
        ({"substring": {"from": 1}}, ("substring", "from"), "unknown; known are start, end"),
        ({"substring": {"start": True}}, ("substring", "start"), "must be a whole number"),
        ({"substring": {"end": 1.5}}, ("substring", "end"), "must be a whole number"),
        ({"replace": {"find": ""}}, ("replace", "find"), "must be a string, not empty"),
        ({"replace": {"find": "a"}}, ("replace", "with"), "must be a string"),
        ({"replace": {"find": "a", "with": 1}}, ("replace", "with"), "must be a string"),
    ],
)
def test_a_transform_written_wrongly_is_refused_with_its_place(document, tokens, message):
    with pytest.raises(RuleError) as caught:
        compile_transform(document)
    assert caught.value.pointer == "".join(f"/{token}" for token in tokens)
    assert caught.value.message.startswith(message)


def test_only_default_takes_null():
    assert compile_transform({"default": 1}).takes_null
    assert not compile_transform("to_string").takes_null


# fmt: off
EVERY = [
    "to_string", "to_number", "to_boolean", "to_date", "to_datetime", "from_epoch", "from_epoch_ms", "trim", "lower",
    "upper", "first", "md5", "sha256", {"default": 1}, {"split": "a"}, {"join": "a"},
    {"substring": {"start": -3, "end": 2}}, {"replace": {"find": "a", "with": "bb"}},
]
# fmt: on
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(EVERY), JSON)
def test_every_transform_answers_or_refuses_on_every_value(transform, value):
    try:
        shaped = shape(transform, value)
    except ShapingError:
        return
    assert not isinstance(shaped, float) or math.isfinite(shaped) or shaped is value
    assert repr(shape(transform, value)) == repr(shaped)


@given(st.text("0123456789TZ+-:., W", max_size=30))
def test_dates_answer_or_refuse_on_every_text(text):
    try:
        shaped = shape("to_datetime", text)
    except ShapingError:
        return
    assert shape("to_datetime", shaped) == shaped
