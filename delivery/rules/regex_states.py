"""The states that a search comes to, whatever the text is: sets of the expression's positions, as RE2 keeps them.

RE2 makes a state for each set of instructions that it comes to; after a character, these follow from the positions
(in the sense of Glushkov) at which the character was read, and from the assertions that hold behind it. So the sets of
positions are found here, up to a bound, over samples that stand for all characters: each of ASCII, each that is written
in the expression, and those that follow. Of classes that are named (`\\pL`) it is not known what is in them beyond
ASCII: of each, such a character is tried as being in it and as being not.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import product
from typing import Any

import re2

from delivery.rules.regex_trees import Assertion, Check, Choice, Class, Node, Repeat, UnknownError

MOST_POSITIONS = 400
MOST_SAMPLES = 400
"""Characters beyond ASCII."""
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

MEMORY_OF_CLASS = 1_000_000
UNITS_OF_CLASS, UNITS_OF_NAMED, UNITS_OF_SAMPLE = 40, 500, 4

FOLDED = "\u017f\u0180\u212a\u212b"
"""What is `s` and `k` to an expression that ignores case, and what stands behind it."""
BOUNDS = "\x80\ud800\ue000"


class Work:
    """What reading an expression may cost. A unit is about a microsecond."""

    def __init__(self, units: int) -> None:
        self.given = self.left = units

    def take(self, units: int) -> None:
        """Raises UnknownError when too little is left."""
        self.left -= units
        if self.left < 0:
            raise UnknownError


@dataclass(frozen=True, slots=True)
class States:
    """What is known of the states."""

    size: int
    """Bytes of all, for texts of ASCII."""
    size_of_foreign: int | None
    """Bytes of all, for any text; None where that is not known."""
    widest: int | None
    """The most positions that may come next; None where that is not known."""


def count_states(tree: Node, work: Work) -> States:
    """Raises UnknownError, also where they are too many."""
    return _Search(tree, work).run()


def most_alive(tree: Node, characters: int, work: Work) -> int:
    """The most positions at which a search that begins with the text can stand at once. Raises UnknownError."""
    links = _Links(frozenset(Assertion), work)
    alive, most = links.read(tree).first, 0
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


# --- what may follow what -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Part:
    """Whether a part matches nothing at all, and its first and last positions (sets of bits)."""

    is_empty: bool = True
    first: int = 0
    last: int = 0


@dataclass(slots=True)
class _Links:
    """The positions of a tree, between two characters where these assertions hold and no others."""

    holding: frozenset[Assertion]
    work: Work
    classes: list[Class] = field(default_factory=list)
    follow: list[int] = field(default_factory=list)

    def read(self, node: Node) -> _Part:
        self.work.take(1)
        if isinstance(node, Class):
            return self.position(node)
        if isinstance(node, Check):
            return _Part(node.assertion in self.holding)
        if isinstance(node, Repeat):
            return self.repeat(node)
        parts = [self.read(part) for part in node.parts]
        if isinstance(node, Choice):
            whole = _Part(False)
            for part in parts:
                whole = _either(whole, part)
            return whole
        whole = _Part()
        for part in parts:
            whole = self.join(whole, part)
        return whole

    def position(self, node: Class) -> _Part:
        if len(self.classes) >= MOST_POSITIONS:
            raise UnknownError
        bit = 1 << len(self.classes)
        self.classes.append(node)
        self.follow.append(0)
        return _Part(False, bit, bit)

    def join(self, left: _Part, right: _Part) -> _Part:
        self.link(left.last, right.first)
        return _Part(
            left.is_empty and right.is_empty,
            left.first | right.first if left.is_empty else left.first,
            left.last | right.last if right.is_empty else right.last,
        )

    def link(self, last: int, first: int) -> None:
        for position in _bits(last):
            self.work.take(1)
            self.follow[position] |= first

    def repeat(self, node: Repeat) -> _Part:
        """`x{2,4}` is `xx(x(x)?)?`, and `x{2,}` is `xx+`."""
        if node.longest == 0:
            part = self.read(node.part)
            return _Part(part.is_empty or node.least == 0)
        copies = [self.read(node.part) for _ in range(max(1, node.least) if node.most is None else node.most)]
        if node.most is None:
            self.link(copies[-1].last, copies[-1].first)
            copies[-1].is_empty = copies[-1].is_empty or node.least == 0
        whole = _Part()
        for copy in reversed(copies[node.least :]) if node.most is not None else ():
            whole = _either(_Part(), self.join(copy, whole))
        for copy in reversed(copies[: node.least] if node.most is not None else copies):
            whole = self.join(copy, whole)
        return whole


def _either(one: _Part, other: _Part) -> _Part:
    return _Part(one.is_empty or other.is_empty, one.first | other.first, one.last | other.last)


def _bits(number: int) -> Iterable[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


# --- what characters lead where -------------------------------------------------------------------------------------


def options_for(memory: int) -> Any:
    options = re2.Options()
    options.max_mem = memory
    options.log_errors = False
    options.never_capture = True
    options.longest_match = True
    return options


_CHARACTER = re.compile(r"\\x\{([0-9A-Fa-f]+)\}|\\x([0-9A-Fa-f]{2})|\\([0-7]{1,3})|([^\x00-\x7f])")
_ASCII = "".join(map(chr, range(128)))


def _foreign_samples(classes: Iterable[Class]) -> str:
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
    found = _compiled(f"(?i:{positive})+", MEMORY_OF_CLASS).findall(_cased())
    return b"".join(found).decode()


@cache
def _cased() -> bytes:
    """Characters beyond ASCII that have another case."""
    text = "".join(chr(code) for code in range(0x80, 0x1F000) if not 0xD800 <= code < 0xE000).encode()
    of_two_cases = r"[\p{Lu}\p{Ll}\p{Lt}\p{Nl}\p{So}\x{345}]+"
    return b"".join(re2.compile(of_two_cases.encode(), options_for(MEMORY_OF_CLASS)).findall(text))


def _compiled(expression: str, memory: int) -> Any:
    try:
        return re2.compile(expression.encode("utf-8", "surrogatepass"), options_for(memory))
    except re2.error:
        raise UnknownError from None


def _is_named(each: Class) -> bool:
    return re.search(r"\\[pP]", each.written) is not None


def _matched(each: Class, samples: str, content: bytes, starts: dict[int, int]) -> int:
    """Which of the samples the class stands for: a set of bits."""
    if not each.flags and len(each.written) == 1 and each.written != ".":
        at = samples.find(each.written)
        return 0 if at < 0 else 1 << at
    found = 0
    for match in _compiled(f"(?{each.flags}:{each.written})+", MEMORY_OF_CLASS).finditer(content):
        found |= (1 << starts[match.end()]) - (1 << starts[match.start()])
    return found


@lru_cache(maxsize=4_000)
def _matched_of_ascii(each: Class) -> int:
    return _matched(each, _ASCII, _ASCII.encode(), {at: at for at in range(129)})


def _matched_of_foreign(classes: Iterable[Class], foreign: str) -> dict[Class, int]:
    starts, at = {0: 0}, 0
    for index, character in enumerate(foreign):
        at += len(character.encode("utf-8", "surrogatepass"))
        starts[at] = index + 1
    content = foreign.encode("utf-8", "surrogatepass")
    return {each: _matched(each, foreign, content, starts) for each in classes}


# --- the states -----------------------------------------------------------------------------------------------------


class _Search:
    def __init__(self, tree: Node, work: Work) -> None:
        self.tree, self.work = tree, work
        self.assertions = frozenset(_assertions_of(tree))
        self.links: dict[frozenset[Assertion], tuple[int, list[int]]] = {}
        self.classes: list[Class] = []

    def run(self) -> States:
        self.linked("begin", "other")
        distinct = list(dict.fromkeys(self.classes))
        named = [each for each in distinct if _is_named(each)]
        if len(named) > MOST_NAMED:
            raise UnknownError
        self.work.take(UNITS_OF_CLASS * len(distinct) + UNITS_OF_NAMED * len(named))
        foreign = _foreign_samples(distinct)
        self.work.take(UNITS_OF_SAMPLE * len(foreign))
        of_ascii = self.moves_on(_ASCII, {each: _matched_of_ascii(each) for each in distinct})
        of_foreign = self.moves_on(foreign, _matched_of_foreign(set(distinct) - set(named), foreign))
        kinds = len(of_ascii) + KINDS_OF_FOREIGN_BYTES
        known = self.explore(of_ascii | {NOWHERE}, kinds)
        if not named and of_foreign == {NOWHERE}:
            return States(known.size, 2 * known.size, known.widest)
        try:
            return States(known.size, *self.count_foreign(of_ascii | of_foreign, named, foreign, kinds))
        except UnknownError:
            return States(known.size, None, None)

    def count_foreign(
        self, moves: "_Moves", named: list[Class], foreign: str, kinds: int
    ) -> tuple[int | None, int | None]:
        """The same for any text: the bytes of all states, and the most positions that may come next."""
        extra = STATES_WITHIN_SAMPLE * (len(foreign) - len(BOUNDS + FOLDED))
        whole = self.explore(self.free(moves, named), kinds + extra)
        size = whole.size * (1 + STATES_WITHIN_CHARACTER + extra)
        return (None if named or size > MOST_STATE_BYTES_OF_FOREIGN else size), whole.widest

    def moves_on(self, samples: str, of_class: dict[Class, int]) -> "_Moves":
        """The positions at which a sample may be read, and its kind, for all samples."""
        masks = [0] * len(samples)
        for position, each in enumerate(self.classes):
            for sample in _bits(of_class.get(each, 0)):
                masks[sample] |= 1 << position
            self.work.take(1)
        return frozenset((mask, self.kind(sample)) for mask, sample in zip(masks, samples, strict=True))

    def kind(self, sample: str) -> str:
        if sample == "\n" and self.assertions & {Assertion.LINE_BEGINS, Assertion.LINE_ENDS}:
            return "line"
        if (
            sample.isascii()
            and (sample.isalnum() or sample == "_")
            and self.assertions & {Assertion.WORD_BOUNDARY, Assertion.NO_WORD_BOUNDARY}
        ):
            return "word"
        return "other"

    def free(self, moves: "_Moves", named: list[Class]) -> "_Moves":
        """Any of the named classes may have the character as well."""
        masks = [sum(1 << at for at, one in enumerate(self.classes) if one == each) for each in named]
        subsets = [sum(chosen) for chosen in product(*((0, mask) for mask in masks))]
        return frozenset((mask | subset, kind) for mask, kind in moves for subset in subsets)

    def explore(self, moves: "_Moves", kinds: int) -> States:
        """All states that are come to by these moves. Raises UnknownError where they are too many."""
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
        return States(size, None, widest)

    def linked(self, before: str, after: str) -> tuple[int, list[int]]:
        """The first positions, and what follows each, between two characters of these kinds."""
        holding = frozenset(self.assertions & _holding(before, after))
        found = self.links.get(holding)
        if found is None:
            links = _Links(holding, self.work)
            found = self.links[holding] = links.read(self.tree).first, links.follow
            self.classes = links.classes
        return found


_Moves = frozenset[tuple[int, str]]
NOWHERE = (0, "other")
"""No position has the character."""


def _holding(before: str, after: str) -> set[Assertion]:
    """The assertions that hold between two characters of these kinds. No text ends there."""
    is_boundary = (before == "word") != (after == "word")
    holding = {Assertion.WORD_BOUNDARY if is_boundary else Assertion.NO_WORD_BOUNDARY}
    if before == "begin":
        holding |= {Assertion.TEXT_BEGINS, Assertion.LINE_BEGINS}
    if before == "line":
        holding.add(Assertion.LINE_BEGINS)
    if after == "line":
        holding.add(Assertion.LINE_ENDS)
    return holding


def _assertions_of(node: Node) -> Iterable[Assertion]:
    if isinstance(node, Check):
        yield node.assertion
    elif isinstance(node, Repeat):
        yield from _assertions_of(node.part)
    elif not isinstance(node, Class):
        for part in node.parts:
            yield from _assertions_of(part)
