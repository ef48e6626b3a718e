"""CONTRIBUTING.md lists what a change of a kind touches; here nothing that exists lacks one of its places."""

import re
from pathlib import Path

import pytest
from django.conf import settings

from connections import providers
from delivery.rules import conditions, filters
from meshes import __version__
from meshes.console import timeline
from tests.connections.providers.golden import FILE as GOLDEN

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
QUOTED = re.findall(r"`([^`]+)`|\]\(([\w./-]+)", PAGE)
STRUCTURAL = {"$and", "$or", "$not", "$exist"}
"""Operators that ask nothing of a value that is there."""


def quoted(pattern: str) -> list[str]:
    found = sorted({code or link for code, link in QUOTED if re.fullmatch(pattern, code or link)})
    assert found
    return found


@pytest.mark.parametrize("path", quoted(r"[\w.-]+(/[\w.-]*)+|\w+\.md"))
def test_every_place_is_there(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", quoted(r"[A-Z]\w+[a-z]\w*|_?[a-z]+_[a-z_]+"))
def test_every_name_is_there(name):
    folders = ("meshes", "workspaces", "connections", "delivery")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert any(re.search(rf"\b{name}\b", path.read_text()) for path in sources)


@pytest.mark.parametrize("slug", [provider.slug for provider in providers.all()])
def test_every_provider_has_its_places(slug):
    assert f"connections.providers.{slug}" in settings.MESHES_PROVIDERS
    for path in ("connections/providers/{}.py", "tests/connections/providers/test_{}.py", "docs/integrations/{}.md"):
        assert (ROOT / path.format(slug)).exists(), path
    assert f'"{slug}"' in GOLDEN.read_text()


@pytest.mark.parametrize("operator", filters.OPERATORS)
def test_every_operator_has_its_places(operator):
    assert operator in filters.WORDS.values()
    assert operator in {*conditions.QUESTIONS, *STRUCTURAL}
    assert operator in {*timeline.OPERATORS, "$and", "$exist"}  # which are told in sentences of their own
    (table,) = re.findall(r"\n\| operator \|.*?\n\n", (ROOT / "docs" / "routing.md").read_text(), re.DOTALL)
    assert f"`{operator}`" in table
    assert f'"{operator}"' in (ROOT / "tests" / "delivery" / "rules" / "test_filters.py").read_text()


def test_the_changelog_names_the_tag_of_this_version():
    assert re.search(rf"^## v{re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
