"""Compile a filter: the JSON dialect of Hookdeck and Convoy, checked once when a rule is saved.

    {"payload": {"lead": {"score": {"$gte": 50}}}}          objects lead down by names
    {"payload.lead.score": {"$gte": 50}, "event.type": "lead.created"}      dotted names too; members are joined by and
    {"$or": [{"payload.plan": "pro"}, {"payload.seats": {"$gt": 10}}]}

A literal is `$eq`, an array literal asks that each of its members be there, `{}` matches everything. The table of
answers is in docs/routing.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from delivery.rules.clauses import Clause, preview
from delivery.rules.conditions import (
    All,
    Comparison,
    Condition,
    Either,
    Existence,
    Negation,
    Question,
    contains,
    ends_with,
    equals,
    is_one_of,
    is_ordered,
    matches,
    starts_with,
)
from delivery.rules.context import CONTEXT, misread
from delivery.rules.dialects import operator_meant, read_described, sign_meant
from delivery.rules.jsonvalues import written_size
from delivery.rules.regexes import Regex, compile_regex
from meshes.kit.jsonpaths import pointer, split_path
from meshes.kit.metering import RULE_STEPS, Meter
from meshes.kit.spelling import suggested
from meshes.kit.strictjson import InvalidJson, check_value

MAX_DEPTH = 8
"""Objects inside each other. Lists, of $and or $in, do not count."""
MAX_NESTING = 32
"""Objects and lists inside each other, operands of $eq included."""
MAX_NODES = 200
MAX_LIST = 200
MAX_SOURCE_SIZE = 65_536
MAX_REGEX_LENGTH = 512
MAX_REGEX_WORK = 60_000
"""What the regular expressions of a new filter may cost to compile, together, in microseconds (`Regex.work`): one is
mostly some hundred, one with `\\pL` two thousand."""


class FilterError(ValueError):
    """A filter was refused: `pointer` (RFC 6901) leads to the mistake in it, `message` says what is wrong."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(f"{pointer or 'filter'}: {message}")
        self.pointer = pointer
        self.message = message


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled filter. Threads may share it."""

    root: Condition
    regex_work: int = 0
    """What its regular expressions cost to compile, about, in microseconds."""

    def explain(self, context: dict[str, Any], meter: Meter | None = None) -> Clause | None:
        """None if `context` (`{event, payload, workspace}`) matches, else the first clause that failed.

        Raises OutOfWorkError, and nothing else: what cannot be decided is no answer. `meter.at` is then the clause.
        """
        return self.root.explain(context, Meter(RULE_STEPS) if meter is None else meter)

    def matches(self, context: dict[str, Any]) -> bool:
        """Does `context` match? Raises OutOfWorkError."""
        return self.explain(context) is None


def compile_filter(document: Any, max_regex_work: int | None = None) -> Filter:
    """Compile a filter document; `{}` matches everything. Raises FilterError with a pointer to the mistake.

    What is stored already is compiled whatever it costs; what comes in has a `max_regex_work`.
    """
    if not isinstance(document, dict):
        raise FilterError("", "must be an object")
    try:
        check_value(document, max_depth=MAX_NESTING)
    except InvalidJson as fault:
        raise FilterError(fault.pointer, fault.message) from None
    if written_size(document) > MAX_SOURCE_SIZE:
        raise FilterError("", f"is longer than {MAX_SOURCE_SIZE // 1024} KB")
    compiler = _Compiler(max_regex_work)
    root = compiler.read_object(document, _Place((), (), 0)) if document else All(())
    return Filter(root, compiler.regex_work)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the compiler stands: the path in the event, the tokens in the filter, the depth of objects."""

    path: tuple[str, ...]
    tokens: tuple[str | int, ...]
    depth: int

    def below(self, *tokens: str | int, path: tuple[str, ...] = ()) -> "_Place":
        return _Place(self.path + path, self.tokens + tokens, self.depth)

    def error(self, message: str) -> FilterError:
        return FilterError(pointer(*self.tokens), message)


class _Compiler:
    def __init__(self, max_regex_work: int | None = None) -> None:
        self.nodes = 0
        self.max_regex_work = max_regex_work
        self.regexes: dict[str, Regex] = {}

    @property
    def regex_work(self) -> int:
        return sum(regex.work for regex in self.regexes.values())

    def read(self, document: Any, place: _Place) -> Condition:
        """A condition on what `place.path` reaches: an object of fields or operators, or a literal."""
        if isinstance(document, dict):
            return self.read_object(document, place)
        if not place.path:
            raise place.error("must be an object of fields or operators")
        if isinstance(document, list):
            return self.read_array_literal(document, place)
        return self.read_operator("$eq", document, place)

    def read_object(self, document: dict[str, Any], place: _Place) -> Condition:
        place = _Place(place.path, place.tokens, place.depth + 1)
        if place.depth > MAX_DEPTH:
            raise place.error(f"objects are nested more than {MAX_DEPTH} deep")
        if not document:
            raise place.error('an empty object says nothing; use {"$exist": true} or {"$eq": {}}')
        if not place.path and (meant := read_described(document)):
            raise place.error(f"a filter names the field, then the operator. Did you mean {meant}?")
        operators = sum(name.startswith("$") for name in document)
        if operators not in (0, len(document)):
            raise place.error("an object holds either operators or fields, not both; join them by $and")
        read = self.read_operator if operators else self.read_field
        return self.join([read(name, inner, place.below(name)) for name, inner in document.items()], place)

    def read_field(self, name: str, document: Any, place: _Place) -> Condition:
        try:
            path = split_path(name)
        except ValueError as error:
            raise place.error(str(error)) from None
        if not place.path and path[0] not in CONTEXT:
            raise place.error(_misread_root(name, path, document))
        return self.read(document, place.below(path=path))

    def read_array_literal(self, members: list[Any], place: _Place) -> Condition:
        if not members:
            raise place.error('an empty array says nothing; use {"$eq": []}')
        return self.join([self.read_operator("$eq", m, place.below(i)) for i, m in enumerate(members)], place)

    def read_operator(self, name: str, operand: Any, place: _Place) -> Condition:
        if name in ("$and", "$or"):
            return self.read_group(name, operand, place)
        if name == "$not":
            self.count(place)
            return Negation(place.path, preview(operand), self.read(operand, place))
        operator = self.read_regex if name == "$regex" else _OPERATORS.get(name)
        if operator is None:
            near = f" Did you mean {meant}?" if (meant := operator_meant(name)) else suggested(name, OPERATORS)
            raise place.error(f"unknown operator; known are {', '.join(OPERATORS)}.{near}")
        if not place.path:
            raise place.error("an operator needs a field to look at")
        self.count(place)
        return operator(name, operand, _settle(place))

    def read_regex(self, name: str, operand: Any, place: _Place) -> Condition:
        if not isinstance(operand, str) or not 0 < len(operand) <= MAX_REGEX_LENGTH:
            raise place.error(f"takes a regular expression of 1 to {MAX_REGEX_LENGTH} characters")
        try:
            regex = self.regexes[operand] = compile_regex(operand)
        except ValueError as error:
            raise place.error(f"not a regular expression of RE2: {error}") from None
        if self.max_regex_work is not None and self.regex_work > self.max_regex_work:
            raise place.error(
                "the regular expressions of the filter are too large together; shorten their counts ({1,255}), "
                r"or write fewer classes such as \pL"
            )
        return Comparison(place.path, name, operand, preview(operand), matches(regex))

    def read_group(self, name: str, operand: Any, place: _Place) -> Condition:
        if not isinstance(operand, list) or not operand:
            raise place.error("takes a list of at least one condition")
        parts = [self.read(part, place.below(index)) for index, part in enumerate(operand)]
        if name == "$and":
            return self.join(parts, place)
        self.count(place)
        return Either(place.path, preview(operand), tuple(parts))

    def join(self, parts: list[Condition], place: _Place) -> Condition:
        if len(parts) == 1:
            return parts[0]
        self.count(place)
        return All(tuple(parts))

    def count(self, place: _Place) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise place.error(f"the filter has more than {MAX_NODES} conditions and groups")


def _settle(place: _Place) -> _Place:
    """The place that a test looks at. `event` alone is short for its type; the rest must be something that is there."""
    root, *below = place.path
    known = CONTEXT[root]
    if known is None or (len(below) == 1 and below[0] in known):
        return place
    if root == "event" and not below:
        return place.below(path=("type",))
    raise place.error(misread(place.path) or f"{root} has the members {', '.join(known)}.")


def _misread_root(name: str, path: tuple[str, ...], document: Any) -> str:
    """Why a member of the whole filter is none, and what may be meant: a field, or an operator."""
    operator = operator_meant(name)
    is_group = operator in ("$and", "$or", "$not", "$in", "$nin") and isinstance(document, (dict, list))
    if operator and (is_group or sign_meant(name)):
        needs = "" if operator in ("$and", "$or", "$not") else " An operator needs a field to look at."
        return f"{name.strip()} is no operator. Did you mean {operator}?{needs}"
    needs = f" The operator {operator} needs a field to look at." if operator else ""
    return misread(path) + needs


# --- operators: check the operand, build the test ---------------------------------------------------------------------

_Operator = Callable[[str, Any, _Place], Condition]


def _equality(name: str, operand: Any, place: _Place) -> Condition:
    return Comparison(place.path, name, operand, preview(operand), equals(operand), negative=name == "$neq")


def _membership(name: str, operand: Any, place: _Place) -> Condition:
    if not isinstance(operand, list) or not operand or len(operand) > MAX_LIST:
        raise place.error(f"takes a list of 1 to {MAX_LIST} values")
    for index, member in enumerate(operand):
        if isinstance(member, (dict, list)):
            raise place.below(index).error("must be a string, a number, true, false or null")
    return Comparison(place.path, name, operand, preview(operand), is_one_of(operand), negative=name == "$nin")


def _order(name: str, operand: Any, place: _Place) -> Condition:
    if isinstance(operand, bool) or not isinstance(operand, (int, float, str)):
        raise place.error("takes a number or a string")
    return Comparison(place.path, name, operand, preview(operand), is_ordered(name)(operand))


def _existence(name: str, operand: Any, place: _Place) -> Condition:
    if not isinstance(operand, bool):
        raise place.error("takes true or false")
    return Existence(place.path, operand)


def _containment(name: str, operand: Any, place: _Place) -> Condition:
    if isinstance(operand, (dict, list)):
        raise place.error("takes a string, a number, true, false or null")
    return Comparison(place.path, name, operand, preview(operand), contains(operand), open_arrays=False)


def _text(build: Callable[[str], Question]) -> _Operator:
    def read(name: str, operand: Any, place: _Place) -> Condition:
        if not isinstance(operand, str) or not operand:
            raise place.error("takes a string of at least one character")
        return Comparison(place.path, name, operand, preview(operand), build(operand))

    return read


_OPERATORS: dict[str, _Operator] = {
    "$eq": _equality,
    "$neq": _equality,
    "$gt": _order,
    "$gte": _order,
    "$lt": _order,
    "$lte": _order,
    "$in": _membership,
    "$nin": _membership,
    "$exist": _existence,
    "$startsWith": _text(starts_with),
    "$endsWith": _text(ends_with),
    "$contains": _containment,
}
OPERATORS = (*_OPERATORS, "$regex", "$and", "$or", "$not")
"""The names of all."""
