"""JSON as the API accepts it: RFC 8259 without anything that two programs could read in two ways.

`loads` reads bytes from outside. It costs little on good input: the C scanner of the standard library with small hooks,
and a walk only where the text could hide something. What it refuses is named by an `InvalidJson`:

| rule | refused |
|---|---|
| `too_large` | more bytes than the caller allows |
| `encoding` | invalid UTF-8, a byte order mark, UTF-16 and UTF-32 |
| `syntax` | anything outside the grammar, an empty body, raw control characters in strings |
| `not_finite` | `NaN`, `Infinity`, and numbers beyond a double, such as `1e400` |
| `integer_digits` | an integer of more than 309 digits (the length of the largest double) |
| `depth` | objects and arrays nested in each other more than `max_depth` deep |
| `duplicate_key` | one name twice in one object |
| `too_many_keys` | more than `max_keys` members in all objects of the document together |
| `nul` | `\\u0000` in a name or a string (PostgreSQL cannot store it) |
| `surrogate` | half a surrogate pair in a name or a string (it has no UTF-8 form) |

A place inside a document has two names. A *pointer* (RFC 6901, `/events/3/payload`) says in an error where a mistake
is. A *dotted path* (`payload.lead.email`) is what users write in filters and mappings; a full stop that belongs to a
name is written `\\.`, a backslash `\\\\`.

`members`, `elements` and `payload_slices` find where a value stands in a text that `loads` accepted, so that it can be
stored byte for byte as it was received.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import NoneType
from typing import Any

MAX_DEPTH = 100
MAX_KEYS = 1000
MAX_INTEGER_DIGITS = 309
"""As many as the largest double has (1.8e308), so integers and floats end at about the same size."""

Span = tuple[int, int]
"""Start and end of a value, in characters of the text."""


class InvalidJson(ValueError):  # noqa: N818 - it is about the document, and reads so where it is caught
    """A document was refused. `pointer` leads to the place (empty: the whole), `rule` is one word of the table above,
    `message` a sentence for the user, `position` the character of a syntax error."""

    def __init__(self, pointer: str, rule: str, message: str, position: int | None = None) -> None:
        super().__init__(f"{pointer or 'document'}: {message}")
        self.pointer = pointer
        self.rule = rule
        self.message = message
        self.position = position


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document that was accepted: its value, and its text as received."""

    value: Any
    text: str


def loads(raw: bytes, *, max_bytes: int, max_depth: int = MAX_DEPTH, max_keys: int = MAX_KEYS) -> Parsed:
    """Read a JSON document from outside. Raises InvalidJson and nothing else, whatever the bytes."""
    if len(raw) > max_bytes:
        raise InvalidJson("", "too_large", f"is {len(raw):,} bytes long; at most {max_bytes:,} are accepted")
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) or b"\x00" in raw[:4]:
        raise InvalidJson("", "encoding", "must be UTF-8 without a byte order mark", 0)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidJson("", "encoding", f"is not UTF-8: invalid at byte {error.start}", error.start) from None
    try:
        value = _scan(text, max_keys)
    except json.JSONDecodeError as error:
        message = f"not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise InvalidJson("", "syntax", message, error.pos) from None
    except RecursionError:
        raise _too_deep("", max_depth) from None
    except ValueError:
        raise _first_offence(text, max_depth, max_keys) from None
    if _may_hide_something(text, value, max_depth):
        check_value(value, max_depth=max_depth, max_keys=max_keys)
    return Parsed(value, text)


def check_value(value: Any, *, max_depth: int = MAX_DEPTH, max_keys: int = MAX_KEYS) -> None:
    """Hold a value that is parsed already to the same rules (one payload of a bulk body, a literal in a mapping).

    Raises InvalidJson with a pointer relative to `value`; also for anything that JSON cannot express (rule `syntax`).
    """
    _check_scalar(value, None)
    keys_left = max_keys
    stack: list[tuple[Any, _Place | None, int]] = [(value, None, 1)] if isinstance(value, (dict, list)) else []
    while stack:
        container, place, depth = stack.pop()
        if depth > max_depth:
            raise _too_deep(_pointer(place), max_depth)
        is_object = isinstance(container, (dict, _Pairs))
        pairs = container.items() if isinstance(container, dict) else container if is_object else enumerate(container)
        children: list[tuple[Any, Any]] = list(pairs)
        keys_left -= len(children) if is_object else 0
        if keys_left < 0:
            raise InvalidJson(_pointer(place), "too_many_keys", f"has more than {max_keys:,} keys in all its objects")
        if is_object:
            _check_names([name for name, _ in children], place)
        nested = []
        for token, child in children:
            if isinstance(child, (dict, list)):
                nested.append((child, (place, token), depth + 1))
            else:
                _check_scalar(child, (place, token))
        stack.extend(reversed(nested))


# --- reading --------------------------------------------------------------------------------------------------------

_LARGE_EXPONENT = re.compile(r"[eE]\+?[0-9]{3}")
_BLOCK = 100
"""Two hundred digits in a row fill one block of so many."""


def _scan(text: str, max_keys: int) -> Any:
    """Read by the C scanner, with hooks that stop at the first offence by a ValueError; `_first_offence` finds out what
    and where."""
    keys_left = max_keys

    def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal keys_left
        members = dict(pairs)
        keys_left -= len(pairs)
        if len(members) != len(pairs) or keys_left < 0:
            raise ValueError
        return members

    def read_int(digits: str) -> int:
        if len(digits) > MAX_INTEGER_DIGITS and len(digits.lstrip("-")) > MAX_INTEGER_DIGITS:
            raise ValueError
        return int(digits)

    def read_float(digits: str) -> float:
        if math.isinf(number := float(digits)):
            raise ValueError
        return number

    def refuse(constant: str) -> float:
        raise ValueError

    # Without huge numbers, which would cost a call for each number. A double ends at 1.8e308: it takes an exponent of
    # three digits to get beyond, or two hundred digits and one of two.
    blocks = (text[at : at + _BLOCK] for at in range(0, len(text), _BLOCK))
    is_huge_possible = _LARGE_EXPONENT.search(text) or any(block.isdigit() for block in blocks)
    decoder = json.JSONDecoder(
        object_pairs_hook=read_object,
        parse_int=read_int if is_huge_possible else None,
        parse_float=read_float if is_huge_possible else None,
        parse_constant=refuse,
    )
    return decoder.decode(text)


_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_PAIR_OF_ESCAPES = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F]")


def _may_hide_something(text: str, value: Any, max_depth: int) -> bool:
    """Could the text hide what the scan's hooks do not see: nesting, `\\u0000`, half a surrogate pair?"""
    if text.count("[") + text.count("{") > max_depth and _is_deeper(value, max_depth):
        return True
    if "\\u" not in text:
        return False
    if "\\u0000" in text:
        return True
    # Only a guess where a backslash may itself be escaped; it spares the common text with emoji the dearer test.
    surrogates = len(_SURROGATE_ESCAPE.findall(text))
    if not surrogates or ("\\\\" not in text and surrogates == 2 * len(_PAIR_OF_ESCAPES.findall(text))):
        return False
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _is_deeper(value: Any, max_depth: int) -> bool:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(max_depth):
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


# --- finding what is wrong, and where -------------------------------------------------------------------------------

_Place = tuple["_Place | None", str | int]
"""Where a value stands: its container's place, and its name or index there. A pointer is built only for an error."""


class _Pairs(list[Any]):
    """An object as written: pairs, duplicates included."""


class _Integer(str):
    """The digits of an integer, as written."""


class _Constant(str):
    """`NaN`, `Infinity` or `-Infinity`."""


def _first_offence(text: str, max_depth: int, max_keys: int) -> InvalidJson:
    """The first offence in a document that the scan gave up on."""
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs, parse_int=_Integer, parse_constant=_Constant)
    try:
        check_value(decoder.decode(text), max_depth=max_depth, max_keys=max_keys)
    except InvalidJson as fault:
        return fault
    except RecursionError:
        return _too_deep("", max_depth)
    except json.JSONDecodeError as error:
        return InvalidJson("", "syntax", f"not valid JSON: {error.msg}", error.pos)
    raise AssertionError("the scan refused a document in which nothing is wrong")


_INTEGER_END = 10**MAX_INTEGER_DIGITS
_SURROGATE = re.compile("[\ud800-\udfff]")


def _check_scalar(value: Any, place: _Place | None) -> None:
    fault = None
    if isinstance(value, _Constant):
        fault = "not_finite", f"{value} is not a JSON number"
    elif isinstance(value, str) and not isinstance(value, _Integer):
        fault = text_fault(value)
    elif isinstance(value, float) and not math.isfinite(value):
        fault = "not_finite", "is a number beyond the range of a double"
    elif not isinstance(value, (str, int, float, dict, list, NoneType)):
        fault = "syntax", f"{type(value).__name__} is not a JSON type"
    is_long = isinstance(value, _Integer) and len(value.lstrip("-")) > MAX_INTEGER_DIGITS
    if is_long or (isinstance(value, int) and not -_INTEGER_END < value < _INTEGER_END):
        fault = "integer_digits", f"is an integer of more than {MAX_INTEGER_DIGITS} digits"
    if fault is not None:
        raise InvalidJson(_pointer(place), *fault)


def text_fault(text: str) -> tuple[str, str] | None:
    """What makes a string unfit, as (rule, message); None for a good one."""
    if "\x00" in text:
        return "nul", r"contains the character \u0000"
    if not text.isascii() and _SURROGATE.search(text):
        return "surrogate", "contains half a surrogate pair, which is not a character"
    return None


def _check_names(names: list[Any], place: _Place | None) -> None:
    seen = set()
    for name in names:
        if not isinstance(name, str):
            raise InvalidJson(_pointer(place), "syntax", "has a member whose name is not a string")
        fault = text_fault(name)
        if fault is not None:
            raise InvalidJson(_pointer(place), fault[0], f"has a member whose name {fault[1]}")
        if name in seen:
            raise InvalidJson(_pointer((place, name)), "duplicate_key", "appears twice in the same object")
        seen.add(name)


def _pointer(place: _Place | None) -> str:
    tokens = []
    while place is not None:
        place, token = place
        tokens.append(token)
    return pointer(*reversed(tokens))


def _too_deep(where: str, max_depth: int) -> InvalidJson:
    """The pointer ends at the member of the root: below it, a hundred names would help nobody."""
    top, bar, _ = where[1:].partition("/")
    return InvalidJson(f"/{top}" if bar else where, "depth", f"is nested more than {max_depth} deep")


# --- where a value stands in the text -------------------------------------------------------------------------------

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


def members(text: str, start: int = 0) -> dict[str, Span]:
    """Where each member's value stands, for the object that begins at `start`.

    `text[slice(*members(text)["payload"])]` is the payload as received. `text` is one that `loads` accepted. Raises
    ValueError where no object begins.
    """
    return _object(text, start)[0]


def elements(text: str, start: int = 0) -> list[Span]:
    """Where each element stands, for the array that begins at `start`. `text` and errors as for `members`."""
    spans: list[Span] = []

    def read(position: int) -> int:
        _, end = _DECODER.raw_decode(text, position)
        spans.append((position, end))
        return end

    _walk(text, start, "[]", read)
    return spans


def payload_slices(text: str) -> list[Span | None]:
    """For a bulk body `{"events": [{"payload": …}, …]}`: where each event's payload stands, None where it has none.

    `text` is one that `loads` accepted. Empty when the body is not of that form.
    """
    events = members(text).get("events") if text[_skip(text, 0)] == "{" else None
    if events is None or text[events[0]] != "[":
        return []
    spans: list[Span | None] = []

    def read(position: int) -> int:
        if text[position] == "{":
            found, end = _object(text, position)
            spans.append(found.get("payload"))
        else:
            _, end = _DECODER.raw_decode(text, position)
            spans.append(None)
        return end

    _walk(text, events[0], "[]", read)
    return spans


def _object(text: str, start: int) -> tuple[dict[str, Span], int]:
    spans: dict[str, Span] = {}

    def read(position: int) -> int:
        name, end = _DECODER.raw_decode(text, position)
        begin = _skip(text, _skip(text, end) + 1)
        _, end = _DECODER.raw_decode(text, begin)
        spans[name] = (begin, end)
        return end

    return spans, _walk(text, start, "{}", read)


def _walk(text: str, start: int, brackets: str, read: Callable[[int], int]) -> int:
    """Call `read` at the start of each item; it answers the item's end. Returns the end of the whole."""
    position = _skip(text, start)
    if text[position] != brackets[0]:
        raise ValueError(f"no {brackets} begins at character {start}")
    position = _skip(text, position + 1)
    if text[position] == brackets[1]:
        return position + 1
    while True:
        position = _skip(text, read(position))
        if text[position] == brackets[1]:
            return position + 1
        position = _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


# --- naming a place -------------------------------------------------------------------------------------------------

MAX_PATH_LENGTH = 512
"""Characters of one dotted path."""


def pointer(*tokens: str | int) -> str:
    """The JSON pointer (RFC 6901) to the place that `tokens` lead to; the whole document is the empty string."""
    return "".join(f"/{str(token).replace('~', '~0').replace('/', '~1')}" for token in tokens)


def split_path(path: str) -> tuple[str, ...]:
    """The names in a dotted path. Raises ValueError, with a sentence for the user, when it is not one."""
    if len(path) > MAX_PATH_LENGTH:
        raise ValueError(f"a path has at most {MAX_PATH_LENGTH} characters")
    names, name, characters = [], "", iter(path)
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            if escaped not in ("\\", "."):
                raise ValueError(r"a backslash in a path stands before a full stop or another backslash")
            name += escaped
        elif character == ".":
            names.append(name)
            name = ""
        else:
            name += character
    names.append(name)
    if not all(names):
        raise ValueError("a path is names joined by single full stops")
    return tuple(names)


def join_path(names: Iterable[str]) -> str:
    """The dotted path of `names`: `split_path(join_path(names)) == tuple(names)`."""
    return ".".join(name.replace("\\", "\\\\").replace(".", "\\.") for name in names)
