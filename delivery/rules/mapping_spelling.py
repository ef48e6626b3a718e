"""What a mapping says and can hardly mean: refused with the right spelling when it comes in, or told as a warning.

Refused is what never finds anything, or fails whatever the event; a warning is for what may be meant. Only what comes
in now is asked, so a mapping from before goes on as it is.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from connections.providers.base import Action
from delivery.rules.context import misread, paths_from_root
from delivery.rules.expression_spelling import expression_meant
from delivery.rules.expression_types import ANY, NULL, NeverFindsError, Types, find_types, in_words, types_of
from delivery.rules.expressions import ExpressionError, compile_expression
from delivery.rules.mapping import MappingError, MappingFailed, compile_mapping
from delivery.rules.transforms import MADE_BY, TRANSFORMS
from meshes.kit.jsonpaths import pointer
from meshes.kit.metering import OutOfWorkError
from meshes.kit.spelling import nearest

Note = dict[str, str]
"""`{"pointer", "detail", "rule"}`."""

_TEXT: Types = frozenset({"string"})
_LIST: Types = frozenset({"array"})
TAKES: dict[str, Types] = {
    "to_string": ANY,
    "to_number": frozenset({"number", "string"}),
    "to_boolean": frozenset({"boolean", "number", "string"}),
    "to_date": _TEXT,
    "to_datetime": _TEXT,
    "from_epoch": frozenset({"number", "string"}),
    "from_epoch_ms": frozenset({"number", "string"}),
    "trim": _TEXT,
    "lower": _TEXT,
    "upper": _TEXT,
    "first": _LIST,
    "md5": _TEXT,
    "sha256": _TEXT,
    "default": ANY,
    "substring": _TEXT,
    "replace": _TEXT,
    "join": _LIST,
    "split": _TEXT,
}
"""The types that a transform does not always fail on; a null passes by."""


def mapping_mistakes(document: Any, at: str) -> list[Note]:
    """Why a mapping, which stands under the member `at` of a body, is refused; empty where it is not."""
    try:
        compile_mapping(document)
    except MappingError as error:
        return [{"pointer": f"{pointer(at)}{error.pointer}", "detail": error.message, "rule": "mapping"}]
    return [note for index, entry in enumerate(document) if (note := _mistake(entry, (at, index)))]


def _mistake(entry: Mapping[str, Any], place: tuple[str | int, ...]) -> Note | None:
    if "from" not in entry:
        return _failing_literal(entry, place)
    tree = compile_expression(entry["from"]).tree
    if wrong := next(filter(None, map(misread, paths_from_root(tree))), ""):
        return _note((*place, "from"), wrong, "unknown_root")
    try:
        types = find_types(tree)
    except NeverFindsError as error:
        return _note((*place, "from"), f"{error}{_repaired(entry['from'])}", "never")
    return _unfit_transform(entry.get("transforms", ()), types, place)


def _failing_literal(entry: Mapping[str, Any], place: tuple[str | int, ...]) -> Note | None:
    """A literal is the same for every event, and so is what its transforms make of it."""
    if wrong := _unfit_transform(entry.get("transforms", ()), types_of(entry["value"]), place):
        return wrong
    try:
        compile_mapping([{**entry, "on_error": "fail"}]).apply({})
    except MappingFailed as error:
        where = {"pointer": f"{pointer(*place)}{error.pointer.removeprefix('/0')}"}
        return where | {"detail": f"This fails for every event: {error.message}.", "rule": "never"}
    except OutOfWorkError:
        return None
    return None


def _unfit_transform(transforms: Sequence[Any], types: Types, place: tuple[str | int, ...]) -> Note | None:
    """The first transform that takes nothing of what comes before it."""
    for position, transform in enumerate(transforms):
        name = transform if isinstance(transform, str) else next(iter(transform))
        if types - NULL and not types & TAKES[name]:
            words = f"{name} takes {in_words(TAKES[name])}, and is given {in_words(types - NULL)}."
            meant = ' Did you mean {"join": ", "} or first before it?' if types & _LIST and TAKES[name] >= _TEXT else ""
            return _note((*place, "transforms", position), words + meant, "never")
        if name == "default":
            types = (types - NULL) | types_of(transform["default"])
        else:
            made = frozenset({MADE_BY[name]}) if name in MADE_BY else ANY
            types = made | (types & NULL)
    return None


def _repaired(source: str) -> str:
    """` Did you mean x?` for the nearest expression that can find something; empty where none is near."""
    plain = re.sub(r"\[[^\[\]]*\]", "", source).strip().strip(".")
    in_payload = "" if re.match(r"(event|payload|workspace)\b", plain) else f"payload.{plain}"
    for candidate in (plain, source.rpartition(".")[0], in_payload):
        if not re.fullmatch(r"[A-Za-z_][\w.]*", candidate):
            continue
        try:
            tree = compile_expression(candidate).tree
            find_types(tree)
        except (ExpressionError, NeverFindsError):
            continue
        if not any(map(misread, paths_from_root(tree))) and candidate not in ("event", "payload", "workspace"):
            return f" Did you mean {candidate}?"
    return ""


# --- told -----------------------------------------------------------------------------------------------------------

_LIKE_A_PATH = re.compile(r"(payload|event|workspace)(\.[A-Za-z_][A-Za-z0-9_]*|\[([0-9]*|\*)\])+")
_TEMPLATE = re.compile(r"(\{\{|\$\{|#\{|<%=?)\s*(payload|event|workspace)\b")


def mapping_warnings(document: Sequence[Mapping[str, Any]], action: Action, at: str) -> Iterator[Note]:
    """What a mapping that is not refused says and mostly does not mean."""
    declared = {field.key for field in action.fields}
    for index, entry in enumerate(document):
        if "from" in entry:
            yield from _odd_source(entry["from"], (at, index, "from"))
        elif isinstance(entry["value"], str) and (words := _odd_value(entry["value"])):
            yield _note((at, index, "value"), words, "literal")
        if action.is_open and entry["to"] not in declared and (near := nearest(entry["to"], declared)):
            words = f"{action.name} takes any field, and declares no {entry['to']}. Did you mean {near}?"
            yield _note((at, index, "to"), words, "unknown")


def _odd_source(source: str, place: tuple[str | int, ...]) -> Iterator[Note]:
    piped = source.rpartition("|")[2].strip() if "|" in source else ""
    if piped in TRANSFORMS:
        words = f'This looks for a member {piped}. The transform is written "transforms": ["{piped}"].'
        yield _note(place, words, "transform")
    nodes = [compile_expression(source).tree]
    while nodes:
        node = nodes.pop()
        if node["type"] == "literal" and isinstance(node["value"], str) and _LIKE_A_PATH.fullmatch(node["value"]):
            yield _note(place, f"This finds the very text {node['value']}. A path has no quotes around it.", "literal")
        nodes += [child for child in node["children"] if isinstance(child, dict)]


def _odd_value(value: str) -> str:
    """What to say of a literal that reads like a path or a template; empty where it does not."""
    shown = value if len(value) <= 64 else f"{value[:64]}…"
    path = value if _LIKE_A_PATH.fullmatch(value) else expression_meant(value) or ""
    if _LIKE_A_PATH.fullmatch(path) and path.partition(".")[0] in value:
        return f'This writes the very text {shown}. To write what stands there: "from": "{path}".'
    if _TEMPLATE.search(value):
        join = "\"from\": \"join('', ['Hello ', payload.name])\""
        return f"This writes the very text {shown}, for a mapping has no templates. Texts are joined so: {join}."
    return ""


def _note(tokens: Sequence[str | int], detail: str, rule: str) -> Note:
    return {"pointer": pointer(*tokens), "detail": detail, "rule": rule}
