"""docs/asvs.md says of every requirement how it stands, counts rightly, and points to what is there."""

import ast
import csv
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PAGE = (PROJECT / "docs" / "asvs.md").read_text()
VERDICTS = ("holds", "falls short", "does not apply", "cannot hold")
LONGEST = 15
"""Words that say what a requirement asks."""


class Row(NamedTuple):
    id: str
    level: str
    asks: str
    before: str
    now: str
    shown: str


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


ROWS = [Row(*cells(line)) for line in PAGE.splitlines() if re.match(r"\| [0-9]+\.[0-9]+\.[0-9]+ \|", line)]
COUNTS = {
    verdict.strip("*"): (int(before), int(now))
    for verdict, before, now in (cells(line) for line in PAGE.splitlines() if line.startswith("| **"))
}


def required() -> list[tuple[str, str]]:
    """Ids and levels of ASVS 5.0.0, levels 1 and 2."""
    with (PROJECT / "tests" / "asvs_levels.csv").open() as file:
        return [(row["id"], row["level"]) for row in csv.DictReader(file)]


@cache
def names_in(path: str) -> frozenset[str]:
    """The tests that pytest finds at the top of a module."""
    tree = ast.parse((PROJECT / path).read_text())
    names = (node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in names if name.startswith("test_"))


def is_there(reference: str) -> bool:
    """Whether `path::test_name`, `path:name` or `path` exists."""
    path, _, test = reference.partition("::")
    if test:
        is_module = Path(path).name.startswith("test_") and (PROJECT / path).is_file()
        return is_module and test in names_in(path)
    path, _, name = reference.partition(":")
    file = PROJECT / path
    return file.is_file() and (not name or re.search(rf"\b{re.escape(name)}\b", file.read_text()) is not None)


def test_every_requirement_of_levels_1_and_2_has_its_row():
    assert Counter(level for _, level in required()) == {"1": 70, "2": 183}
    assert [(row.id, row.level) for row in ROWS] == required()


def test_the_counts_are_those_of_the_rows():
    before, now = Counter(row.before for row in ROWS), Counter(row.now for row in ROWS)
    assert {verdict: (before[verdict], now[verdict]) for verdict in VERDICTS} == COUNTS
    assert sum(before for before, _ in COUNTS.values()) == sum(now for _, now in COUNTS.values()) == 253


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_a_row_says_what_is_asked_and_by_what_it_holds_or_why_it_need_not(row):
    assert {row.before, row.now} <= set(VERDICTS)
    assert 1 <= len(row.asks.split()) <= LONGEST
    references = re.findall(r"`([^`]+)`", row.shown)
    assert row.now != "falls short"
    if row.now in {"holds", "cannot hold"}:
        assert [reference for reference in references if not is_there(reference)] == []
        assert references
    if row.now != "holds":
        assert row.shown.endswith(".")


def test_what_is_not_there_is_seen():
    assert is_there("docs/asvs.md")
    assert is_there("meshes/settings.py:TEMPLATES")
    assert is_there("tests/test_asvs.py::test_what_is_not_there_is_seen")
    for wrong in ("docs/none.md", "docs", "meshes/settings.py:NONE_SUCH"):
        assert not is_there(wrong)
    for wrong in ("tests/none.py::test_x", "tests/test_asvs.py::test_none", "tests/test_asvs.py::is_there"):
        assert not is_there(wrong)
