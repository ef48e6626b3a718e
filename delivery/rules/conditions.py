"""The tree that a filter compiles to, and its evaluation: pure, bounded, and total on every JSON value.

A comparison reaches values by a path and asks one question of them. The path goes through arrays: `items.sku` reaches
the `sku` of every member of `items`, `items.0.sku` that of the first. A comparison holds if its question holds for one
of the values reached; a negative operator (`$neq`, `$nin`) holds exactly if its positive one does not. What is not
there has no values, so only negative operators, and `$exist: false`, hold for it. Values of different types are never
equal and never ordered; true and false are not numbers.
"""

import json
import math
import operator as python
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from delivery.rules.regexes import compile_regex
from meshes.kit.metering import Meter, searching_steps
from meshes.kit.strictjson import join_path

CHUNK = 16
"""Members of an array that are paid for at once: a question that the first one answers costs no more than these."""
STEPS_PER_CLAUSE = 25
STEPS_PER_NAME = 1
STEPS_PER_VALUE = 1
"""To reach a clause, a name of its path, and a value; what the question costs comes on top."""

Ask = Callable[[Any, Meter], bool]
"""Does one value satisfy an operator? It pays what this value costs beyond the steps of its question."""
Question = tuple[Ask, int]
"""How to ask, and the steps that every value costs."""
Clause = dict[str, Any]
"""Why a filter did not match, as the routing ledger keeps it: `{path, operator, expected, actual, found}`.

`expected` and `actual` are scalars, or texts of at most 201 characters, fit for PostgreSQL's jsonb. `found` is
False where the path leads nowhere, to tell that from a null.
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """An operator and its operand, asked of what a path reaches. Both methods raise OutOfWorkError and nothing else."""

    path: tuple[str, ...]
    operator: str
    operand: Any
    """In full."""
    shown: Any
    """The operand as clauses show it."""
    question: Question | None
    """None for `$exist`: is there anything at the path, be it null?"""
    is_negative: bool
    opens_arrays: bool
    """Whether the members of an array that is reached are asked too."""

    def __str__(self) -> str:
        return f"the clause {join_path(self.path)} {self.operator}"

    def holds(self, context: dict[str, Any], meter: Meter) -> bool:
        """Is it true of the context?"""
        meter.at = self
        return self._satisfies(reach(context, self.path, meter), meter) is not self.is_negative

    def explain(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        """None if it holds, else the first clause that does not."""
        meter.at = self
        values = reach(context, self.path, meter)
        if self._satisfies(values, meter) is not self.is_negative:
            return None
        return _tell(self, self.operand, values, meter)

    def _satisfies(self, values: list[Any], meter: Meter) -> bool:
        if self.question is None:
            return bool(values) is self.operand
        if any_of(values, self.question, meter):
            return True
        if not self.opens_arrays:
            return False
        return any(isinstance(value, list) and any_of(value, self.question, meter) for value in values)


@dataclass(frozen=True, slots=True)
class Group:
    """`$and`, which is also what the members of one object are, `$or`, and `$not` with its one part."""

    operator: str
    parts: "tuple[Condition, ...]"
    path: tuple[str, ...] = ()
    shown: Any = None

    def holds(self, context: dict[str, Any], meter: Meter) -> bool:
        if self.operator == "$and":
            return all(part.holds(context, meter) for part in self.parts)
        return any(part.holds(context, meter) for part in self.parts) is (self.operator == "$or")

    def explain(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        """`$and` fails with its first part that does, the others fail as a whole."""
        if self.operator == "$and":
            for part in self.parts:
                if (failed := part.explain(context, meter)) is not None:
                    return failed
            return None
        if self.holds(context, meter):
            return None
        return _tell(self, self.shown, reach(context, self.path, meter) if self.path else [], meter)


Condition = Comparison | Group


def compare(path: tuple[str, ...], operator: str, operand: Any, *, folds_addresses: bool = False) -> Comparison:
    """The comparison by an operator of `QUESTIONS`, or `$exist`, whose operand has been checked.

    With `folds_addresses` a person is found although the address was typed otherwise: see `FOLDED`.
    """
    question = QUESTIONS[operator](operand) if operator != "$exist" else None
    if folds_addresses and question and operator in FOLDED and _holds_address(operand):
        exact, folded = question[0], FOLDED[operator](operand)
        question = (lambda value, meter: exact(value, meter) or folded(value, meter)), question[1]
    is_negative = operator in ("$neq", "$nin")
    return Comparison(path, operator, operand, shorten(operand), question, is_negative, operator != "$contains")


def any_of(values: list[Any], question: Question, meter: Meter) -> bool:
    ask, steps = question
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK] if len(values) > CHUNK else values
        meter.charge((STEPS_PER_VALUE + steps) * len(chunk))
        for value in chunk:
            if ask(value, meter):
                return True
    return False


# --- reaching values --------------------------------------------------------------------------------------------------


def reach(context: Any, path: tuple[str, ...], meter: Meter) -> list[Any]:
    """The values at a path, in document order; none where the path leads nowhere."""
    meter.charge(STEPS_PER_CLAUSE + STEPS_PER_NAME * len(path))
    value = context
    for step, name in enumerate(path):
        if isinstance(value, dict):
            if name not in value:
                return []
            value = value[name]
        elif isinstance(value, list):
            return _reach_through(value, path, step, meter)
        else:
            return []
    return [value]


def _reach_through(array: list[Any], path: tuple[str, ...], step: int, meter: Meter) -> list[Any]:
    """`reach` from where it met an array. A stack of its own, for arrays may be nested deeper than Python recurses."""
    values = []
    stack: list[tuple[Any, int]] = [(array, step)]
    while stack:
        value, step = stack.pop()
        meter.charge(1)
        if step == len(path):
            values.append(value)
        elif isinstance(value, dict):
            if path[step] in value:
                stack.append((value[path[step]], step + 1))
        elif isinstance(value, list):
            name = path[step]
            if not (name.isascii() and name.isdigit() and len(name) <= 6):
                meter.charge(len(value))
                stack.extend((member, step) for member in reversed(value) if isinstance(member, (dict, list)))
            elif int(name) < len(value):
                stack.append((value[int(name)], step + 1))
    return values


# --- questions --------------------------------------------------------------------------------------------------------

STEPS_PER_NODE = 8
"""Of a deep comparison."""
TEXT_PER_STEP = 1_000
"""Characters that are compared in a step."""
MOST_ALIKE = 4
"""Operands of one hash that cost no more than one."""


def scalar_key(value: Any) -> tuple[str, Any] | None:
    """A key that is equal for equal scalars only: 1 and 1.0 are, 1 and true are not. None for arrays and objects."""
    if value is None or isinstance(value, (bool, str)):
        return type(value).__name__, value
    return ("number", value) if isinstance(value, (int, float)) else None


def equals(operand: Any) -> Question:
    """Deep equality without any conversion of types. Scalars, by far the most, are compared without a further call."""
    if operand is None or isinstance(operand, bool):
        return lambda value, meter: value is operand, 1
    if isinstance(operand, str):
        return lambda value, meter: bool(value == operand), _steps_of(operand)
    if isinstance(operand, (int, float)):
        return lambda value, meter: value == operand and value is not True and value is not False, 1
    kind = type(operand)
    return lambda value, meter: type(value) is kind and same(value, operand, meter), 1


def same(left: Any, right: Any, meter: Meter, *, folds_addresses: bool = False) -> bool:
    """Are two JSON values equal, 1 and 1.0 being so, and 1 and true not? Recurses no deeper than either is nested.

    With `folds_addresses` a text on the right that holds an @ is compared as an address.
    """
    meter.charge(STEPS_PER_NODE)
    if isinstance(left, dict) and isinstance(right, dict):
        if len(left) != len(right):
            return False
        meter.charge(len(right) // 2)
        return left.keys() == right.keys() and all(
            same(left[name], right[name], meter, folds_addresses=folds_addresses) for name in right
        )
    if isinstance(left, list) and isinstance(right, list):
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(same(*pair, meter, folds_addresses=folds_addresses) for pair in pairs)
    if isinstance(left, str) and isinstance(right, str):
        if folds_addresses and "@" in right:
            meter.charge(len(left) // FOLD_PER_STEP)
            return fold(left) == fold(right)
        meter.charge(len(right) // TEXT_PER_STEP)
        return left == right
    key = scalar_key(left)
    return key is not None and key == scalar_key(right)


def is_one_of(operands: list[Any]) -> Question:
    """Equality with one of several scalars, at the price of one."""
    keys = frozenset(scalar_key(operand) for operand in operands)
    alike = {each: count for each, count in Counter(map(hash, keys)).items() if count > MOST_ALIKE}

    def ask(value: Any, meter: Meter) -> bool:
        if isinstance(value, str):
            meter.charge(len(value) // TEXT_PER_STEP)
        key = scalar_key(value)
        if alike:  # integers that are chosen so are compared one by one
            meter.charge(alike.get(hash(key), 0) // 3)
        return key is not None and key in keys

    return ask, 5


def is_ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Question]:
    """`$gt` and its like: numbers by exact value whatever their size, strings by code point."""

    def build(operand: Any) -> Question:
        if isinstance(operand, str):
            return lambda value, meter: isinstance(value, str) and compare(value, operand), _steps_of(operand)
        return (
            lambda value, meter: (
                isinstance(value, (int, float)) and not isinstance(value, bool) and compare(value, operand)
            )
        ), 2

    return build


def _steps_of(operand: str) -> int:
    return 1 + len(operand) // TEXT_PER_STEP


def contains(operand: Any) -> Question:
    """A string contains a string; an array contains an equal member."""
    is_equal = equals(operand)

    def ask(value: Any, meter: Meter) -> bool:
        if isinstance(value, str) and isinstance(operand, str):
            meter.charge(searching_steps(value, operand))
            return operand in value
        return isinstance(value, list) and any_of(value, is_equal, meter)

    return ask, 6


def is_found(pattern: str) -> Question:
    """A regular expression is found in a string."""
    regex = compile_regex(pattern)
    return lambda value, meter: isinstance(value, str) and regex.is_found(value, meter), 1


QUESTIONS: dict[str, Callable[[Any], Question]] = {
    "$eq": equals,
    "$neq": equals,
    "$gt": is_ordered(python.gt),
    "$gte": is_ordered(python.ge),
    "$lt": is_ordered(python.lt),
    "$lte": is_ordered(python.le),
    "$in": is_one_of,
    "$nin": is_one_of,
    "$startsWith": lambda operand: (
        lambda value, meter: isinstance(value, str) and value.startswith(operand), _steps_of(operand)
    ),
    "$endsWith": lambda operand: (
        lambda value, meter: isinstance(value, str) and value.endswith(operand), _steps_of(operand)
    ),
    "$contains": contains,
    "$regex": is_found,
}  # fmt: skip

# --- addresses as people type them ------------------------------------------------------------------------------------

FOLD_PER_STEP = 16
"""Characters that are folded in a step."""


def fold(text: str) -> str:
    """An address as it is compared."""
    return text.strip().casefold()


def _holds_address(operand: Any) -> bool:
    """Is there an @ in one of the texts of a JSON value, which is no deeper than a filter?"""
    if isinstance(operand, (dict, list)):
        return any(map(_holds_address, operand.values() if isinstance(operand, dict) else operand))
    return isinstance(operand, str) and "@" in operand


def _on_text(test: Callable[[str], bool]) -> Ask:
    def ask(value: Any, meter: Meter) -> bool:
        if not isinstance(value, str):
            return False
        meter.charge(1 + len(value) // FOLD_PER_STEP)
        return test(value)

    return ask


def _equals_folded(operand: Any) -> Ask:
    return lambda value, meter: same(value, operand, meter, folds_addresses=True)


def _is_one_of_folded(operands: list[Any]) -> Ask:
    addresses = frozenset(fold(each) for each in operands if isinstance(each, str) and "@" in each)
    return _on_text(lambda text: fold(text) in addresses)


def _affix_folded(strip: Callable[[str], str], test: Callable[[str, str], bool]) -> Callable[[str], Ask]:
    def build(operand: str) -> Ask:
        wanted = strip(operand).casefold()
        return _on_text(lambda text: test(strip(text).casefold(), wanted))

    return build


def _contains_folded(operand: str) -> Ask:
    wanted, is_equal = operand.casefold(), _equals_folded(operand)
    in_text = _on_text(lambda text: wanted in text.casefold())

    def ask(value: Any, meter: Meter) -> bool:
        return any(is_equal(member, meter) for member in value) if isinstance(value, list) else in_text(value, meter)

    return ask


FOLDED: dict[str, Callable[[Any], Ask]] = {
    "$eq": _equals_folded,
    "$neq": _equals_folded,
    "$in": _is_one_of_folded,
    "$nin": _is_one_of_folded,
    "$startsWith": _affix_folded(str.lstrip, str.startswith),
    "$endsWith": _affix_folded(str.rstrip, str.endswith),
    "$contains": _contains_folded,
}
"""By operator, for an operand that holds an @: ` Ada@Example.com ` is ada@example.com, without case and the spaces
around it. Everything else, regular expressions and orders too, stays as it is. Spaces that a text ends with are not
around an address where more may follow: of `$startsWith` only those before it, of `$contains` none."""

# --- what is told of a failure ----------------------------------------------------------------------------------------

SHORT_LENGTH = 200
"""Characters of a value that a clause repeats; the routing ledger stores one for every rule that did not match."""
STEPS_TO_SHOW, STEPS_PER_MEMBER, MOST_MEMBERS = 40, 12, SHORT_LENGTH // 2


def _tell(failed: Condition, expected: Any, values: list[Any], meter: Meter) -> Clause:
    """The clause of a failure on these values. A path through an array may have reached several: they are a list."""
    meter.charge(STEPS_TO_SHOW + STEPS_PER_MEMBER * (_count_shown(expected) + _count_shown(values)))
    return {
        "path": join_path(failed.path),
        "operator": failed.operator,
        "expected": failed.shown,
        "actual": shorten(values[0] if len(values) == 1 else values or None),
        "found": bool(values),
    }


def _count_shown(value: Any) -> int:
    """How many values, however deep, a short form comes to before it is long enough."""
    stack, count, length = [value], 0, 0
    while stack and length <= SHORT_LENGTH:
        current = stack.pop()
        count, length = count + 1, length + (2 + len(current) if isinstance(current, str) else 2)
        if isinstance(current, (dict, list)):
            inner = current.values() if isinstance(current, dict) else current
            stack.extend(reversed(list(islice(inner, MOST_MEMBERS))))
    return count


def shorten(value: Any) -> Any:
    """A short form that JSON and PostgreSQL can always store: scalars as they are, the rest as text cut short."""
    if isinstance(value, (dict, list)):
        pieces, value = _pieces(value), ""
        while len(value) <= SHORT_LENGTH and (piece := next(pieces, None)) is not None:
            value += piece
    elif isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    elif isinstance(value, int) and (bits := value.bit_length()) > 64:
        value = f"an integer of {bits} bits" if bits > 2048 else str(value)
    if not isinstance(value, str):
        return value
    short = value if len(value) <= SHORT_LENGTH else value[:SHORT_LENGTH] + "…"
    return short.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


_encode = json.JSONEncoder(ensure_ascii=False).encode


def _pieces(value: Any) -> Iterator[str]:
    """A value's compact JSON text piece by piece: who needs its beginning pays, and goes down, no further."""
    if not isinstance(value, (dict, list)):
        yield _encode(shorten(value))
        return
    is_object = isinstance(value, dict)
    yield "{" if is_object else "["
    for index, member in enumerate(value):
        yield "," if index else ""
        if is_object:
            yield f"{_encode(shorten(member))}:"
        yield from _pieces(value[member] if is_object else member)
    yield "}" if is_object else "]"
