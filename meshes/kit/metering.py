"""What one event may cost: a bound, in steps, on the work that a tenant's rules cause.

A step is worth some 0.07 µs of one core (`python -m bench.metering` compares the two). Steps and not seconds
bound an evaluation, so that the same event and the same rules give the same answer on every machine, at every load.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

EVENT_STEPS = 600_000
"""All rules of one event together, and reading its payload: at most 0.1 s."""
RULE_STEPS = EVENT_STEPS // 2
"""One rule. Beside cheap ones it can have all of it, whatever its share is."""

Unit = TypeVar("Unit")
Answer = TypeVar("Answer")


class OutOfWorkError(Exception):
    """The evaluation asked for more steps than it was given."""


class Meter:
    """Counts steps down."""

    __slots__ = ("at", "given", "left")

    def __init__(self, steps: int) -> None:
        self.given = self.left = steps
        self.at: object = ""
        """What is being evaluated; its `str` names it for the user."""

    @property
    def spent(self) -> int:
        return self.given - max(0, self.left)

    def charge(self, steps: int) -> None:
        """Pay before the work is done. Raises OutOfWorkError when too little is left."""
        self.left -= steps
        if self.left < 0:
            raise OutOfWorkError


def reading_steps(text: str) -> int:
    """What reading a payload costs: long numbers are the dearest characters, arrays the dearest values."""
    return 10 + len(text) // 8 + 2 * text.count("[") + text.count("{") + text.count(".") + text.count(",") // 2


def stripping_steps(text: str) -> int:
    """What it costs to take the spaces around a text away: nothing where there are none."""
    if not (text[:1].isspace() or text[-1:].isspace()):
        return 0
    return len(text) // (200 if text.isascii() else 25)


def searching_steps(text: str, wanted: str) -> int:
    """What it costs to look for a text in another: CPython's search is linear from 2,500 characters on only."""
    if len(wanted) <= 1 or len(wanted) > len(text):
        return 1 + len(text) // (1_000 if text.isascii() else 200)
    return 1 + (len(text) // 40 if len(text) >= 2_500 else len(text) * (5 + len(wanted)) // 800)


def ignore(steps: int) -> None:
    """Nobody wants to know."""


def share_out(
    units: Sequence[Unit],
    steps: int,
    work: Callable[[Unit, Meter], Answer],
    give_up: Callable[[Unit, Meter], Answer],
    note: Callable[[int], None] = ignore,
) -> tuple[list[Answer], int]:
    """Do all units' work within `steps`: the answers, in the order of the units, and the steps that were spent.

    Each unit has an equal share for itself, whatever the others do. Then those for which that was too little have, in
    order, what is left of all; one for which that is too little too is given up. `note` is told what was spent, now and
    then.
    """
    answers: dict[int, Answer] = {}
    left, share = steps, min(RULE_STEPS, steps // max(1, len(units)))
    short: dict[int, Meter] = {}
    for index, unit in enumerate(units):
        short[index] = meter = Meter(share)
        with suppress(OutOfWorkError):
            answers[index] = work(unit, meter)
            del short[index]
        left -= meter.spent
        note(steps - left)
    for index, first in short.items():
        again = Meter(max(share, min(RULE_STEPS, left)))
        if again.given > share:
            with suppress(OutOfWorkError):
                answers[index] = work(units[index], again)
            left -= again.spent
            note(steps - left)
        if index not in answers:
            answers[index] = give_up(units[index], again if again.given > share else first)
    return [answers[index] for index in range(len(units))], steps - left
