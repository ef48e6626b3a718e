"""Wherever an answer has the id of a workspace, a connection or a rule, its name stands beside it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from tests.access_routes import ROUTES
from tests.access_world import World
from tests.delivery.api import account

pytestmark = pytest.mark.django_db

BESIDE = {
    "workspace": {"workspace_external_id", "workspace_name"},
    "connection": {"connection_name"},
    "rule": {"rule_name"},
}
PREFIXES = {"workspace": "ws_", "connection": "conn_", "rule": "rule_"}


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for inner in value if isinstance(value, list) else []:
        yield from objects(inner)


def test_every_answer_to_a_get_names_what_it_identifies():
    things, api, seen = World().things["own"], account(), set()
    for route in (route for route in ROUTES if route.verb == "GET" and route.answers == 200):
        answer = api.get(route.path.removeprefix("/api/v1").format(**dataclasses.asdict(things)))
        assert answer.status_code == 200, route.name
        if "json" not in answer["content-type"] or "/payload" in route.name:
            continue
        for document in objects(answer.json()):
            for key, names in BESIDE.items():
                if str(document.get(key)).startswith(PREFIXES[key]):
                    assert names <= document.keys(), (route.name, key, document)
                    assert all(isinstance(document[name], str) for name in names), (route.name, document)
                    seen.add(key)
    assert seen == BESIDE.keys()


def test_a_rule_is_called_by_its_name_and_else_by_its_pattern():
    things, api = World().things["own"], account()
    path = f"/rules/{things.rule}"
    assert api.get(f"/deliveries/{things.delivery}").json()["rule_name"] == "*"
    assert api.patch(path, {"name": "Warm leads"}).json()["name"] == "Warm leads"
    assert api.get(f"/deliveries/{things.delivery}").json()["rule_name"] == "Warm leads"
    (entry,) = api.get(f"/events/{things.event}").json()["routing"]
    assert (entry["rule"], entry["rule_name"]) == (things.rule, "Warm leads")


def test_the_answer_to_a_posted_event_stays_as_it_is():
    things = World().things["own"]
    answer = account().post("/events", {"workspace": things.external_id, "event": "a.b", "payload": {}})
    assert answer.json().keys() == {"id", "workspace", "event", "status", "created_at"}
    assert answer.json()["workspace"] == things.external_id
