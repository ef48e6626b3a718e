"""Read an expression that RE2 has accepted: a tree of its characters, repetitions and assertions.

What is not known here for certain is refused, by UnknownError: nobody then relies on the tree.
"""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property


class UnknownError(Exception):
    """The expression is too large, or written in a way that is not known here."""


class Assertion(Enum):
    """What holds between two characters, and matches none."""

    TEXT_BEGINS = "^"
    TEXT_ENDS = "$"
    LINE_BEGINS = "(?m)^"
    LINE_ENDS = "(?m)$"
    WORD_BOUNDARY = r"\b"
    NO_WORD_BOUNDARY = r"\B"


@dataclass(frozen=True, slots=True)
class Class:
    """One character: how it, or a class of characters, is written, and the flags `i` and `s` at that place."""

    written: str
    flags: str
    longest = 1
    is_anchored = False


@dataclass(frozen=True, slots=True)
class Check:
    """An assertion."""

    assertion: Assertion
    longest = 0

    @property
    def is_anchored(self) -> bool:
        return self.assertion is Assertion.TEXT_BEGINS


@dataclass(frozen=True)
class Sequence:
    """One after the other; nothing at all where there are none."""

    parts: tuple["Node", ...]

    @cached_property
    def longest(self) -> int | None:
        """The most characters that it matches; None for any number."""
        lengths = [part.longest for part in self.parts]
        return None if None in lengths else sum(length for length in lengths if length is not None)

    @cached_property
    def is_anchored(self) -> bool:
        """Whether every match begins where the text begins."""
        for part in self.parts:
            if part.is_anchored:
                return True
            if part.longest != 0:
                return False
        return False


@dataclass(frozen=True)
class Choice:
    """One of several."""

    parts: tuple["Node", ...]

    @cached_property
    def longest(self) -> int | None:
        lengths = [part.longest for part in self.parts]
        return None if None in lengths else max(length for length in lengths if length is not None)

    @cached_property
    def is_anchored(self) -> bool:
        return all(part.is_anchored for part in self.parts)


@dataclass(frozen=True)
class Repeat:
    """A part, so many times; `most` is None for any number."""

    part: "Node"
    least: int
    most: int | None

    @cached_property
    def longest(self) -> int | None:
        if self.part.longest == 0:
            return 0
        return None if self.most is None or self.part.longest is None else self.most * self.part.longest

    @cached_property
    def is_anchored(self) -> bool:
        return self.least > 0 and self.part.is_anchored


Node = Class | Check | Sequence | Choice | Repeat
NOTHING = Sequence(())


def read_tree(pattern: str) -> Node:
    """Raises UnknownError."""
    reader = _Reader(pattern)
    tree = reader.alternatives()
    if reader.at < len(pattern):
        raise UnknownError
    return tree


_DIGITS = frozenset("0123456789")
_QUANTIFIERS = frozenset("*+?{")
MOST_DEPTH = 50
"""Groups inside each other."""


class _Reader:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = self.depth = 0
        self.flags: frozenset[str] = frozenset()

    def alternatives(self) -> Node:
        flags = self.flags
        parts = [self.sequence()]
        while self.takes("|"):
            parts.append(self.sequence())
        self.flags = flags
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def sequence(self) -> Node:
        parts = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            part = self.repeated()
            if part != NOTHING:
                parts.append(part)
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def repeated(self) -> Node:
        part = self.atom()
        while (bounds := self.quantifier()) is not None:
            least, most = bounds
            part = NOTHING if most == 0 or part == NOTHING else Repeat(part, least, most)
        return part

    def quantifier(self) -> tuple[int, int | None] | None:
        sign = self.pattern[self.at : self.at + 1]
        bounds: tuple[int, int | None]
        if sign and sign in "*+?":
            self.at += 1
            bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        elif sign == "{" and (end := self.pattern.find("}", self.at)) > 0:
            least, comma, most = self.pattern[self.at + 1 : end].partition(",")
            if not least or not _DIGITS.issuperset(least + most):
                return None  # a brace that stands for itself
            self.at = end + 1
            bounds = int(least), (int(most) if most else None if comma else int(least))
        else:
            return None
        self.takes("?")
        return bounds

    def takes(self, text: str) -> bool:
        if self.pattern.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def atom(self) -> Node:
        if self.takes("("):
            return self.group()
        sign = self.pattern[self.at]
        if sign == "[":
            return self.character(self.bracket())
        if sign in "^$":
            self.at += 1
            of_line, of_text = {
                "^": (Assertion.LINE_BEGINS, Assertion.TEXT_BEGINS),
                "$": (Assertion.LINE_ENDS, Assertion.TEXT_ENDS),
            }[sign]
            return Check(of_line if "m" in self.flags else of_text)
        return self.escape() if sign == "\\" else self.character(1)

    def group(self) -> Node:
        if self.takes("?"):
            if self.takes("P<") or self.takes("<"):
                self.at = self.pattern.index(">", self.at) + 1
            else:
                flags = self.changed_flags()
                if self.takes(")"):
                    self.flags = flags
                    if self.pattern[self.at : self.at + 1] in _QUANTIFIERS:
                        raise UnknownError  # it repeats what stands before the flags
                    return NOTHING
                if not self.takes(":"):
                    raise UnknownError
                outer, self.flags = self.flags, flags
                part = self.closed()
                self.flags = outer
                return part
        return self.closed()

    def closed(self) -> Node:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise UnknownError
        part = self.alternatives()
        if not self.takes(")"):
            raise UnknownError
        self.depth -= 1
        return part

    def changed_flags(self) -> frozenset[str]:
        on, off, is_off = set(self.flags), set[str](), False
        while (sign := self.pattern[self.at : self.at + 1]) in {"i", "m", "s", "U", "-"}:
            self.at += 1
            is_off = is_off or sign == "-"
            (off if is_off else on).add(sign)
        return frozenset(on - off)

    def bracket(self) -> int:
        """The length of a class in brackets."""
        at = self.at + 1
        at += self.pattern.startswith("^", at)
        at += self.pattern.startswith("]", at)
        while self.pattern[at : at + 1] != "]":
            if at >= len(self.pattern):
                raise UnknownError
            if self.pattern[at] == "\\":
                at += 2
            elif self.pattern.startswith("[:", at) and (end := self.pattern.find(":]", at)) > 0:
                at = end + 2
            else:
                at += 1
        return at + 1 - self.at

    def escape(self) -> Node:
        name = self.pattern[self.at + 1 : self.at + 2]
        if name in _ASSERTIONS:
            self.at += 2
            return Check(_ASSERTIONS[name])
        if name in ("Q", "E", "C"):
            raise UnknownError
        if name in ("p", "P", "x") and self.pattern.startswith("{", self.at + 2):
            return self.character(self.pattern.index("}", self.at) + 1 - self.at)
        if name == "x":
            return self.character(4)
        if name in ("p", "P"):
            return self.character(3)
        if name and name in "01234567":
            end = self.at + 2
            while end < self.at + 4 and self.pattern[end : end + 1] in set("01234567"):
                end += 1
            return self.character(end - self.at)
        return self.character(2)

    def character(self, length: int) -> Class:
        """What the next so many characters of the expression stand for."""
        written = self.pattern[self.at : self.at + length]
        self.at += length
        return Class(written, "".join(sorted(self.flags & {"i", "s"})))


_ASSERTIONS = {
    "A": Assertion.TEXT_BEGINS,
    "z": Assertion.TEXT_ENDS,
    "b": Assertion.WORD_BOUNDARY,
    "B": Assertion.NO_WORD_BOUNDARY,
}
