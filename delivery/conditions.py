"""The tree that a filter compiles to, and its evaluation: pure, bounded, and total on every JSON value.

A comparison reaches values by a path and asks one question of them. The path goes through arrays: `items.sku` reaches
the `sku` of every member of `items`, `items.0.sku` that of the first. A comparison holds if its question holds for one
of the values reached; a negative operator (`$neq`, `$nin`) holds exactly if its positive one does not. What is not
there has no values, so only negative operators, and `$exist: false`, hold for it. Values of different types are never
equal and never ordered; true and false are not numbers.
"""

import operator as python
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from connections.metering import Meter
from delivery.clauses import Clause, clause


class Condition(Protocol):
    """A node of the tree. Both methods raise OutOfWorkError and nothing else."""

    def holds(self, context: dict[str, Any], meter: Meter) -> bool:
        """Is it true of the context?"""

    def explain(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        """None if it holds, else the first clause that does not."""


Question = Callable[[Any, Meter], bool]
"""Does one value satisfy an operator?"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """An operator and its operand, asked of what a path reaches; with `open_arrays` also of the members of an array."""

    path: tuple[str, ...]
    operator: str
    operand: Any
    question: Question
    negative: bool = False
    open_arrays: bool = True

    def holds(self, context: dict[str, Any], meter: Meter) -> bool:
        return self._satisfies(reach(context, self.path, meter), meter) is not self.negative

    def explain(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        values = reach(context, self.path, meter)
        if self._satisfies(values, meter) is not self.negative:
            return None
        return clause(self.path, self.operator, self.operand, values)

    def _satisfies(self, values: list[Any], meter: Meter) -> bool:
        for value in values:
            meter.charge(1)
            if self.question(value, meter):
                return True
            if self.open_arrays and isinstance(value, list):
                meter.charge(len(value))
                if any(self.question(member, meter) for member in value):
                    return True
        return False


@dataclass(frozen=True, slots=True)
class Existence:
    """`$exist`: is there anything at the path, be it null?"""

    path: tuple[str, ...]
    wanted: bool

    def holds(self, context: dict[str, Any], meter: Meter) -> bool:
        return bool(reach(context, self.path, meter)) is self.wanted

    def explain(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        values = reach(context, self.path, meter)
        return None if bool(values) is self.wanted else clause(self.path, "$exist", self.wanted, values)


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds: `$and`, and the members of one object. Fails with its first part that does."""

    parts: tuple[Condition, ...]

    def holds(self, context: dict[str, Any], meter: Meter) -> bool:
        return all(part.holds(context, meter) for part in self.parts)

    def explain(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        for part in self.parts:
            failed = part.explain(context, meter)
            if failed is not None:
                return failed
        return None


@dataclass(frozen=True, slots=True)
class Either:
    """`$or`: one part holds. Fails as a whole."""

    path: tuple[str, ...]
    operand: Any
    parts: tuple[Condition, ...]

    def holds(self, context: dict[str, Any], meter: Meter) -> bool:
        return any(part.holds(context, meter) for part in self.parts)

    def explain(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        if self.holds(context, meter):
            return None
        return clause(self.path, "$or", self.operand, reach(context, self.path, meter) if self.path else [])


@dataclass(frozen=True, slots=True)
class Negation:
    """`$not`: the part does not hold."""

    path: tuple[str, ...]
    operand: Any
    part: Condition

    def holds(self, context: dict[str, Any], meter: Meter) -> bool:
        return not self.part.holds(context, meter)

    def explain(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        if self.holds(context, meter):
            return None
        return clause(self.path, "$not", self.operand, reach(context, self.path, meter) if self.path else [])


# --- reaching values --------------------------------------------------------------------------------------------------


def reach(context: Any, path: tuple[str, ...], meter: Meter) -> list[Any]:
    """The values at a path, in document order; none where the path leads nowhere."""
    meter.charge(len(path))
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
            index = _index(path[step])
            if index is None:
                meter.charge(len(value))
                stack.extend((member, step) for member in reversed(value) if isinstance(member, (dict, list)))
            elif index < len(value):
                stack.append((value[index], step + 1))
    return values


def _index(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdigit() and len(name) <= 6 else None


# --- questions --------------------------------------------------------------------------------------------------------

ScalarKey = tuple[str, Any]


def scalar_key(value: Any) -> ScalarKey | None:
    """A key that is equal for equal scalars only: 1 and 1.0 are, 1 and true are not. None for arrays and objects."""
    if value is None or isinstance(value, (bool, str)):
        return type(value).__name__, value
    if isinstance(value, (int, float)):
        return "number", value
    return None


def equals(operand: Any) -> Question:
    """Deep equality without any conversion of types. Scalars, by far the most, are compared without a further call."""
    if operand is None or isinstance(operand, bool):
        return lambda value, meter: value is operand
    if isinstance(operand, str):
        return lambda value, meter: bool(value == operand)
    if isinstance(operand, (int, float)):
        return lambda value, meter: value == operand and value is not True and value is not False
    return lambda value, meter: same(value, operand, meter)


def same(left: Any, right: Any, meter: Meter) -> bool:
    """Are two JSON values equal, 1 and 1.0 being so, and 1 and true not? Recurses no deeper than either is nested."""
    if isinstance(left, dict) and isinstance(right, dict):
        meter.charge(4 + 2 * len(right))
        return left.keys() == right.keys() and all(same(left[name], right[name], meter) for name in right)
    if isinstance(left, list) and isinstance(right, list):
        meter.charge(4 + 2 * len(right))
        return len(left) == len(right) and all(same(*pair, meter) for pair in zip(left, right, strict=True))
    key = scalar_key(left)
    return key is not None and key == scalar_key(right)


def is_one_of(operands: Iterable[Any]) -> Question:
    """Equality with one of several scalars, at the price of one."""
    keys = frozenset(scalar_key(operand) for operand in operands)
    return lambda value, meter: (key := scalar_key(value)) is not None and key in keys


_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": python.gt,
    "$gte": python.ge,
    "$lt": python.lt,
    "$lte": python.le,
}


def is_ordered(name: str) -> Callable[[Any], Question]:
    """`$gt` and its like: numbers by exact value whatever their size, strings by code point."""
    compare = _ORDERS[name]

    def build(operand: Any) -> Question:
        if isinstance(operand, str):
            return lambda value, meter: isinstance(value, str) and compare(value, operand)
        return lambda value, meter: (
            isinstance(value, (int, float)) and not isinstance(value, bool) and compare(value, operand)
        )

    return build


def starts_with(operand: str) -> Question:
    return lambda value, meter: isinstance(value, str) and value.startswith(operand)


def ends_with(operand: str) -> Question:
    return lambda value, meter: isinstance(value, str) and value.endswith(operand)


def contains(operand: Any) -> Question:
    """A string contains a string; an array contains an equal member."""
    is_equal = equals(operand)

    def ask(value: Any, meter: Meter) -> bool:
        if isinstance(value, str):
            meter.charge(len(value) // 64)
            return isinstance(operand, str) and operand in value
        if isinstance(value, list):
            meter.charge(len(value))
            return any(is_equal(member, meter) for member in value)
        return False

    return ask


def matches(expression: Any) -> Question:
    """A regular expression is found in a string. RE2 is linear in the text; the factor is the size of its program."""
    steps_per_character = 1 + expression.programsize // 16

    def ask(value: Any, meter: Meter) -> bool:
        if not isinstance(value, str):
            return False
        meter.charge(16 + steps_per_character * len(value))
        return expression.search(value.encode("utf-8", "surrogatepass")) is not None

    return ask
