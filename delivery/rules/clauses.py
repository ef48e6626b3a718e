"""What a filter says about an event that it did not match; the routing ledger stores it."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from meshes.kit.jsonpaths import join_path

PREVIEW_LENGTH = 200
"""Characters of a value that a clause repeats; the routing ledger stores one for every rule that did not match."""

STEPS_TO_SHOW, STEPS_PER_MEMBER, MOST_MEMBERS = 40, 12, PREVIEW_LENGTH // 2


@dataclass(frozen=True, slots=True)
class Clause:
    """Why a filter did not match: what was expected at a path, and what was there.

    `expected` and `actual` are scalars, or texts of at most 201 characters, fit for PostgreSQL's jsonb. `found` is
    False where the path leads nowhere, to tell that from a null.
    """

    path: str
    operator: str
    expected: Any
    actual: Any
    found: bool

    def as_dict(self) -> dict[str, Any]:
        """The form in which the routing ledger keeps it."""
        return {
            "path": self.path,
            "operator": self.operator,
            "expected": self.expected,
            "actual": self.actual,
            "found": self.found,
        }


def clause(path: tuple[str, ...], operator: str, expected: Any, values: list[Any]) -> Clause:
    """What to tell of a failure. A path through an array may have reached several values: they are shown as a list."""
    actual = values[0] if len(values) == 1 else values or None
    return Clause(join_path(path), operator, preview(expected), preview(actual), bool(values))


def showing_steps(expected: Any, values: list[Any]) -> int:
    """What it costs, see `meshes.kit.metering`, to tell of a failure on these values."""
    return STEPS_TO_SHOW + STEPS_PER_MEMBER * (_count_shown(expected) + _count_shown(values))


def _count_shown(value: Any) -> int:
    """How many values, however deep, a preview comes to before it is long enough."""
    stack, count, length = [value], 0, 0
    while stack and length <= PREVIEW_LENGTH:
        current = stack.pop()
        count, length = count + 1, length + (2 + len(current) if isinstance(current, str) else 2)
        if isinstance(current, (dict, list)):
            inner = current.values() if isinstance(current, dict) else current
            stack.extend(reversed(list(islice(inner, MOST_MEMBERS))))
    return count


def preview(value: Any) -> Any:
    """A short form that JSON and PostgreSQL can always store: scalars as they are, the rest as text cut short."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return _preview_number(value)
    if isinstance(value, str):
        return _shorten(value)
    return _shorten("".join(_pieces(value)))


def _preview_number(value: int | float) -> int | float | str:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value.bit_length() > 2048:
        return f"an integer of {value.bit_length()} bits"
    return value if value.bit_length() <= 64 else _shorten(str(value))


def _shorten(text: str) -> str:
    short = text if len(text) <= PREVIEW_LENGTH else text[:PREVIEW_LENGTH] + "…"
    return short.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


_encode = json.JSONEncoder(ensure_ascii=False).encode


def _pieces(value: Any) -> Iterator[str]:
    """The beginning of a value's compact JSON text, a little more than a preview needs, at a cost that it bounds."""
    open_values, length = [_walk(value)], 0
    while open_values and length <= PREVIEW_LENGTH:
        piece = next(open_values[-1], None)
        if piece is None:
            open_values.pop()
        elif isinstance(piece, str):
            length += len(piece)
            yield piece
        else:
            open_values.append(_walk(piece[0]))


def _walk(value: Any) -> Iterator[str | tuple[Any]]:
    """The text of a value piece by piece; an array or object inside it is handed out as it is, in a tuple of one."""
    is_object = isinstance(value, dict)
    yield "{" if is_object else "["
    separator = ""
    for member in value.items() if is_object else value:
        name, inner = member if is_object else ("", member)
        head = f"{separator}{_encode(preview(name))}:" if is_object else separator
        if isinstance(inner, (dict, list)):
            yield head
            yield (inner,)
        else:
            yield head + _encode(preview(inner))
        separator = ","
    yield "}" if is_object else "]"
