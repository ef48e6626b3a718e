"""Events, deliveries and dead letters in the admin."""

from datetime import UTC, datetime

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext

from connections.models import Connection
from connections.providers.webhook import new_signing_secret
from delivery.dispatch import attempts, claims, settling
from delivery.lanes import brokers
from delivery.lanes.brokers import LaneLimits
from delivery.models import Attempt, Delivery, Event, Payload, Replay, Rule, Unrouted
from meshes.console import timeline
from meshes.kit import ids
from tests.factories import fan_out, make_connection, make_deliveries, make_event, make_rule, make_workspace, own_lanes
from tests.operators import operator, said, superuser, words

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

HOSTILE = "</pre></details><script>alert(1)</script><img src=x onerror=alert(2)>"
TOKEN = "tok_live_51H8abcdefghijklmnop"


def route(target, payload=None, **rule):
    """An event that has been through fan-out, because of one rule of the connection."""
    make_rule(target, **rule)
    event = make_event(target.workspace, payload)
    fan_out([event.pk])
    return event


def deliver(event):
    pks = list(Delivery.objects.filter(event=event, status="pending").values_list("pk", flat=True))
    jobs = [job for job in claims.claim(pks, "worker-7") if job]
    settling.settle([attempts.attempt(job) for job in jobs], "worker-7")


def set_state(target, number=1, **values):
    made = make_deliveries(target, number)
    Delivery.objects.filter(pk__in=[row.pk for row in made]).update(**{"next_attempt_at": None} | values)
    return made


def make_dead(target, number=1, **values):
    return set_state(target, number, **{"status": "dead", "cause": "exhausted", "detail": "No answer came."} | values)


def state_of(*deliveries):
    found = Delivery.objects.in_bulk([row.pk for row in deliveries])
    return [found[row.pk].status for row in deliveries]


# --- the timeline of an event ---------------------------------------------------------------------------------------


def test_an_event_shows_its_whole_life(endpoint):
    endpoint.answer(503, {"x-reason": "Overloaded"}, b"try later")
    workspace = make_workspace(name="Northwind")
    sent, passed = make_connection(workspace, url=endpoint.url, name="Orders"), make_connection(workspace, name="CRM")
    make_rule(passed, filter={"payload.total": {"$gte": 100}})
    event = route(sent, {"total": 12.50}, event="lead.*")
    deliver(event)
    delivery = Delivery.objects.get(event=event)
    text = superuser().text("delivery_event", event.public_id)
    for shown in (
        "Northwind",
        "&quot;total&quot;: 12.5",
        "2 rules considered",
        "matched",
        "lead.*",
        "filtered",
        "payload.total is 12.5, wanted: at least 100",
        "Orders",
        delivery.public_id,
        "pending",
        "Next attempt",
        "503",
        "x-reason Overloaded",
        "try later",
        f"POST {endpoint.url}",
        "webhook-id",
        "worker-7",
    ):
        assert shown in text, shown


def test_a_hostile_payload_and_answer_stay_text(endpoint):
    endpoint.answer(500, {"x-evil": "<b>bold</b>"}, HOSTILE.encode())
    target = make_connection(make_workspace(name="<b>Bold</b>"), url=endpoint.url, name="<i>Hook</i>")
    event = route(target, {"note": HOSTILE, "<script>": 1})
    deliver(event)
    root, attempt = superuser(), Attempt.objects.get()
    for page in (
        root.page("delivery_event", event.pk),
        root.page("delivery_delivery", attempt.delivery_id),
        root.page("delivery_attempt", attempt.pk),
        root.page("connections_connection", target.pk),
        root.list("delivery_delivery"),
    ):
        html = page.content.decode()
        for tag in ("<script>alert", "<img src=x", "<b>", "<i>"):
            assert tag not in html, tag
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in root.page("delivery_event", event.pk).content.decode()


def test_an_answer_that_is_no_text_is_shown(endpoint):
    endpoint.answer(500, {}, b"\x00\x1b[31m\xff\xfe" + "\u202e".encode())
    event = route(make_connection(make_workspace(), url=endpoint.url))
    deliver(event)
    assert "␀␛[31m\ufffd\ufffd\\u202e" in superuser().text("delivery_attempt", Attempt.objects.get().pk)


def test_a_long_answer_is_shortened_on_the_event_and_whole_on_the_attempt(endpoint):
    endpoint.answer(500, {}, b"x" * timeline.BODY_BYTES + b"THE END")
    event = route(make_connection(make_workspace(), url=endpoint.url))
    deliver(event)
    root = superuser()
    shortened = root.text("delivery_event", event.pk)
    assert "The rest of the body" in shortened
    assert "THE END" not in shortened
    assert "THE END" in root.text("delivery_attempt", Attempt.objects.get().pk)


def test_no_page_shows_a_secret(endpoint):
    secret = new_signing_secret()
    kept = {"signing_secret": secret, "previous": [], "token": TOKEN}
    endpoint.answer(401, {"set-cookie": "session=abcdefgh"}, f"bad token: {TOKEN}".encode())
    event = route(make_connection(make_workspace(), url=endpoint.url + "?key=in-the-query", secret=kept))
    deliver(event)
    root, attempt = superuser(), Attempt.objects.get()
    pages = [
        root.page("delivery_event", event.pk),
        root.page("delivery_delivery", attempt.delivery_id),
        root.page("delivery_attempt", attempt.pk),
        root.list("delivery_attempt"),
    ]
    text = b"".join(page.content for page in pages).decode()
    assert "Bearer ••••" in text
    for hidden in (TOKEN, secret, secret.removeprefix("whsec_"), "in-the-query", "session=abcdefgh"):
        assert hidden not in text


def test_an_event_that_waits_says_so():
    event = make_event(make_workspace())
    assert "Waits for fan-out" in superuser().text("delivery_event", event.pk)


def test_an_event_that_no_rule_names_says_so():
    event = make_event(make_workspace())
    fan_out([event.pk])
    assert "No rule of the workspace names this type of event" in superuser().text("delivery_event", event.pk)


def test_an_erased_payload_says_so():
    event = make_event(make_workspace(), {"email": "ada@example.com"})
    Payload.objects.filter(pk=event.pk).update(body="{}", erased_at=datetime.now(UTC))
    text = superuser().text("delivery_event", event.pk)
    assert "The payload was erased" in text
    assert "ada@example.com" not in text


def test_an_event_whose_rows_have_expired_is_still_shown():
    event = make_event(make_workspace())
    Payload.objects.filter(pk=event.pk).delete()
    Unrouted.objects.filter(pk=event.pk).delete()
    text = superuser().text("delivery_event", event.pk)
    assert "older than its retention period" in text
    assert "routing ledger is not kept any more" in text


def test_an_event_page_takes_the_same_queries_however_much_there_is():
    workspace, root = make_workspace(), superuser()
    few, many = make_event(workspace, type="few"), make_event(workspace, type="many")
    for event_type, number in (("few", 1), ("many", 5)):
        for _ in range(number):
            make_rule(make_connection(workspace), event=event_type)
    fan_out([few.pk, many.pk])
    counts = []
    for event in (few, many):
        with CaptureQueriesContext(connection) as queries:
            assert root.page("delivery_event", event.pk).status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_only_the_newest_attempts_are_on_the_event():
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    for number in range(1, timeline.ATTEMPTS_ON_EVENT_PAGE + 3):
        Attempt.objects.create(
            workspace_id=delivery.workspace_id,
            delivery=delivery,
            number=number,
            started_at=datetime.now(UTC),
            outcome="retry",
            error=f"Attempt number {number} failed.",
        )
    text = superuser().text("delivery_event", delivery.event_id)
    assert "Earlier attempts are not shown here" in text
    assert "Attempt number 2 failed" not in text
    assert "Attempt number 3 failed" in text


# --- deliveries -----------------------------------------------------------------------------------------------------


def test_an_unknown_cause_says_nothing():
    (delivery,) = make_dead(make_connection(make_workspace()), cause="novel")
    assert timeline.cards([delivery], 1)[0]["cause_words"] == ""


def test_a_shaped_body_is_shown():
    mapping = [{"to": "address", "from": "payload.email"}]
    event = route(make_connection(make_workspace()), {"email": "ada@example.com"}, mapping=mapping)
    delivery = Delivery.objects.get(event=event)
    assert "&quot;address&quot;: &quot;ada@example.com&quot;" in superuser().text("delivery_delivery", delivery.pk)


def test_a_delivery_in_flight_is_cancelled_by_nobody():
    target, root = make_connection(make_workspace()), superuser()
    (delivery,) = make_deliveries(target)
    assert claims.claim([delivery.pk], "worker-7")[0]
    assert "in flight" in root.text("delivery_delivery", delivery.pk)
    answer = root.press("delivery_delivery", "cancel", delivery.pk, confirm="yes")
    assert said(answer) == ["1 left as they were: A delivery that is in flight is not cancelled."]
    assert state_of(delivery) == ["pending"]


def test_cancelling_asks_first_and_counts_each_result():
    target, root = make_connection(make_workspace()), superuser()
    (pending,), (held,) = make_deliveries(target), set_state(target, status="held")
    (succeeded,) = set_state(target, status="succeeded")
    pks = [row.pk for row in (pending, held, succeeded)]
    asked = root.run("delivery_delivery", "cancel", *pks, confirm=None)
    assert "Cancel these deliveries, for good?" in words(asked)
    assert state_of(pending, held, succeeded) == ["pending", "held", "succeeded"]
    answer = root.run("delivery_delivery", "cancel", *pks)
    assert said(answer) == ["2 cancelled.", "1 left as they were: A delivery that is succeeded is not cancelled."]
    assert state_of(pending, held, succeeded) == ["cancelled", "cancelled", "succeeded"]
    assert set(LogEntry.objects.values_list("object_id", flat=True)) == {str(pending.pk), str(held.pk)}


def test_a_succeeded_delivery_is_sent_again():
    target, root = make_connection(make_workspace()), superuser()
    (delivery,) = set_state(target, status="succeeded", finished_at=datetime.now(UTC))
    answer = root.press("delivery_delivery", "replay", delivery.pk)
    assert said(answer) == ["1 sent again."]
    assert state_of(delivery) == ["pending"]
    assert brokers.flush()
    assert own_lanes().depth(brokers.lane_of(target.pk)) == 1


@pytest.mark.parametrize("state", ["pending", "held", "succeeded", "dead", "cancelled"])
def test_deliveries_are_found_by_state(state):
    target, root = make_connection(make_workspace()), superuser()
    made = {"pending": make_deliveries(target)[0]}
    made |= {status: set_state(target, status=status)[0] for status in ("held", "succeeded", "dead", "cancelled")}
    text = words(root.list("delivery_delivery", state=state))
    assert {name for name, row in made.items() if row.public_id in text} == {state}


def test_deliveries_are_found_by_what_they_belong_to():
    ours, other = make_connection(make_workspace()), make_connection(make_workspace())
    (mine,), (foreign,) = make_deliveries(ours), make_deliveries(other)
    Delivery.objects.filter(pk=mine.pk).update(event_type="order.paid")
    event_id, rule_id = ids.encode(ids.EVENT, mine.event_id), ids.encode(ids.RULE, mine.rule_id)
    root = superuser()
    for query in (
        *({"q": text} for text in (mine.public_id, event_id, rule_id, ours.public_id, "order.paid", str(mine.pk))),
        {"q": ours.workspace.external_id},
        {"q": f"{ours.workspace.external_id} order.paid"},
        {"connection": ours.public_id},
        {"event_type": "order.paid"},
        {"workspace": ours.workspace.public_id},
    ):
        text = words(root.list("delivery_delivery", **query))
        assert mine.public_id in text, query
        assert foreign.public_id not in text, query


@pytest.mark.parametrize("query", ["att_01h455vb4pex5vsknk084sn02q", "nonsense", "%", "conn_x", "' OR 1=1 --"])
def test_a_search_for_what_is_not_there_finds_nothing(query):
    make_deliveries(make_connection(make_workspace()))
    assert "Nothing matches" in words(superuser().list("delivery_delivery", q=query))


# --- dead letters ---------------------------------------------------------------------------------------------------


def test_dead_letters_are_listed_with_their_cause_and_lead_to_the_delivery():
    target, root = make_connection(make_workspace()), superuser()
    (dead,), (alive,) = make_dead(target), make_deliveries(target)
    text = words(root.list("delivery_deadletter"))
    assert f"{dead.public_id} " in text
    assert "exhausted No answer came." in text
    assert alive.public_id not in text
    assert root.page("delivery_deadletter", dead.pk).url == f"/admin/delivery/delivery/{dead.pk}/change/"


def test_dead_letters_are_sent_again_and_each_result_is_counted():
    workspace, root = make_workspace(), superuser()
    target, held, gone = (make_connection(workspace) for _ in range(3))
    fine, unsendable = make_dead(target, 2), make_dead(gone)
    waiting = make_dead(held)
    Connection.objects.filter(pk=held.pk).update(status="paused")
    Connection.objects.filter(pk=gone.pk).update(status="deleted")
    rows = [*fine, *unsendable, *waiting]
    answer = root.run("delivery_deadletter", "replay", *(row.pk for row in rows))
    assert said(answer) == ["3 sent again.", "1 left as they were: Its connection was deleted."]
    assert state_of(*rows) == ["pending", "pending", "dead", "held"]
    assert brokers.flush()
    assert own_lanes().depth(brokers.lane_of(target.pk)) == 2
    entries = LogEntry.objects.values_list("object_id", "change_message")
    assert set(entries) == {(str(row.pk), "Sent again.") for row in [*fine, *waiting]}


def test_dead_letters_are_cancelled_for_good():
    target, root = make_connection(make_workspace()), superuser()
    (dead,) = make_dead(target)
    assert "for good?" in words(root.run("delivery_deadletter", "cancel", dead.pk, confirm=None))
    assert state_of(dead) == ["dead"]
    assert said(root.run("delivery_deadletter", "cancel", dead.pk)) == ["1 cancelled."]
    dead.refresh_from_db()
    assert (dead.status, dead.cause) == ("cancelled", "cancelled_by_user")
    assert dead.detail == "Cancelled on request. It was a dead letter (exhausted). No answer came."
    assert dead.public_id not in words(root.list("delivery_deadletter"))
    assert said(root.press("delivery_delivery", "replay", dead.pk))[-1] == (
        "1 left as they were: Only a dead or succeeded delivery is sent again; this one is cancelled."
    )


def test_a_viewer_replays_and_cancels_nothing():
    target = make_connection(make_workspace())
    (dead,) = make_dead(target)
    viewer = operator("delivery.view_delivery")
    assert dead.public_id in words(viewer.list("delivery_deadletter"))
    assert b"/do/" not in viewer.page("delivery_delivery", dead.pk).content
    for action in ("replay", "cancel"):
        viewer.run("delivery_deadletter", action, dead.pk)
        assert viewer.press("delivery_deadletter", action, dead.pk, confirm="yes").status_code == 403
    assert state_of(dead) == ["dead"]
    assert LogEntry.objects.count() == 0


def test_who_sees_nothing_of_deliveries_sees_no_dead_letters():
    (dead,) = make_dead(make_connection(make_workspace()))
    stranger = operator("workspaces.view_workspace")
    assert stranger.list("delivery_deadletter").status_code == 403
    assert stranger.page("delivery_delivery", dead.pk).status_code == 403
    assert stranger.press("delivery_delivery", "replay", dead.pk).status_code == 403
    assert state_of(dead) == ["dead"]


def test_an_action_takes_no_more_than_its_share(monkeypatch):
    monkeypatch.setattr("meshes.console.pages.MOST_AT_ONCE", 2)
    target, root = make_connection(make_workspace()), superuser()
    rows = make_dead(target, 3)
    answer = root.run("delivery_deadletter", "replay", rows[0].pk, select_across="1", index="0")
    assert said(answer) == ["Only the first 2 were taken.", "2 sent again."]
    assert sorted(state_of(*rows)) == ["dead", "pending", "pending"]


# --- the rest -------------------------------------------------------------------------------------------------------


def test_events_that_were_set_aside_are_routed_again():
    event, waiting = (make_event(make_workspace()) for _ in range(2))
    set_aside(event)
    root = superuser()
    listed = words(root.list("delivery_unrouted", state="set_aside"))
    assert "PostgreSQL refuses what its rules make of it, while other events pass. (numeric value (22003))" in listed
    assert "numeric value (22003)" in root.text("delivery_event", event.public_id)
    assert "set aside" in words(root.list("delivery_event"))
    answer = root.run("delivery_unrouted", "route_again", event.pk, waiting.pk)
    assert said(answer) == ["1 routed again.", "1 left as they were: Not set aside."]
    assert Unrouted.objects.values_list("poisoned_at", "tries").get(pk=event.pk) == (None, 0)
    assert brokers.flush()
    assert own_lanes().depth(f"fanout.{event.workspace_id}") == 1


def test_everything_that_was_set_aside_is_routed_again_at_once():
    events = [make_event(make_workspace()) for _ in range(3)]
    set_aside(*events[:2])
    root = superuser()
    answer = root.run("delivery_unrouted", "route_all_again", events[2].pk)
    assert said(answer) == ["2 routed again."]
    assert not Unrouted.objects.exclude(poisoned_at=None).exists()
    assert LogEntry.objects.filter(change_message="Routed again.").count() == 2
    again = said(root.run("delivery_unrouted", "route_all_again", events[2].pk))
    assert again[-1] == "1 left as they were: Nothing is set aside."


def set_aside(*events):
    Unrouted.objects.filter(event__in=events).update(
        poisoned_at=datetime.now(UTC), tries=5, cause="refused", detail="numeric value (22003)"
    )


def test_a_running_replay_is_stopped():
    run = Replay.objects.create(workspace=make_workspace(), requested_by="key_x", total=10, reopened=3)
    root = superuser()
    assert "3 of 10" in root.text("delivery_replay", run.public_id)
    assert said(root.press("delivery_replay", "cancel", run.pk, confirm="yes")) == ["1 stopped."]
    run.refresh_from_db()
    assert run.status == "cancelled"
    assert said(root.press("delivery_replay", "cancel", run.pk, confirm="yes"))[-1] == (
        "1 left as they were: Not running."
    )


def test_rules_show_filter_and_mapping():
    target = make_connection(make_workspace(), name="Orders")
    rule = make_rule(
        target, event="order.*", filter={"payload.total": {"$gte": 100}}, mapping=[{"to": "a", "value": 1}]
    )
    root = superuser()
    text = root.text("delivery_rule", rule.public_id)
    for shown in ("order.*", "Orders", "&quot;$gte&quot;: 100", "&quot;to&quot;: &quot;a&quot;"):
        assert shown in text
    Rule.objects.filter(pk=rule.pk).update(deleted_at=datetime.now(UTC))
    assert rule.public_id in words(root.list("delivery_rule", state="deleted"))
    assert rule.public_id not in words(root.list("delivery_rule", state="enabled"))


def test_a_connection_shows_its_lane_and_deliveries():
    target, root = make_connection(make_workspace(), in_flight=3), superuser()
    brokers.limit([LaneLimits(target.workspace_id, target.pk, 3, None)])
    (dead,), pending = make_dead(target), make_deliveries(target, 2)
    brokers.publish_deliveries([(target.workspace_id, target.pk, row.pk) for row in pending])
    assert brokers.flush()
    text = root.text("connections_connection", target.pk)
    assert "Waiting 2 the first since" in text
    assert "0 of 3 at most" in text
    assert "pending 2 held 0 dead 1" in text
    assert dead.public_id in text


def test_a_connection_is_shown_while_the_broker_is_away(settings):
    target, root = make_connection(make_workspace()), superuser()
    settings.MESHES_REDIS_SHARDS = ["redis://127.0.0.1:1/0"]
    assert "The broker does not answer" in root.text("connections_connection", target.pk)


def test_a_viewer_of_connections_alone_sees_no_deliveries():
    target = make_connection(make_workspace())
    (dead,) = make_dead(target)
    viewer = operator("connections.view_connection")
    assert dead.public_id not in viewer.text("connections_connection", target.pk)


def test_events_are_found_by_type_and_time():
    workspace, root = make_workspace(), superuser()
    event = make_event(workspace, type="order.paid")
    old = Event.objects.get(pk=make_event(workspace).pk)
    text = words(root.list("delivery_event", type="order.paid", period="1h"))
    assert event.public_id in text
    assert old.public_id not in text
