"""Shape an event for a destination: a mapping is a list of what to write where, data and never code.

    [
      {"to": "properties.email", "from": "payload.lead.email", "transforms": ["trim", "lower"]},
      {"to": "properties.source", "value": "meshes"},
      {"to": "properties.score", "from": "payload.lead.score", "transforms": ["to_number"], "on_error": "skip"}
    ]

`from` is JMESPath over `{event, payload, workspace}`, `value` a literal. The transforms run in order. `escape` names
the markup of the place that the value goes to: every text that `from` takes from the event is escaped for it. What
cannot be made, an expression that finds nothing included, is dealt with by `on_error`: `fail` (the default), `skip` or
`null`. With `skip_blanks` a text of nothing but spaces counts as missing. The tables are in docs/routing.md.

An action without fields takes the event's payload as it is, or what the mapping makes of it. All others take an object
of fields: those that the rule's mapping names are made by it, the others by the defaults of the declaration.
"""

import json
import re
from collections.abc import Mapping as Object
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from connections.providers.base import Action, MappingField
from connections.providers.markup import ESCAPES, escape_values
from delivery.rules.expressions import Expression, compile_expression, expression_meant
from delivery.rules.patterns import Note, RuleError, check_document, note, within
from delivery.rules.transforms import (
    MADE_BY,
    MAX_SIZE,
    TYPE_WORDS,
    ShapingError,
    Transform,
    compile_transform,
    measure,
    type_of,
    writing_steps,
)
from meshes.kit.metering import RULE_STEPS, Meter, stripping_steps
from meshes.kit.spelling import none_of, suggested
from meshes.kit.strictjson import join_path, pointer, split_path

MAX_ENTRIES = 200
MAX_TRANSFORMS = 20
MAX_PATH_DEPTH = 8
STEPS_PER_ENTRY = 50
STEPS_PER_FAILURE = 80
STEPS_PER_COPY = 100
COPIES = 4
"""The output is written, read again, and written for the delivery and for the database."""

_MEMBERS = ("to", "from", "value", "transforms", "on_error", "escape", "skip_blanks")
_ON_ERROR = {
    "skip": ("ignore", "omit", "drop", "continue", "pass", "leave_out"),
    "fail": ("raise", "error", "abort", "stop", "throw", "dead_letter"),
    "null": ("none", "nil", "empty", "set_null"),
}
"""The choices, and what others call them."""
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of the output."""

    to: Path
    source: Expression | None
    literal: Any
    transforms: tuple[Transform, ...]
    on_error: str
    escape: str = ""
    skip_blanks: bool = False

    def __str__(self) -> str:
        return f"the mapping's entry to {join_path(self.to)}"


class Mapping:
    """A compiled mapping. Threads may share it."""

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self.entries = entries

    def apply(self, context: dict[str, Any], meter: Meter | None = None) -> dict[str, Any]:
        """The shaped object, which shares nothing with `context` (`{event, payload, workspace}`).

        Its JSON text in UTF-8, unescaped and without spaces, has at most 262,144 bytes. The same context gives the same
        object. Raises ShapingError, OutOfWorkError, of which `meter.at` is the entry, and nothing else.
        """
        output: dict[str, Any] = {}
        views: dict[tuple[str, bool], Any] = {("", False): context}
        meter, size = Meter(RULE_STEPS) if meter is None else meter, 0
        for index, entry in enumerate(self.entries):
            meter.at = entry
            meter.charge(STEPS_PER_ENTRY)
            try:
                value, length = _evaluate(entry, views, meter)
            except ShapingError as failure:
                meter.charge(STEPS_PER_FAILURE)
                if entry.on_error == "fail":
                    raise ShapingError(failure.message, pointer(index) + failure.pointer) from None
                if entry.on_error == "skip":
                    continue
                value, length = None, 0
            size += length
            if size > MAX_SIZE:
                raise _too_large()
            place = output
            for name in entry.to[:-1]:
                place = place.setdefault(name, {})
            place[entry.to[-1]] = value
        meter.charge(STEPS_PER_COPY + COPIES * writing_steps(size))
        return _detached(output)


def compile_mapping(document: Any) -> Mapping:
    """Compile a mapping document. Raises RuleError with a pointer to the mistake.

    No entry may write over another: equal paths, or one inside the other.
    """
    if not isinstance(document, list) or not document:
        raise RuleError("must be a list of at least one entry")
    if len(document) > MAX_ENTRIES:
        raise RuleError(f"has more than {MAX_ENTRIES} entries")
    check_document(document, 32, 10_000)
    entries = []
    for index, entry in enumerate(document):
        with within(index):
            entries.append(_compile_entry(entry))
    written: dict[Path, int] = {}
    passed: dict[Path, int] = {}
    for index, to in enumerate(entry.to for entry in entries):
        beginnings = [to[:length] for length in range(1, len(to))]
        clashes = [written[path] for path in (*beginnings, to) if path in written]
        clashes += [passed[to]] if to in passed else []
        if clashes:
            raise RuleError(f"writes over what entry {clashes[0]} writes", index, "to")
        written[to] = index
        passed.update((beginning, index) for beginning in beginnings)
    return Mapping(tuple(entries))


# --- compiling --------------------------------------------------------------------------------------------------------


def _compile_entry(document: Any) -> Entry:
    if not isinstance(document, dict):
        raise RuleError("must be an object")
    for name in document:
        if name not in _MEMBERS:
            raise RuleError(f"unknown: {none_of(name, _MEMBERS)}", name)
    if ("from" in document) is ("value" in document):
        raise RuleError("needs either from or value")
    read = {}
    try:
        for name in ("to", *(each for each in _MEMBERS[1:] if each in document)):
            read[name] = _read_member(name, document.get(name))
    except RuleError as error:
        raise RuleError(error.message, name, below=error.pointer) from None
    return Entry(
        read["to"],
        read.get("from"),
        read.get("value"),
        read.get("transforms", ()),
        read.get("on_error", "fail"),
        read.get("escape", ""),
        read.get("skip_blanks", False),
    )


def _read_member(name: str, value: Any) -> Any:
    """One member of an entry, checked and compiled. Raises RuleError."""
    match name:
        case "to":
            return _read_target(value)
        case "from":
            return _compile_source(value)
        case "transforms":
            if not isinstance(value, list) or len(value) > MAX_TRANSFORMS:
                raise RuleError(f"must be a list of at most {MAX_TRANSFORMS} transforms")
            transforms = []
            for position, transform in enumerate(value):
                with within(position):
                    transforms.append(compile_transform(transform))
            return tuple(transforms)
        case "on_error" if not isinstance(value, str) or value not in _ON_ERROR:
            word = value.casefold() if isinstance(value, str) and len(value) <= 32 else ""
            meant = next((choice for choice, words in _ON_ERROR.items() if word in words), "")
            near = f" Did you mean {meant}?" if meant else suggested(word, ("fail", "skip", "null"))
            raise RuleError(f"must be fail, skip or null (the word).{near}")
        case "escape" if value == "none":
            return ""
        case "escape" if not isinstance(value, str) or value not in ESCAPES:
            raise RuleError(f"must be none, {', '.join(ESCAPES)} (the word)")
        case "skip_blanks" if not isinstance(value, bool):
            raise RuleError("must be true or false")
    return value


def _read_target(target: Any) -> Path:
    if not isinstance(target, str):
        raise RuleError("must be a dotted path")
    try:
        path = split_path(target)
    except ValueError as error:
        raise RuleError(str(error)) from None
    if len(path) > MAX_PATH_DEPTH:
        raise RuleError(f"a path in the output has at most {MAX_PATH_DEPTH} names")
    return path


def _compile_source(source: Any) -> Expression:
    try:
        return compile_expression(source)
    except RuleError as error:
        meant = expression_meant(source) if isinstance(source, str) else None
        raise RuleError(f"{error.message}. Did you mean {meant}?" if meant else error.message) from None


# --- applying ---------------------------------------------------------------------------------------------------------


def _evaluate(entry: Entry, views: dict[tuple[str, bool], Any], meter: Meter) -> tuple[Any, int]:
    """The value of an entry, and its size by `measure`. Raises ShapingError with the pointer into the entry."""
    step: tuple[str | int, ...] = ("value",) if entry.source is None else ("from",)
    try:
        value = entry.literal if entry.source is None else entry.source.evaluate(_view(entry, views, meter), meter)
        if entry.skip_blanks:
            value = _without_blanks(value, meter)
        for position, (shape, takes_null) in enumerate(entry.transforms):
            step = ("transforms", position)
            if value is not None or takes_null:
                value = shape(value, meter)
        size = measure(value, meter)
    except ShapingError as error:
        raise ShapingError(error.message, pointer(*step)) from None
    except UnicodeError:
        raise ShapingError("the text cannot be written as UTF-8", pointer(*step)) from None
    if value is None and entry.source is not None:
        raise ShapingError("found nothing in this event", "/from")
    return value, size


def _view(entry: Entry, views: dict[tuple[str, bool], Any], meter: Meter) -> Any:
    """The event as an entry sees it: with its texts escaped, without the payload's blank ones. Each is made once."""
    wanted = (entry.escape, entry.skip_blanks)
    if wanted not in views:
        view = views[("", False)]
        payload = view.get("payload")
        if entry.skip_blanks and isinstance(payload, dict):
            meter.charge(5 + 6 * len(payload))
            view = {**view, "payload": {key: each for key, each in payload.items() if not _is_blank(each, meter)}}
        views[wanted] = escape_values(view, entry.escape, meter) if entry.escape else view
    return views[wanted]


def _is_blank(value: Any, meter: Meter) -> bool:
    if not isinstance(value, str):
        return False
    meter.charge(stripping_steps(value))
    return not value or value.isspace()


def _without_blanks(value: Any, meter: Meter) -> Any:
    """A JSON value without members that are texts of nothing but spaces, however deep; None for such a text."""
    if isinstance(value, (dict, list)):
        meter.charge(5 + 6 * len(value))
    if isinstance(value, dict):
        return {key: _without_blanks(member, meter) for key, member in value.items() if not _is_blank(member, meter)}
    if isinstance(value, list):
        return [_without_blanks(member, meter) for member in value if not _is_blank(member, meter)]
    return None if _is_blank(value, meter) else value


def _detached(output: dict[str, Any]) -> dict[str, Any]:
    """A copy through the text, which is also what its size is told by."""
    try:
        text = json.dumps(output, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        if len(text.encode()) > MAX_SIZE:
            raise _too_large()
        copy: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        raise ShapingError("the output is not JSON", "") from None
    return copy


def _too_large() -> ShapingError:
    return ShapingError(f"the output is larger than {MAX_SIZE // 1024} KB", "")


# --- the fields of an action ------------------------------------------------------------------------------------------

_PLAIN_PATH = re.compile(r'(?:[A-Za-z_][A-Za-z0-9_]*|"[^"]*")(?:\.(?:[A-Za-z_][A-Za-z0-9_]*|"[^"]*")|\[-?[0-9]+\])*')


def complete(action: Action, mapping: Sequence[Object[str, Any]] | None) -> list[dict[str, Any]] | None:
    """A rule's mapping with the defaults of the fields that it does not name; None where the payload goes as it is.

    A default gives way to an entry for its field, for a part of it, and for an object around it. The rule's own entries
    come first, so that a pointer into them stays right.
    """
    own = [dict(entry) for entry in mapping or ()]
    if not action.fields:
        return own or None
    paths = [split_path(entry["to"]) for entry in own]
    for entry, path in zip(own, paths, strict=True):
        if "from" in entry and (markup := _markup_of(action, path, entry["from"])):
            entry.setdefault("escape", markup)
    kept = [entry for entry in action.default_mapping if not any(_overlap(split_path(entry["to"]), to) for to in paths)]
    return [*own, *kept] or None


def _markup_of(action: Action, path: Path, source: Any) -> str:
    """The markup for which what an entry takes from an event is escaped; empty where it is not.

    A field that holds markup may come from the event whole, as by `payload.html`; then it is what the event says.
    """
    for field in action.fields:
        own = split_path(field.key)
        if field.markup and path[: len(own)] == own:
            is_whole = path == own and isinstance(source, str) and _PLAIN_PATH.fullmatch(source.strip()) is not None
            return "" if is_whole else field.markup
    return ""


def field_mistakes(action: Action, mapping: Sequence[Object[str, Any]] | None) -> list[Note]:
    """What a mapping that compiles gets wrong about the action's fields: missing, unknown, of another type."""
    if not action.fields:
        return []
    declared = {split_path(field.key): field for field in action.fields}
    entries = [(split_path(entry["to"]), entry) for entry in mapping or ()]
    found = [
        note(f"{action.name} needs the field {field.key} ({field.label}); map it.", "required")
        for path, field in declared.items()
        if field.required and not field.source and not any(_overlap(path, to) for to, _ in entries)
    ]
    for index, (to, entry) in enumerate(entries):
        is_empty = not entry.get("transforms") and entry.get("value", to) in (None, "")
        if is_empty and to in declared and declared[to].required:
            words = f"{action.name} needs the field {entry['to']}: it must not be empty."
            found.append(note(words, "required", index, "value"))
    for index, (to, entry) in enumerate(entries):
        if mistake := _misplaced(action, declared, to, entry):
            tokens, words, rule = mistake
            found.append(note(words, rule, index, *tokens))
    return found


def _misplaced(
    action: Action, declared: Object[Path, MappingField], to: Path, entry: Object[str, Any]
) -> tuple[Path, str, str] | None:
    """What an entry writes that the action's fields do not take: where in the entry, the words, and the rule."""
    field, place = declared.get(to), _wrong_type(declared, to, entry)
    if field is None and not action.is_open and not any(_overlap(path, to) for path in declared):
        known = [each.key for each in action.fields]
        words = f"{action.name} has no field {entry['to']}; it has {', '.join(known)}."
        return ("to",), words + suggested(entry["to"], known), "unknown"
    if field is None:  # it leads into a field that can hold no other
        around = (declared[to[:depth]] for depth in range(1, len(to)) if to[:depth] in declared)
        field = next((each for each in around if each.type in ("string", "number", "boolean")), None)
        place = ("to",)
    return (place, f"The field {field.key} must be {TYPE_WORDS[field.type]}.", "type") if field and place else None


def _wrong_type(declared: Object[Path, MappingField], to: Path, entry: Object[str, Any]) -> Path:
    """Where an entry shows that it makes another type than its field has; empty where it does not."""
    if to not in declared or (kind := declared[to].type) == "any":
        return ()
    if transforms := entry.get("transforms"):
        last = transforms[-1] if isinstance(transforms[-1], str) else next(iter(transforms[-1]))
        return ("transforms", str(len(transforms) - 1)) if MADE_BY.get(last) not in (None, kind) else ()
    value = entry.get("value")
    return ("value",) if value is not None and type_of(value) != kind else ()


def _overlap(path: Path, other: Path) -> bool:
    """Whether one is the other, or inside it."""
    shorter = min(len(path), len(other))
    return path[:shorter] == other[:shorter]
