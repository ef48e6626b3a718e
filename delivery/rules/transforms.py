"""The named transforms of a mapping: small, total, bounded functions from one JSON value to another.

A transform is written as its name, `"trim"`, or as its name with its argument: `{"split": ","}`,
`{"substring": {"start": 0, "end": 3}}`. It fails on a type that it does not take; nothing is converted on the quiet.
The table is in docs/routing.md.
"""

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dateutil.parser import isoparse

from delivery.rules.jsonvalues import MAX_SIZE, ShapingError, check_length, kind_of, text_of
from meshes.kit.metering import Meter, searching_steps, stripping_steps
from meshes.kit.spelling import suggested
from meshes.kit.strictjson import MAX_INTEGER_DIGITS

Shape = Callable[[Any, Meter], Any]
"""One value to another. Raises ShapingError, OutOfWorkError."""


class OperandError(ValueError):
    """A transform was written wrongly. `tokens` lead from the transform to the mistake."""

    def __init__(self, message: str, *tokens: str) -> None:
        super().__init__(message)
        self.message = message
        self.tokens = tokens


@dataclass(frozen=True, slots=True)
class Transform:
    """A compiled transform. A null passes by it unless `takes_null`."""

    name: str
    shape: Shape
    takes_null: bool = False


def compile_transform(document: Any) -> Transform:
    """Compile `"trim"` or `{"split": ","}`. Raises OperandError."""
    if isinstance(document, str):
        return _compile_plain(document)
    if not isinstance(document, dict) or len(document) != 1:
        raise OperandError('must be a name, as in "trim", or an object of one name and its argument')
    ((name, argument),) = document.items()
    if name in _PLAIN:
        raise OperandError(f'takes no argument: write "{name}"', name)
    if name not in _WITH_ARGUMENT:
        raise OperandError(f"unknown transform; known are {_KNOWN}.{suggested(name, TRANSFORMS)}", name)
    return Transform(name, _WITH_ARGUMENT[name](argument), takes_null=name == "default")


def _compile_plain(name: str) -> Transform:
    if name in _WITH_ARGUMENT:
        raise OperandError(f'needs an argument: {{"{name}": …}}')
    if name not in _PLAIN:
        raise OperandError(f"unknown transform; known are {_KNOWN}.{suggested(name, TRANSFORMS)}")
    return Transform(name, _PLAIN[name])


# --- conversions ------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
LONGEST_WORD, LONGEST_DATE = 5, 64
STEPS_PER_DATE = 80
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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


def _to_boolean(value: Any, meter: Meter) -> bool:
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


def _to_date(value: Any, meter: Meter) -> str:
    meter.charge(STEPS_PER_DATE)
    return _moment(value, meter).date().isoformat()


def _to_datetime(value: Any, meter: Meter) -> str:
    meter.charge(STEPS_PER_DATE)
    return _written(_moment(value, meter))


def _written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


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


def _moment(value: Any, meter: Meter) -> datetime:
    """What a date's text says, in UTC where it names no zone."""
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


_EPOCHS = "seconds since 1970 become one by from_epoch, milliseconds by from_epoch_ms"


def _from_epoch(unit: timedelta) -> Shape:
    """A moment from a number, or its digits as text, of such units since 1970."""

    def shape(value: Any, meter: Meter) -> str:
        meter.charge(STEPS_PER_DATE)
        try:
            return _written(_EPOCH + to_number(value, meter) * unit)
        except (OverflowError, ValueError):
            raise ShapingError("the number is not a moment between the years 1 and 9999") from None

    return shape


# --- text and arrays --------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ShapingError(f"needs a string, not {kind_of(value)}")
    return value


def _stripped(value: Any, meter: Meter) -> str:
    """A text without the spaces around it."""
    text = _text(value)
    meter.charge(stripping_steps(text))
    return text.strip()


def _trim(value: Any, meter: Meter) -> str:
    meter.charge(5 + len(_text(value)) // 1_500)
    return _stripped(value, meter)


def _on_text(change: Callable[[str], Any], steps: int, ascii_per_step: int, text_per_step: int) -> Shape:
    """`steps`, and one for so many characters, of which those of ASCII take less."""

    def shape(value: Any, meter: Meter) -> Any:
        text = _text(value)
        meter.charge(steps + len(text) // (ascii_per_step if text.isascii() else text_per_step))
        changed = change(text)
        return check_length(changed) if isinstance(changed, str) else changed

    return shape


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _first(value: Any, meter: Meter) -> Any:
    meter.charge(2)
    if not isinstance(value, list):
        raise ShapingError(f"needs an array, not {kind_of(value)}")
    return value[0] if value else None


def _default(argument: Any) -> Shape:
    if argument is None:
        raise OperandError("needs a value other than null", "default")
    return lambda value, meter: argument if value is None else value


def _split(argument: Any) -> Shape:
    separator = _text_argument(argument, "split")

    def shape(value: Any, meter: Meter) -> list[str]:
        text = _text(value)
        meter.charge(6 + len(text) // 100 + searching_steps(text, separator))
        meter.charge(text.count(separator) // 2)
        return text.split(separator)

    return shape


def _join(argument: Any) -> Shape:
    separator = _text_argument(argument, "join", may_be_empty=True)

    def shape(value: Any, meter: Meter) -> str:
        if not isinstance(value, list):
            raise ShapingError(f"needs an array, not {kind_of(value)}")
        meter.charge(len(value) // 2)
        return join_bounded(separator, [_word(member, meter) for member in value if member is not None], meter)

    return shape


def _word(member: Any, meter: Meter) -> str:
    if isinstance(member, (dict, list)):
        raise ShapingError(f"joins strings, numbers and booleans, not {kind_of(member)}")
    meter.charge(4)
    return text_of(member, meter)


def join_bounded(separator: str, words: list[str], meter: Meter) -> str:
    """`separator.join(words)`, refused by ShapingError before it is made too long."""
    meter.charge(len(words))
    length = sum(map(len, words)) + len(separator) * max(0, len(words) - 1)
    if length > MAX_SIZE:
        raise ShapingError("the joined text is too long")
    meter.charge(length // 16)
    return separator.join(words)


def _substring(argument: Any) -> Shape:
    bounds = _members(argument, "substring", ("start", "end"))
    for name, bound in bounds.items():
        if isinstance(bound, bool) or not isinstance(bound, int):
            raise OperandError("must be a whole number", "substring", name)
    cut = slice(bounds.get("start", 0), bounds.get("end"))
    return _on_text(lambda text: text[cut], 6, 2_000, 2_000)


def _replace(argument: Any) -> Shape:
    texts = _members(argument, "replace", ("find", "with"))
    for name in ("find", "with"):
        if not isinstance(texts.get(name), str) or not (texts[name] or name == "with"):
            raise OperandError("must be a string" if name == "with" else "must be a string, not empty", "replace", name)
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


def _text_argument(argument: Any, name: str, *, may_be_empty: bool = False) -> str:
    if not isinstance(argument, str) or not (argument or may_be_empty):
        raise OperandError("needs a string" if may_be_empty else "needs a string of at least one character", name)
    return argument


def _members(argument: Any, transform: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(argument, dict) or not argument:
        raise OperandError(f"needs an object of {' and '.join(allowed)}", transform)
    for name in argument:
        if name not in allowed:
            raise OperandError(f"unknown; known are {', '.join(allowed)}", transform, name)
    return argument


_PLAIN: dict[str, Shape] = {
    "to_string": text_of,
    "to_number": to_number,
    "to_boolean": _to_boolean,
    "to_date": _to_date,
    "to_datetime": _to_datetime,
    "from_epoch": _from_epoch(timedelta(seconds=1)),
    "from_epoch_ms": _from_epoch(timedelta(milliseconds=1)),
    "trim": _trim,
    "lower": _on_text(str.lower, 5, 150, 15),
    "upper": _on_text(str.upper, 5, 150, 9),
    "first": _first,
    "md5": _on_text(_md5, 15, 40, 14),
    "sha256": _on_text(_sha256, 15, 60, 22),
}
_WITH_ARGUMENT: dict[str, Callable[[Any], Shape]] = {
    "default": _default,
    "substring": _substring,
    "replace": _replace,
    "join": _join,
    "split": _split,
}
PLAIN_TRANSFORMS = tuple(_PLAIN)
"""The names of those that take no argument."""
TRANSFORMS = (*_PLAIN, *_WITH_ARGUMENT)
"""The names of all."""
_KNOWN = ", ".join(TRANSFORMS)
MADE_BY = {
    **dict.fromkeys(("trim", "lower", "upper", "md5", "sha256", "substring", "replace", "join"), "string"),
    **dict.fromkeys(("to_string", "to_date", "to_datetime", "from_epoch", "from_epoch_ms"), "string"),
    "to_number": "number",
    "to_boolean": "boolean",
    "split": "array",
}
"""The type that a transform makes whatever it is given; the others depend on that."""
