"""Regular expressions of RE2, and what looking for one costs.

RE2 is linear in the text, but what a byte costs depends on the states of its automaton: two nanoseconds while these are
few and kept, thousands where every byte makes a new one. So an expression is read once more when it is compiled, its
positions and their successors are found, and the states that a search can come to are counted, up to a bound. An
expression with few is `tame`, and charged little; any other is charged what it costs where the automaton gives up.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import re2

from connections.metering import Meter

MEMORY_BYTES = 512 * 1024
"""RE2 holds its program and its cache of states within this, and refuses a pattern that does not fit."""
MOST_POSITIONS = 400
MOST_STATE_BYTES = 40_000
"""Of all states that a search can come to: half of what RE2 has for them."""
STATE_BYTES, INSTRUCTION_BYTES = 300, 4
STEPS_PER_SEARCH = 35
BYTES_PER_STEP = 40
LARGE_PROGRAM = 150
"""Instructions. From here on, as with classes like `\\pL`, a character that is not of ASCII may well be the first of
its kind, and an expression that begins with `^` is slower."""
BYTES_PER_STEP_OF_LARGE = 4
INSTRUCTIONS_PER_STEP = 30
"""Of the program, for every byte, where states are not kept; and where the text is short, so that few are made:"""
INSTRUCTIONS_PER_STEP_OF_SHORT = 120

SAMPLES = "".join(map(chr, range(9, 127))) + "\x00\x80\xa0éßÉИжΩσ中あ한ع٣٤€²½🙂\u0301\u2028\U00010400"
"""Characters that tell classes apart."""


@dataclass(frozen=True, slots=True)
class Regex:
    """A compiled expression. Threads may share it."""

    expression: Any
    size: int
    """Instructions."""
    is_tame: bool
    is_anchored: bool
    """It is found at the beginning of the text or not at all."""
    longest: int | None
    """The most characters that it matches; None for any number."""

    def is_found(self, text: str, meter: Meter) -> bool:
        """Is the expression found in the text? Raises OutOfWorkError."""
        if self._is_short:
            text = text[: self.longest + 2]  # type: ignore[operator]  # a short one has it; more may stand before a `$`
        meter.charge(STEPS_PER_SEARCH + len(text) // 500)
        content = text.encode("utf-8", "surrogatepass")
        meter.charge(self.steps(len(text), len(content)))
        return self.expression.search(content) is not None

    @property
    def _is_short(self) -> bool:
        return self.is_anchored and self.longest is not None

    def steps(self, characters: int, size: int) -> int:
        """What a search in a text of so many characters and bytes costs."""
        if not self.is_tame:
            instructions = INSTRUCTIONS_PER_STEP_OF_SHORT if self._is_short else INSTRUCTIONS_PER_STEP
            return size * (20 + self.size) // instructions
        if self.size < LARGE_PROGRAM:
            return size // BYTES_PER_STEP
        foreign = min(size, 2 * (size - characters))
        return foreign // 2 + (size - foreign) // (BYTES_PER_STEP_OF_LARGE if self.is_anchored else BYTES_PER_STEP)


@lru_cache(maxsize=200)
def compile_regex(pattern: str) -> Regex:
    """Raises ValueError, with RE2's words."""
    try:
        re2.compile(pattern.encode(), _options())
        # Without greed the search ends at the first match: whether there is one does not depend on it.
        expression = re2.compile(b"(?U)" + pattern.encode(), _options())
    except re2.error as error:
        raise ValueError(error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)) from None
    try:
        automaton = _Reader(pattern).read()
    except _UnknownError:
        return Regex(expression, expression.programsize, is_tame=False, is_anchored=False, longest=None)
    size = expression.programsize
    return Regex(expression, size, automaton.has_few_states(size), automaton.is_anchored, automaton.longest)


def _options() -> Any:
    options = re2.Options()
    options.max_mem = MEMORY_BYTES
    options.log_errors = False
    options.never_capture = True
    return options


class _UnknownError(Exception):
    """The expression is too large, or written in a way that is not known here."""


@dataclass(slots=True)
class _Part:
    """A part of the expression: whether it matches nothing at all, its first and last positions (sets of bits), and
    the most characters that it matches, None for any number."""

    is_empty: bool = True
    first: int = 0
    last: int = 0
    longest: int | None = 0


@dataclass(frozen=True, slots=True)
class _Automaton:
    """Positions and what may follow them; `moves` are sets of positions that one kind of character leads to."""

    first: int
    follow: list[int]
    moves: frozenset[int]
    is_anchored: bool
    longest: int | None

    def has_few_states(self, program_size: int) -> bool:
        """Whether RE2 can keep all states (sets of positions) that a search comes to, whatever the text is."""
        follow_of, size = {0: self.first}, 0
        position_bytes = INSTRUCTION_BYTES * program_size // max(1, len(self.follow))
        waiting = [0]
        while waiting:
            after = follow_of[waiting.pop()] | (0 if self.is_anchored else self.first)
            for move in self.moves:
                state = after & move
                if state in follow_of:
                    continue
                positions = list(_bits(state))
                size += STATE_BYTES + position_bytes * len(positions)
                if size > MOST_STATE_BYTES:
                    return False
                follow_of[state] = 0
                for position in positions:
                    follow_of[state] |= self.follow[position]
                waiting.append(state)
        return True


def _bits(number: int) -> Iterable[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


class _Reader:
    """Reads an expression that RE2 has accepted."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.flags: frozenset[str] = frozenset()
        self.follow: list[int] = []
        self.classes: list[int] = []
        self.is_anchored = False

    def read(self) -> _Automaton:
        self.is_anchored = self.pattern.startswith(("^", r"\A"))
        whole = self._alternatives(0)
        if self.at < len(self.pattern):
            raise _UnknownError
        moves = {
            sum(1 << position for position, samples in enumerate(self.classes) if samples >> sample & 1)
            for sample in range(len(SAMPLES))
        }
        return _Automaton(whole.first, self.follow, frozenset(moves), self.is_anchored, whole.longest)

    def _alternatives(self, depth: int) -> _Part:
        flags = self.flags
        whole = self._sequence(depth)
        while self._takes("|"):
            if depth == 0:
                self.is_anchored = False
            other = self._sequence(depth)
            longest = None if whole.longest is None or other.longest is None else max(whole.longest, other.longest)
            whole = _Part(whole.is_empty or other.is_empty, whole.first | other.first, whole.last | other.last, longest)
        self.flags = flags
        return whole

    def _sequence(self, depth: int) -> _Part:
        whole = _Part()
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            whole = self._join(whole, self._repeated(depth))
        return whole

    def _join(self, left: _Part, right: _Part) -> _Part:
        for position in _bits(left.last):
            self.follow[position] |= right.first
        return _Part(
            left.is_empty and right.is_empty,
            left.first | right.first if left.is_empty else left.first,
            left.last | right.last if right.is_empty else right.last,
            None if left.longest is None or right.longest is None else left.longest + right.longest,
        )

    def _repeated(self, depth: int) -> _Part:
        start, flags = self.at, self.flags
        part = self._atom(depth)
        while (bounds := self._quantifier()) is not None:
            end, after = self.at, self.flags
            part = self._copies(part, *bounds, start, flags, depth)
            self.at, self.flags = end, after
        return part

    def _copies(
        self, part: _Part, least: int, most: int | None, start: int, flags: frozenset[str], depth: int
    ) -> _Part:
        """`x{2,4}` is `xxx?x?`: the atom is read again for each copy."""
        if most == 0:
            return _Part()
        copies = [part]
        for _ in range(1, most if most is not None else max(1, least)):
            self.at, self.flags = start, flags
            again = self._atom(depth)
            copies.append(again)
        if most is None:
            for position in _bits(copies[-1].last):
                self.follow[position] |= copies[-1].first
            copies[-1].longest = None if copies[-1].first else 0
        whole = _Part()
        for index, copy in enumerate(copies):
            copy.is_empty = copy.is_empty or index >= least
            whole = self._join(whole, copy)
        return whole

    def _quantifier(self) -> tuple[int, int | None] | None:
        sign = self.pattern[self.at : self.at + 1]
        bounds: tuple[int, int | None]
        if sign and sign in "*+?":
            self.at += 1
            bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        elif sign == "{" and (end := self.pattern.find("}", self.at)) > 0:
            least, comma, most = self.pattern[self.at + 1 : end].partition(",")
            if not least.isdecimal() or (most and not most.isdecimal()):
                return None  # a brace that stands for itself
            self.at = end + 1
            bounds = int(least), (int(most) if most else None if comma else int(least))
        else:
            return None
        self._takes("?")
        return bounds

    def _takes(self, text: str) -> bool:
        if self.pattern.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def _atom(self, depth: int) -> _Part:
        if self._takes("("):
            return self._group(depth)
        if self._takes("["):
            return self._position(self._bracket())
        sign = self.pattern[self.at]
        if sign in "^$":
            self.at += 1
            if "m" in self.flags:
                self.is_anchored = False
            return _Part()
        return self._escape() if sign == "\\" else self._position(1)

    def _group(self, depth: int) -> _Part:
        if self._takes("?"):
            if self._takes("P<") or self._takes("<"):
                self.at = self.pattern.index(">", self.at) + 1
            else:
                flags = self._flags()
                if self._takes(")"):
                    self.flags = flags
                    return _Part()
                outer, self.flags, _ = self.flags, flags, self._takes(":")
                part = self._closed(depth)
                self.flags = outer
                return part
        return self._closed(depth)

    def _closed(self, depth: int) -> _Part:
        part = self._alternatives(depth + 1)
        if not self._takes(")"):
            raise _UnknownError
        return part

    def _flags(self) -> frozenset[str]:
        on, off, is_off = set(self.flags), set[str](), False
        while (sign := self.pattern[self.at : self.at + 1]) in {"i", "m", "s", "U", "-"}:
            self.at += 1
            is_off = is_off or sign == "-"
            (off if is_off else on).add(sign)
        return frozenset(on - off)

    def _bracket(self) -> int:
        """The length of a class after its opening bracket."""
        at = self.at + self.pattern.startswith("^", self.at)
        at += self.pattern.startswith("]", at)
        while at < len(self.pattern) and self.pattern[at] != "]":
            if self.pattern[at] == "\\":
                at += 2
            elif self.pattern.startswith("[:", at) and (end := self.pattern.find(":]", at)) > 0:
                at = end + 2
            else:
                at += 1
        self.at -= 1
        return at + 1 - self.at

    def _escape(self) -> _Part:
        name = self.pattern[self.at + 1 : self.at + 2]
        if name in ("A", "z", "b", "B"):
            self.at += 2
            return _Part()
        if name in ("Q", "C"):
            raise _UnknownError
        if name in ("p", "P", "x") and self.pattern.startswith("{", self.at + 2):
            return self._position(self.pattern.index("}", self.at) + 1 - self.at)
        if name == "x":
            return self._position(4)
        if name in ("p", "P"):
            return self._position(3)
        if name and name in "01234567":
            end = self.at + 2
            while end < self.at + 4 and self.pattern[end : end + 1] in set("01234567"):
                end += 1
            return self._position(end - self.at)
        return self._position(2)

    def _position(self, length: int) -> _Part:
        """One character, of the class that the next so many characters of the expression stand for."""
        if len(self.follow) >= MOST_POSITIONS:
            raise _UnknownError
        written = self.pattern[self.at : self.at + length]
        self.at += length
        self.follow.append(0)
        self.classes.append(_samples_of(written, "".join(sorted(self.flags & {"i", "s"}))))
        bit = 1 << (len(self.follow) - 1)
        return _Part(False, bit, bit, 1)


@lru_cache(maxsize=4_096)
def _samples_of(written: str, flags: str) -> int:
    """Which of the samples a class, or a character, stands for: a set of bits."""
    if len(written) == 1 and not flags and written != "." and written in SAMPLES:
        return 1 << SAMPLES.index(written)
    try:
        expression = re2.compile(f"{f'(?{flags})' if flags else ''}{written}".encode(), _options())
    except re2.error:
        raise _UnknownError from None
    found = sum(1 << index for index, sample in enumerate(SAMPLES) if expression.fullmatch(sample.encode()) is not None)
    return found or 1 << SAMPLES.index("\x00")  # nothing of the samples: like a character of its own
