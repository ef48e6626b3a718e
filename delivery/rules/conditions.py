"""The tree that a filter compiles to, and its evaluation: pure, bounded, and total on every JSON value.

A comparison reaches values by a path and asks one question of them. The path goes through arrays: `items.sku` reaches
the `sku` of every member of `items`, `items.0.sku` that of the first. A comparison holds if its question holds for one
of the values reached; a negative operator (`$neq`, `$nin`) holds exactly if its positive one does not. What is not
there has no values, so only negative operators, and `$exist: false`, hold for it. Values of different types are never
equal and never ordered; true and false are not numbers.
"""

import operator as python
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from delivery.rules.clauses import Clause, clause, showing_steps
from delivery.rules.regexes import Regex
from meshes.kit.jsonpaths import join_path
from meshes.kit.metering import Meter, searching_steps

CHUNK = 16
"""Members of an array that are paid for at once: a question that the first one answers costs no more than these."""

STEPS_PER_CLAUSE = 25
STEPS_PER_NAME = 1
STEPS_PER_VALUE = 1
"""To reach a clause, a name of its path, and a value; what the question costs comes on top."""


class Condition(Protocol):
    """A node of the tree. Both methods raise OutOfWorkError and nothing else."""

    def holds(self, context: dict[str, Any], meter: Meter) -> bool:
        """Is it true of the context?"""

    def explain(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        """None if it holds, else the first clause that does not."""


class Question(NamedTuple):
    """Does one value satisfy an operator? `steps` are paid for every value; `ask` pays what more this one costs."""

    ask: Callable[[Any, Meter], bool]
    steps: int = 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """An operator and its operand, asked of what a path reaches; with `open_arrays` also of the members of an array."""

    path: tuple[str, ...]
    operator: str
    operand: Any
    """In full."""
    shown: Any
    """The operand as clauses show it."""
    question: Question
    negative: bool = False
    open_arrays: bool = True

    def __str__(self) -> str:
        return f"the clause {join_path(self.path)} {self.operator}"

    def holds(self, context: dict[str, Any], meter: Meter) -> bool:
        meter.at = self
        return self._satisfies(reach(context, self.path, meter), meter) is not self.negative

    def explain(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        meter.at = self
        values = reach(context, self.path, meter)
        if self._satisfies(values, meter) is not self.negative:
            return None
        meter.charge(showing_steps(self.operand, values))
        return clause(self.path, self.operator, self.shown, values)

    def _satisfies(self, values: list[Any], meter: Meter) -> bool:
        if self._any(values, meter):
            return True
        if not self.open_arrays:
            return False
        return any(isinstance(value, list) and self._any(value, meter) for value in values)

    def _any(self, values: list[Any], meter: Meter) -> bool:
        ask, steps = self.question
        for start in range(0, len(values), CHUNK):
            chunk = values[start : start + CHUNK] if len(values) > CHUNK else values
            meter.charge((STEPS_PER_VALUE + steps) * len(chunk))
            for value in chunk:
                if ask(value, meter):
                    return True
        return False


@dataclass(frozen=True, slots=True)
class Existence:
    """`$exist`: is there anything at the path, be it null?"""

    path: tuple[str, ...]
    wanted: bool

    def holds(self, context: dict[str, Any], meter: Meter) -> bool:
        meter.at = self
        return bool(reach(context, self.path, meter)) is self.wanted

    def __str__(self) -> str:
        return f"the clause {join_path(self.path)} $exist"

    def explain(self, context: dict[str, Any], meter: Meter) -> Clause | None:
        meter.at = self
        values = reach(context, self.path, meter)
        if bool(values) is self.wanted:
            return None
        meter.charge(showing_steps(self.wanted, values))
        return clause(self.path, "$exist", self.wanted, values)


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
        values = reach(context, self.path, meter) if self.path else []
        meter.charge(showing_steps(self.operand, values))
        return clause(self.path, "$or", self.operand, values)


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
        values = reach(context, self.path, meter) if self.path else []
        meter.charge(showing_steps(self.operand, values))
        return clause(self.path, "$not", self.operand, values)


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
STEPS_PER_NODE = 8
"""Of a deep comparison."""
TEXT_PER_STEP = 1_000
"""Characters that are compared in a step."""
MOST_ALIKE = 4
"""Operands of one hash that cost no more than one."""


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
        return Question(lambda value, meter: value is operand)
    if isinstance(operand, str):
        return Question(lambda value, meter: bool(value == operand), 1 + len(operand) // TEXT_PER_STEP)
    if isinstance(operand, (int, float)):
        return Question(lambda value, meter: value == operand and value is not True and value is not False)
    kind = type(operand)
    return Question(lambda value, meter: type(value) is kind and same(value, operand, meter))


def same(left: Any, right: Any, meter: Meter) -> bool:
    """Are two JSON values equal, 1 and 1.0 being so, and 1 and true not? Recurses no deeper than either is nested."""
    meter.charge(STEPS_PER_NODE)
    if isinstance(left, dict) and isinstance(right, dict):
        if len(left) != len(right):
            return False
        meter.charge(len(right) // 2)
        return left.keys() == right.keys() and all(same(left[name], right[name], meter) for name in right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(*pair, meter) for pair in zip(left, right, strict=True))
    if isinstance(left, str) and isinstance(right, str):
        meter.charge(len(right) // TEXT_PER_STEP)
        return left == right
    key = scalar_key(left)
    return key is not None and key == scalar_key(right)


def is_one_of(operands: Iterable[Any]) -> Question:
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

    return Question(ask, 5)


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
            steps = 1 + len(operand) // TEXT_PER_STEP
            return Question(lambda value, meter: isinstance(value, str) and compare(value, operand), steps)
        return Question(
            lambda value, meter: (
                isinstance(value, (int, float)) and not isinstance(value, bool) and compare(value, operand)
            ),
            2,
        )

    return build


def starts_with(operand: str) -> Question:
    steps = 1 + len(operand) // TEXT_PER_STEP
    return Question(lambda value, meter: isinstance(value, str) and value.startswith(operand), steps)


def ends_with(operand: str) -> Question:
    steps = 1 + len(operand) // TEXT_PER_STEP
    return Question(lambda value, meter: isinstance(value, str) and value.endswith(operand), steps)


def contains(operand: Any) -> Question:
    """A string contains a string; an array contains an equal member."""
    is_equal, steps = equals(operand)

    def ask(value: Any, meter: Meter) -> bool:
        if isinstance(value, str):
            if not isinstance(operand, str):
                return False
            meter.charge(searching_steps(value, operand))
            return operand in value
        if isinstance(value, list):
            for start in range(0, len(value), CHUNK):
                chunk = value[start : start + CHUNK]
                meter.charge((STEPS_PER_VALUE + steps) * len(chunk))
                if any(is_equal(member, meter) for member in chunk):
                    return True
        return False

    return Question(ask, 6)


def matches(regex: Regex) -> Question:
    """A regular expression is found in a string."""
    return Question(lambda value, meter: isinstance(value, str) and regex.is_found(value, meter))
