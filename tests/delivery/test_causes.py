"""Lists are searched for every cause that there is, and the documentation names them."""

import ast
from pathlib import Path
from typing import get_args

from connections.messages import Cause
from connections.providers.verdicts import ERROR_CLASSES
from connections.serializers import PURPOSES
from delivery import search
from meshes.console import timeline

ROOT = Path(__file__).parents[2]
MAKERS = {"retry", "rejected", "reauthorize", "disabled", "throttled", "uncertain", "Verdict"}


def written_classes():
    """The error classes that stand in calls which make verdicts, those that a function gives by name, and the causes of
    the client's errors, which are those of their verdicts but for an invalid URL."""
    yield from set(get_args(Cause)) - {"invalid_url"}
    for path in [*ROOT.glob("connections/**/*.py"), *ROOT.glob("delivery/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in MAKERS:
                named = [keyword.value for keyword in node.keywords if keyword.arg == "error_class"]
                for each in [*node.args[1:2], *named]:
                    if isinstance(each, ast.Constant) and each.value:
                        yield each.value
            elif isinstance(node, ast.FunctionDef) and node.name == "_describe_status":
                for each in (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return)):
                    first = each.elts[0] if isinstance(each, ast.Tuple) else each
                    yield first.value


def test_every_error_class_that_is_written_can_be_searched_for():
    written = set(written_classes())
    assert {"unreachable", "client_error", "contact_moved", "not_authorized"} <= written
    assert written <= set(ERROR_CLASSES)
    assert list(ERROR_CLASSES) == sorted(ERROR_CLASSES)


def test_causes_have_words_and_stand_in_the_documentation():
    page = (ROOT / "docs" / "delivery.md").read_text()
    for cause in (*search.DEAD_CAUSES, *search.HOLDS, *search.CANCELLED_CAUSES):
        assert f"`{cause}`" in page, cause
        assert timeline.CAUSES[cause], cause
    log = (ROOT / "docs" / "access-log.md").read_text()
    assert [each for each in PURPOSES if f"`{each}`" not in log] == []


def test_a_replay_from_before_goes_on_and_finds_nothing():
    stored = {"cause": "rejectd", "event": "evt_01k000"}
    assert search.read_replay_filter(stored) == stored
