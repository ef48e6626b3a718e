"""Regular expressions of RE2, and what looking for one costs.

RE2 is linear in the text, but what a byte costs depends on the states of its automaton: two nanoseconds while they are
few and kept, and where every byte makes a new one, soon as much as going through the whole program by hand. So the
states are counted when an expression is compiled: one whose states are all kept is charged little, any other for its
program.

RE2 is only asked whether there is a match, by `\\A\\C*?(?:…)\\C*` and in longest-match mode: its states are then sets
and not lists, so that they are those that were counted, and it goes through the text once and in one direction.

RE2 makes a state for each set of instructions that it comes to; after a character, these follow from the positions
(in the sense of Glushkov) at which the character was read, and from the assertions that hold behind it. So the sets of
positions are found here, up to a bound, over samples that stand for all characters: each of ASCII, each that is written
in the expression, and those that follow. Of classes that are named (`\\pL`) it is not known what is in them beyond
ASCII: of each, such a character is tried as being in it and as being not.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, reduce
from itertools import product
from typing import Any, NamedTuple

import re2

from delivery.rules.regex_trees import Assertion, Node, UnknownError, read_tree
from meshes.kit.metering import Meter

MEMORY_BYTES = 512 * 1024
"""A program that does not fit into it is refused."""
SMALL_MEMORY_BYTES = 128 * 1024
"""What RE2 has where its states are many: it then gives up early to keep them."""
MOST_MEMORY_BYTES = 4 * 1024 * 1024
"""What it may have where they are few: no more than they need is ever taken."""
MEMORY_OF_CLASS = 1_000_000
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


class States(NamedTuple):
    """What is known of the states."""

    size: int
    """Bytes of all, for texts of ASCII."""
    size_of_foreign: int | None
    """Bytes of all, for any text; None where that is not known."""
    widest: int | None
    """The most positions that may come next; None where that is not known."""


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
    around = _around(pattern)
    size = _compile(around, MEMORY_BYTES).programsize
    work, memory = Work(READING_UNITS), SMALL_MEMORY_BYTES
    states: States | None = None
    cut = width = None
    try:
        tree = read_tree(pattern)
        # What is found at the beginning of a text or not at all ends there; an assertion sees one character more.
        cut = tree.longest + 1 if tree.is_anchored and tree.longest is not None else None
        width = None if cut is None else most_alive(tree, cut, work)
        counted = count_states(tree, work)
        width = counted.widest if width is None else width
        # RE2 has a sixth of its memory for states, and refuses where twenty do not fit.
        needed = 3 * (2 * max(counted.size, counted.size_of_foreign or 0) + 200 * size + 60_000)
        if needed <= MOST_MEMORY_BYTES:
            states, memory = counted, max(needed, MEMORY_BYTES)
    except UnknownError:
        pass
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
    """What matches a text from its beginning where the pattern is found in it, and then at once.

    The pattern is compiled by itself first, for what stands around it hides some faults.
    """
    closed = pattern
    try:
        _compile(pattern, SMALL_MEMORY_BYTES)
    except ValueError as error:
        if "too large" not in str(error):
            raise
    if "\\Q" in pattern:
        try:
            _compile(f"(?:{pattern})", SMALL_MEMORY_BYTES)
        except ValueError as error:
            closed += "\\E" if "missing" in str(error) else ""  # what it quotes goes on to its end
    return rf"\A\C*?(?:{closed})\C*"


def _compile(expression: str, memory: int) -> Any:
    options = re2.Options()
    options.max_mem = memory
    options.log_errors = False
    options.never_capture = True
    options.longest_match = True
    try:
        return re2.compile(expression.encode("utf-8", "surrogatepass"), options)
    except re2.error as error:
        raise ValueError(error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)) from None


# --- what may follow what ---------------------------------------------------------------------------------------------

MOST_POSITIONS = 400
Part = tuple[bool, int, int]
"""Whether a part matches nothing at all, and its first and last positions (sets of bits)."""


class Work:
    """What reading an expression may cost. A unit is about a microsecond."""

    def __init__(self, units: int) -> None:
        self.given = self.left = units

    def take(self, units: int) -> None:
        """Raises UnknownError when too little is left."""
        self.left -= units
        if self.left < 0:
            raise UnknownError


class _Links:
    """The positions of a tree, between two characters where these assertions hold and no others."""

    def __init__(self, holding: frozenset[Assertion], work: Work) -> None:
        self.holding, self.work = holding, work
        self.classes: list[Node] = []
        self.follow: list[int] = []

    def read(self, node: Node) -> Part:
        self.work.take(1)
        if node.kind == "check":
            return node.assertion in self.holding, 0, 0
        if node.kind == "repeat":
            return self.repeat(node)
        if node.kind == "class":
            if len(self.classes) >= MOST_POSITIONS:
                raise UnknownError
            self.classes.append(node)
            self.follow.append(0)
            bit = 1 << len(self.classes) - 1
            return False, bit, bit
        parts = [self.read(part) for part in node.parts]
        return (
            reduce(_either, parts, (False, 0, 0)) if node.kind == "choice" else reduce(self.join, parts, (True, 0, 0))
        )

    def join(self, left: Part, right: Part) -> Part:
        left_is_empty, left_first, left_last = left
        right_is_empty, right_first, right_last = right
        self.link(left_last, right_first)
        return (
            left_is_empty and right_is_empty,
            left_first | right_first if left_is_empty else left_first,
            left_last | right_last if right_is_empty else right_last,
        )

    def link(self, last: int, first: int) -> None:
        for position in _bits(last):
            self.work.take(1)
            self.follow[position] |= first

    def repeat(self, node: Node) -> Part:
        """`x{2,4}` is `xx(x(x)?)?`, and `x{2,}` is `xx+`."""
        (part,) = node.parts
        if node.longest == 0:
            is_empty, first, last = self.read(part)
            return is_empty or node.least == 0, 0, 0
        whole: Part = (True, 0, 0)
        copies = [self.read(part) for _ in range(max(1, node.least) if node.most is None else node.most)]
        if node.most is None:
            is_empty, first, last = copies[-1]
            self.link(last, first)
            copies[-1] = is_empty or node.least == 0, first, last
        else:
            for copy in reversed(copies[node.least :]):
                whole = _either((True, 0, 0), self.join(copy, whole))
            del copies[node.least :]
        return reduce(lambda after, copy: self.join(copy, after), reversed(copies), whole)


def _either(one: Part, other: Part) -> Part:
    return one[0] or other[0], one[1] | other[1], one[2] | other[2]


def _bits(number: int) -> Iterable[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def most_alive(tree: Node, characters: int, work: Work) -> int:
    """The most positions at which a search that begins with the text can stand at once. Raises UnknownError."""
    links = _Links(frozenset(Assertion), work)
    _, alive, _ = links.read(tree)
    most = 0
    for _ in range(characters):
        most = max(most, alive.bit_count())
        following = 0
        for position in _bits(alive):
            following |= links.follow[position]
        work.take(1 + alive.bit_count() // 5)
        if following in (0, alive):
            break
        alive = following
    return most


# --- what characters lead where ---------------------------------------------------------------------------------------

MOST_SAMPLES = 400
"""Characters beyond ASCII."""
FOLDED = "\u017f\u0180\u212a\u212b"
"""What is `s` and `k` to an expression that ignores case, and what stands behind it."""
BOUNDS = "\x80\ud800\ue000"
_CHARACTER = re.compile(r"\\x\{([0-9A-Fa-f]+)\}|\\x([0-9A-Fa-f]{2})|\\([0-7]{1,3})|([^\x00-\x7f])")
_ASCII = "".join(map(chr, range(128)))


def _foreign_samples(classes: Iterable[Node]) -> str:
    """Characters beyond ASCII: between one and the next no class begins or ends, save those that have names."""
    found = set(BOUNDS + FOLDED)
    for each in classes:
        codes = {
            int(hexadecimal or short, 16) if hexadecimal or short else int(octal, 8) if octal else ord(character)
            for hexadecimal, short, octal, character in _CHARACTER.findall(each.written)
        }
        written = {chr(code) for code in codes if 0x80 <= code <= 0x10FFFF}
        if written and "i" in each.flags:
            written |= set(_of_any_case(each.written))
        found |= written | {chr(ord(character) + 1) for character in written if ord(character) < 0x10FFFF}
        if len(found) > MOST_SAMPLES:
            raise UnknownError
    return "".join(sorted(found))


@lru_cache(maxsize=1_000)
def _of_any_case(written: str) -> str:
    """The characters beyond ASCII that a class is written with or ends at, in either case."""
    positive = f"[{written[2:]}" if written.startswith("[^") else written
    return b"".join(_compile(f"(?i:{positive})+", MEMORY_OF_CLASS).findall(_cased())).decode()


@cache
def _cased() -> bytes:
    """Characters beyond ASCII that have another case."""
    text = "".join(chr(code) for code in range(0x80, 0x1F000) if not 0xD800 <= code < 0xE000).encode()
    return b"".join(_compile(r"[\p{Lu}\p{Ll}\p{Lt}\p{Nl}\p{So}\x{345}]+", MEMORY_OF_CLASS).findall(text))


@lru_cache(maxsize=4_000)
def _matched(each: Node, samples: str) -> int:
    """Which of the samples a class stands for: a set of bits."""
    if not each.flags and len(each.written) == 1 and each.written != ".":
        at = samples.find(each.written)
        return 0 if at < 0 else 1 << at
    found, content = 0, samples.encode("utf-8", "surrogatepass")
    for match in _compile(f"(?{each.flags}:{each.written})+", MEMORY_OF_CLASS).finditer(content):
        start, end = (len(content[:at].decode("utf-8", "surrogatepass")) for at in match.span())
        found |= (1 << end) - (1 << start)
    return found


# --- the states -------------------------------------------------------------------------------------------------------

MOST_NAMED = 3
"""Classes with names, of different writing."""
MOST_STATE_BYTES = 150_000
"""Of all states together."""
MOST_STATE_BYTES_OF_FOREIGN = 300_000
STATE_BYTES, BYTES_OF_KIND, BYTES_OF_POSITION = 100, 8, 5
"""Of a state: for itself, for each kind of byte, for each position that may come next."""
KINDS_OF_FOREIGN_BYTES = 12
STATES_WITHIN_CHARACTER, STATES_WITHIN_SAMPLE = 8, 4
"""Of a character beyond ASCII RE2 reads one byte after the other, and has states between them."""
UNITS_OF_CLASS, UNITS_OF_NAMED, UNITS_OF_SAMPLE = 40, 500, 4
Moves = frozenset[tuple[int, str]]
"""For each sample: the positions at which it may be read, and its kind."""
NOWHERE = (0, "other")
"""No position has the character."""


def count_states(tree: Node, work: Work) -> States:
    """Raises UnknownError, also where they are too many."""
    search = _Search(tree, work)
    search.linked("begin", "other")
    distinct = list(dict.fromkeys(search.classes))
    named = [each for each in distinct if _NAME.search(each.written)]
    if len(named) > MOST_NAMED:
        raise UnknownError
    work.take(UNITS_OF_CLASS * len(distinct) + UNITS_OF_NAMED * len(named))
    foreign = _foreign_samples(distinct)
    work.take(UNITS_OF_SAMPLE * len(foreign))
    of_ascii = search.moves_on(_ASCII, {each: _matched(each, _ASCII) for each in distinct})
    of_foreign = search.moves_on(foreign, {each: _matched(each, foreign) for each in set(distinct) - set(named)})
    kinds = len(of_ascii) + KINDS_OF_FOREIGN_BYTES
    size, widest = search.explore(of_ascii | {NOWHERE}, kinds)
    if not named and of_foreign == {NOWHERE}:
        return States(size, 2 * size, widest)
    extra = STATES_WITHIN_SAMPLE * (len(foreign) - len(BOUNDS + FOLDED))
    try:
        of_any = search.free(of_ascii | of_foreign, named)
        whole, widest = search.explore(of_any, kinds + extra)
    except UnknownError:
        return States(size, None, None)
    whole *= 1 + STATES_WITHIN_CHARACTER + extra
    return States(size, None if named or whole > MOST_STATE_BYTES_OF_FOREIGN else whole, widest)


class _Search:
    """The sets of positions that a search in any text comes to."""

    def __init__(self, tree: Node, work: Work) -> None:
        self.tree, self.work = tree, work
        self.assertions = frozenset(_assertions_of(tree))
        self.links: dict[frozenset[Assertion], tuple[int, list[int]]] = {}
        self.classes: list[Node] = []

    def moves_on(self, samples: str, of_class: dict[Node, int]) -> Moves:
        masks = [0] * len(samples)
        for position, each in enumerate(self.classes):
            for sample in _bits(of_class.get(each, 0)):
                masks[sample] |= 1 << position
            self.work.take(1)
        return frozenset((mask, self.kind(sample)) for mask, sample in zip(masks, samples, strict=True))

    def kind(self, sample: str) -> str:
        if sample == "\n" and self.assertions & {Assertion.LINE_BEGINS, Assertion.LINE_ENDS}:
            return "line"
        is_word = sample.isascii() and (sample.isalnum() or sample == "_")
        knows_words = self.assertions & {Assertion.WORD_BOUNDARY, Assertion.NO_WORD_BOUNDARY}
        return "word" if is_word and knows_words else "other"

    def free(self, moves: Moves, named: list[Node]) -> Moves:
        """Any of the named classes may have the character as well."""
        masks = [sum(1 << at for at, one in enumerate(self.classes) if one == each) for each in named]
        subsets = [sum(chosen) for chosen in product(*((0, mask) for mask in masks))]
        return frozenset((mask | subset, kind) for mask, kind in moves for subset in subsets)

    def explore(self, moves: Moves, kinds: int) -> tuple[int, int]:
        """The bytes of all states that are come to by these moves, and the most positions that may come next.

        Raises UnknownError where they are too many.
        """
        by_kind: dict[str, set[int]] = {}
        for mask, kind in moves:
            by_kind.setdefault(kind, set()).add(mask)
        seen, size, widest = {(0, "begin")}, 0, 0
        waiting = list(seen)
        while waiting:
            positions, before = waiting.pop()
            every = 0
            for kind, masks in by_kind.items():
                first, follow = self.linked(before, kind)
                after = first
                for position in _bits(positions):
                    after |= follow[position]
                every |= after
                found = {(after & mask, kind) for mask in masks} - seen
                seen |= found
                waiting += found
            width = every.bit_count()
            widest = max(widest, width)
            size += STATE_BYTES + BYTES_OF_KIND * kinds + BYTES_OF_POSITION * width
            self.work.take(2 + (len(moves) + positions.bit_count() * len(by_kind)) // 5)
            if size > MOST_STATE_BYTES:
                raise UnknownError
        return size, widest

    def linked(self, before: str, after: str) -> tuple[int, list[int]]:
        """The first positions, and what follows each, between two characters of these kinds. No text ends there."""
        is_boundary = (before == "word") != (after == "word")
        holds = {
            Assertion.WORD_BOUNDARY: is_boundary,
            Assertion.NO_WORD_BOUNDARY: not is_boundary,
            Assertion.TEXT_BEGINS: before == "begin",
            Assertion.LINE_BEGINS: before in ("begin", "line"),
            Assertion.LINE_ENDS: after == "line",
        }
        holding = frozenset(each for each in self.assertions if holds.get(each))
        if holding not in self.links:
            links = _Links(holding, self.work)
            _, first, _ = links.read(self.tree)
            self.links[holding] = first, links.follow
            self.classes = links.classes
        return self.links[holding]


def _assertions_of(node: Node) -> Iterator[Assertion]:
    if node.assertion:
        yield node.assertion
    for part in node.parts:
        yield from _assertions_of(part)
