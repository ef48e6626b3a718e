"""A filter by which a person is found although the address was typed otherwise: ` Ada@Example.com ` is ada@example.com.

Operands that hold an @ are compared without the spaces around, and without case, and so is what they meet. Everything
else, regular expressions too, stays as it is.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from connections.metering import Meter
from delivery.conditions import All, Comparison, Condition, Either, Negation, Question
from delivery.matching import Filter

_TESTS: dict[str, Callable[[str, Any], bool]] = {
    "$eq": lambda text, operand: text == operand,
    "$in": lambda text, operand: text in operand,
    "$startsWith": lambda text, operand: text.startswith(operand),
    "$endsWith": lambda text, operand: text.endswith(operand),
    "$contains": lambda text, operand: operand in text,
}
_POSITIVE = {"$neq": "$eq", "$nin": "$in"}
"""A negative operator holds exactly if its positive one does not, which `Comparison.negative` says."""


def fold_addresses(wanted: Filter) -> Filter:
    """The filter, for addresses as people type them."""
    return dataclasses.replace(wanted, root=_folded(wanted.root))


def _folded(condition: Condition) -> Condition:
    if isinstance(condition, All | Either):
        return dataclasses.replace(condition, parts=tuple(_folded(part) for part in condition.parts))
    if isinstance(condition, Negation):
        return dataclasses.replace(condition, part=_folded(condition.part))
    if isinstance(condition, Comparison):
        test = _TESTS.get(_POSITIVE.get(condition.operator, condition.operator))
        if test is not None and _holds_address(condition.operand):
            return dataclasses.replace(condition, question=_asking(condition, test))
    return condition


def _holds_address(operand: Any) -> bool:
    return any(isinstance(each, str) and "@" in each for each in (operand if isinstance(operand, list) else [operand]))


def _asking(condition: Comparison, test: Callable[[str, Any], bool]) -> Question:
    operand, (exact, steps) = condition.operand, condition.question
    plain = [fold(each) for each in operand if isinstance(each, str)] if isinstance(operand, list) else fold(operand)

    def ask(value: Any, meter: Meter) -> bool:
        if isinstance(value, list) and condition.operator == "$contains":
            return any(isinstance(each, str) and fold(each) == plain for each in value)
        if exact(value, meter) or not isinstance(value, str):
            return exact(value, meter)
        meter.charge(1 + len(value) // 16)
        return test(fold(value), plain)

    return Question(ask, steps)


def fold(text: str) -> str:
    """An address as it is compared."""
    return text.strip().casefold()
