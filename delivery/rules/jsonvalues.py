"""Bounded handling of JSON values while a mapping shapes them.

An expression can name one value many times, so a value may be far larger than the memory it takes: it is measured, at a
price, before anything walks it at C speed.
"""

import json
import math
from typing import Any

from meshes.kit.metering import Meter
from meshes.kit.strictjson import MAX_INTEGER_DIGITS

MAX_SIZE = 262_144
"""Bytes of a mapping's output, and the size, as `measure` counts, of every value on the way to it (256 KB)."""

DIGITS_PER_STEP = 32_000
"""Of the square of the binary digits: an integer is written and read in quadratic time."""
_INTEGER_END = 10**MAX_INTEGER_DIGITS


class ShapingError(Exception):
    """A value cannot be made from this event. The message is for the user and repeats nothing of the event."""


def measure(value: Any, meter: Meter) -> int:
    """The least size of a value's JSON text in characters.

    Raises ShapingError for a value that is larger than MAX_SIZE or not JSON, OutOfWorkError.
    """
    size = 0
    stack = [value]
    while stack:
        current = stack.pop()
        kind = type(current)
        if kind is str:
            meter.charge(3)
            size += len(current) + 2
        elif kind is dict:
            meter.charge(4 + len(current))
            size += 2 + sum(map(len, current))
            stack.extend(current.values())
        elif kind is list:
            meter.charge(3)
            size += 2
            stack.extend(current)
        elif kind is float:
            meter.charge(10)
            size += _scalar_size(current)
        else:
            size += _scalar_size(current)
            meter.charge(5 if kind is not int else 5 + current.bit_length() ** 2 // DIGITS_PER_STEP)
        if size > MAX_SIZE:
            raise ShapingError(f"the value is larger than {MAX_SIZE // 1024} KB")
    return size


def _scalar_size(value: Any) -> int:
    if value is None or isinstance(value, bool):
        return 4
    if isinstance(value, float) and math.isfinite(value):
        return 3
    if isinstance(value, int) and -_INTEGER_END < value < _INTEGER_END:
        return 1 + value.bit_length() // 4
    raise ShapingError("the value is not a number that JSON can carry")


def written_size(document: Any) -> int:
    """About how long a document is: the characters of its names and strings, and 8 for every other value.

    Unlike the length of its text it is the same before and after PostgreSQL's jsonb, which writes 1e300 as 301 digits,
    so a rule that was accepted stays acceptable. `document` has passed `check_value`.
    """
    size, stack = 0, [document]
    while stack:
        current = stack.pop()
        size += len(current) if isinstance(current, str) else 8
        if isinstance(current, dict):
            size += sum(map(len, current))
            stack.extend(current.values())
        elif isinstance(current, list):
            stack.extend(current)
    return size


def text_of(value: Any, meter: Meter) -> str:
    """A string as it is, anything else as compact JSON text."""
    if isinstance(value, str):
        return value
    meter.charge(25 + writing_steps(measure(value, meter)))
    return check_length(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def writing_steps(size: int) -> int:
    """What it costs to write JSON of this size once."""
    return size // 25


def check_length(text: str) -> str:
    """The text itself. Raises ShapingError when it is too long."""
    if len(text) > MAX_SIZE:
        raise ShapingError(f"the text is longer than {MAX_SIZE // 1024} KB")
    return text


def kind_of(value: Any) -> str:
    """What a value is, in words for an error."""
    names = {
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "null")
