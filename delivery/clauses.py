"""What a filter says about an event that it did not match; the routing ledger stores it."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from workspaces.jsonpaths import join_path

PREVIEW_LENGTH = 200
"""Characters of a value that a clause repeats; the routing ledger stores one for every rule that did not match."""


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


class _Written(str):
    """A piece of JSON text, as opposed to a string to be written."""


def _pieces(value: Any) -> Iterable[str]:
    """The beginning of a value's compact JSON text, a little more than a preview needs, at a cost that it bounds."""
    stack, length = [value], 0
    while stack and length <= PREVIEW_LENGTH:
        current = stack.pop()
        if isinstance(current, _Written):
            length += len(current)
            yield current
        elif isinstance(current, dict):
            parts = [[_Written(","), str(name), _Written(":"), inner] for name, inner in _head(current.items())]
            stack += [_Written("}"), *reversed([part for four in parts for part in four][1:]), _Written("{")]
        elif isinstance(current, list):
            parts = [[_Written(","), inner] for inner in _head(current)]
            stack += [_Written("]"), *reversed([part for two in parts for part in two][1:]), _Written("[")]
        else:
            stack.append(_Written(json.dumps(preview(current), ensure_ascii=False)))


def _head(items: Iterable[Any]) -> Iterable[Any]:
    return islice(items, PREVIEW_LENGTH // 2)  # each takes two characters at least
