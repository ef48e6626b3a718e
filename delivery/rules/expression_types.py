"""Which types of value an expression can find, told from what every event has: nothing of the payload is known.

`find_types` walks the expression as the interpreter does, with types for values. Where a step can meet no value that it
takes, whatever the event, the expression never finds anything there, and is told why.
"""

from collections.abc import Callable, Mapping
from typing import Any

from delivery.rules.expressions import FUNCTIONS
from delivery.rules.jsonvalues import kind_of

Types = frozenset[str]
Shape = Types | Mapping[str, "Shape"]
"""The types that a value may have, or the members of an object that has no others."""

ANY: Types = frozenset({"string", "number", "boolean", "array", "object", "null"})
TEXT: Types = frozenset({"string"})
NULL: Types = frozenset({"null"})
ARRAY: Types = frozenset({"array"})
BOOLEAN: Types = frozenset({"boolean", "null"})
CONTEXT: Shape = {
    "event": {"id": TEXT, "type": TEXT, "created_at": TEXT},
    "payload": frozenset({"object"}),
    "workspace": {"id": TEXT, "external_id": TEXT | NULL, "name": TEXT},
}
_MADE: dict[str, Types] = {
    "abs": frozenset({"number"}), "avg": frozenset({"number", "null"}), "ceil": frozenset({"number"}),
    "contains": BOOLEAN, "ends_with": BOOLEAN, "floor": frozenset({"number"}), "join": TEXT, "keys": ARRAY,
    "length": frozenset({"number"}), "map": ARRAY, "merge": frozenset({"object"}), "sort": ARRAY, "sort_by": ARRAY,
    "starts_with": BOOLEAN, "sum": frozenset({"number"}), "to_array": ARRAY, "to_number": frozenset({"number", "null"}),
    "to_string": TEXT, "type": TEXT, "values": ARRAY,
}  # fmt: skip
"""What functions make, whatever they are given."""
_WORDS = {"string": "a string", "number": "a number", "boolean": "true or false", "array": "an array",
          "object": "an object", "null": "null"}  # fmt: skip


class NeverFindsError(Exception):
    """A step of the expression meets no value that it takes. The message is for the user."""


def types_of(value: Any) -> Types:
    """The type of one JSON value."""
    return frozenset({kind_of(value).rpartition(" ")[2]})


def flat(shape: Shape) -> Types:
    return frozenset({"object"}) if isinstance(shape, Mapping) else shape


def in_words(types: Types) -> str:
    return " or ".join(words for name, words in _WORDS.items() if name in types)


def find_types(tree: Any) -> Types:
    """The types that an expression can find in an event. Raises NeverFindsError."""
    found = flat(_find(tree, CONTEXT))
    if found <= NULL:
        raise NeverFindsError("This is null for every event.")
    return found


def _find(node: Any, shape: Shape) -> Shape:
    return _FINDERS[node["type"]](node, node["children"], shape)


def _chain(node: Any, children: Any, shape: Shape) -> Shape:
    for child in children:
        shape = _find(child, shape)
    return shape


def _subscript(node: Any, children: Any, shape: Shape) -> Shape:
    _need(shape, "array", "[…] takes a member of an array")
    return ANY if node["type"] == "index" else ARRAY


def _list(node: Any, children: Any, shape: Shape) -> Shape:
    return _beside(children, shape, ARRAY)


def _object(node: Any, children: Any, shape: Shape) -> Shape:
    members = {child["value"]: _find(child["children"][0], shape) for child in children}
    return members if isinstance(shape, Mapping) or "null" not in shape else frozenset({"object", "null"})


def _either(node: Any, children: Any, shape: Shape) -> Shape:
    return flat(_find(children[0], shape)) | flat(_find(children[1], shape))


def _truth(node: Any, children: Any, shape: Shape) -> Shape:
    return _beside(children, shape, BOOLEAN)


def _beside(children: Any, shape: Shape, made: Types) -> Types:
    for child in children:
        _find(child, shape)
    return made | (NULL & flat(shape))


def _member(node: Any, children: Any, shape: Shape) -> Shape:
    name = node["value"]
    if isinstance(shape, Mapping):
        if name not in shape:
            raise NeverFindsError(f"There is no member {name} here; there are {', '.join(shape)}.")
        return shape[name]
    _need(shape, "object", f"{name} is a member of an object")
    return ANY


def _need(shape: Shape, wanted: str, words: str) -> None:
    types = flat(shape)
    if shape is CONTEXT and wanted != "object":
        raise NeverFindsError(f"{words}, and an expression begins with {', '.join(CONTEXT)}.")
    if wanted not in types:
        raise NeverFindsError(f"{words}, and what stands before it is {in_words(types - NULL) or 'null'}.")


def _project(node: Any, children: Any, shape: Shape) -> Shape:
    source, kind = _find(children[0], shape), node["type"]
    wanted = "object" if kind == "value_projection" else "array"
    sign = {"value_projection": "*", "flatten": "[]", "filter_projection": "[?…]"}.get(kind, "[*]")
    _need(source, wanted, f"{sign} goes through {'an object' if wanted == 'object' else 'an array'}")
    for child in children[1:]:
        _find(child, ANY)
    return ARRAY | NULL


def _call(node: Any, arguments: Any, shape: Shape) -> Types:
    name = node["value"]
    expected = FUNCTIONS[name]["signature"]
    given = [NULL if each["type"] == "expref" else flat(_find(each, shape)) for each in arguments]
    for index, types in enumerate(given):
        taken = {each.partition("-")[0] for each in expected[min(index, len(expected) - 1)]["types"]}
        if taken and "expref" not in taken and not types & taken:
            words = in_words(frozenset(taken))
            raise NeverFindsError(f"{name}() takes {words}, and argument {index + 1} is {in_words(types)}.")
    if name == "not_null":
        return frozenset().union(*given)
    return _MADE.get(name, ANY)


_FINDERS: dict[str, Callable[[Any, Any, Shape], Shape]] = {
    "identity": lambda node, children, shape: shape,
    "current": lambda node, children, shape: shape,
    "literal": lambda node, children, shape: types_of(node["value"]),
    "field": _member,
    **dict.fromkeys(("subexpression", "index_expression", "pipe"), _chain),
    **dict.fromkeys(("index", "slice"), _subscript),
    **dict.fromkeys(("projection", "value_projection", "filter_projection", "flatten"), _project),
    "multi_select_list": _list,
    "multi_select_dict": _object,
    **dict.fromkeys(("or_expression", "and_expression"), _either),
    **dict.fromkeys(("not_expression", "comparator"), _truth),
    "function_expression": _call,
}
