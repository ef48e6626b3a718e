"""A filter by which a person is found although the address was typed otherwise: ` Ada@Example.com ` is ada@example.com.

A text in an operand that holds an @ is compared without case and without the spaces around it, and so is what it meets.
Everything else, regular expressions and orders too, stays as it is. Spaces that a text ends with are not around an
address where more may follow: of `$startsWith` only those before it, of `$contains` none.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from delivery.rules.conditions import STEPS_PER_NODE, All, Comparison, Condition, Either, Negation, Question, same
from delivery.rules.matching import Filter
from meshes.kit.metering import Meter

_Ask = Callable[[Any, Meter], bool]
FOLD_PER_STEP = 16
"""Characters that are folded in a step."""


def fold_addresses(wanted: Filter) -> Filter:
    """The filter, for addresses as people type them."""
    return dataclasses.replace(wanted, root=_folded(wanted.root))


def fold(text: str) -> str:
    """An address as it is compared."""
    return text.strip().casefold()


def _folded(condition: Condition) -> Condition:
    if isinstance(condition, All | Either):
        return dataclasses.replace(condition, parts=tuple(_folded(part) for part in condition.parts))
    if isinstance(condition, Negation):
        return dataclasses.replace(condition, part=_folded(condition.part))
    if isinstance(condition, Comparison) and condition.operator in _FOLDED and _holds_address(condition.operand):
        return dataclasses.replace(condition, question=_asking(condition))
    return condition


def _holds_address(operand: Any) -> bool:
    """Is there an @ in one of the texts of a JSON value, which is no deeper than a filter?"""
    if isinstance(operand, dict):
        return any(map(_holds_address, operand.values()))
    return (
        any(map(_holds_address, operand)) if isinstance(operand, list) else isinstance(operand, str) and "@" in operand
    )


def _asking(condition: Comparison) -> Question:
    (exact, steps), folded = condition.question, _FOLDED[condition.operator](condition.operand)
    return Question(lambda value, meter: exact(value, meter) or folded(value, meter), steps)


def _on_text(test: Callable[[str], bool]) -> _Ask:
    def ask(value: Any, meter: Meter) -> bool:
        if not isinstance(value, str):
            return False
        meter.charge(1 + len(value) // FOLD_PER_STEP)
        return test(value)

    return ask


def _equal(operand: Any) -> _Ask:
    return lambda value, meter: _is_same(value, operand, meter)


def _is_same(value: Any, operand: Any, meter: Meter) -> bool:
    """`same`, but for the addresses of the operand. Recurses no deeper than that is nested."""
    if isinstance(value, str) and isinstance(operand, str) and "@" in operand:
        meter.charge(STEPS_PER_NODE + len(value) // FOLD_PER_STEP)
        return fold(value) == fold(operand)
    if isinstance(value, dict) and isinstance(operand, dict):
        meter.charge(STEPS_PER_NODE + len(operand))
        return value.keys() == operand.keys() and all(_is_same(value[name], operand[name], meter) for name in operand)
    if isinstance(value, list) and isinstance(operand, list):
        meter.charge(STEPS_PER_NODE)
        return len(value) == len(operand) and all(_is_same(*pair, meter) for pair in zip(value, operand, strict=True))
    return same(value, operand, meter)


def _one_of(operands: list[Any]) -> _Ask:
    addresses = frozenset(fold(each) for each in operands if isinstance(each, str) and "@" in each)
    return _on_text(lambda text: fold(text) in addresses)


def _starting(operand: str) -> _Ask:
    wanted = operand.lstrip().casefold()
    return _on_text(lambda text: text.lstrip().casefold().startswith(wanted))


def _ending(operand: str) -> _Ask:
    wanted = operand.rstrip().casefold()
    return _on_text(lambda text: text.rstrip().casefold().endswith(wanted))


def _containing(operand: str) -> _Ask:
    wanted = operand.casefold()
    in_text = _on_text(lambda text: wanted in text.casefold())

    def ask(value: Any, meter: Meter) -> bool:
        if isinstance(value, list):
            return any(_is_same(member, operand, meter) for member in value)
        return in_text(value, meter)

    return ask


_FOLDED: dict[str, Callable[[Any], _Ask]] = {
    "$eq": _equal,
    "$neq": _equal,
    "$in": _one_of,
    "$nin": _one_of,
    "$startsWith": _starting,
    "$endsWith": _ending,
    "$contains": _containing,
}
"""By operator; a negative one holds exactly if its positive one does not, which `Comparison.negative` says."""
