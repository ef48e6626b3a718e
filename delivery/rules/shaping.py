"""What a rule's mapping means for an action: the vendor's default mapping, overridden field by field, and its mistakes.

An action without fields takes the event's payload as it is, or what the mapping makes of it. All others take an object
of fields: those that the rule's mapping names are made by it, the others by the defaults of the declaration.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connections.providers.base import Action, FieldKind, MappingField
from delivery.rules.transforms import MADE_BY
from meshes.kit.jsonpaths import pointer, split_path
from meshes.kit.spelling import suggested


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong with a mapping for its action. `pointer` (RFC 6901) leads into the mapping."""

    pointer: str
    message: str
    rule: str


def complete(action: Action, mapping: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
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


_PLAIN_PATH = re.compile(r'(?:[A-Za-z_][A-Za-z0-9_]*|"[^"]*")(?:\.(?:[A-Za-z_][A-Za-z0-9_]*|"[^"]*")|\[-?[0-9]+\])*')


def _markup_of(action: Action, path: tuple[str, ...], source: Any) -> str:
    """The markup for which what an entry takes from an event is escaped; empty where it is not.

    A field that holds markup may come from the event whole, as by `payload.html`; then it is what the event says.
    """
    for field in action.fields:
        own = split_path(field.key)
        if field.markup and path[: len(own)] == own:
            is_whole = path == own and isinstance(source, str) and _PLAIN_PATH.fullmatch(source.strip()) is not None
            return "" if is_whole else field.markup
    return ""


def mistakes(action: Action, mapping: Sequence[Mapping[str, Any]] | None) -> list[Mistake]:
    """What a mapping that compiles gets wrong about the action's fields: missing, unknown, of another type."""
    if not action.fields:
        return []
    return [*_missing(action, mapping or ()), *_misplaced(action, mapping or ())]


def _missing(action: Action, mapping: Sequence[Mapping[str, Any]]) -> Iterator[Mistake]:
    paths = [split_path(entry["to"]) for entry in mapping]
    for field in action.fields:
        if field.required and not field.source and not any(_overlap(split_path(field.key), to) for to in paths):
            yield Mistake("", f"{action.name} needs the field {field.key} ({field.label}); map it.", "required")
    needed = {split_path(field.key): field for field in action.fields if field.required}
    for index, (path, entry) in enumerate(zip(paths, mapping, strict=True)):
        if path in needed and not entry.get("transforms") and entry.get("value", path) in (None, ""):
            words = f"{action.name} needs the field {entry['to']}: it must not be empty."
            yield Mistake(pointer(index, "value"), words, "required")


def _misplaced(action: Action, mapping: Sequence[Mapping[str, Any]]) -> Iterator[Mistake]:
    declared = {split_path(field.key): field for field in action.fields}
    for index, entry in enumerate(mapping):
        to = split_path(entry["to"])
        field = declared.get(to)
        if field is None and not action.is_open and not any(_overlap(path, to) for path in declared):
            known = [each.key for each in action.fields]
            words = f"{action.name} has no field {entry['to']}; it has {', '.join(known)}."
            yield Mistake(pointer(index, "to"), words + suggested(entry["to"], known), "unknown")
        elif field is None and (whole := _holding(declared, to)):
            yield Mistake(pointer(index, "to"), f"The field {whole.key} must be {_A[whole.type]}.", "type")
        elif field is not None and (wrong := _wrong_type(field, entry)):
            yield Mistake(pointer(index, *wrong), f"The field {field.key} must be {_A[field.type]}.", "type")


def _holding(declared: Mapping[tuple[str, ...], MappingField], to: tuple[str, ...]) -> MappingField | None:
    """The field that a path leads into although it can hold no other."""
    found = (declared[to[:depth]] for depth in range(1, len(to)) if to[:depth] in declared)
    return next((field for field in found if field.type in ("string", "number", "boolean")), None)


def _wrong_type(field: MappingField, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Where an entry shows that it makes another type than the field has; empty where it does not."""
    if field.type == "any":
        return ()
    transforms = entry.get("transforms") or []
    names = [transform if isinstance(transform, str) else next(iter(transform)) for transform in transforms]
    if names:
        made = MADE_BY.get(names[-1])
        return ("transforms", str(len(names) - 1)) if made not in (None, field.type) else ()
    if "value" not in entry or entry["value"] is None:
        return ()
    return () if _kind(entry["value"]) == field.type else ("value",)


_A = {
    "string": "a string",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
    "array": "an array",
}


def _kind(value: Any) -> FieldKind:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, list):
        return "array"
    return "object" if isinstance(value, dict) else "string"


def _overlap(path: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether one is the other, or inside it."""
    shorter = min(len(path), len(other))
    return path[:shorter] == other[:shorter]
