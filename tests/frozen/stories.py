"""What callers do with Meshes, each from the beginning in a workspace of its own, and what they may rely on.

A story says what must hold; everything else that it is answered is compared with `shapes.json`.
"""

import html
import json
import re
import time
from typing import Any
from urllib.parse import urljoin

import jwt
import requests
from standardwebhooks import Webhook

from tests.frozen.world import World, eventually, receiver

AT_ONCE = {"retry": {"schedule": [0]}}
"""One attempt, so that whatever fails is a dead letter."""
LEAD = {"email": " Ada@Example.com", "score": 90}
PAST, FUTURE = "2026-01-01T00:00:00Z", "2099-01-01T00:00:00Z"


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


def one_event_fans_out(world: World) -> None:
    """Filter, mapping, ledger, signature: the tour."""
    workspace = world.workspace()
    with receiver() as crm, receiver() as lake, receiver() as never:
        made = world.once("POST /connections", connection_body(workspace, crm.url), 201)
        raw = world.webhook(workspace, lake, name="Lake", config={"url": lake.url, "body": "raw"})
        unwanted = world.webhook(workspace, never, name="Never")
        mapping = [
            {"to": "email", "from": "payload.email", "transforms": ["trim", "lower"]},
            {"to": "source", "value": "meshes"},
        ]
        shaped = {"connection": made["id"], "filter": {"payload.score": {"$gte": 50}}, "mapping": mapping}
        rule = world.once("POST /rules", {"workspace": workspace, "event": "lead.*", "enabled": True} | shaped, 201)
        world.rule(workspace, raw["id"], "*")
        world.rule(workspace, unwanted["id"], filter={"payload.score": {"$gt": 100}}, name="Top")
        world.rule(workspace, unwanted["id"], enabled=False)
        world.rule(workspace, unwanted["id"], "order.*")
        payload = world.ask(f"POST /rules/{rule['id']}/test", {"event": "lead.created", "payload": LEAD})
        assert payload["matched"]
        event = world.once("POST /events", {"workspace": workspace, "event": "lead.created", "payload": LEAD}, 202)
        seen = world.settled(event["id"], "succeeded", "succeeded")
        assert sorted(each["result"] for each in seen["routing"]) == ["disabled", "filtered", "matched", "matched"]
        assert [got.data for got in crm.got] == [{"email": "ada@example.com", "source": "meshes"}]
        assert [json.loads(got.body) for got in lake.got] == [LEAD]
        assert never.got == []
        verified = Webhook(made["signing_secret"]).verify(crm.got[0].body, crm.got[0].headers)
        assert (verified["type"], verified["id"]) == ("lead.created", event["id"])
        (attempted,) = [each for each in seen["deliveries"] if each["rule"] == rule["id"]]
        assert crm.got[0].headers["webhook-id"] == attempted["id"]
        assert crm.got[0].headers["meshes-attempt"] == "1"
        assert crm.got[0].headers["content-type"] == "application/json"
        world.ask(f"GET /deliveries/{attempted['id']}")
        world.ask(f"GET /events/{event['id']}/payload")
        lists(world, workspace, made["id"], event["id"], rule["id"])


def what_costs_too_much_ends(world: World) -> None:
    workspace = world.workspace()
    with receiver() as endpoint:
        connection = world.webhook(workspace, endpoint)["id"]
        dear = {"$not": {"$or": [{"payload.numbers": {"$eq": {"a": number}}} for number in range(60)]}}
        world.rule(workspace, connection, filter=dear)
        world.rule(workspace, connection, filter={"payload.numbers": {"$exist": True}})
        event = world.post(workspace, {"numbers": list(range(30_000))})
        seen = world.settled(event, "dead", "succeeded")
        assert sorted(each["result"] for each in seen["routing"]) == ["evaluation_limit", "matched"]
        letters = world.ask(f"GET /dead-letters?workspace={workspace}&cause=evaluation_limit")["data"]
        assert [each["event"] for each in letters] == [event]


def connection_body(workspace: str, url: str) -> Any:
    limits = {"in_flight": 4, "rate": 20, "timeout": 10}
    config = {"url": url, "headers": {"X-Ours": "yes"}}
    body = {"workspace": workspace, "type": "webhook", "name": "CRM", "config": config, "limits": limits}
    return body | {"credentials": {"token": "a-long-token-1234"}, "retry": {"schedule": [0, 0.2]}}


def lists(world: World, workspace: str, connection: str, event: str, rule: str) -> None:
    at = f"workspace={workspace}&from={PAST}&to={FUTURE}"
    assert [each["id"] for each in world.ask(f"GET /events?{at}&event=lead.created")["data"]] == [event]
    assert world.ask(f"GET /events?{at}&status=accepted")["data"] == []
    assert [each["id"] for each in world.ask(f"GET /events?{at}&connection={connection}")["data"]] == [event]
    found = world.ask(f"GET /deliveries?{at}&connection={connection}&event={event}&status=succeeded")["data"]
    assert [each["rule"] for each in found] == [rule]
    assert world.ask(f"GET /deliveries?{at}&outcome=retry")["data"] == []
    assert world.ask(f"GET /dead-letters?{at}&event=lead.created&cause=exhausted")["data"] == []
    assert len(world.ask(f"GET /connections?workspace={workspace}&type=webhook&status=active")["data"]) == 3
    assert len(world.ask(f"GET /rules?workspace={workspace}&connection={connection}&event=lead.*")["data"]) == 1
    for path in (
        "events?status=lost",
        "deliveries?status=done&cause=none&outcome=bad",
        "connections?type=fax&status=on",
    ):
        world.ask(f"GET /{path}", status=422)
    world.ask("GET /deliveries?event=evt_01k000&from=yesterday&limit=0", status=422)
    world.ask(f"GET /events?from={FUTURE}&to={PAST}&from={PAST}", status=422)


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
    world.ask(f"PATCH /rules/{rule['id']}", {"event": "order.*", "filter": None, "mapping": None})
    elsewhere = world.ask(f"POST /rules/{rule['id']}/test", {"event": "lead.created", "payload": {}})
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


def many_events_come_at_once(world: World) -> None:
    workspace = world.workspace()
    good = {"workspace": workspace, "event": "a.b", "payload": {"n": 1}}
    wrong = {"workspace": "nobody", "event": "a b", "payload": []}
    assert world.once("POST /events/bulk", {"events": [good, good]}, 202)["accepted"] == 2
    mixed = world.once("POST /events/bulk", {"events": [good, wrong]}, 207)
    assert [each["status"] for each in mixed["results"]] == [202, 422]
    world.ask("POST /events/bulk", {"events": [wrong]}, 422)
    world.ask("POST /events/bulk", {"events": []}, 422)
    world.ask("POST /events", wrong, 422)
    made = world.ask(
        "POST /events", b'{"workspace": "%s", "event": "a.b", "payload": {"b":1.0, "a":1e2}}' % workspace.encode(), 202
    )
    response = world.send(
        "GET", f"/api/v1/events/{made['id']}/payload", headers={"authorization": f"Bearer {world.key}"}
    )
    assert response.content == b'{"b":1.0, "a":1e2}'
    world.until(f"GET /events/{made['id']}", lambda seen: seen["status"] == "routed")
    world.ask(f"POST /events/{made['id']}/route", {}, 409, idempotency_key="again")
    assert world.once("POST /events/route", {"workspace": workspace}, 202)["events"] == 0
    world.ask("PATCH /workspaces/" + workspace, {"ingest_rate": 0.1}, keep=False)
    eventually(lambda: world.ask("POST /events", good, None, keep=False)["status"] == 429)
    world.ask("POST /events", good, 429)
    assert world.answers[-1].headers["retry-after"].isdecimal()


def strict_bodies(world: World) -> None:
    workspace = world.workspace()
    form = '{"workspace": "%s", "event": "a.b", "payload": %s}'
    bodies = [
        "{", "", '{"a": NaN}', '{"a": 1e400}', '{"a": 1, "a": 2}', '{"a": "\\u0000"}', '{"a": "\\ud800"}', "[" * 101,
        "5", "\ufeff{}", '{"a": %s}' % ("1" * 310), json.dumps(dict.fromkeys(map(str, range(1001)), 1)),
    ]  # fmt: skip
    for body in bodies:
        world.ask("POST /events", (form % (workspace, body)).encode(), None)
    world.ask("POST /events", b"\xff\xfe{}", None)
    world.ask("POST /events", b"[]", None)
    world.ask("POST /events", (form % (workspace, '{"a": "%s"}' % ("a" * 262_144))).encode(), 413)
    world.ask("POST /events", b"{}", 415, content_type="text/plain")
    world.ask("POST /events", b"{}", 415, content_encoding="gzip")
    world.ask("POST /events", b"{}", None, idempotency_key="no space")
    world.ask("GET /events", status=406, accept="text/html")


def what_fails_is_tried_again(world: World) -> None:
    """503, then 200: one delivery under one webhook-id, in the same bytes."""
    workspace = world.workspace()
    with receiver(503, 302, 204) as flaky:
        connection = world.webhook(workspace, flaky, retry={"schedule": [0, 0.1, 0.1]})
        world.rule(workspace, connection["id"])
        event = world.post(workspace, LEAD)
        seen = world.settled(event, "succeeded")
        assert [each["outcome"] for each in seen["deliveries"][0]["attempts"]] == ["retry", "retry", "delivered"]
        assert len({(got.headers["webhook-id"], got.body) for got in flaky.got}) == 1
        assert [got.headers["meshes-attempt"] for got in flaky.got] == ["1", "2", "3"]
        world.ask(f"GET /deliveries/{seen['deliveries'][0]['id']}")
        world.until(f"GET /connections/{connection['id']}", lambda it: it["health"]["status"] == "ok", keep=False)


def dead_letters_are_replayed(world: World) -> None:
    workspace = world.workspace()
    with receiver(500) as dead:
        connection = world.webhook(workspace, dead, **AT_ONCE)
        rule = world.rule(workspace, connection["id"])
        event = world.post(workspace, LEAD)
        (delivery,) = world.settled(event, "dead")["deliveries"]
        assert (delivery["cause"], delivery["attempt_count"]) == ("exhausted", 1)
        letters = f"GET /dead-letters?workspace={workspace}&connection={connection['id']}"
        assert [each["id"] for each in world.ask(letters)["data"]] == [delivery["id"]]
        dead.becomes(204)
        # As it was sent: the same delivery goes on.
        replayed = world.once(f"POST /deliveries/{delivery['id']}/replay", {"mapping": "original"}, 202, keep=False)
        assert replayed["id"] == delivery["id"]
        (again,) = world.settled(event, "succeeded")["deliveries"]
        assert [attempt["number"] for attempt in again["attempts"]] == [1, 2]
        assert dead.got[0].headers["webhook-id"] == dead.got[1].headers["webhook-id"]
        assert dead.got[0].body == dead.got[1].body
        assert dead.got[1].headers["meshes-replay"] == delivery["id"]
        # With today's mapping: a new one in its place.
        world.ask(f"PATCH /rules/{rule['id']}", {"mapping": [{"to": "now", "value": True}]})
        world.ask(f"POST /deliveries/{delivery['id']}/replay", {"mapping": "current"}, 409)
        terms = {"mapping": "current", "may_duplicate": True}
        new = world.ask(f"POST /deliveries/{delivery['id']}/replay", terms, 202, keep=False)
        assert new["replay_of"] == delivery["id"]
        both = world.settled(event, "succeeded", "succeeded")
        assert {each["id"]: each["replaced_by"] for each in both["deliveries"]} == {
            delivery["id"]: new["id"],
            new["id"]: None,
        }
        assert dead.got[2].data == {"now": True}
        world.ask(f"POST /deliveries/{delivery['id']}/replay", {}, 409)
        world.ask(f"POST /deliveries/{new['id']}/cancel", {}, 409)
        world.ask(f"POST /deliveries/{new['id']}/replay", {"mapping": "old", "may_duplicate": 1}, 422)


def many_are_replayed(world: World) -> None:
    workspace = world.workspace()
    with receiver(500, 422, 500, 204) as dead:
        connection = world.webhook(workspace, dead, **AT_ONCE)
        rule = world.rule(workspace, connection["id"], mapping=[{"to": "n", "from": "payload.n"}])
        events = [world.post(workspace, {"n": 0})]
        world.settled(events[0], "dead")
        events.append(world.post(workspace, {"n": 1}))
        world.settled(events[1], "dead")
        events.append(world.post(workspace, {}))
        failed = world.settled(events[2], "dead")
        assert [each["cause"] for each in failed["deliveries"]] == ["mapping_failed"]
        (cancelled,) = world.settled(world.post(workspace, {"n": 3}), "dead")["deliveries"]
        world.once(f"POST /deliveries/{cancelled['id']}/cancel", {}, 200)
        assert len(world.ask(f"GET /dead-letters?workspace={workspace}")["data"]) == 3
        assert len(world.ask(f"GET /dead-letters?workspace={workspace}&cause=rejected&event=lead.created")["data"]) == 1
        mapping = [
            {"to": "n", "from": "payload.n", "transforms": [{"default": 9}, "to_string"]},
            {"to": "twice", "value": 2},
        ]
        world.ask(f"PATCH /rules/{rule['id']}", {"mapping": mapping})
        filters = {
            "connection": connection["id"],
            "event": "lead.created",
            "status": "dead",
            "from": PAST,
            "to": FUTURE,
        }
        dry = world.ask("POST /replays", {"workspace": workspace, "filter": filters, "dry_run": True})
        assert (dry["count"], len(dry["samples"])) == (3, 3)
        world.ask("POST /replays", {"workspace": workspace, "filter": filters | {"status": "open", "cause": "x"}}, 422)
        body = {"workspace": workspace, "filter": filters, "may_duplicate": True}
        replay = world.once("POST /replays", body, 202, keep=False)
        done = world.until(
            f"GET /replays/{replay['id']}", lambda it: it["finished_at"] and it["deliveries"]["succeeded"] == 3
        )
        assert (done["status"], done["total"], done["reopened"], done["skipped"]) == ("completed", 3, 3, 0)
        world.ask(f"GET /replays?workspace={workspace}&limit=1")
        world.ask(f"POST /replays/{replay['id']}/cancel", {}, 409)
        assert [got.data for got in dead.got[-3:]].count({"n": "9", "twice": 2}) == 1
        assert all(got.headers["meshes-replay"] == replay["id"] for got in dead.got[-3:])
        world.ask(f"GET /deliveries?workspace={workspace}", keep=False)
        (replaced, new) = sorted(
            world.settled(events[1], "cancelled", "succeeded")["deliveries"], key=lambda it: it["status"]
        )
        assert world.ask(f"GET /deliveries/{replaced['id']}")["replaced_by"] == new["id"]
        assert world.ask(f"GET /deliveries/{new['id']}")["replay"] == replay["id"]
        for event in events:
            world.settled(event, *(["succeeded"] if event != events[1] else ["cancelled", "succeeded"]))


def a_replay_is_cancelled(world: World) -> None:
    workspace = world.workspace()
    with receiver(500) as dead:
        # A slow connection, so that the replay runs for long: half of its rate.
        connection = world.webhook(workspace, dead, limits={"rate": 0.5}, **AT_ONCE)
        world.rule(workspace, connection["id"])
        for number in range(3):
            world.settled(world.post(workspace, {"n": number}), "dead")
        dead.becomes(204)
        replay = world.ask(
            "POST /replays", {"workspace": workspace, "filter": {}, "mapping": "original"}, 202, keep=False
        )
        assert world.ask(f"GET /replays?workspace={workspace}", keep=False)["data"][0]["mapping"] == "original"
        world.once(f"POST /replays/{replay['id']}/cancel", {}, 200, keep=False)
        assert world.ask(f"GET /replays/{replay['id']}", keep=False)["status"] == "cancelled"


def a_gone_endpoint_holds(world: World) -> None:
    """410: disabled, held, and released in full by resume; so are a user's pause and 401."""
    workspace = world.workspace()
    with receiver(410) as gone:
        connection = world.webhook(workspace, gone)
        world.rule(workspace, connection["id"])
        at = f"/connections/{connection['id']}"
        first = world.post(workspace, {"n": 1})
        held = world.settled(first, "held")
        assert held["deliveries"][0]["cause"] == "disabled"
        second = world.post(workspace, {"n": 2})
        assert world.settled(second, "held")["routing"][0]["result"] == "held"
        assert world.until(f"GET {at}", lambda it: it["health"]["waiting_deliveries"] == 2)["status"] == "disabled"
        world.ask(f"POST {at}/pause", {}, 409)
        assert len(gone.got) == 1
        gone.becomes(204)
        assert world.once(f"POST {at}/resume", {}, 200, keep=False)["status"] == "active"
        for event in (first, second):
            world.settled(event, "succeeded")
        assert world.once(f"POST {at}/pause", {}, 200)["status"] == "paused"
        third = world.post(workspace, {"n": 3})
        (waiting,) = world.settled(third, "held")["deliveries"]
        assert waiting["waiting_for"]["reason"] == "paused"
        world.ask(f"POST /deliveries/{waiting['id']}/cancel", {})
        world.ask(f"POST {at}/resume", {}, keep=False)
        gone.becomes(401)
        fourth = world.post(workspace, {"n": 4})
        world.settled(fourth, "held")
        assert world.ask(f"GET {at}")["status"] == "needs_reauth"
        gone.becomes(204)
        assert world.once(f"POST {at}/test", {}, 200)["ok"] is True
        world.settled(fourth, "succeeded")
        assert world.until(f"GET {at}", lambda it: it["health"]["status"] == "ok")["status"] == "active"


def a_breaker_opens(world: World) -> None:
    """After five failures in a row what waits is not tried, and uses none of its attempts."""
    workspace = world.workspace()
    with receiver(500) as down:
        connection = world.webhook(workspace, down, **AT_ONCE)
        world.rule(workspace, connection["id"])
        for number in range(5):
            world.settled(world.post(workspace, {"n": number}), "dead")
        at = f"GET /connections/{connection['id']}"
        cooling = world.until(at, lambda it: it["health"]["status"] == "cooling_down")
        assert (cooling["status"], cooling["health"]["consecutive_failures"]) == ("active", 5)
        sixth = world.post(workspace, {"n": 6})
        (waiting,) = world.settled(sixth, "pending")["deliveries"]
        assert (waiting["waiting_for"]["reason"], waiting["attempt_count"]) == ("cool_down", 0)
        assert world.ask(f"GET /deliveries/{waiting['id']}")["next_attempt_at"]
        world.ask(f"GET /deliveries?workspace={workspace}&status=pending")
        assert len(down.got) == 5
        assert world.ask(f"POST /connections/{connection['id']}/test", {}, 200)["ok"] is False
        down.becomes(204)
        world.ask(f"POST /connections/{connection['id']}/test", {}, 200)
        world.settled(sixth, "succeeded")


def a_throttled_endpoint_rests(world: World) -> None:
    workspace = world.workspace()
    with receiver(429) as busy:
        connection = world.webhook(workspace, busy)
        world.rule(workspace, connection["id"])
        event = world.post(workspace, LEAD)

        def was_throttled(seen: Any) -> bool:
            return bool(seen["deliveries"] and seen["deliveries"][0]["attempts"])

        (delivery,) = world.until(f"GET /events/{event}", was_throttled)["deliveries"]
        assert (delivery["status"], delivery["attempts"][0]["outcome"]) == ("pending", "retry")
        assert world.ask(f"GET /connections/{connection['id']}")["paused_until"]
        world.ask(f"POST /deliveries/{delivery['id']}/cancel", {})


def a_hung_tenant_hurts_nobody(world: World) -> None:
    """A lane begins with two requests at once, and widens up to its limit while answers come."""
    slow, quick = world.workspace("Slow"), world.workspace("Quick")
    with receiver(0) as hung, receiver() as healthy:
        patient = {"limits": {"in_flight": 5, "timeout": 30}, "retry": {"schedule": [0] + [0.1] * 10}}
        world.rule(slow, world.webhook(slow, hung, **patient)["id"], "*")
        world.rule(quick, world.webhook(quick, healthy, **AT_ONCE)["id"], "*")
        waiting = [world.post(slow, {"n": number}, keep=False) for number in range(40)]
        for open_at_most, answers in ((2, [204] * 20 + [0]), (5, [204])):
            hung.opens(open_at_most)
            for number in range(10):
                world.settled(world.post(quick, {"n": number}, keep=False), "succeeded", keep=False)
            assert hung.open == open_at_most
            busy = world.ask(f"GET /deliveries?workspace={slow}&status=in_flight", keep=False)["data"]
            assert len(busy) == open_at_most
            world.ask(f"POST /deliveries/{busy[0]['id']}/cancel", {}, 409)
            hung.becomes(*answers)
        for event in waiting:
            world.settled(event, "succeeded", keep=False)
        assert {got.data["n"] for got in hung.got} == set(range(40))
        assert [got.data["n"] for got in healthy.got] == [*range(10), *range(10)]


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


def a_vendor_is_spoken_to(world: World) -> None:
    """Slack by a token, Mailchimp by a key with its choices, and what they answer."""
    workspace = world.workspace()
    world.tell("slack", "open_account", account="T0FROZEN", token="xoxb-frozen")
    body = {"workspace": workspace, "type": "slack", "name": "Slack", "credentials": {"access_token": "xoxb-frozen"}}
    slack = world.ask("POST /connections", body | AT_ONCE, 201)
    assert world.ask(f"POST /connections/{slack['id']}/test", {})["account"]["id"] == "T0FROZEN"
    world.ask(f"GET /connections/{slack['id']}")
    world.ask(f"GET /connections/{slack['id']}/options/channel", status=None)
    mapping = [{"to": "channel", "value": "C0LEADS"}, {"to": "text", "from": "payload.text"}]
    rule = world.rule(workspace, slack["id"], action="post_message", mapping=mapping)
    world.ask(f"POST /rules/{rule['id']}/test", {"event": "lead.created", "payload": {"text": "Hello"}})
    seen = world.settled(world.post(workspace, {"text": "Hello"}), "succeeded")
    world.ask(f"GET /deliveries/{seen['deliveries'][0]['id']}")
    world.ask("POST /rules", {"workspace": workspace, "connection": slack["id"], "event": "*", "action": "sing"}, 422)
    world.tell("mailchimp", "open_account", account="frozen-list", token="f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0-us21")
    body = {"workspace": workspace, "type": "mailchimp", "name": "Mailchimp", "config": {"list_id": "a1b2c3d4e5"}}
    secret = {"credentials": {"api_key": "f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0-us21"}}
    mailchimp = world.ask("POST /connections", body | secret | AT_ONCE, 201)
    world.ask(f"GET /connections/{mailchimp['id']}/options/list_id")
    tags = [{"to": "tags", "from": "payload.tags"}]
    world.rule(workspace, mailchimp["id"], action="add_tags", event="member.*", mapping=tags)
    tagged = world.post(workspace, {"email": "ada@example.com", "tags": ["a"]}, "member.changed")
    (delivery,) = world.settled(tagged, "succeeded")["deliveries"]
    assert len(world.ask(f"GET /deliveries/{delivery['id']}")["attempts"][0]["steps"]) == 2
    world.tell("amplitude", "open_account", account="frozen", token="f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0")
    body = {"workspace": workspace, "type": "amplitude", "name": "Amplitude"}
    secret = {"credentials": {"api_key": "f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0"}}
    amplitude = world.ask("POST /connections", body | secret | AT_ONCE, 201)
    world.rule(workspace, amplitude["id"], action="track", event="page.*")
    recorded = world.post(workspace, {"user_id": "user-1", "taken": 1, "not_taken": [[1]]}, "page.seen")
    (delivery,) = world.settled(recorded, "succeeded")["deliveries"]
    (attempt,) = world.ask(f"GET /deliveries/{delivery['id']}")["attempts"]
    assert [each["field"] for each in attempt["omitted_fields"]] == ["event_properties.not_taken"]
    world.ask(f"POST /connections/{slack['id']}/rotate-secret", {}, 409)
    world.tell("slack", "revoke", token="xoxb-frozen")
    world.ask(f"PATCH /connections/{slack['id']}", {"name": "Slack again"})
    world.ask(f"GET /connections/{slack['id']}/options/channel", status=502)


def a_customer_authorizes(world: World) -> None:
    """HubSpot by OAuth: from `authorize`, then by a connect link; disconnected in between."""
    workspace = world.workspace()
    app = f"/workspaces/{workspace}/oauth-apps/hubspot"
    world.ask(f"GET {app}", status=404)
    world.ask(f"PUT {app}", {"client_id": "", "client_secret": "not ascii: é"}, 422)
    world.ask(f"PUT {app}", {"client_id": "hubspot-client-id", "client_secret": "hubspot-client-secret"})
    world.ask(f"GET {app}")
    log = f"GET /workspaces/{workspace}/access-log?kind=client"
    assert world.until(log, lambda it: it["data"], keep=False)["data"][0]["oauth_app"]
    world.ask(f"DELETE {app}", status=204)
    connection = world.ask("POST /connections", {"workspace": workspace, "type": "hubspot", "name": "CRM"}, 201)
    assert connection["status"] == "needs_reauth"
    at = f"/connections/{connection['id']}"
    world.ask(f"GET {at}/options/list_id", status=None)
    world.tell("hubspot", "sign_in", account="4711")
    url = world.once(f"POST {at}/authorize", {}, 200)["url"]
    with requests.Session() as browser:
        walk(world, browser, url)
    authorized = world.ask(f"GET {at}")
    assert (authorized["status"], authorized["account"]["id"]) == ("active", "4711")
    world.rule(workspace, connection["id"], action="upsert_contact", event="contact.*")
    event = world.post(workspace, {"email": "ada@example.com", "first_name": "Ada", "phone": "x"}, "contact.created")
    world.ask(f"GET /deliveries/{world.settled(event, 'succeeded')['deliveries'][0]['id']}")
    assert world.once(f"POST {at}/disconnect", {}, 200)["status"] == "needs_reauth"
    link = world.once(f"POST {at}/connect-link", {"expires_in": 3600}, 200)["url"]
    world.ask(f"POST {at}/connect-link", {"expires_in": 59}, 422)
    with requests.Session() as browser:
        offered = browser.get(link, timeout=60).text
        proof = re.findall(r'name="proof" value="([^"]+)"', offered)
        leaving = browser.post(link, data={"proof": proof[0]}, timeout=60).text
        away = html.unescape(re.findall(r'href="(http[^"]+authorize[^"]*)"', leaving)[0])
        walk(world, browser, away)
    assert world.ask(f"GET {at}")["status"] == "active"
    world.page(link, 404)


def walk(world: World, browser: requests.Session, url: str) -> str:
    """Follow the redirects of an authorization to the page at which it ends."""
    for _ in range(6):
        answer = browser.get(url, allow_redirects=False, timeout=60)
        if "location" not in answer.headers:
            assert answer.status_code == 200, answer.text
            return answer.text
        url = urljoin(url, answer.headers["location"])
    raise AssertionError(f"led on and on, to {url}")


def people_are_erased(world: World) -> None:
    workspace = world.workspace()
    ada, bob = (world.post(workspace, {"email": f"{name}@example.com"}) for name in ("ada", "bob"))
    for event in (ada, bob):
        world.until(f"GET /events/{event}", lambda seen: seen["status"] == "routed")
    at = f"POST /workspaces/{workspace}/erasures"
    match = {"match": {"payload.email": "ada@example.com"}}
    assert world.ask(at, match | {"dry_run": True, "from": PAST, "to": FUTURE})["count"] == 1
    assert world.once(at, match, 200)["erased"] == 1
    world.ask(f"GET /events/{ada}/payload", status=410)
    world.ask(f"GET /events/{ada}")
    world.ask(f"GET /events/{bob}/payload")
    assert world.ask(at, {"events": [bob]})["erased"] == 1
    world.ask(at, {"match": {"payload.email": {"gte": 5}}, "dry_run": True})
    for wrong in ({}, match | {"events": [bob]}, {"match": {"email": 1}}, {"events": ["evt_1"], "after": "x"}):
        world.ask(at, wrong, 422)


def pages_are_there(world: World) -> None:
    texts = {
        "/": ("<title>Meshes</title>", "/api/docs", "/admin/", "/readyz"),
        "/api/docs": ("swagger-ui", "/api/schema"),
        "/admin/login/": ("username", "password", "csrfmiddlewaretoken"),
    }
    for path, expected in texts.items():
        text = world.page(path).text
        assert [part for part in expected if part not in text] == []
        for asset in re.findall(r'(?:src|href)="(/static/[^"]+)"', text):
            assert world.send("GET", asset).status_code == 200, asset
    assert world.page("/healthz").json() == {"status": "ok"}
    ready = eventually(lambda: (now := world.send("GET", "/readyz").json())["status"] == "ok" and now)
    assert set(ready["checks"].values()) == {"ok"}
    world.page("/readyz")
    world.kept[world.story].append(
        ["readyz", {"": sorted(ready)} | {name: sorted(ready[name]) for name in ready if isinstance(ready[name], dict)}]
    )
    world.page("/api/schema")
    for path in ("/api/schema/", "/api/docs/", "/admin", "/favicon.ico", "/admin/"):
        world.page(path, 302)
    for path in ("/oauth/callback", "/oauth/callback/hubspot"):
        world.page(path, 303)
    for path in ("/oauth/start/nothing", "/oauth/outcome/nothing", "/connect/nothing", "/nowhere", "/api/v1/nowhere"):
        world.page(path, 404)
    world.page("/healthz", 405, method="POST")
    world.ask("GET /nowhere", status=404)


STORIES = (
    workspaces_are_named_twice,
    keys_open_what_they_say,
    integrations_are_declared,
    one_event_fans_out,
    what_costs_too_much_ends,
    rules_are_checked,
    many_events_come_at_once,
    strict_bodies,
    what_fails_is_tried_again,
    dead_letters_are_replayed,
    many_are_replayed,
    a_replay_is_cancelled,
    a_gone_endpoint_holds,
    a_breaker_opens,
    a_throttled_endpoint_rests,
    a_hung_tenant_hurts_nobody,
    connections_are_changed,
    a_vendor_is_spoken_to,
    a_customer_authorizes,
    people_are_erased,
    pages_are_there,
)
