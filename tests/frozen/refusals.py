"""What every operation refuses, taken from the OpenAPI document itself: no key, a key that may not, an id of somebody
else, a method, a type, a body or a parameter that there is not."""

import json
from collections.abc import Iterator
from typing import Any

from tests.frozen.world import API, World

SCOPES = ("events:write", "events:read", "config", "admin")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
UNKNOWN = {
    "workspaces": "ws_01h455vb4pex5vsknk084sn02q",
    "api-keys": "key_01h455vb4pex5vsknk084sn02q",
    "connections": "conn_01h455vb4pex5vsknk084sn02q",
    "rules": "rule_01h455vb4pex5vsknk084sn02q",
    "events": "evt_01h455vb4pex5vsknk084sn02q",
    "deliveries": "dlv_01h455vb4pex5vsknk084sn02q",
    "replays": "rpl_01h455vb4pex5vsknk084sn02q",
}
"""Ids of nobody, by what stands before `{id}` in a path."""
OTHERS = {"{type}": "hubspot", "{field}": "list_id"}
NOBODYS = {"nobody_knows_this": 1}


def _operations(world: World) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, operation in sorted(world.description.operations.items()):
        method, _, path = name.partition(" ")
        yield method, path.removeprefix(API), operation


def path_with(path: str, ids: dict[str, str]) -> str:
    collection = path.split("/")[1]
    for name, value in {"{id}": ids.get(collection, ""), **OTHERS}.items():
        path = path.replace(name, value)
    return path


def body_of(operation: dict[str, Any]) -> Any:
    return {} if "requestBody" in operation else None


def nothing_without_a_key(world: World) -> None:
    for method, path, operation in _operations(world):
        call = f"{method} {path_with(path, UNKNOWN)}"
        world.ask(call, body_of(operation), 401, key="")
        world.ask(call, body_of(operation), 401, key="mesh_live_01h455vb4pex5vsknk084sn02q_nonsense", keep=False)


def scopes_do_not_contain_each_other(world: World) -> None:
    """Which scope opens which operation, to an account's keys, to a workspace's, and to a publishable one."""
    workspace = world.workspace()
    keys = {"publishable": new_key(world, "publishable", workspace, ["events:write"])}
    for scope in SCOPES:
        keys[f"account {scope}"] = new_key(world, "account", None, [scope])
        keys[f"workspace {scope}"] = new_key(world, "workspace", workspace, [scope])
    for method, path, operation in _operations(world):
        call, body = f"{method} {path_with(path, UNKNOWN)}", body_of(operation)
        answers = {name: status_of(world, call, body, key) for name, key in keys.items()}
        world.kept.setdefault(world.story, []).append([f"{method} {path}", answers])
        for name, status in answers.items():
            if status == 403:
                world.ask(call, body, 403, key=keys[name], keep=name == "publishable")


def new_key(world: World, kind: str, workspace: str | None, scopes: list[str]) -> str:
    body = {"name": kind, "kind": kind, "scopes": scopes} | ({"workspace": workspace} if workspace else {})
    key: str = world.ask("POST /api-keys", body, 201, keep=False)["key"]
    return key


def status_of(world: World, call: str, body: Any, key: str) -> int:
    world.ask(call, body, None, key=key, keep=False)
    return world.answers[-1].status


def foreign_is_unknown(world: World) -> None:
    """A key of one workspace is answered about another's things as about nothing, in path and query."""
    own, other = world.workspace(), world.workspace("Globex")
    key = new_key(world, "workspace", own, list(SCOPES))
    foreign = things_of(world, other)
    for method, path, operation in _operations(world):
        if "{id}" in path:
            expected = status_of(world, f"{method} {path_with(path, UNKNOWN)}", body_of(operation), key)
            unknown = world.answers[-1].document
            assert expected in (403, 404), (method, path, unknown)
            world.ask(f"{method} {path_with(path, foreign)}", body_of(operation), expected, key=key)
            assert world.answers[-1].document == unknown
            if expected == 403:  # for account keys alone
                world.ask(f"{method} {path_with(path, UNKNOWN)}", body_of(operation), 404)
        elif any(parameter["name"] == "workspace" for parameter in operation.get("parameters", ())):
            world.ask(f"{method} {path}?workspace={other}", status=404, key=key)
    assert world.ask(f"GET /connections/{foreign['connections']}")["workspace"] == other, "all are still there"


def things_of(world: World, workspace: str, named: str = "lead.created") -> dict[str, str]:
    """One of everything, by the collections of paths."""
    connection = world.webhook(workspace, "http://127.0.0.1:9/", retry={"schedule": [0]})["id"]
    rule = world.rule(workspace, connection, named)["id"]
    event = world.post(workspace, {}, named)
    delivery = world.settled(event, "dead")["deliveries"][0]["id"]
    replay = world.ask("POST /replays", {"workspace": workspace, "filter": {"cause": "poison"}}, 202, keep=False)["id"]
    key = {"name": "K", "kind": "workspace", "workspace": workspace, "scopes": ["admin"]}
    api_key = world.ask("POST /api-keys", key, 201)["id"]
    found = {"workspaces": workspace, "connections": connection, "rules": rule, "events": event}
    return found | {"deliveries": delivery, "replays": replay, "api-keys": api_key}


def requests_are_read_strictly(world: World) -> None:
    """Each operation, with a body, a parameter, a type, and an answer's type that there is not."""
    things = things_of(world, world.workspace())
    for method, path, operation in _operations(world):
        call = f"{method} {path_with(path, things)}"
        if method == "GET" and any(parameter["in"] == "query" for parameter in operation.get("parameters", ())):
            world.ask(f"{call}?nobody_knows_this=1", status=422)
        if "requestBody" in operation:
            world.ask(call, NOBODYS, 422)
            world.ask(call, b"{", 400)
            world.ask(call, b"{}", 415, content_type="text/plain")
            most = 8 * 2**20 if path.endswith("/bulk") else 2**18
            world.ask(call, json.dumps({"a": "a" * most}).encode(), 413)
        world.ask(call, body_of(operation), 406, accept="text/csv")


def methods_are_those_documented(world: World) -> None:
    things = things_of(world, world.workspace())
    paths = {path: set(methods) for path, methods in world.description.document["paths"].items()}
    for path, methods in sorted(paths.items()):
        for method in METHODS:
            if method.lower() not in methods:
                world.ask(f"{method} {path_with(path.removeprefix(API), things)}", None, 405)


def pages_turn(world: World) -> None:
    """Every list, a row at a time: to the second page and back."""
    workspace = world.workspace()
    things_of(world, workspace, "page.first")
    things = things_of(world, workspace, "page.second")
    for method, path, operation in _operations(world):
        names = {parameter["name"] for parameter in operation.get("parameters", ())}
        if {"limit", "cursor"} <= names:
            at = f"{method} {path_with(path, things)}?limit=1" + f"&workspace={workspace}" * ("workspace" in names)
            first = world.ask(at, keep=False)
            second = world.ask(f"{at}&cursor={first['next']}", keep=False)
            back = world.ask(f"{at}&cursor={second['previous']}", keep=False)
            newest, older, again = (page["data"][0]["id"] for page in (first, second, back))
            assert (again, back["previous"]) == (newest, None) != (older, None), path
