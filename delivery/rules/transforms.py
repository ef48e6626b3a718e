"""The named transforms of a mapping: small, total, bounded functions from one JSON value to another.

A transform is written as its name, `"trim"`, or as its name with its argument: `{"split": ","}`,
`{"substring": {"start": 0, "end": 3}}`. It fails on a type that it does not take; nothing is converted on the quiet.
The table is in docs/routing.md.

An expression can name one value many times, so a value may be far larger than the memory it takes: it is measured, at a
price, before anything walks it at C speed.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from dateutil.parser import isoparse

from delivery.rules.patterns import RuleError, within
from meshes.kit.metering import Meter, searching_steps, stripping_steps
from meshes.kit.spelling import suggested
from meshes.kit.strictjson import MAX_INTEGER_DIGITS

Shape = Callable[[Any, Meter], Any]
"""One value to another. Raises ShapingError, OutOfWorkError."""


class ShapingError(Exception):
    """A value, or all of an output, cannot be made from this event: an outcome of the event, told to the user.

    `message` repeats nothing of the event. `pointer` (RFC 6901) leads into the mapping where that is known.
    """

    def __init__(self, message: str, pointer: str | None = None) -> None:
        super().__init__(message if pointer is None else f"{pointer or 'mapping'}: {message}")
        self.message, self.pointer = message, pointer or ""


class Transform(NamedTuple):
    """A compiled transform. A null passes by it unless `takes_null`."""

    shape: Shape
    takes_null: bool = False


def compile_transform(document: Any) -> Transform:
    """Compile `"trim"` or `{"split": ","}`. Raises RuleError."""
    is_plain = isinstance(document, str)
    if not is_plain and (not isinstance(document, dict) or len(document) != 1):
        raise RuleError('must be a name, as in "trim", or an object of one name and its argument')
    name = document if is_plain else next(iter(document))
    place = () if is_plain else (name,)
    if name not in TAKES:
        raise RuleError(f"unknown transform; known are {', '.join(TAKES)}.{suggested(name, TAKES)}", *place)
    if is_plain and name in _WITH_ARGUMENT:
        raise RuleError(f'needs an argument: {{"{name}": …}}')
    if not is_plain and name in PLAIN_TRANSFORMS:
        raise RuleError(f'takes no argument: write "{name}"', *place)
    if is_plain:
        return Transform(PLAIN_TRANSFORMS[name])
    with within(name):
        return Transform(_WITH_ARGUMENT[name](document[name]), takes_null=name == "default")


# --- what is known of each ------------------------------------------------------------------------------------------

PLAIN_TRANSFORMS: dict[str, Shape] = {}
_WITH_ARGUMENT: dict[str, Callable[[Any], Shape]] = {}
"""From an argument, which it checks, to the transform. Raises RuleError."""
TAKES: dict[str, frozenset[str]] = {}
"""The types that each does not always fail on; a null passes by. Its keys are the names of all."""
MADE_BY: dict[str, str] = {}
"""The type that a transform makes whatever it is given; the others depend on that."""
_Function = TypeVar("_Function", bound=Callable[..., Any])
ALL_TYPES = "string number boolean array object null"


def transform(
    takes: str, makes: str = "", *, name: str = "", has_argument: bool = False
) -> Callable[[_Function], _Function]:
    """Make a function a transform of its own name, unless another is given: all that is known of it is said here."""

    def register(function: _Function) -> _Function:
        own = name or function.__name__
        (_WITH_ARGUMENT if has_argument else PLAIN_TRANSFORMS)[own] = function
        TAKES[own] = frozenset(takes.split())
        if makes:
            MADE_BY[own] = makes
        return function

    return register


# --- bounded values -------------------------------------------------------------------------------------------------

MAX_SIZE = 262_144
"""Bytes of a mapping's output, and the size, as `measure` counts, of every value on the way to it (256 KB)."""
DIGITS_PER_STEP = 32_000
"""Of the square of the binary digits: an integer is written and read in quadratic time."""
_INTEGER_END = 10**MAX_INTEGER_DIGITS


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


def writing_steps(size: int) -> int:
    """What it costs to write JSON of this size once."""
    return size // 25


TYPE_WORDS = {
    "string": "a string",
    "number": "a number",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def type_of(value: Any) -> str:
    """The type of a JSON value, as `TAKES` names it."""
    return kind_of(value).rpartition(" ")[2]


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


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ShapingError(f"needs a string, not {kind_of(value)}")
    return value


def _bounded(text: str) -> str:
    if len(text) > MAX_SIZE:
        raise ShapingError(f"the text is longer than {MAX_SIZE // 1024} KB")
    return text


def _stripped(value: Any, meter: Meter) -> str:
    """A text without the spaces around it."""
    text = _text(value)
    meter.charge(stripping_steps(text))
    return text.strip()


# --- conversions ----------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
LONGEST_WORD, LONGEST_DATE = 5, 64
STEPS_PER_DATE = 80
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCHS = "seconds since 1970 become one by from_epoch, milliseconds by from_epoch_ms"
_DATES = (
    re.compile(
        r"([0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-W[0-9]{2}-[1-7])"
        r"(?:[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)? ?(?:[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?))?"
    ),
    re.compile(
        r"([0-9]{8}|[0-9]{4}W[0-9]{2}[1-7])"
        r"(?:[Tt ]([0-9]{4}(?:[0-9]{2}(?:[.,][0-9]{1,9})?)?(?:[Zz]|[+-][0-9]{2}(?:[0-9]{2})?)?))?"
    ),
)
"""ISO 8601, extended and basic, with a whole day; RFC 3339, with a space for its T too. Digits alone are a day of
eight, never an epoch."""


@transform(ALL_TYPES, "string", name="to_string")
def text_of(value: Any, meter: Meter) -> str:
    """A string as it is, anything else as compact JSON text."""
    if isinstance(value, str):
        return value
    meter.charge(25 + writing_steps(measure(value, meter)))
    return _bounded(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


@transform("number string", "number")
def to_number(value: Any, meter: Meter) -> int | float:
    """A number as it is; a string that spells a JSON number, spaces around it allowed."""
    meter.charge(12)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    text = _stripped(value, meter)
    if len(text) <= MAX_INTEGER_DIGITS + 1:
        meter.charge(len(text) // 10 + len(text) ** 2 // 12_000)
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_INTEGER_DIGITS + 1 else None
    if match is None:
        raise ShapingError("the string is not a number")
    number = float(text) if match[1] or match[2] else int(text)
    if isinstance(number, float) and math.isinf(number):
        raise ShapingError("the number is too large")
    return number


@transform("boolean number string", "boolean")
def to_boolean(value: Any, meter: Meter) -> bool:
    meter.charge(5)
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        if value in (0, 1):
            return value == 1
        raise ShapingError("only the numbers 0 and 1 are booleans")
    text = _stripped(value, meter)
    answer = _WORDS.get(text.lower()) if len(text) <= LONGEST_WORD else None
    if answer is None:
        raise ShapingError(f"the string is none of {', '.join(_WORDS)}")
    return answer


@transform("string", "string")
def to_date(value: Any, meter: Meter) -> str:
    return _moment(value, meter).date().isoformat()


@transform("string", "string")
def to_datetime(value: Any, meter: Meter) -> str:
    return _written(_moment(value, meter))


def _written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _moment(value: Any, meter: Meter) -> datetime:
    """What a date's text says, in UTC where it names no zone."""
    meter.charge(STEPS_PER_DATE)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ShapingError(f"a number is not a date; {_EPOCHS}")
    text = _stripped(value, meter)
    if len(text) > LONGEST_DATE:
        raise ShapingError("the text is not an ISO 8601 date")
    match = next(filter(None, (form.fullmatch(text) for form in _DATES)), None)
    if match is None:
        raise ShapingError("the text is not an ISO 8601 date" + (f"; {_EPOCHS}" if _NUMBER.fullmatch(text) else ""))
    day, time = match.groups(default="")
    try:
        moment = isoparse(f"{day}T{time.replace(' ', '')}" if time else day)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ShapingError("the text is not an ISO 8601 date: there is no such day or time") from None


@transform("number string", "string")
def from_epoch(value: Any, meter: Meter, unit: timedelta = timedelta(seconds=1)) -> str:
    """A moment from a number, or its digits as text, of such units since 1970."""
    meter.charge(STEPS_PER_DATE)
    try:
        return _written(_EPOCH + to_number(value, meter) * unit)
    except (OverflowError, ValueError):
        raise ShapingError("the number is not a moment between the years 1 and 9999") from None


@transform("number string", "string")
def from_epoch_ms(value: Any, meter: Meter) -> str:
    return from_epoch(value, meter, timedelta(milliseconds=1))


# --- text and arrays ------------------------------------------------------------------------------------------------


@transform("string", "string")
def trim(value: Any, meter: Meter) -> str:
    meter.charge(5 + len(_text(value)) // 1_500)
    return _stripped(value, meter)


def _on_text(change: Callable[[str], str], steps: int, ascii_per_step: int, text_per_step: int) -> Shape:
    """`steps`, and one for so many characters, of which those of ASCII take less."""

    def shape(value: Any, meter: Meter) -> Any:
        text = _text(value)
        meter.charge(steps + len(text) // (ascii_per_step if text.isascii() else text_per_step))
        return _bounded(change(text))

    return shape


transform("string", "string", name="lower")(_on_text(str.lower, 5, 150, 15))
transform("string", "string", name="upper")(_on_text(str.upper, 5, 150, 9))


@transform("array")
def first(value: Any, meter: Meter) -> Any:
    meter.charge(2)
    if not isinstance(value, list):
        raise ShapingError(f"needs an array, not {kind_of(value)}")
    return value[0] if value else None


transform("string", "string", name="md5")(
    _on_text(lambda text: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(), 15, 40, 14)
)
transform("string", "string", name="sha256")(
    _on_text(lambda text: hashlib.sha256(text.encode()).hexdigest(), 15, 60, 22)
)


@transform(ALL_TYPES, has_argument=True)
def default(argument: Any) -> Shape:
    if argument is None:
        raise RuleError("needs a value other than null")
    return lambda value, meter: argument if value is None else value


@transform("string", "string", has_argument=True)
def substring(argument: Any) -> Shape:
    bounds = _members(argument, ("start", "end"))
    for name, bound in bounds.items():
        if isinstance(bound, bool) or not isinstance(bound, int):
            raise RuleError("must be a whole number", name)
    cut = slice(bounds.get("start", 0), bounds.get("end"))
    return _on_text(lambda text: text[cut], 6, 2_000, 2_000)


@transform("string", "string", has_argument=True)
def replace(argument: Any) -> Shape:
    texts = _members(argument, ("find", "with"))
    for name in ("find", "with"):
        if not isinstance(texts.get(name), str) or not (texts[name] or name == "with"):
            raise RuleError("must be a string" if name == "with" else "must be a string, not empty", name)
    find, put = texts["find"], texts["with"]

    def shape(value: Any, meter: Meter) -> str:
        text = _text(value)
        meter.charge(8 + len(text) // 100 + searching_steps(text, find))
        found = text.count(find)
        if len(text) + found * (len(put) - len(find)) > MAX_SIZE:
            raise ShapingError("the text would become too long")
        meter.charge(found // 5)
        return text.replace(find, put)

    return shape


def _members(argument: Any, allowed: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(argument, dict) or not argument:
        raise RuleError(f"needs an object of {' and '.join(allowed)}")
    for name in argument:
        if name not in allowed:
            raise RuleError(f"unknown; known are {', '.join(allowed)}", name)
    return argument


@transform("array", "string", has_argument=True)
def join(argument: Any) -> Shape:
    if not isinstance(argument, str):
        raise RuleError("needs a string")

    def shape(value: Any, meter: Meter) -> str:
        if not isinstance(value, list):
            raise ShapingError(f"needs an array, not {kind_of(value)}")
        meter.charge(len(value) // 2)
        words = []
        for member in value:
            if isinstance(member, (dict, list)):
                raise ShapingError(f"joins strings, numbers and booleans, not {kind_of(member)}")
            if member is not None:
                meter.charge(4)
                words.append(text_of(member, meter))
        return join_bounded(argument, words, meter)

    return shape


def join_bounded(separator: str, words: list[str], meter: Meter) -> str:
    """`separator.join(words)`, refused by ShapingError before it is made too long."""
    meter.charge(len(words))
    length = sum(map(len, words)) + len(separator) * max(0, len(words) - 1)
    if length > MAX_SIZE:
        raise ShapingError("the joined text is too long")
    meter.charge(length // 16)
    return separator.join(words)


@transform("string", "array", has_argument=True)
def split(argument: Any) -> Shape:
    if not isinstance(argument, str) or not argument:
        raise RuleError("needs a string of at least one character")

    def shape(value: Any, meter: Meter) -> list[str]:
        text = _text(value)
        meter.charge(6 + len(text) // 100 + searching_steps(text, argument))
        meter.charge(text.count(argument) // 2)
        return text.split(argument)

    return shape
