"""No regular expression of Python's `re`, which holds the interpreter, takes more than linear time on any text.

Every expression that stands in the source is found there, with the way in which it is used, and tried on texts that
are made of its own characters.
"""

import ast
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from re import _parser as parser
from typing import Any

import pytest

from connections import providers

ROOT = Path(__file__).parents[1]
PACKAGES = ("connections", "delivery", "meshes", "workspaces")
SHORT, LONG = 1_500, 6_000
LONGEST_LINEAR_SECONDS = 0.01
"""Shorter times are not compared: a linear expression takes less for LONG characters, and a quadratic one more."""
MOST_CHARACTERS = 12
COMMON = (" ", "\n", "a", "0", ".")
USES = frozenset({"search", "match", "fullmatch", "finditer"})


@dataclass(frozen=True)
class Written:
    """An expression, where it stands, its flags, and how it is used."""

    place: str
    expression: str | bytes
    flags: int = 0
    uses: frozenset[str] = USES


def written() -> Iterator[Written]:
    """Those of the source. One that is used in another module only is tried in every way."""
    for path in sorted(each for package in PACKAGES for each in (ROOT / package).rglob("*.py")):
        source = path.read_text()
        nodes = list(ast.walk(ast.parse(source)))
        names = {id(node.value): ast.unparse(node.targets[0]) for node in nodes if isinstance(node, ast.Assign)}
        for node in nodes:
            match node:
                case ast.Call(ast.Attribute(ast.Name("re"), method), [ast.Constant(str() | bytes() as expression), *_]):
                    uses = {method}
                    if method == "compile":
                        uses = set(re.findall(rf"\b{names.get(id(node), '-')}\.([a-z]+)\(", source))
                    tried = {"finditer" if use in {"sub", "findall", "split"} else use for use in uses} & USES
                    place = f"{path.relative_to(ROOT)}:{node.lineno}"
                    yield Written(place, expression, _flags(node), frozenset(tried) or USES)


def _flags(call: ast.Call) -> int:
    named = " ".join(ast.unparse(each) for each in [*call.args[1:], *call.keywords])
    return sum({getattr(re, name) for name in re.findall(r"\bre\.([A-Z]+)", named)})


def declared() -> Iterator[Written]:
    """Those of providers' fields."""
    for provider in providers.all():
        for field in (*provider.config_fields, *provider.credential_fields):
            if field.pattern:
                yield Written(f"{provider.slug}.{field.key}", field.pattern, uses=frozenset({"fullmatch"}))


def characters(expression: str | bytes) -> list[str]:
    """Some of those that the expression names, in its order."""
    found: list[str] = []

    def walk(part: Any) -> None:
        if isinstance(part, tuple) and len(part) == 2 and str(part[0]) in {"LITERAL", "NOT_LITERAL"}:
            found.append(chr(part[1]))
        elif isinstance(part, tuple) and len(part) == 2 and str(part[0]) == "RANGE":
            found.extend(map(chr, part[1]))
        elif isinstance(part, tuple | list | parser.SubPattern):
            for each in part:
                walk(each)

    walk(parser.parse(expression))
    return list(dict.fromkeys(found))


def texts(expression: str | bytes, size: int) -> Iterator[str]:
    """One character over and over, or two, or all of the expression's; also after its own beginning."""
    own = characters(expression)
    some = own[:MOST_CHARACTERS]
    pairs = map("".join, product(some[:6], [*some[:6], " ", "\n"]))
    for piece in dict.fromkeys([*some, *COMMON, *pairs, "".join(own) or "-"]):
        for start in {"", "".join(own)}:
            yield start + piece * (size // len(piece)) + "\x00"


def seconds(compiled: re.Pattern[Any], uses: frozenset[str], text: str | bytes) -> float:
    """The least of three."""

    def once() -> float:
        started = time.thread_time()
        for use in uses:
            found = getattr(compiled, use)(text)
            if use == "finditer":
                list(found)
        return time.thread_time() - started

    return min(once(), once(), once())


def slow_text(each: Written) -> str | None:
    """The first text that takes the expression more than linear time."""
    compiled = re.compile(each.expression, each.flags)
    for short, long in zip(texts(each.expression, SHORT), texts(each.expression, LONG), strict=True):
        pair = (short, long) if isinstance(each.expression, str) else (short.encode(), long.encode())
        taken = seconds(compiled, each.uses, pair[1])
        if taken > LONGEST_LINEAR_SECONDS and taken > 8 * seconds(compiled, each.uses, pair[0]):
            return long
    return None


ALL = [*written(), *declared()]


@pytest.mark.parametrize("each", ALL, ids=[each.place for each in ALL])
def test_an_expression_takes_linear_time(each):
    assert slow_text(each) is None


@pytest.mark.parametrize(
    ("expression", "flags", "use"),
    [
        (r"^(\s*)([#+-]|[0-9]+(?=[.)]))", re.MULTILINE, "finditer"),
        (r"\s*\n\s*", 0, "finditer"),
        (r"“[^”]*”", 0, "finditer"),
        (r"\s+$", 0, "search"),
        (r"[a-z]+[a-z0-9]+@", 0, "fullmatch"),
    ],
)
def test_one_that_takes_more_is_seen(expression, flags, use):
    assert slow_text(Written("", expression, flags, frozenset({use}))) is not None


def test_every_expression_of_the_source_is_found():
    places = {each.place.partition(":")[0] for each in ALL}
    assert {"connections/providers/markup.py", "meshes/buffering.py", "meshes/kit/strictjson.py"} <= places
    assert len(ALL) > 90
