"""What an expression can find and a transform can take, as it is told when a mapping is saved, is what happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.rules.expressions import compile_expression
from delivery.rules.mapping_spelling import find_types, types_of
from delivery.rules.patterns import RuleError
from delivery.rules.transforms import MADE_BY, TAKES, ShapingError, compile_transform
from meshes.kit.metering import RULE_STEPS, Meter

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "5", "true", "2026-01-01"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=12,
)
EVENT = {"id": "evt_1", "type": "lead.created", "created_at": "2026-05-01T10:00:00Z"}
PIECES = ["payload", "event", "workspace", "a", "b", "type", "name", "external_id"]
EXPRESSION = st.recursive(
    st.sampled_from([*PIECES, "@", "`null`", "`[1, \"x\"]`", "'x'", "payload.a", "event.type", "workspace.name"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(PIECES)).map(".".join),
        st.tuples(inner, st.sampled_from(["[0]", "[*]", "[]", "[?a]", "[0:1]", ".*", "[*].a", "[].b"])).map("".join),
        st.tuples(inner, st.sampled_from([" || ", " && ", " | ", " == ", " < "]), inner).map("".join),
        st.tuples(st.sampled_from(sorted({"length", "sum", "keys", "to_string", "to_number", "not_null", "type", "max",
                                          "to_array", "reverse", "sort", "values", "abs", "avg"})), inner)
        .map(lambda pair: f"{pair[0]}({pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"[{pair[0]}, {pair[1]}]"),
        st.tuples(inner, inner).map(lambda pair: f"{{a: {pair[0]}, b: {pair[1]}}}"),
    ),
    max_leaves=5,
)  # fmt: skip


@given(EXPRESSION, st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON, max_size=3), st.none() | st.just("t"))
def test_an_expression_finds_no_other_type_than_is_told(source, payload, external_id):
    expression = compile_expression(source)
    workspace = {"id": "ws_1", "external_id": external_id, "name": "T"}
    try:
        types = find_types(expression.tree)
    except RuleError:
        return
    try:
        value = expression.evaluate({"event": EVENT, "payload": payload, "workspace": workspace}, Meter(RULE_STEPS))
    except ShapingError:
        return
    assert types_of(value) <= types


STEPS = st.sampled_from([*(f".{name}" for name in PIECES), "[0]", "[*]", "[]", "[?a]", "[0:1]", ".*", " | @", " | [0]"])
CHAIN = st.builds(
    lambda start, steps: start + "".join(steps),
    st.sampled_from(["event", "payload", "workspace", "@"]),
    st.lists(STEPS),
)


@given(CHAIN, st.dictionaries(st.sampled_from(["a", "b", "type"]), JSON, max_size=3), st.none() | st.just("t"))
def test_a_chain_that_is_refused_finds_nothing(source, payload, external_id):
    tree = compile_expression(source).tree
    try:
        find_types(tree)
    except RuleError:
        context = {
            "event": EVENT,
            "payload": payload,
            "workspace": {"id": "w", "external_id": external_id, "name": "T"},
        }
        assert compile_expression(source).evaluate(context, Meter(RULE_STEPS)) in (None, [])


SAMPLES = ["5", "true", "2026-01-01", "a,b", 5, 0, True, ["a", "b"], [], {"a": 1}]
WRITTEN = {"default": "x", "substring": {"end": 2}, "replace": {"find": "a", "with": "b"}, "join": ",", "split": ","}


@pytest.mark.parametrize("name", TAKES)
def test_a_transform_takes_and_makes_the_types_that_are_told(name):
    transform = compile_transform({name: WRITTEN[name]} if name in WRITTEN else name)
    taken = set()
    for sample in SAMPLES:
        try:
            made = transform.shape(sample, Meter(RULE_STEPS))
        except ShapingError:
            continue
        taken |= types_of(sample)
        assert types_of(made) <= ({MADE_BY[name]} if name in MADE_BY else types_of(made))
    assert taken == TAKES[name] - {"null"}
