"""The frozen suite: every route, every documented field and every promise, over HTTP alone. README.md has its rules."""

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frozen import deliveries, events, pages, refusals, resources, vendors
from tests.frozen.documents import Names, assert_golden
from tests.frozen.servers import running_stack
from tests.frozen.world import World

THEMES = (resources, events, deliveries, vendors, refusals, pages)
STORIES = {
    name: told
    for theme in THEMES
    for name, told in vars(theme).items()
    if inspect.isfunction(told) and name[0] != "_" and [*inspect.signature(told).parameters] == ["world"]
}
"""The functions that take the world and nothing else."""
NEVER_SEEN = {
    "EventDetailOut.set_aside", "SetAsideOut.at", "SetAsideOut.cause", "SetAsideOut.detail",  # takes a worker that dies
    "Problem.instance",  # takes a 500
    "ErasureOut.next",  # takes five seconds of looking
    "ChoicePageOut.next", "ChoicePageOut.previous", "IntegrationPageOut.next",  # they have
    "IntegrationPageOut.previous",  # one page
    "ConnectionMadeOut.deleted_at", "ConnectionMadeOut.paused_until", "IssuedKeyOut.revoked_at",  # made just now
}  # fmt: skip
"""Documented fields that no answer has with a value."""
NEVER_ANSWERED = {
    "POST /api/v1/events/{id}/route 202",  # takes an event that was set aside
    "PATCH /api/v1/connections/{id} 409", "POST /api/v1/connections/{id}/resume 409",  # these take
    "POST /api/v1/connections/{id}/test 409", "POST /api/v1/rules/{id}/test 409",  # another call at the moment
    "POST /api/v1/workspaces/{id}/erasures 409",
    "GET /api/v1/workspaces 404",
    *(
        f"GET /api/v1/{path} 422"  # no parameter that could be wrong
        for path in (
            "api-keys/{id}", "connections/{id}", "connections/{id}/options/{field}", "deliveries/{id}", "events/{id}",
            "events/{id}/payload", "integrations", "integrations/{type}", "replays/{id}", "rules/{id}",
            "workspaces/{id}", "workspaces/{id}/oauth-apps/{type}",
        )
    ),
}  # fmt: skip
"""Documented statuses that no call has."""
PRODUCT = {"meshes", "workspaces", "connections", "delivery", "django", "rest_framework", "celery"}


class Played:
    """The stories that were told so far: each once, in whatever order tests ask for them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.outcomes: dict[str, bool] = {}

    def play(self, name: str) -> None:
        if name not in self.outcomes:
            self.world.story, self.world.names = name, Names()
            self.outcomes[name] = False
            STORIES[name](self.world)
            self.outcomes[name] = True
        if not self.outcomes[name]:
            pytest.fail(f"{name} did not come to its end", pytrace=False)

    def all(self) -> World:
        for name in STORIES:
            self.play(name)
        return self.world


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("frozen") / "data"
    with running_stack(folder) as vendors:
        yield Played(World(folder, vendors))


@pytest.mark.parametrize("name", STORIES)
def test_it_holds(played, name):
    played.play(name)


def golden_of(kept):
    """What is held of answers, the headers that all answers of the API have said once."""
    answers = [line for lines in kept.values() for line in lines if len(line) == 4]
    usual = set.intersection(*(set(headers.items()) for _, _, headers, _ in answers))

    def short(line):
        return [*line[:2], dict(sorted(line[2].items() - usual)), line[3]] if len(line) == 4 else line

    return {"headers": dict(sorted(usual))} | {story: [short(line) for line in lines] for story, lines in kept.items()}


def test_answers_are_what_they_were(played):
    assert_golden("shapes.json", golden_of(played.all().kept))


def test_the_openapi_document_is_what_it_was(played):
    assert_golden("openapi.json", played.world.description.normal())


def test_every_operation_answers_with_each_documented_status(played):
    world = played.all()
    documented = {
        f"{name} {status}"
        for name, operation in world.description.operations.items()
        for status in operation["responses"]
        if status not in ("429", "503")
    }
    seen = {f"{answer.operation} {answer.status}" for answer in world.answers}
    assert documented - seen == NEVER_ANSWERED, documented - seen ^ NEVER_ANSWERED
    undocumented = {
        f"{answer.operation} {answer.status}"
        for answer in world.answers
        if answer.operation in world.description.operations
        and str(answer.status) not in world.description.operations[answer.operation]["responses"]
    }
    assert undocumented == set()


def test_every_idempotent_operation_was_repeated(played):
    world = played.all()
    documented = {
        name
        for name, operation in world.description.operations.items()
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ()))
    }
    repeated = {answer.operation for answer in world.answers if answer.is_repetition}
    assert sorted(documented - repeated) == ["POST /api/v1/events/{id}/route"]


def test_every_documented_field_was_seen_and_no_other(played):
    world = played.all()
    found: dict[str, bool] = {}
    for answer in world.answers:
        schema = world.description.schema_of(answer.operation, answer.status)
        if schema is not None and answer.document is not None:
            for field, value in world.description.fields_in(schema, answer.document):
                found[field] = found.get(field, False) or value is not None
    assert {field for field in found if field.startswith("!")} == {"!IntegrationMappingField.markup"}
    seen = {field for field, has_value in found.items() if has_value}
    unseen = world.description.documented_fields() - seen
    assert unseen == NEVER_SEEN, unseen ^ NEVER_SEEN


def test_the_suite_imports_nothing_of_the_product():
    for path in Path(__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                assert top not in PRODUCT, f"{path.name} imports {name}"
                allowed = top in sys.stdlib_module_names or top in {"pytest", "requests", "jwt", "standardwebhooks"}
                assert allowed or name.startswith("tests.frozen"), f"{path.name} imports {name}"
