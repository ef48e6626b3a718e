"""What a filter says and can hardly mean: refused with the right spelling when it comes in, or told as a warning.

Refused is what never holds, or always; a warning is for what may be meant. Only what comes in now is asked, so a filter
from before goes on as it is.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from delivery.rules.dialects import operator_meant, read_comparison, read_suffix, sign_meant
from delivery.rules.filters import MAX_REGEX_WORK, OPERATORS, FilterError, compile_filter
from delivery.rules.patterns import is_event_type
from meshes.kit import ids
from meshes.kit.jsonpaths import join_path, pointer, split_path

Note = dict[str, str]
"""`{"pointer", "detail", "rule"}`."""

EQUALITIES = ("$eq", "$neq", "$in", "$nin")
ORDERS = ("$gt", "$gte", "$lt", "$lte")
PARTS = ("$startsWith", "$endsWith", "$contains")


def filter_mistakes(document: Any, at: str) -> list[Note]:
    """Why a filter, which stands under the member `at` of a body, is refused; empty where it is not."""
    try:
        compile_filter(document, MAX_REGEX_WORK)
    except FilterError as error:
        return [{"pointer": f"{pointer(at)}{error.pointer}", "detail": error.message, "rule": "filter"}]
    found = []
    for part in _parts(document, (), ()):
        if words := _misspelt(part) if part.is_field else _impossible(part):
            rule = "operator" if part.is_field else "never"
            found.append({"pointer": pointer(at, *part.tokens), "detail": words, "rule": rule})
    return found


def filter_warnings(document: Any, at: str) -> Iterator[Note]:
    """What a filter that is not refused says and mostly does not mean."""
    for part in _parts(document, (), ()):
        for rule, words in _odd_names(part) if part.is_field else _odd_operands(part):
            yield {"pointer": pointer(at, *part.tokens), "detail": words, "rule": rule}


@dataclass(frozen=True, slots=True)
class _Part:
    """A member that names a field, or an operator with its operand, a literal being `$eq`."""

    tokens: tuple[str | int, ...]
    path: tuple[str, ...]
    operator: str
    operand: Any
    names: tuple[str, ...] = ()
    """Of the path those that the member adds to it."""

    @property
    def is_field(self) -> bool:
        return not self.operator

    @property
    def operands(self) -> list[Any]:
        return self.operand if self.operator in ("$in", "$nin") else [self.operand]


def _parts(document: Any, tokens: tuple[str | int, ...], path: tuple[str, ...]) -> Iterator[_Part]:
    """All of a filter that compiles."""
    if isinstance(document, list):
        for index, member in enumerate(document):
            yield _Part((*tokens, index), path, "$eq", member)
    elif not isinstance(document, Mapping):
        yield _Part(tokens, path, "$eq", document)
    else:
        for name, inner in document.items():
            here = (*tokens, name)
            if name in ("$and", "$or"):
                for index, part in enumerate(inner):
                    yield from _parts(part, (*here, index), path)
            elif name == "$not":
                yield from _parts(inner, here, path)
            elif name.startswith("$"):
                yield _Part(here, path, name, inner)
            else:
                names = split_path(name)
                yield _Part(here, (*path, *names), "", inner, names)
                yield from _parts(inner, here, (*path, *names))


def _written(path: tuple[str, ...], operator: str, operand: Any) -> str:
    """The filter that is meant; what the user gave is repeated where it is short."""
    short = operand if len(json.dumps(operand, ensure_ascii=False)) <= 60 else "…"
    return json.dumps({join_path(path): {operator: short}}, ensure_ascii=False)


# --- names ----------------------------------------------------------------------------------------------------------


def _misspelt(part: _Part) -> str:
    """Names that are written like operators: no event has such a member."""
    *before, name = part.path
    if operator := sign_meant(name):
        return f"{name.strip()} is no operator. Did you mean {operator}?"
    if name in OPERATORS and before:
        return f"An operator has an object of its own. Did you mean {_written(tuple(before), name, part.operand)}?"
    suffix = read_suffix(name)
    if suffix and suffix[2]:
        return f"{name} is no field. Did you mean {_written((*before, suffix[0]), suffix[1], part.operand)}?"
    if len(part.operand if isinstance(part.operand, list) else ()) > 1 and _settled(part.path) in _TEXTS:
        return f"An array asks that all of it be there. Did you mean {_written(part.path, '$in', part.operand)}?"
    return ""


_SUBSCRIPT = re.compile(r"(.+)\[([0-9]*|\*)\]")


def _odd_names(part: _Part) -> Iterator[tuple[str, str]]:
    """Names that an event may have, and that mostly are another language's."""
    *before, name = part.path
    operator = operator_meant(name)
    if operator and len(part.path) > 2:
        yield "operator", f"This looks at a member {name} of {join_path(before)}. The operator is {operator}."
    elif suffix := read_suffix(name):
        meant = _written((*before, suffix[0]), suffix[1], part.operand)
        yield "operator", f"This looks at a member {name}. Did you mean {meant}?"
    tidy = tuple(step for each in part.names for step in _plain_names(each))
    if tidy != part.names:
        meant = join_path((*part.path[: len(part.path) - len(part.names)], *tidy))
        odd = next(each for each in part.names if _plain_names(each) != (each,))
        yield "path", f'This looks at a member that is called "{odd}". Did you mean {meant}?'


def _plain_names(name: str) -> tuple[str, ...]:
    """`items[0]` as a path of filters says it: `items.0`; arrays are gone through without a sign for it."""
    plain, steps = name.strip(), []
    while found := _SUBSCRIPT.fullmatch(plain):
        plain = found[1]
        steps += [found[2]] if found[2] not in ("", "*") else []
    return (*(() if plain in ("*", "[]", "[*]") else (plain or name,)), *reversed(steps))


# --- operands -------------------------------------------------------------------------------------------------------

_TEXTS = {
    ("event", "type"), ("event", "id"), ("event", "created_at"), ("workspace", "id"), ("workspace", "external_id"),
    ("workspace", "name"),
}  # fmt: skip
_EXTERNAL_ID = ("workspace", "external_id")


def _settled(path: tuple[str, ...]) -> tuple[str, ...]:
    return ("event", "type") if path == ("event",) else path


def _impossible(part: _Part) -> str:
    """Why an operand meets nothing where every event has a value of a known form; empty where it may."""
    path, name = _settled(part.path), join_path(_settled(part.path))
    if part.operator == "$exist":
        null = ', null where there is none. Did you mean {"$eq": null}?' if path == _EXTERNAL_ID else "."
        return f"{name} is always there{null}" if not part.operand and path in {("payload",), *_TEXTS} else ""
    if path == ("payload",):
        is_object = part.operator in ("$eq", "$neq") and isinstance(part.operand, dict)
        return "" if is_object else "payload is an object: name a member of it, such as payload.email."
    if path in _TEXTS:
        return next(filter(None, (_misfit(path, part.operator, each) for each in part.operands)), "")
    return ""


def _misfit(path: tuple[str, ...], operator: str, operand: Any) -> str:
    name = join_path(path)
    if not isinstance(operand, str):
        return "" if operand is None and path == _EXTERNAL_ID else f"{name} is a string, and nothing else."
    if path == ("event", "type") and operator in (*EQUALITIES, *PARTS) and not is_event_type(operand):
        start = operand.rstrip("*")
        meant = f' Did you mean {{"$startsWith": "{start}"}}?' if start != operand and is_event_type(start) else ""
        return f"No event type is or holds {operand[:40]!r}.{meant}"
    if path[1] == "id" and operator in EQUALITIES:
        prefix = ids.EVENT if path[0] == "event" else ids.WORKSPACE
        if ids.decode(prefix, operand) is None:
            other = " Did you mean workspace.external_id?" if path[0] == "workspace" else ""
            return f"{operand[:40]!r} is no id of {'an event' if path[0] == 'event' else 'a workspace'}.{other}"
    if path == ("event", "created_at") and operator in ORDERS and not re.match(r"[0-9]{4}(-|\Z)", operand):
        return f'{name} is a text such as "2026-05-01T10:00:00Z", and is ordered as one.'
    return ""


_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_REGEX = re.compile(r"/(.+)/([a-z]*)", re.DOTALL)


def _odd_operands(part: _Part) -> Iterator[tuple[str, str]]:
    """Texts that another language would read as a comparison, a number, a pattern or an expression."""
    for text in part.operands:
        if not isinstance(text, str) or part.operator not in (*EQUALITIES, *ORDERS):
            continue
        if compared := read_comparison(text):
            operator, rest = compared
            operand = json.loads(rest) if _NUMBER.fullmatch(rest) and not rest.startswith(("0", "-0")) else rest
            meant = json.dumps({operator: operand if len(rest) <= 40 else "…"}, ensure_ascii=False)
            yield "literal", f"This asks for the very text {text[:40]!r}. A comparison is an object: {meant}."
        elif part.operator in ORDERS and _NUMBER.fullmatch(text):
            yield "literal", f"This orders texts, and no number. A number is written without quotes: {text}."
        elif part.operator in EQUALITIES and (meant := _pattern_meant(text)):
            yield "literal", f"This asks for the very text {text[:40]!r}. Did you mean {meant}?"


def _pattern_meant(text: str) -> str:
    """The operator for a text that reads like a pattern of a shell, of SQL or between slashes."""
    bare = text.strip("*") if "*" in text else text.strip("%") if text.startswith("%") else text
    if bare != text and bare and not set(bare) & set("*%"):
        name = "$startsWith" if text.startswith(bare) else "$endsWith" if text.endswith(bare) else "$contains"
        return json.dumps({name: bare}, ensure_ascii=False) if len(bare) <= 40 else name
    found = _REGEX.fullmatch(text)
    if found and (re.fullmatch("[gimsuy]+", found[2]) or (not found[2] and set(found[1]) & set("^$*+?\\[(|"))):
        regex = f"{'(?i)' if 'i' in found[2] else ''}{found[1]}"
        return json.dumps({"$regex": regex}, ensure_ascii=False) if len(regex) <= 40 else "$regex"
    return ""
