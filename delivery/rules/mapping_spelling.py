"""What a mapping says and can hardly mean: refused with the right spelling when it comes in, or told as a warning.

Refused is what never finds anything, or fails whatever the event; a warning is for what may be meant. Only what comes
in now is asked, so a mapping from before goes on as it is.

Which types of value an expression can find is told from what every event has: nothing of the payload is known.
`find_types` walks the expression as the interpreter does, with types for values. Where a step can meet no value that it
takes, whatever the event, the expression never finds anything there, and is told why.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

from connections.providers.base import Action
from delivery.rules.expressions import FUNCTIONS, compile_expression, expression_meant, misread_root
from delivery.rules.mapping import compile_mapping
from delivery.rules.patterns import Note, RuleError, note
from delivery.rules.transforms import ALL_TYPES, MADE_BY, TAKES, TYPE_WORDS, ShapingError, type_of
from meshes.kit.metering import OutOfWorkError
from meshes.kit.spelling import nearest

Tokens = tuple[str | int, ...]


def mapping_mistakes(document: Any, at: str) -> list[Note]:
    """Why a mapping, the member `at` of a body, is refused; empty where it is not."""
    try:
        compile_mapping(document)
    except RuleError as error:
        return [note(error.message, "mapping", at, below=error.pointer)]
    return [found for index, entry in enumerate(document) if (found := _mistake(entry, (at, index)))]


def _mistake(entry: Mapping[str, Any], place: Tokens) -> Note | None:
    transforms = entry.get("transforms", ())
    if "from" not in entry:
        if wrong := _unfit_transform(transforms, types_of(entry["value"]), place):
            return wrong
        try:  # a literal is the same for every event, and so is what its transforms make of it
            compile_mapping([{**entry, "on_error": "fail"}]).apply({})
        except ShapingError as error:
            words = f"This fails for every event: {error.message}."
            return note(words, "never", *place, below=error.pointer.removeprefix("/0"))
        except OutOfWorkError:
            pass
        return None
    tree = compile_expression(entry["from"]).tree
    if misread := misread_root(tree):
        return note(misread, "unknown_root", *place, "from")
    try:
        types = find_types(tree)
    except RuleError as error:
        return note(f"{error.message}{_repaired(entry['from'])}", "never", *place, "from")
    return _unfit_transform(transforms, types, place)


def _unfit_transform(transforms: Sequence[Any], types: "Types", place: Tokens) -> Note | None:
    """The first transform that takes nothing of what comes before it."""
    for position, transform in enumerate(transforms):
        name = transform if isinstance(transform, str) else next(iter(transform))
        if types - NULL and not types & TAKES[name]:
            words = f"{name} takes {in_words(TAKES[name])}, and is given {in_words(types - NULL)}."
            meant = ' Did you mean {"join": ", "} or first before it?' if types & ARRAY and TAKES[name] >= TEXT else ""
            return note(words + meant, "never", *place, "transforms", position)
        if name == "default":
            types = (types - NULL) | types_of(transform["default"])
        else:
            types = (frozenset({MADE_BY[name]}) if name in MADE_BY else ANY) | (types & NULL)
    return None


def _repaired(source: str) -> str:
    """` Did you mean x?` for the nearest expression that can find something; empty where none is near."""
    plain = re.sub(r"\[[^\[\]]*\]", "", source).strip().strip(".")
    in_payload = "" if re.match(r"(event|payload|workspace)\b", plain) else f"payload.{plain}"
    for candidate in (plain, source.rpartition(".")[0], in_payload):
        if not re.fullmatch(r"[A-Za-z_][\w.]*", candidate) or candidate in CONTEXT:
            continue
        try:
            tree = compile_expression(candidate).tree
            find_types(tree)
        except RuleError:
            continue
        if not misread_root(tree):
            return f" Did you mean {candidate}?"
    return ""


# --- warnings -------------------------------------------------------------------------------------------------------

_LIKE_A_PATH = re.compile(r"(payload|event|workspace)(\.[A-Za-z_][A-Za-z0-9_]*|\[([0-9]*|\*)\])+")
_TEMPLATE = re.compile(r"(\{\{|\$\{|#\{|<%=?)\s*(payload|event|workspace)\b")


def mapping_warnings(document: Sequence[Mapping[str, Any]], action: Action, at: str) -> Iterator[Note]:
    """What a mapping that is not refused says and mostly does not mean."""
    declared = {field.key for field in action.fields}
    for index, entry in enumerate(document):
        if "from" in entry:
            yield from _odd_source(entry["from"], (at, index, "from"))
        elif isinstance(entry["value"], str) and (words := _odd_value(entry["value"])):
            yield note(words, "literal", at, index, "value")
        if action.is_open and entry["to"] not in declared and (near := nearest(entry["to"], declared)):
            words = f"{action.name} takes any field, and declares no {entry['to']}. Did you mean {near}?"
            yield note(words, "unknown", at, index, "to")


def _odd_source(source: str, place: Tokens) -> Iterator[Note]:
    piped = source.rpartition("|")[2].strip() if "|" in source else ""
    if piped in TAKES:
        words = f'This looks for a member {piped}. The transform is written "transforms": ["{piped}"].'
        yield note(words, "transform", *place)
    nodes = [compile_expression(source).tree]
    while nodes:
        node = nodes.pop()
        if node["type"] == "literal" and isinstance(node["value"], str) and _LIKE_A_PATH.fullmatch(node["value"]):
            yield note(f"This finds the very text {node['value']}. A path has no quotes around it.", "literal", *place)
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


# --- the types that an expression can find --------------------------------------------------------------------------

Types = frozenset[str]
Shape = Types | Mapping[str, "Shape"]
"""The types that a value may have, or the members of an object that has no others."""

ANY: Types = frozenset(ALL_TYPES.split())
TEXT: Types = frozenset({"string"})
NULL: Types = frozenset({"null"})
ARRAY: Types = frozenset({"array"})
CONTEXT: Mapping[str, Shape] = {
    "event": {"id": TEXT, "type": TEXT, "created_at": TEXT},
    "payload": frozenset({"object"}),
    "workspace": {"id": TEXT, "external_id": TEXT | NULL, "name": TEXT},
}
_MADE = {
    name: frozenset(types.split())
    for types, names in {
        "number": "abs ceil floor length sum",
        "number null": "avg to_number",
        "boolean null": "contains ends_with starts_with",
        "string": "join to_string type",
        "array": "keys map sort sort_by to_array values",
        "object": "merge",
    }.items()
    for name in names.split()
}
"""What functions make, whatever they are given."""


def types_of(value: Any) -> Types:
    """The type of one JSON value."""
    return frozenset({type_of(value)})


def in_words(types: Types) -> str:
    return " or ".join(words for name, words in TYPE_WORDS.items() if name in types)


def find_types(tree: Any) -> Types:
    """The types that an expression can find in an event. Raises RuleError where a step takes nothing that it meets."""
    found = _flat(_find(tree, CONTEXT))
    if found <= NULL:
        raise RuleError("This is null for every event.")
    return found


def _flat(shape: Shape) -> Types:
    return frozenset({"object"}) if isinstance(shape, Mapping) else shape


def _find(node: Any, shape: Shape) -> Shape:
    """What a node of JMESPath finds in a value of this shape."""
    children = node["children"]
    match node["type"]:
        case "identity" | "current" | "subexpression" | "index_expression" | "pipe":
            return reduce(lambda found, child: _find(child, found), children, shape)
        case "literal":
            return types_of(node["value"])
        case "field":
            return _find_member(node["value"], shape)
        case "index" | "slice":
            _need(shape, "array", "[…] takes a member of an array")
            return {"index": ANY, "slice": ARRAY}[node["type"]]
        case "projection" | "value_projection" | "filter_projection" | "flatten":
            return _find_projected(node["type"], children, shape)
        case "multi_select_dict":
            members = {child["value"]: _find(child["children"][0], shape) for child in children}
            return frozenset({"object", "null"}) if "null" in _flat(shape) else members
        case "or_expression" | "and_expression":
            return _flat(_find(children[0], shape)) | _flat(_find(children[1], shape))
        case "function_expression":
            return _find_called(node["value"], children, shape)
    for child in children:  # a list of expressions, a comparison or a negation
        _find(child, shape)
    return {"multi_select_list": ARRAY}.get(node["type"], frozenset({"boolean", "null"})) | (NULL & _flat(shape))


def _find_member(name: str, shape: Shape) -> Shape:
    if not isinstance(shape, Mapping):
        _need(shape, "object", f"{name} is a member of an object")
        return ANY
    if name not in shape:
        raise RuleError(f"There is no member {name} here; there are {', '.join(shape)}.")
    return shape[name]


def _find_projected(kind: str, children: Any, shape: Shape) -> Types:
    wanted = "object" if kind == "value_projection" else "array"
    sign = {"value_projection": "*", "flatten": "[]", "filter_projection": "[?…]"}.get(kind, "[*]")
    _need(_find(children[0], shape), wanted, f"{sign} goes through an {wanted}")
    for child in children[1:]:
        _find(child, ANY)
    return ARRAY | NULL


def _find_called(name: str, arguments: Any, shape: Shape) -> Types:
    expected = FUNCTIONS[name]["signature"]
    given = [NULL if each["type"] == "expref" else _flat(_find(each, shape)) for each in arguments]
    for index, types in enumerate(given):
        taken = {each.partition("-")[0] for each in expected[min(index, len(expected) - 1)]["types"]}
        if taken and "expref" not in taken and not types & taken:
            words = in_words(frozenset(taken))
            raise RuleError(f"{name}() takes {words}, and argument {index + 1} is {in_words(types)}.")
    return frozenset().union(*given) if name == "not_null" else _MADE.get(name, ANY)


def _need(shape: Shape, wanted: str, words: str) -> None:
    types = _flat(shape)
    if shape is CONTEXT and wanted != "object":
        raise RuleError(f"{words}, and an expression begins with {', '.join(CONTEXT)}.")
    if wanted not in types:
        raise RuleError(f"{words}, and what stands before it is {in_words(types - NULL) or 'null'}.")
