"""The OpenAPI document is true: whatever is generated from it, and around it, is answered as documented, never by 5xx.

Each operation is asked by a caller who guesses ids, and by one who names what is there.
"""

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from meshes.wsgi import application
from tests.access_world import Things, World
from tests.workspaces.callers import issue

pytestmark = pytest.mark.django_db

document = schemathesis.openapi.from_wsgi("/api/schema", application)

bounded = hypothesis_settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)

REFUSES_MORE = [positive_data_acceptance]
"""Stands back for `assert_form_is_accepted`: more is asked of a request than a schema can say."""
MEANT = {
    "unknown": "ids, names and integrations that exist",
    "cursor": "a cursor that a list gave",
    "order": "a period's end after its beginning",
    "past": "an expiry to come",
    "type_id": "an external id that is no id of ours",
    "beyond_own_rights": "no more than the caller's own",
    "action": "what the connection's integration can do",
    "event_pattern": "a pattern within its length",
    "event_id": "no event type that begins like an id",
    "filter": "a filter that compiles",
    "operator": "an operator that is one",
    "mapping": "a mapping that compiles",
    "unknown_root": "an expression that finds something",
    "never": "what can hold, find or be made for some event",
    "reused": "an Idempotency-Key that is new to another body",
    "nul": "text that PostgreSQL stores",
    "surrogate": "text that has a UTF-8 form",
    "integer_digits": "an integer that a double could hold",
    "too_many_keys": "a thousand names at most",
    "depth": "a hundred levels at most",
}
"""Rules that no schema can say, and what they ask for."""
ELSEWHERE = ("/config", "/credentials", "/may_duplicate")
"""What is asked for there depends on the integration, which says it in its fields; or on what was delivered."""
CHANGED_BY_US = [negative_data_rejection]
"""Does not apply where this test puts ids into a request that was made wrong on purpose."""
OWNED = {
    "workspaces": "workspace",
    "api-keys": "key",
    "connections": "connection",
    "rules": "rule",
    "events": "event",
    "deliveries": "dead_letter",
    "replays": "replay",
}
"""What `{id}` names in a path, by the segment before it."""


@pytest.fixture(scope="module")
def world(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), transaction.atomic():
        yield World()
        transaction.set_rollback(True)


@pytest.fixture
def headers(world, settings):
    settings.MESHES_WRONG_KEYS = 1_000_000  # each operation is tried with some
    return {"Authorization": f"Bearer {issue().key}"}


@pytest.fixture(autouse=True, scope="module")
def one_connection():
    """As with Django's own test client, a request may not close the connection of the test's transaction."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@document.parametrize()
@bounded
def test_guesses_are_answered_as_documented(case, headers):
    answer = case.call(headers=headers)
    case.validate_response(answer, headers=headers, excluded_checks=REFUSES_MORE)
    assert_form_is_accepted(case, answer)


@document.include(path_regex=r"/\{id\}|^/api/v1/(rules|events|events/bulk|replays|api-keys|connections)$").parametrize()
@bounded
def test_what_is_there_is_answered_as_documented(case, headers, world):
    name_what_is_there(case, world.things["own"])
    with transaction.atomic():
        answer = case.call(headers=headers)
        case.validate_response(answer, headers=headers, excluded_checks=[*REFUSES_MORE, *CHANGED_BY_US])
        transaction.set_rollback(True)
    assert_form_is_accepted(case, answer)


def assert_form_is_accepted(case: schemathesis.Case, answer: schemathesis.Response) -> None:
    """What the schema allows is refused for what it means, never for its form."""
    if case.meta is None or not case.meta.generation.mode.is_positive or answer.status_code not in (400, 422):
        return
    errors = answer.json().get("errors", [])
    assert errors or answer.json()["type"].endswith("search-too-wide"), answer.text
    of_form = [
        error for error in errors if error["rule"] not in MEANT and not error.get("pointer", "").startswith(ELSEWHERE)
    ]
    assert of_form == [], (case.operation.label, case.body, case.query, case.path_parameters)


def name_what_is_there(case: schemathesis.Case, things: Things) -> None:
    segments = case.operation.path.split("/")
    if "{id}" in segments:
        owner = OWNED[segments[segments.index("{id}") - 1]]
        case.path_parameters["id"] = getattr(things, owner)
    if case.query and "workspace" in case.query:
        case.query["workspace"] = things.workspace
    for part in parts(case.body):
        for name, value in (("workspace", things.workspace), ("connection", things.connection)):
            if name in part and part.get("kind") != "account":  # such a key has no workspace
                part[name] = value


def parts(body: object) -> list[dict[str, object]]:
    """The objects of a body that name things: itself, and each event of a bulk request."""
    if not isinstance(body, dict):
        return []
    events = body.get("events")
    inner = [event for event in events if isinstance(event, dict)] if isinstance(events, list) else []
    return [body, *inner]
