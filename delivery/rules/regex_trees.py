"""Read an expression that RE2 has accepted: a tree of its characters, repetitions and assertions.

What is not known here for certain is refused by UnknownError, so that no cost is told by a wrong tree.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

MOST_DEPTH = 50
"""Groups inside each other."""
_TOKEN = re.compile(
    r"(?P<bracket>\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*+\])"
    r"|\\(?P<escape>[pPx]\{[^}]*\}|[pP].|x..|[0-7]{1,3}|.)"
    r"|(?P<flags>\(\?(?P<on>[imsU]*)(?:-(?P<off>[imsU]*))?[:)])"
    r"|(?P<open>\((?:\?P?<[^>]*>|(?!\?)))"
    r"|(?P<quantifier>(?:[*+?]|\{(?P<least>[0-9]+)(?P<comma>,(?P<most>[0-9]*))?\})\??)"
    r"|(?P<sign>[^(\[\\])",
    re.DOTALL,
)


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


_ESCAPED = {
    "A": Assertion.TEXT_BEGINS,
    "z": Assertion.TEXT_ENDS,
    "b": Assertion.WORD_BOUNDARY,
    "B": Assertion.NO_WORD_BOUNDARY,
}


@dataclass(frozen=True)
class Node:
    """A part of an expression that RE2 has accepted: a `class`, which is one character, an assertion (`check`), or a
    `sequence`, a `choice` or a `repeat` of other parts."""

    kind: str
    parts: "tuple[Node, ...]" = ()
    written: str = ""
    """Of a class: how the character, or the class of characters, is written."""
    flags: str = ""
    """Of a class: which of `i` and `s` hold there."""
    assertion: Assertion | None = None
    least: int = 1
    most: int | None = 1
    """Of a repeat; None for any number."""

    @cached_property
    def longest(self) -> int | None:
        """The most characters that it matches; None for any number."""
        if not self.parts:
            return 1 if self.kind == "class" else 0
        lengths = [part.longest for part in self.parts]
        known = [length for length in lengths if length is not None]
        if self.kind == "repeat" and lengths != [0]:
            return None if self.most is None or not known else self.most * known[0]
        if len(known) < len(lengths):
            return None
        return max(known) if self.kind == "choice" else sum(known)

    @cached_property
    def is_anchored(self) -> bool:
        """Whether every match begins where the text begins."""
        if self.kind == "sequence":
            first = next((part for part in self.parts if part.is_anchored or part.longest != 0), None)
            return first is not None and first.is_anchored
        if self.kind == "check":
            return self.assertion is Assertion.TEXT_BEGINS
        return bool(self.parts) and self.least > 0 and all(part.is_anchored for part in self.parts)


NOTHING = Node("sequence")


def read_tree(pattern: str) -> Node:
    """Raises UnknownError, for all that is not known here for certain."""
    return _read_group(_tokens(pattern), frozenset(), 0)


def _tokens(pattern: str) -> Iterator[re.Match[str]]:
    """Each begins where the one before ends: a search for the next one would take quadratic time on a run of `[`."""
    end = 0
    while end < len(pattern):
        token = _TOKEN.match(pattern, end)
        if token is None:
            raise UnknownError
        yield token
        end = token.end()


def _read_group(tokens: Iterator[re.Match[str]], flags: frozenset[str], depth: int) -> Node:
    """The alternatives up to the end of a group, or of the pattern."""
    if depth > MOST_DEPTH:
        raise UnknownError
    choices: list[list[Node]] = [[]]
    was_flags, is_closed = False, False
    for token in tokens:
        text, parts = token[0], choices[-1]
        if was_flags and text[0] in "*+?{":
            raise UnknownError  # it repeats what stands before the flags
        was_flags = False
        if text == ")" and depth:
            is_closed = True
            break
        if text == "|":
            choices.append([])
        elif token["quantifier"] and parts:
            parts.append(_repeat(parts.pop(), token))
        elif token["flags"]:
            changed = (flags | {*token["on"]}) - {*(token["off"] or "")}
            was_flags = text.endswith(")")
            flags, inner = (changed, NOTHING) if was_flags else (flags, _read_group(tokens, changed, depth + 1))
            parts.append(inner)
        elif token["open"]:
            parts.append(_read_group(tokens, flags, depth + 1))
        else:
            parts.append(_read_sign(text, token["escape"] or "", flags))
    if is_closed is not bool(depth):
        raise UnknownError
    read = [tuple(part for part in parts if part != NOTHING) for parts in choices]
    sequences = [parts[0] if len(parts) == 1 else Node("sequence", parts) for parts in read]
    return sequences[0] if len(sequences) == 1 else Node("choice", tuple(sequences))


def _repeat(part: Node, token: re.Match[str]) -> Node:
    bounds: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
    if token["least"]:
        least, most = int(token["least"]), int(token["most"] or -1) if token["comma"] else int(token["least"])
        bounds["{"] = least, None if most < 0 else most
    least, repeated = bounds[token[0][0]]
    return NOTHING if repeated == 0 or part == NOTHING else Node("repeat", (part,), least=least, most=repeated)


def _read_sign(text: str, escape: str, flags: frozenset[str]) -> Node:
    """A character, a class of them, or an assertion."""
    if escape in ("Q", "E", "C") or text == ")":
        raise UnknownError
    if escape in _ESCAPED:
        return Node("check", assertion=_ESCAPED[escape])
    if text in ("^", "$"):
        is_line = "m" in flags
        begins, ends = (
            (Assertion.LINE_BEGINS, Assertion.LINE_ENDS) if is_line else (Assertion.TEXT_BEGINS, Assertion.TEXT_ENDS)
        )
        return Node("check", assertion=begins if text == "^" else ends)
    return Node("class", written=text, flags="".join(sorted(flags & {"i", "s"})))
