"""Deliveries: tried again, replayed, held, paused, and kept from hurting each other."""

import json
from typing import Any

from tests.frozen.servers import receiver
from tests.frozen.world import AT_ONCE, FUTURE, LEAD, PAST, World


def what_fails_is_tried_again(world: World) -> None:
    """503, then 200: one delivery under one webhook-id, in the same bytes."""
    workspace = world.workspace()
    with receiver(503, 302, 204) as flaky:
        connection = world.webhook(workspace, f"{flaky.url}?key=not-to-be-seen", retry={"schedule": [0, 0.1, 0.1]})
        world.rule(workspace, connection["id"])
        event = world.post(workspace, LEAD)
        seen = world.settled(event, "succeeded")
        assert [each["outcome"] for each in seen["deliveries"][0]["attempts"]] == ["retry", "retry", "delivered"]
        assert len({(got.headers["webhook-id"], got.body) for got in flaky.got}) == 1
        assert [got.headers["meshes-attempt"] for got in flaky.got] == ["1", "2", "3"]
        assert "not-to-be-seen" not in json.dumps(world.ask(f"GET /deliveries/{seen['deliveries'][0]['id']}"))
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
            hung.wait_for(open_at_most)
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
