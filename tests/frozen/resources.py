"""Workspaces, keys, integrations, rules and connections: what may be stored, and what is said of it."""

import time
from typing import Any

import jwt
from standardwebhooks import Webhook

from tests.frozen.servers import eventually, receiver
from tests.frozen.world import FUTURE, LEAD, PAST, World


def workspaces_are_named_twice(world: World) -> None:
    made = world.once("POST /workspaces", {"name": "Acme", "external_id": "acme"}, 201)
    assert world.ask("GET /workspaces/acme") == world.ask(f"GET /workspaces/{made['id']}") == made
    world.ask("POST /workspaces", {"name": "Twin", "external_id": "acme"}, 409)
    world.ask("POST /workspaces", {"name": " ", "external_id": "no spaces", "ingest_rate": 0, "backlog_limit": 0}, 422)
    world.ask("POST /workspaces", {}, 422)
    changed = world.ask("PATCH /workspaces/acme", {"name": "Acme Inc.", "ingest_rate": 5, "backlog_limit": 100})
    assert (changed["ingest_rate"], changed["backlog_limit"]) == (5, 100)
    world.ask("PATCH /workspaces/acme", {"ingest_rate": None, "external_id": None})
    other = world.ask("POST /workspaces", {"name": "Other", "external_id": "other"}, 201)
    world.ask(f"PATCH /workspaces/{made['id']}", {"external_id": "other"}, 409)
    newest = world.ask("GET /workspaces?limit=1")
    assert [each["id"] for each in newest["data"]] == [other["id"]]
    older = world.ask(f"GET /workspaces?limit=1&cursor={newest['next']}")
    assert [each["id"] for each in older["data"]] == [made["id"]]
    back = world.ask(f"GET /workspaces?limit=1&cursor={older['previous']}")
    assert back["data"] == newest["data"]
    world.ask("GET /workspaces?limit=201", status=422)
    world.ask("GET /workspaces?cursor=nonsense", status=422)
    world.ask("DELETE /workspaces/other", status=204)
    world.ask("GET /workspaces/other", status=None)
    world.ask(f"GET /workspaces/{other['id']}", status=None)


def keys_open_what_they_say(world: World) -> None:
    own, other = world.workspace(), world.workspace("Globex")
    account = world.once("POST /api-keys", {"name": "Backend", "kind": "account", "scopes": ["admin", "config"]}, 201)
    body = {
        "name": "Tenant",
        "kind": "workspace",
        "workspace": own,
        "scopes": ["events:write", "events:read", "config"],
    }
    tenant = world.once("POST /api-keys", body | {"expires_at": FUTURE}, 201)
    page = {"name": "Page", "kind": "publishable", "workspace": own, "scopes": ["events:write"]}
    public = world.ask("POST /api-keys", page | {"allowed_origins": ["https://shop.example"]}, 201)
    world.ask("POST /api-keys", {"name": "", "kind": "root", "scopes": ["everything"], "expires_at": PAST}, 422)
    world.ask("POST /api-keys", {"name": "K", "kind": "workspace", "scopes": ["admin"]}, 422)
    world.ask("POST /api-keys", page | {"scopes": ["admin"], "allowed_origins": ["shop.example/path"]}, 422)
    world.ask("POST /api-keys", body | {"kind": "account"}, 422)
    world.ask("POST /api-keys", {"name": "M", "kind": "account", "scopes": ["events:read"]}, 422, key=account["key"])
    world.ask(f"GET /api-keys?workspace={own}")
    world.ask(f"GET /api-keys/{tenant['id']}")
    # Each sees its own workspace alone.
    assert [each["id"] for each in world.ask("GET /connections", key=tenant["key"])["data"]] == []
    world.ask(f"GET /connections?workspace={other}", status=404, key=tenant["key"])
    world.ask("GET /connections?workspace=nobody", status=404, key=tenant["key"])
    event = {"workspace": own, "event": "page.seen", "payload": {}}
    world.ask("POST /events", event, 202, key=tenant["key"])
    world.ask("POST /events", event | {"workspace": other}, 422, key=tenant["key"])
    # Browsers: the preflight has no key, the request the page's.
    asked = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    world.page("/api/v1/events", method="OPTIONS", headers=asked)
    world.ask("POST /events", event, 202, key=public["key"], origin="https://shop.example")
    world.ask("POST /events", event, 403, key=public["key"], origin="https://evil.example")
    world.ask("GET /events", status=403, key=public["key"])
    # A token is good for what its key is.
    now = int(time.time())
    claims = {"iat": now, "exp": now + 60, "aud": "meshes-api"}
    token = jwt.encode(claims, tenant["signing_secret"], headers={"kid": tenant["id"]})
    world.ask("GET /events", key=token, keep=False)
    log = f"GET /workspaces/{own}/access-log?kind=signing_secret"
    assert world.until(log, lambda it: it["data"], keep=False)["data"][0]["api_key"] == tenant["id"]
    late = jwt.encode(claims | {"exp": now + 3600}, tenant["signing_secret"], headers={"kid": tenant["id"]})
    world.ask("GET /events", status=401, key=late)
    # Rotated: two are live; revoked: none.
    rotated = world.once(f"POST /api-keys/{tenant['id']}/rotate", {"overlap_seconds": 600}, 200)
    assert rotated["id"] == tenant["id"]
    for key in (tenant["key"], rotated["key"]):
        world.ask("GET /events", key=key, keep=False)
    world.ask(f"GET /api-keys/{tenant['id']}")
    world.ask(f"POST /api-keys/{tenant['id']}/rotate", {"overlap_seconds": 604_801}, 422)
    world.ask(f"DELETE /api-keys/{tenant['id']}", status=204)
    world.ask(f"GET /api-keys/{tenant['id']}")
    world.ask(f"POST /api-keys/{tenant['id']}/rotate", {}, 409)
    is_refused(world, rotated["key"], "revoked")
    is_refused(world, "mesh_live_nonsense", "malformed")
    is_refused(world, "", "missing")


def is_refused(world: World, key: str, rule: str) -> None:
    eventually(lambda: world.ask("GET /events", status=None, keep=False, key=key).get("status") == 401)
    refusal = world.ask("GET /events", status=401, key=key)
    assert [error["rule"] for error in refusal["errors"]] == [rule]


def integrations_are_declared(world: World) -> None:
    declared = world.ask("GET /integrations", keep=False)["data"]
    for each in declared:
        assert world.ask(f"GET /integrations/{each['type']}") == each
    world.ask("GET /integrations/fax", status=404)


OPERATORS: list[tuple[str, Any, Any, Any]] = [
    ("$eq", 5, 5, "5"), ("$neq", 5, 6, 5), ("$gt", 5, 6, 5), ("$gte", 5, 5, 4), ("$lt", 5, 4, 5), ("$lte", 5, 5, 6),
    ("$in", [1, 2], 2, 3), ("$nin", [1, 2], 3, 2), ("$startsWith", "ab", "abc", "cab"),
    ("$endsWith", "bc", "abc", "bca"), ("$contains", "b", "abc", "ac"), ("$regex", "^a+$", "aa", "ab"),
]  # fmt: skip
"""With an operand, a value that matches and one that does not."""


def rules_are_checked(world: World) -> None:
    workspace = world.workspace()
    connection = world.webhook(workspace, "http://127.0.0.1:9/hook")["id"]
    good = {"workspace": workspace, "connection": connection, "event": "lead.created"}
    rule = world.ask("POST /rules", good | {"name": "Leads", "filter": {"payload.email": {"gte": 50}}}, 201)
    assert rule["warnings"]
    world.ask(f"GET /rules/{rule['id']}")
    everything = {
        "$or": [
            {"payload.a": {"$eq": 1, "$neq": 2, "$gt": 0, "$gte": 1, "$lt": 9, "$lte": 9, "$in": [1], "$nin": [2]}},
            {"payload.b": {"$exist": True, "$startsWith": "a", "$endsWith": "z", "$contains": "m", "$regex": "^a"}},
            {"$and": [{"payload.c": {"$not": {"$or": [{"$eq": None}, {"$eq": False}]}}}]},
        ]
    }
    transforms: list[tuple[Any, Any]] = [
        (7, ["to_string"]), ("7", ["to_number"]), ("yes", ["to_boolean"]), ("2026-05-01 10:00", ["to_date"]),
        ("2026-05-01T10:00:00+02:00", ["to_datetime"]), (1777629600, ["from_epoch"]),
        (1777629600000, ["from_epoch_ms"]), (" A ", ["trim", "lower", "upper"]),
        ("abcdef", [{"substring": {"start": 1, "end": 3}}]),
        ("abc", [{"replace": {"find": "a", "with": "b"}}]), ([1, None, "b"], [{"join": ", "}]),
        ("a,b", [{"split": ","}, "first"]), ("a", ["md5"]), ("a", ["sha256"]),
    ]  # fmt: skip
    fields = [
        {"to": f"m{number}", "from": f"payload.t{number}", "transforms": each[1]}
        for number, each in enumerate(transforms)
    ]
    fields += [
        {"to": "missing", "from": "payload.nowhere", "transforms": [{"default": "x"}]},
        {"to": "skipped", "from": "payload.nowhere", "on_error": "skip"},
        {"to": "null", "from": "payload.nowhere", "on_error": "null"},
        {"to": "deep.er", "from": "join('-', ['<a>', event.type, workspace.name])", "escape": "html"},
        {"to": "blank", "from": "payload.blank", "skip_blanks": True, "on_error": "skip"},
    ]
    body = {"event": "*", "filter": everything, "mapping": fields, "name": "", "action": "send", "enabled": False}
    changed = world.ask(f"PATCH /rules/{rule['id']}", body)
    assert (changed["version"], changed["filter"], changed["mapping"]) == (rule["version"] + 1, everything, fields)
    payload = {f"t{number}": each[0] for number, each in enumerate(transforms)} | {"a": 1, "b": "amz", "blank": " "}
    trial = world.ask(f"POST /rules/{rule['id']}/test", {"event": "lead.created", "payload": payload})
    assert trial["matched"]
    missed = world.ask(f"POST /rules/{rule['id']}/test", {"event": "x", "payload": {"a": 0, "b": "", "c": None}})
    assert missed["reason"] == "filter"
    for operator, operand, hit, miss in OPERATORS:
        world.ask(f"PATCH /rules/{rule['id']}", {"filter": {"payload.a": {operator: operand}}}, keep=False)
        for value, is_hit in ((hit, True), (miss, False)):
            asked = {"event": "lead.created", "payload": {"a": value}}
            answer = world.ask(f"POST /rules/{rule['id']}/test", asked, keep=False)
            assert (answer["reason"] != "filter") is is_hit, (operator, operand, value)
    world.ask(f"PATCH /rules/{rule['id']}", {"event": "order.*", "filter": None, "mapping": None})
    elsewhere = world.ask(f"POST /rules/{rule['id']}/test", {"event": "orders.created", "payload": {}})
    assert elsewhere["reason"] == "event"
    world.ask(f"PATCH /rules/{rule['id']}", {"event": "*", "mapping": [{"to": "a", "from": "payload.a"}]})
    failed = world.ask(f"POST /rules/{rule['id']}/test", {"event": "lead.created", "payload": {}})
    assert failed["reason"] == "mapping_failed"
    bad: list[Any] = [
        {"event": "lead*"}, {"connection": "conn_nowhere"}, {"action": "fax"},
        {"filter": {"payload.score": {"$ge": 5}}}, {"filter": {"payload.score": {">=": 5}}}, {"filter": {"score": 5}},
        {"filter": {"payload.a": {"$regex": "("}}}, {"filter": {"payload.a": {"$in": []}}}, {"filter": {"and": []}},
        {"mapping": []}, {"mapping": [{"to": "a", "from": "payload."}]}, {"mapping": [{"to": "a", "from": "email"}]},
        {"mapping": [{"to": "a", "value": 1}, {"to": "a.b", "value": 2}]}, {"mapping": [{"from": "payload.a"}]},
        {"mapping": [{"to": "a", "from": "payload.a", "transforms": ["shout"]}]}, {"enabled": "yes"}, {"name": 5},
        {"mapping": [{"to": "a", "from": "payload.a", "transforms": [{"split": "@"}, "lower"]}]},
        {"workspace": "nobody"}, {"mapping": [{"to": "a", "value": "tomorrow", "transforms": ["to_date"]}]},
    ]  # fmt: skip
    for wrong in bad:
        refusal = world.ask("POST /rules", good | wrong, 422)
        assert refusal["errors"][0]["pointer"].startswith(f"/{next(iter(wrong))}"), refusal
        if "workspace" not in wrong:
            world.ask(f"PATCH /rules/{rule['id']}", wrong, 422)
    world.ask(f"POST /rules/{rule['id']}/test", {}, 422)
    world.ask(f"POST /rules/{rule['id']}/test", {"event": "a", "event_id": "evt_nowhere"}, 422)
    world.ask(f"DELETE /rules/{rule['id']}", status=204)
    world.ask(f"GET /rules/{rule['id']}", status=404)


def connections_are_changed(world: World) -> None:
    workspace = world.workspace()
    with receiver() as endpoint:
        made = world.ask("POST /connections", connection_body(workspace, endpoint.url), 201)
        at = f"/connections/{made['id']}"
        world.ask(f"GET {at}")
        change = {"name": "New", "limits": {"rate": None}, "retry": None, "config": {"headers": {"X-Ours": None}}}
        changed = world.ask(f"PATCH {at}", change)
        assert changed["retry"]["schedule"] is None
        world.ask(f"PATCH {at}", {"credentials": {"token": None, "username": "ada", "password": "open sesame"}})
        moved = {"config": {"url": endpoint.url.replace("127.0.0.1", "localhost")}}
        refused = world.ask(f"PATCH {at}", moved, 422)
        assert refused["type"].endswith("credentials_required")
        before = made["signing_secret"]
        rotated = world.once(f"POST {at}/rotate-secret", {}, 200)["signing_secret"]
        world.rule(workspace, made["id"], "*")
        world.settled(world.post(workspace, LEAD), "succeeded")
        for secret in (before, rotated):
            Webhook(secret).verify(endpoint.got[0].body, endpoint.got[0].headers)
        bad: list[Any] = [
            {"type": "fax"}, {"name": " "}, {"config": {"url": "ftp://x"}}, {"config": {"url": endpoint.url, "a": 1}},
            {"config": {"url": endpoint.url, "method": "GET", "body": "xml", "headers": {"Cookie": "a"}}},
            {"config": {}}, {"credentials": {"token": "••••1234"}}, {"credentials": {"token": "t", "username": "u"}},
            {"workspace": "nobody"}, {"retry": {"schedule": []}}, {"retry": {"schedule": [-1, 86_401]}},
            {"limits": {"in_flight": 0, "timeout": 31}},
        ]  # fmt: skip
        for wrong in bad:
            world.ask("POST /connections", connection_body(workspace, endpoint.url) | wrong, 422)
        world.ask(f"GET {at}/options/url", status=404)
        world.ask(f"POST {at}/authorize", {}, 409)
        world.ask(f"POST {at}/connect-link", {}, 409)
        world.ask(f"POST {at}/disconnect", {}, 409)
        unreachable = world.webhook(workspace, "http://127.0.0.1:9/", name="Nobody")["id"]
        world.ask(f"POST /connections/{unreachable}/test", {})
        world.ask(f"DELETE {at}", status=204)
        world.ask(f"GET {at}")
        world.ask(f"GET /connections?workspace={workspace}&status=deleted")
        world.ask(f"PATCH {at}", {"name": "Gone"}, 404)
        world.ask(f"POST {at}/pause", {}, 404)
        world.ask(f"POST {at}/rotate-secret", {}, 404)
        log = f"/workspaces/{workspace}/access-log"
        world.ask(
            f"GET {log}?connection={made['id']}&kind=credentials&granted=true&from={PAST}&to={FUTURE}", keep=False
        )
        records = world.ask(f"GET {log}?limit=200")["data"]
        assert {"created", "deleted"} <= {record["purpose"] for record in records}
        world.ask(f"GET {log}?purpose=curiosity&granted=perhaps", status=422)


def connection_body(workspace: str, url: str) -> Any:
    limits = {"in_flight": 4, "rate": 20, "timeout": 10}
    config = {"url": url, "headers": {"X-Ours": "yes"}}
    body = {"workspace": workspace, "type": "webhook", "name": "CRM", "config": config, "limits": limits}
    return body | {"credentials": {"token": "a-long-token-1234"}, "retry": {"schedule": [0, 0.2]}}
