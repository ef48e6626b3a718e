"""Events: taken in, routed, listed and erased."""

import json

from standardwebhooks import Webhook

from tests.frozen.resources import connection_body
from tests.frozen.servers import eventually, receiver
from tests.frozen.world import FUTURE, LEAD, PAST, World


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
