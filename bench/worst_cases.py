"""Evaluations that cost the most for what they are charged: every function, transform, operator and markup, on values
of every shape that is dear for one of them. Made from the registries, so that none is forgotten.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from connections.providers.markup import ESCAPES
from delivery.rules.expressions import FUNCTIONS
from delivery.rules.filters import OPERATORS, compile_filter
from delivery.rules.mapping import compile_mapping
from delivery.rules.transforms import TAKES, ShapingError
from meshes.kit.metering import Meter, reading_steps

LETTERS = (
    " ", "\u2003", "a", "1", "é", "É", "ß", "ﬃ", "日", "😀",
    "\n", "*", "#\n", "1.\n", "&", "-\r", "http://a ", "\\", '"',
)  # fmt: skip
"""What long texts are made of: spaces, characters of one to four bytes, markup, what grows."""
LONG, MANY, TIMES = 24_000, 1_000, 5
COLLIDING = 2**61 - 1
"""Integers that differ by it have the same hash in CPython."""


@dataclass(frozen=True, slots=True)
class Case:
    """One evaluation, and whether its charge is for the worst case."""

    kind: str
    name: str
    run: Callable[[Meter], object]
    is_worst_case: bool = False


def values() -> dict[str, Any]:
    """By what they are."""
    long = {f"{letter!r} for long": letter * (LONG // len(letter)) for letter in LETTERS}
    words = {f"many of {text!r}": [text] * MANY for text in ("", " ", "a", "É" * 8, "x" * 60, "1", "2026-01-02")}
    return long | words | {
        "integers": list(range(MANY)),
        "colliding integers": [1 + COLLIDING * index for index in range(MANY)],
        "large integers": [10**300 + index for index in range(MANY // 4)],
        "the longest integers": [10**308 + index for index in range(MANY // 4)],
        "floats": [1 / (3 + index) for index in range(MANY)],
        "long texts in an array": ["é" * 3_000] * 20,
        "nulls": [None] * MANY,
        "booleans": [True, False] * (MANY // 2),
        "empty arrays": [[] for _ in range(MANY)],
        "small objects": [{"a": index} for index in range(MANY)],
        "an object": {f"name{index}": index for index in range(MANY)},
        "an object of texts": {f"name{index}": " é" for index in range(MANY)},
        "a digit in spaces": " " * (LONG // 2) + "1" + " " * (LONG // 2),
        "one": 1,
        "a float": 0.1,
        "null": None,
    }  # fmt: skip


def cases() -> Iterator[Case]:
    """All, in the same order always."""
    for name, value in values().items():
        payload = {"v": value, "w": "a" * (LONG // 10) + "b", "same": json.loads(json.dumps(value)), "i": 0}
        yield from _functions(name, payload)
        yield from _transforms(name, payload)
        yield from _operators(name, payload)
        for markup in ESCAPES:
            entry = {"from": "type(payload.v)", "escape": markup}
            yield _mapping(f"{markup} on {name}", "escaping", [entry], payload)
        entry = {"from": "type(payload.v)", "skip_blanks": True}
        yield _mapping(f"skip_blanks on {name}", "blanks", [entry, {"from": "payload.v", "skip_blanks": True}], payload)
        yield _mapping(f"copy of {name}", "copying", [{"from": "payload.v"}], payload)
    yield from _reading()


def _functions(name: str, payload: dict[str, Any]) -> Iterator[Case]:
    second = {"string": "payload.w", "array": "payload.same", "expref": "&@", "object": "payload.same"}
    for function, spec in FUNCTIONS.items():
        wanted = [(argument["types"] or ["any"])[0].partition("-")[0] for argument in spec["signature"]]
        for other in ("payload.w", "payload.same"):
            rest = [second.get(kind, other) for kind in wanted]
            subject = 1 if wanted[0] == "expref" else min(len(wanted) - 1, function == "join")
            call = ", ".join("{}" if index == subject else argument for index, argument in enumerate(rest))
            whole, each = (f"{function}({call.format(text)})" for text in ("payload.v", "@"))
            yield _mapping(f"{whole} on {name}", "function", [{"from": f"type({whole})"}] * TIMES, payload)
            if isinstance(payload["v"], list) and other == "payload.w":
                members = each.replace("payload.w", "'b'")
                yield _mapping(f"{each} on {name}", "function", [{"from": f"type(payload.v[*].{members})"}], payload)
    for sign in ("==", "!=", "<"):
        entry = {"from": f"type(payload.v {sign} payload.same)"}
        yield _mapping(f"{sign} on {name}", "function", [entry] * TIMES, payload)


ARGUMENTS: dict[str, list[Any]] = {
    "default": ["x"],
    "substring": [{"start": 1}],
    "replace": [{"find": "a", "with": "b"}, {"find": "a", "with": ""}, {"find": "a" * 50 + "b", "with": "c"}],
    "join": [", "],
    "split": ["a", "a" * 50 + "b", " "],
}


def _transforms(name: str, payload: dict[str, Any]) -> Iterator[Case]:
    for transform in TAKES:
        for argument in ARGUMENTS.get(transform, [None]):
            written = transform if argument is None else {transform: argument}
            entry = {"from": "payload.v", "transforms": [written, {"substring": {"end": 1}}]}
            yield _mapping(f"{json.dumps(written)} on {name}", "transform", [entry] * TIMES, payload)
            if isinstance(payload["v"], list):
                entries = [entry | {"from": f"payload.v[{index}]"} for index in range(50)]
                yield _mapping(f"{json.dumps(written)} on members: {name}", "transform", entries, payload)


def _operands(operator: str) -> list[Any]:
    if operator in ("$in", "$nin"):
        numbers = range(MANY, MANY + 200)
        return [list(numbers), [1 + COLLIDING * number for number in numbers], ["x", " " * 3_000]]
    if operator in ("$startsWith", "$endsWith", "$contains"):
        return ["b", "a" * 300 + "b", "é" * 300 + "b"]
    if operator in ("$gt", "$gte", "$lt", "$lte"):
        return [10**9, "zz", "é" * 3_000]
    if operator == "$exist":
        return [True, False]
    if operator in ("$regex", "$and", "$or", "$not"):
        return []
    return [-1, "é" * 3_000, "zz", None, [1, 2, [3]], {"a": -1}]


def _operators(name: str, payload: dict[str, Any]) -> Iterator[Case]:
    for operator in OPERATORS:
        for operand in _operands(operator):
            clause = {"payload.v": {operator: operand}}
            holds = compile_filter(clause).explain({"payload": payload}, Meter(10**9)) is None
            document = {"$and" if holds else "$or": [clause] * TIMES}
            yield filter_case("operator", f"{operator} {json.dumps(operand)[:30]} on {name}", document, payload)


def _mapping(name: str, kind: str, entries: list[dict[str, Any]], payload: dict[str, Any]) -> Case:
    written = [{"to": f"o{index}", "on_error": "null"} | entry for index, entry in enumerate(entries)]
    return mapping_case(kind, name, written, payload)


def mapping_case(kind: str, name: str, entries: list[dict[str, Any]], payload: dict[str, Any]) -> Case:
    compiled, context = compile_mapping(entries), {"payload": payload, "event": {}, "workspace": {}}

    def run(meter: Meter) -> object:
        try:
            return compiled.apply(context, meter)
        except ShapingError as error:
            return error

    return Case(kind, name, run)


def filter_case(kind: str, name: str, document: dict[str, Any], payload: dict[str, Any]) -> Case:
    compiled, context = compile_filter(document), {"payload": payload}
    return Case(kind, name, lambda meter: compiled.explain(context, meter))


def _reading() -> Iterator[Case]:
    pieces = (
        "[]", "{}", '""', "null", "true", "1", "0.1", "1.2345678901234567e-5", "-12345678901234567890123", '{"a":0}',
        '{"a":{"b":[]}}', "[[[[]]]]", '"abc"', '"é"', '"日本"', '"\\n\\n\\n\\n"', '"\\u00e9\\u00e9"', '"\\""',
    )  # fmt: skip
    texts = {piece: f"[{','.join([piece] * (LONG // len(piece)))}]" for piece in pieces}
    texts |= {f"a text of {letter!r}": json.dumps(letter * LONG, ensure_ascii=False) for letter in LETTERS}
    texts |= {"names": json.dumps({f"name{index}": index for index in range(MANY)})}
    yield from (reading_case(name, text) for name, text in texts.items())


def reading_case(name: str, text: str) -> Case:
    def run(meter: Meter) -> object:
        meter.charge(reading_steps(text))
        return json.loads(text)

    return Case("reading", name, run)
