"""Regular expressions of RE2, and what looking for one costs.

RE2 is linear in the text, but what a byte costs depends on the states of its automaton: two nanoseconds while they are
few and kept, and where every byte makes a new one, soon as much as going through the whole program by hand. So the
states are counted when an expression is compiled (`regex_states`): one whose states are all kept is charged little, any
other for its program.

RE2 is only asked whether there is a match, by `\\A\\C*?(?:…)\\C*` and in longest-match mode: its states are then sets
and not lists, so that they are those that were counted, and it goes through the text once and in one direction.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import re2

from delivery.rules.regex_states import States, Work, count_states, most_alive, options_for
from delivery.rules.regex_trees import Node, UnknownError, read_tree
from meshes.kit.metering import Meter

MEMORY_BYTES = 512 * 1024
"""A program that does not fit into it is refused."""
SMALL_MEMORY_BYTES = 128 * 1024
"""What RE2 has where its states are many: it then gives up early to keep them."""
MOST_MEMORY_BYTES = 4 * 1024 * 1024
"""What it may have where they are few: no more than they need is ever taken."""
READING_UNITS = 4_000
"""What an expression may cost to read, of microseconds; one that costs more is charged for its program."""
INSTRUCTIONS_PER_UNIT = 2
"""Of the program that RE2 compiles."""

MOST_COPIES = 1_000
"""That RE2 makes of what is repeated."""
MOST_UNITS = 50_000
"""Of one expression: more instructions do not fit."""
UNITS_AT_LEAST, UNITS_OF_SIGN, UNITS_OF_NAME = 400, 25, 2_500
"""For an estimate: for each expression, each of its characters, and each class with a name."""
_COUNT = re.compile(r"\{([0-9]{1,4}(?:,[0-9]{0,4})?)\}")
_NAME = re.compile(r"\\[pP]")

STEPS_PER_SEARCH = 35
BYTES_PER_STEP = 40
CHARACTERS_PER_STEP = 500
"""To encode a text."""
INSTRUCTIONS_PER_STEP = 20
"""Of the program, for every byte, where states are not kept."""
STEPS_PER_STATE, STATES_AT_FIRST = 12, 600
"""What a state costs to make, and how many are made before RE2 gives up."""
POSITIONS_PER_STEP = 4
"""Of those that may come next, for every byte, where states are not kept and it is known how many these are."""


@dataclass(frozen=True, slots=True)
class Regex:
    """A compiled expression. Threads may share it."""

    expression: Any
    size: int
    """Instructions."""
    states: States | None
    """None where they may be too many to keep."""
    width: int | None
    """The most positions of the expression that RE2 has to do with at a byte; None where that is not known."""
    cut: int | None
    """So many characters of a text decide; None for all."""
    work: int
    """What it cost to compile, about, in microseconds."""

    def is_found(self, text: str, meter: Meter) -> bool:
        """Is the expression found in the text? Raises OutOfWorkError."""
        text = text[: self.cut]
        meter.charge(STEPS_PER_SEARCH + len(text) // CHARACTERS_PER_STEP)
        content = text.encode("utf-8", "surrogatepass")
        meter.charge(self.steps(len(text), len(content)))
        return self.expression.match(content) is not None

    @property
    def is_tame(self) -> bool:
        """Whether all states are kept for a text of ASCII."""
        return self.states is not None

    def steps(self, characters: int, size: int) -> int:
        """What a search in a text of so many characters and bytes costs."""
        if self.states is not None and (size == characters or self.states.size_of_foreign is not None):
            return size // BYTES_PER_STEP
        at_first = STEPS_PER_STATE * min(size, STATES_AT_FIRST)
        steps = size * (20 + self.size) // INSTRUCTIONS_PER_STEP
        if self.width is not None:
            steps = min(steps, size * (2 + self.width) // POSITIONS_PER_STEP)
        return at_first + steps


@lru_cache(maxsize=200)
def compile_regex(pattern: str) -> Regex:
    """Raises ValueError, with RE2's words."""
    _check(pattern)
    around = _around(pattern)
    size = _compile(around, MEMORY_BYTES).programsize
    work, memory = Work(READING_UNITS), SMALL_MEMORY_BYTES
    states: States | None = None
    cut = width = None
    try:
        tree = read_tree(pattern)
        cut = _cut(tree)
        width = None if cut is None else most_alive(tree, cut, work)
        states = count_states(tree, work)
        width = states.widest if width is None else width
        memory = _memory(states, size)
    except UnknownError:
        states = None
    try:
        expression = _compile(around, memory)
    except ValueError:
        expression = _compile(around, MEMORY_BYTES)
    units = 2 * size // INSTRUCTIONS_PER_UNIT + work.given - max(0, work.left)
    return Regex(expression, size, states, width, cut, units)


def estimate_work(pattern: str) -> int:
    """What an expression costs to compile at most, about, in microseconds: told without doing it."""
    copies = 1
    for count in _COUNT.findall(pattern):
        copies = min(MOST_COPIES, copies * max(1, *(int(number) for number in count.split(",") if number)))
    units = UNITS_OF_SIGN * len(pattern) + UNITS_OF_NAME * len(_NAME.findall(pattern))
    return min(MOST_UNITS, UNITS_AT_LEAST + units * copies)


def _around(pattern: str) -> str:
    """What matches a text from its beginning where the pattern is found in it, and then at once."""
    closed = pattern
    if "\\Q" in pattern:
        try:
            _compile(f"(?:{pattern})", SMALL_MEMORY_BYTES)
        except ValueError as error:
            closed += "\\E" if "missing" in str(error) else ""  # what it quotes goes on to its end
    return rf"\A\C*?(?:{closed})\C*"


def _cut(tree: Node) -> int | None:
    """What is found at the beginning of a text or not at all ends there too; an assertion sees one character more."""
    return tree.longest + 1 if tree.is_anchored and tree.longest is not None else None


def _memory(states: States, size: int) -> int:
    """What RE2 needs to keep these states. It has a sixth of it for them, and refuses where twenty do not fit."""
    needed = 3 * (2 * max(states.size, states.size_of_foreign or 0) + 200 * size + 60_000)
    if needed > MOST_MEMORY_BYTES:
        raise UnknownError
    return max(needed, MEMORY_BYTES)


def _check(pattern: str) -> None:
    """Whether it is one by itself: what stands around it hides some faults."""
    try:
        _compile(pattern, SMALL_MEMORY_BYTES)
    except ValueError as error:
        if "too large" not in str(error):
            raise


def _compile(expression: str, memory: int) -> Any:
    try:
        return re2.compile(expression.encode(), options_for(memory))
    except re2.error as error:
        raise ValueError(error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)) from None
