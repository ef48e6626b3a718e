import contextlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.rules.expressions import compile_expression
from delivery.rules.patterns import RuleError
from delivery.rules.transforms import ShapingError
from meshes.kit.metering import Meter, OutOfWorkError

LEAD: dict[str, Any] = {
    "event": "lead.created",
    "payload": {
        "name": "Ada",
        "score": "72",
        "items": [{"sku": "B", "qty": 2}, {"sku": "A", "qty": 10}, {"sku": "C"}],
        "a b": {"$c": 1},
    },
}


def find(source: str, context: Any = LEAD) -> Any:
    return compile_expression(source).evaluate(context, Meter(2_000_000))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("payload.name", "Ada"),
        ("payload.missing.deeper", None),
        ('payload."a b"."$c"', 1),
        ("payload.items[*].sku", ["B", "A", "C"]),
        ("payload.items[?qty > `5`].sku | [0]", "A"),
        ("payload.items[?sku > 'A'].sku", ["B", "C"]),
        ("payload.items[?sku > `1`]", []),
        ("payload.items[-1].sku", "C"),
        ("payload.items[::-1].sku", ["C", "A", "B"]),
        ("sort_by(payload.items, &sku)[0].qty", 10),
        ("sum(payload.items[].qty)", 12),
        ("{n: payload.name, e: event}", {"n": "Ada", "e": "lead.created"}),
        ("payload.missing || 'none'", "none"),
        ("payload.name == 'Ada' && !(payload.missing)", True),
        ("[payload.items][]", [{"sku": "B", "qty": 2}, {"sku": "A", "qty": 10}, {"sku": "C"}]),
        ("to_number(payload.score)", 72),
        ("to_number('nan')", None),
        ("to_string(payload.items[0])", '{"sku":"B","qty":2}'),
        ("join('-', payload.items[].sku)", "B-A-C"),
        ("`[1, 2]` == `[1, 2]`", True),
        ("`1` == `true`", False),
    ],
)
def test_expressions_find(source, expected):
    assert find(source) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "must be a JMESPath expression"),
        ("", "must be a JMESPath expression"),
        ("a" * 1001, "must be a JMESPath expression of 1 to 1,000 characters"),
        (" ", "not JMESPath"),
        ("payload.", "not JMESPath: Expecting"),
        ("payload.items[", "not JMESPath"),
        ("a = b", "not JMESPath: Unknown token '=' at character 2"),
        ("`nope`", "not JMESPath: a literal between backticks is not JSON at character 0"),
        ("`NaN`", "not JMESPath: a literal is a number beyond the range of a double at character 0"),
        ("`1e400`", "not JMESPath: a literal is a number beyond"),
        ('`"\\u0000"`', "not JMESPath: a literal contains the character"),
        ('"\\ud800"', "not JMESPath: a name contains half a surrogate pair"),
        ("`" + "[" * 900 + "`", "not JMESPath"),
        ("shout(payload)", "unknown function shout()"),
        ("length()", "length() takes 1 arguments"),
        ("length(a, b)", "length() takes 1 arguments"),
        ("merge()", "merge() takes 1 or more arguments"),
        ("sort_by(payload.items, sku)", "argument 2 of sort_by() must begin with &"),
        ("to_string(&payload)", "argument 1 of to_string() must not begin with &"),
        ("&payload", "& stands only before an argument"),
        ("[&payload]", "& stands only before an argument"),
        ("payload.items[::0]", "the step of a slice must not be 0"),
        ("!" * 198 + "a", "the expression is nested more than 32 deep"),
        ("(" * 400 + "a" + ")" * 400, "the expression has more than 200 words and signs"),
        ("|".join(["a"] * 101), "the expression has more than 200 words and signs"),
        ("|".join(["a"] * 90), "the expression is nested more than 32 deep"),
    ],
)
def test_what_is_no_expression_or_too_much_of_one_is_refused(source, message):
    with pytest.raises(RuleError) as caught:
        compile_expression(source)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("sum(payload.name)", "sum() takes array-number, not string"),
        ("avg([`1`, 'a'])", "avg() takes array-number, not str"),
        ("max_by(payload.items, &[qty, sku][?@])", "max_by() takes number or string, not array"),
        (f"avg(`[{'9' * 309}, 1]`)", "the expression cannot be evaluated on this event"),
    ],
)
def test_a_failing_function_repeats_nothing_of_the_event(source, message):
    with pytest.raises(ShapingError) as caught:
        find(source)
    assert str(caught.value) == message


ONES = {"a": [1] * 131_000}
BOMBS = [
    ("a|" + "|".join(["[@,@]"] * 25), ONES),
    ("a|" + "|".join(["[@,@]"] * 25) + "|to_string(@)", ONES),
    ("a|" + "|".join(["[@,@]"] * 25) + "|[@==@]", ONES),
    ("a|" + "|".join(["[@,@]"] * 25) + "|contains(@, [`1`])", ONES),
    ("|".join(["a"] + ["[@,@][]"] * 15), ONES),
    ("a[?contains(`[1,2,3]`, @)]", ONES),
    ("map(&map(&map(&[@,@], [@,@,@,@]), [@,@,@,@]), a)", ONES),
    ("map(&to_string(@), a)", ONES),
    ("a[*].join(',', b)", {"a": [{"b": ["x" * 50] * 50}] * 90}),
    ("[a,a,a,a,a,a]|map(&join('', [@,@]), @)|map(&join('', [@,@]), @)", {"a": "x" * 262_000}),
    ("map(&sort(@), [a,a,a,a,a,a,a,a,a,a])", ONES),
    ("[a,a,a,a,a,a,a,a][*][*][*]|[a[*],a[*]]", ONES),
]


@pytest.mark.parametrize(("source", "context"), BOMBS, ids=range(len(BOMBS)))
def test_an_expression_that_multiplies_ends_soon(source, context):
    expression = compile_expression(source)
    started = time.process_time()
    with contextlib.suppress(OutOfWorkError, ShapingError):
        expression.evaluate(context, Meter(2_000_000))
    assert time.process_time() - started < 5


# fmt: off
TOKENS = [
    "@", ".", "[*]", "[]", "[0]", "[?", "]", "[", ",", "|", "&", "(", ")", "{", "}", ":", "==", "<", "!", "*", "||",
    "&&", "payload", "items", "sku", "'a'",
    "`1`", "`null`", "sort_by(", "map(", "max_by(", "to_number(", "sum(", "join(",
]
CALLS = [
    "abs(@)", "avg(@)", "ceil(@)", "contains(@, payload)", "ends_with(@, 'a')", "floor(@)", "keys(@)", "length(@)",
    "map(&sku, @)", "max(@)", "max_by(@, &sku)", "merge(@, @)", "min(@)", "min_by(@, &@)", "not_null(@, payload)",
    "reverse(@)", "sort(@)", "sort_by(@, &@)", "starts_with(@, @)", "sum(@)", "to_array(@)", "to_number(@)",
    "to_string(@)", "type(@)", "values(@)", "join('a', @)", "@ < payload", "payload == items", "[?@ > `1`]", "[*].sku",
    "*.sku", "[]", "[1:]", "!@", "payload || items", "{a: @, b: sku}", "[@, items]", "`[1, 2]`",
]
# fmt: on
NAMES = st.sampled_from(["payload", "items", "sku"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(st.sampled_from(TOKENS), min_size=1, max_size=12).map("".join) | st.text(max_size=20), JSON)
def test_reading_and_evaluating_answer_or_refuse_on_every_text(source, context):
    with contextlib.suppress(RuleError, ShapingError):
        find(source, context)


@given(st.lists(st.sampled_from(CALLS), min_size=1, max_size=3).map(" | ".join), JSON)
def test_every_function_answers_or_refuses_on_every_value(source, context):
    try:
        found = find(source, context)
    except ShapingError:
        return
    assert repr(find(source, context)) == repr(found)
