"""What a rule says and can hardly mean: refused with the right spelling when it is saved, or told as a warning.

Refused is what never finds anything; a warning is for what may be meant. Only what is saved now is asked, so a rule
from before goes on as it is.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from connections.context import misread, paths_from_root
from connections.expressions import compile_expression
from connections.providers.base import Action
from connections.transforms import TRANSFORMS
from delivery.filters import OPERATORS
from workspaces.jsonpaths import join_path, pointer, split_path
from workspaces.spelling import nearest

Note = dict[str, str]
"""`{"pointer", "detail", "rule"}`."""

SYMBOLS = {
    ">": "$gt", ">=": "$gte", "=>": "$gte", "<": "$lt", "<=": "$lte", "=<": "$lte", "=": "$eq", "==": "$eq",
    "===": "$eq", "!=": "$neq", "!==": "$neq", "<>": "$neq", "~": "$regex", "=~": "$regex", "&&": "$and", "||": "$or",
    "!": "$not",
}  # fmt: skip
_BARE = {operator.removeprefix("$").casefold(): operator for operator in OPERATORS} | {"ne": "$neq", "exists": "$exist"}
_IN_TEXT = re.compile(r"\s*(>=|<=|!=|<>|==|>|<|\$[a-zA-Z]+)\s*\S")
_LIKE_A_PATH = re.compile(r"(payload|event|workspace)(\.[A-Za-z_][A-Za-z0-9_]*)+")


# --- filters --------------------------------------------------------------------------------------------------------


def filter_mistakes(document: Mapping[str, Any]) -> list[Note]:
    """Members that are written like operators and are none. The filter compiles."""
    return [
        _note("filter", tokens, f"{path[-1]} is no operator. Did you mean {SYMBOLS[path[-1]]}?", "operator")
        for tokens, path, _ in _members(document, (), ())
        if path[-1] in SYMBOLS
    ]


def filter_warnings(document: Mapping[str, Any]) -> Iterator[Note]:
    for tokens, path, value in _members(document, (), ()):
        operator = _BARE.get(path[-1].casefold())
        if operator and len(path) > 2:
            words = f"This looks at a member {path[-1]} of {join_path(path[:-1])}. The operator is {operator}."
            yield _note("filter", tokens, words, "operator")
        if isinstance(value, str) and _IN_TEXT.match(value):
            words = f'This asks for the very text {value[:40]!r}. A comparison is an object such as {{"$gte": 50}}.'
            yield _note("filter", tokens, words, "literal")


def _members(
    document: Any, tokens: tuple[str | int, ...], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str | int, ...], tuple[str, ...], Any]]:
    """Every field of a filter: where it stands, the path that it looks at, and what is asked of it."""
    if not isinstance(document, Mapping):
        return
    for name, value in document.items():
        here = (*tokens, name)
        if name in ("$and", "$or"):
            for index, part in enumerate(value):
                yield from _members(part, (*here, index), path)
        elif name == "$not":
            yield from _members(value, here, path)
        elif not name.startswith("$"):
            below = (*path, *split_path(name))
            yield here, below, value
            yield from _members(value, here, below)


# --- mappings -------------------------------------------------------------------------------------------------------


def mapping_mistakes(document: Sequence[Mapping[str, Any]]) -> list[Note]:
    """Expressions that look where nothing ever is. The mapping compiles."""
    found = []
    for index, entry in enumerate(document):
        if "from" in entry:
            wrong = [misread(path) for path in paths_from_root(compile_expression(entry["from"]).tree)]
            found += [_note("mapping", (index, "from"), words, "unknown_root") for words in wrong if words][:1]
    return found


def mapping_warnings(document: Sequence[Mapping[str, Any]], action: Action) -> Iterator[Note]:
    declared = {field.key for field in action.fields}
    for index, entry in enumerate(document):
        value, source = entry.get("value"), entry.get("from", "")
        if isinstance(value, str) and _LIKE_A_PATH.fullmatch(value):
            words = f'This writes the very text {value}. To write what stands there: "from": "{value}".'
            yield _note("mapping", (index, "value"), words, "literal")
        piped = source.rpartition("|")[2].strip() if "|" in source else ""
        if piped in TRANSFORMS:
            words = f'This looks for a member {piped}. The transform is written "transforms": ["{piped}"].'
            yield _note("mapping", (index, "from"), words, "transform")
        if action.is_open and entry["to"] not in declared and (near := nearest(entry["to"], declared)):
            words = f"{action.name} takes any field, and declares no {entry['to']}. Did you mean {near}?"
            yield _note("mapping", (index, "to"), words, "unknown")


# --- patterns -------------------------------------------------------------------------------------------------------


def pattern_warnings(pattern: str) -> Iterator[Note]:
    """Full stops that separate nothing are allowed in types, and hardly ever meant."""
    plain = pattern.removesuffix(".*") if pattern != "*" else "x"
    if plain.startswith(".") or plain.endswith(".") or ".." in plain:
        tidy = re.sub(r"\.{2,}", ".", plain).strip(".") or "lead"
        words = f"A full stop separates nothing here. Did you mean {tidy} or {tidy}.*?"
        yield {"pointer": "/event", "detail": words, "rule": "event_pattern"}


def _note(document: str, tokens: Sequence[str | int], detail: str, rule: str) -> Note:
    return {"pointer": pointer(document, *tokens), "detail": detail, "rule": rule}
