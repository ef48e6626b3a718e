"""What texts, numbers and arrays that are dear for CPython cost in steps: never the clock, see `bench.worst_cases`."""

import json

import pytest

from bench import worst_cases
from connections.providers.markup import ESCAPES
from delivery.rules.expressions import FUNCTIONS
from delivery.rules.filters import OPERATORS, compile_filter
from delivery.rules.mapping import compile_mapping
from delivery.rules.transforms import TAKES, ShapingError
from meshes.kit.metering import EVENT_STEPS, Meter, OutOfWorkError, reading_steps, searching_steps, stripping_steps

COLLIDING = 2**61 - 1
MANY_TIMES = "|".join(["[payload,payload,payload,payload]", *["[@,@,@,@][]"] * 4])


def spent(entries, payload):
    meter = Meter(10 * EVENT_STEPS)
    written = [{"to": f"o{index}", "on_error": "null", **entry} for index, entry in enumerate(entries)]
    compile_mapping(written).apply({"payload": payload, "event": {}, "workspace": {}}, meter)
    return meter.spent


def test_text_that_is_searched_for_text_many_times_runs_out_of_steps():
    document = [{"to": f"o{n}", "from": f"{MANY_TIMES}|[?contains(a,b)]|length(@)"} for n in range(10)]
    context = {"payload": {"a": "a" * 200_000, "b": "a" * 20_000 + "b"}, "event": {}, "workspace": {}}
    with pytest.raises(OutOfWorkError):
        compile_mapping(document).apply(context, Meter(EVENT_STEPS))


@pytest.mark.parametrize(
    ("entry", "text", "least"),
    [
        ({"from": "type(contains(payload.v, payload.w))"}, "a" * 200_000, 5_000),
        ({"from": "type(reverse(payload.v))"}, "é" * 100_000, 500),
        ({"from": "type(payload.v == payload.v)"}, "é" * 100_000, 100),
        ({"from": "type(payload.v < payload.v)"}, "é" * 100_000, 500),
        ({"from": "type(max([payload.v, payload.v]))"}, "é" * 100_000, 1_000),
        ({"from": "payload.v", "transforms": ["to_number"]}, " " * 100_000, 500),
        ({"from": "payload.v", "transforms": ["to_boolean"]}, " " * 100_000, 500),
        ({"from": "payload.v", "transforms": ["to_date"]}, "\u2003" * 100_000, 4_000),
        ({"from": "payload.v", "transforms": ["trim"]}, " " * 100_000, 500),
        ({"from": "payload.v", "transforms": [{"split": "x"}]}, "é" * 100_000, 1_000),
        ({"from": "payload.v", "transforms": [{"replace": {"find": "a", "with": ""}}]}, "a" * 100_000, 20_000),
        ({"from": "payload.v", "skip_blanks": True}, " " * 100_000, 500),
        ({"from": "type(payload.v)", "escape": "markdown"}, "*" * 100_000, 33_000),
        ({"from": "type(payload.v)", "escape": "markdown"}, "#\n" * 50_000, 130_000),
        ({"from": "type(payload.v)", "escape": "html"}, '"' * 100_000, 14_000),
        ({"from": "type(payload.v)", "escape": "slack"}, "&" * 100_000, 14_000),
    ],
)
def test_what_walks_a_text_is_charged_by_its_length(entry, text, least):
    payload = {"w": "b" * 200, "v": text}
    assert spent([entry], payload) - spent([entry], payload | {"v": ""}) >= least


@pytest.mark.parametrize("transform", ["to_boolean", "to_date", "to_datetime", "to_number", "from_epoch"])
@pytest.mark.parametrize("letter", ["É", "1", "日"])
def test_a_conversion_looks_at_no_more_of_a_text_than_it_can_take(transform, letter):
    """What is too long for it is refused unread, so that it costs what a short mistake costs."""
    entry = {"from": "payload.v", "transforms": [transform]}
    assert spent([entry], {"v": letter * 125_000}) <= spent([entry], {"v": "É"}) + 10


@pytest.mark.parametrize(
    ("value", "error"),
    [("É" * 125_000, "none of true"), ("no" + " " * 90_000 + "x", "none of true")],
)
def test_a_long_text_is_still_no_boolean(value, error):
    document = [{"to": "o", "from": "payload.v", "transforms": ["to_boolean"]}]
    with pytest.raises(ShapingError, match=error):
        compile_mapping(document).apply({"payload": {"v": value}, "event": {}, "workspace": {}})


def test_spaces_around_a_word_or_a_day_are_none_of_it():
    spaces = " " * 50_000
    document = [
        {"to": "yes", "from": "payload.yes", "transforms": ["to_boolean"]},
        {"to": "day", "from": "payload.day", "transforms": ["to_date"]},
        {"to": "two", "from": "payload.two", "transforms": ["to_number"]},
    ]
    payload = {"yes": f"{spaces}YES{spaces}", "day": f"{spaces}2026-01-02{spaces}", "two": f"\u2003{spaces}2"}
    made = compile_mapping(document).apply({"payload": payload, "event": {}, "workspace": {}})
    assert made == {"yes": True, "day": "2026-01-02", "two": 2}


def test_integers_of_one_hash_cost_what_comparing_them_costs():
    operands = [1 + COLLIDING * (20_000 + index) for index in range(150)]
    chosen, plain = Meter(10**9), Meter(10**9)
    values = {"payload": {"v": [1 + COLLIDING * index for index in range(12_000)]}}
    compile_filter({"payload.v": {"$in": operands}}).explain(values, chosen)
    compile_filter({"payload.v": {"$in": list(range(10**6, 10**6 + 150))}}).explain(values, plain)
    assert chosen.spent - plain.spent >= 12_000 * 150 // 3


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("[" + "[]," * 85_000 + "[]]", 170_000),
        ("[" + "{}," * 60_000 + "{}]", 60_000),
        ("[" + "0.5," * 60_000 + "1]", 60_000),
    ],
)
def test_reading_is_charged_by_the_values_too(text, least):
    json.loads(text)
    assert reading_steps(text) >= least + len(text) // 8


def test_floats_and_long_integers_are_written_dearly():
    entry = {"from": "payload.v", "transforms": ["to_string"]}
    floats, small = [1 / (3 + index) for index in range(1_000)], [1] * 1_000
    assert spent([entry], {"v": floats}) >= spent([entry], {"v": small}) + 5_000
    assert spent([entry], {"v": [10**300] * 100}) >= 100 * 31


def test_what_fails_is_charged_too():
    entry = {"from": "payload.v", "transforms": ["lower"]}
    assert spent([entry] * 50, {"v": 1}) >= spent([entry] * 50, {"v": "x"}) + 50 * 60


def test_searching_and_stripping_are_cheap_where_they_are():
    assert searching_steps("a" * 100_000, "b") == 101
    assert searching_steps("a" * 100, "b" * 1_000) == 1
    assert [stripping_steps(text) for text in ("", "a" * 10_000, " " * 10_000, "\u2003" * 10_000)] == [0, 0, 50, 400]


def test_no_function_transform_operator_or_markup_is_forgotten_by_the_corpus():
    names = [case.name for case in worst_cases.cases()]
    assert {name for name in FUNCTIONS if not any(each.startswith(f"{name}(") for each in names)} == set()
    assert {name for name in TAKES if not any(f'"{name}"' in each for each in names)} == set()
    plain = set(OPERATORS) - {"$and", "$or", "$not", "$regex"}
    assert {name for name in plain if not any(each.startswith(f"{name} ") for each in names)} == set()
    assert {name for name in ESCAPES if not any(each.startswith(f"{name} on ") for each in names)} == set()
