"""What a workspace's rules may cost, and what becomes of an event for which that is too little: never silence."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import connections

from delivery.dispatch import replays
from delivery.events.setting_aside import Claim
from delivery.lanes import brokers
from delivery.models import Delivery, RoutingLedger, Rule
from delivery.rules import fanout, routing
from meshes.kit import ids
from meshes.kit.metering import EVENT_STEPS, RULE_STEPS
from tests.delivery.api import account
from tests.factories import fan_out, make_connection, make_event, make_rule, make_workspace

pytestmark = pytest.mark.django_db

UNLIKE = {"$and": [{"payload.l": {"$neq": [1, 2, index]}} for index in range(22)]}
NESTED = {"payload.l": {"$nin": list(range(100_000, 100_200))}}
NOT_ANY = {"$not": {"$or": [{"payload.l": {"$eq": {"a": index}}} for index in range(60)]}}
REGEX = {"payload.text": {"$regex": "a.{100}c"}}
MANY = [{"to": f"o{index}", "from": "payload.l[?@ == `[1]`]", "on_error": "skip"} for index in range(20)]
LARGE = {"l": list(range(40_000)), "text": "ab" * 10_000}
CHEAP = {"payload.text": {"$exist": True}}


def ledger_of(event):
    return RoutingLedger.objects.get(event=event).entries


def route(payload, *rules):
    """The event, its ledger, and the rules, made in this order."""
    workspace = make_workspace()
    connection = make_connection(workspace)
    made = [make_rule(connection, **rule) for rule in rules]
    event = make_event(workspace, payload)
    fan_out([event.pk])
    return event, ledger_of(event), made


@pytest.mark.parametrize(
    ("dear", "place"),
    [
        ({"filter": UNLIKE}, "the clause payload.l $neq"),
        ({"filter": NOT_ANY}, "the clause payload.l $eq"),
        ({"filter": REGEX}, "the clause payload.text $regex"),
        ({"mapping": MANY}, "the mapping's entry to o0"),
    ],
    ids=["unlike types", "not and or", "regex", "mapping"],
)
def test_what_runs_out_is_a_dead_letter_that_says_where_and_stops_no_other_rule(dear, place):
    event, ledger, rules = route(LARGE, dear, {"filter": CHEAP}, dear, {"filter": CHEAP})
    assert [entry["result"] for entry in ledger] == ["evaluation_limit", "matched", "evaluation_limit", "matched"]
    first = Delivery.objects.get(rule=rules[0])
    assert (first.status, first.cause, first.body) == ("dead", "evaluation_limit", None)
    assert first.detail == ledger[0]["reason"]
    assert first.detail == (
        f"{rules[0].public_id}: {place} needs more than the {ledger[0]['steps']:,} steps that were left for it"
    )
    assert ledger[0]["steps"] > EVENT_STEPS // 4 - 60_000
    assert Delivery.objects.filter(event=event, status="pending").count() == 2


def test_ten_such_rules_cost_what_one_event_may(django_assert_num_queries):
    workspace = make_workspace()
    connection = make_connection(workspace)
    for _ in range(10):
        make_rule(connection, filter=UNLIKE)
    event = make_event(workspace, LARGE)
    (fact,) = fanout.claim_events([Claim(event.pk, ids.uuid7())])
    (rules,) = fanout.load_rules([fact])
    with django_assert_num_queries(0):
        routed = routing.evaluate(fact, rules)
    assert EVENT_STEPS * 0.8 < routed.steps <= EVENT_STEPS
    assert {entry["result"] for entry in routed.entries} == {"evaluation_limit"}
    assert routing.evaluate(fact, rules) == routed  # the same every time


def test_one_condition_on_the_longest_array_is_within_what_a_rule_may_take():
    _, ledger, _ = route({"l": [0] * 131_000}, {"filter": {"payload.l": 1}})
    assert ledger[0]["result"] == "filtered"


@pytest.mark.parametrize(
    ("pattern", "text", "result"),
    [
        (r"\pL+", "é" * 10_000, "matched"),
        (r"\pL+", "4711 " * 4_000, "filtered"),
        (r"^.{1,255}@example\.com", "ada@example.com " * 1_250, "matched"),
        (r"^.{1,255}@example\.com", "x" * 20_000, "filtered"),
        (r"(?i)\bunsubscribe\b", "lorem ipsum " * 1_700, "filtered"),
    ],
)
def test_an_ordinary_expression_on_twenty_kilobytes_is_answered(pattern, text, result):
    rules = [{"filter": {"payload.text": {"$regex": pattern}}}] * 20
    _, ledger, _ = route({"text": text}, *rules)
    assert {entry["result"] for entry in ledger} == {result}


# --- replay ---------------------------------------------------------------------------------------------------------


def given_up():
    event, _, (rule,) = route(LARGE, {"filter": UNLIKE})
    return event, rule, Delivery.objects.get(rule=rule)


def change(rule, **values):
    type(rule).objects.filter(pk=rule.pk).update(**values, version=rule.version + 1)


def test_a_replay_decides_anew_whether_the_rule_matches_and_ends_what_does_not():
    _, rule, delivery = given_up()
    change(rule, filter={"payload.text": "other"})
    assert replays.send_again([delivery.pk]).made == {}
    delivery.refresh_from_db()
    assert (delivery.status, delivery.cause, delivery.body) == ("cancelled", "filtered", None)
    assert delivery.detail == "The rule's filter does not match this event: payload.text $eq"
    assert delivery.finished_at is not None


def test_a_replay_shapes_what_matches_now():
    _, rule, delivery = given_up()
    change(rule, filter=CHEAP, mapping=[{"to": "first", "from": "payload.l[0]"}])
    assert replays.send_again([delivery.pk]).to_publish == [
        (delivery.workspace_id, delivery.connection_id, delivery.pk)
    ]
    delivery.refresh_from_db()
    assert (delivery.status, delivery.cause, delivery.body) == ("pending", "", '{"first":0}')


def test_what_is_still_too_dear_stays_dead_and_says_so():
    _, _, delivery = given_up()
    assert replays.send_again([delivery.pk]).made == {}
    delivery.refresh_from_db()
    assert (delivery.status, delivery.cause) == ("dead", "evaluation_limit")
    answer = account().post(f"/deliveries/{delivery.public_id}/replay")
    assert answer.status_code == 409
    assert "the clause payload.l $neq needs more than the 300,000 steps" in answer.json()["detail"]


@pytest.mark.usefixtures("redis_client")
def test_the_api_answers_a_replay_that_ends_a_delivery_with_its_end(monkeypatch):
    monkeypatch.setattr(brokers, "publish_deliveries", lambda hints: None)
    _, rule, delivery = given_up()
    change(rule, filter={"payload.text": "other"})
    answer = account().post(f"/deliveries/{delivery.public_id}/replay")
    assert answer.status_code == 202
    assert (answer.json()["status"], answer.json()["cause"]) == ("cancelled", "filtered")


# --- trials ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 3])
def test_a_trial_answers_as_fan_out_does(others):
    """Beside three cheap rules a rule has more than its share, and beside three dear ones its share alone."""
    event, ledger, rules = route(LARGE, {"filter": NESTED}, *[{"filter": UNLIKE}] * others)
    answer = account().post(f"/rules/{rules[0].public_id}/test", {"event_id": event.public_id})
    assert answer.status_code == 200, answer.content
    expected = {"matched": (True, ""), "evaluation_limit": (False, "evaluation_limit")}[ledger[0]["result"]]
    assert (answer.json()["matched"], answer.json()["reason"]) == expected
    assert ledger[0]["result"] == ("evaluation_limit" if others else "matched")
    assert answer.json()["detail"] == ledger[0].get("reason", "")


# --- how many rules -------------------------------------------------------------------------------------------------


def test_a_workspace_has_so_many_rules_and_no_more(settings):
    settings.MESHES_RULES_PER_WORKSPACE = 2
    workspace = make_workspace()
    connection = make_connection(workspace)
    body = {"workspace": workspace.external_id, "connection": connection.public_id, "event": "*"}
    caller = account()
    assert [caller.post("/rules", body).status_code for _ in range(2)] == [201, 201]
    refused = caller.post("/rules", body)
    assert refused.status_code == 422
    assert refused.headers["Content-Type"] == "application/problem+json"
    (error,) = refused.json()["errors"]
    assert error["rule"] == "limit"
    assert error["detail"] == "A workspace has at most 2 rules (MESHES_RULES_PER_WORKSPACE); delete one first."


@pytest.mark.django_db(transaction=True)
def test_rules_that_are_made_at_the_same_time_are_no_more_either(settings):
    settings.MESHES_RULES_PER_WORKSPACE = 3
    workspace, other = make_workspace(), make_workspace()
    bodies = [
        {"workspace": each.external_id, "connection": make_connection(each).public_id, "event": "*"}
        for each in (workspace, other)
    ]
    callers, together = [account() for _ in range(16)], Barrier(16)

    def post(number):
        try:
            together.wait(60)
            return callers[number].post("/rules", bodies[number % 2]).status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(post, range(16)))
    for answers_of_one in (answers[::2], answers[1::2]):
        assert sorted(answers_of_one) == [201] * 3 + [422] * 5
    assert [Rule.objects.filter(workspace=each).count() for each in (workspace, other)] == [3, 3]


def test_rules_above_a_lowered_limit_stay_and_can_be_changed(settings):
    workspace = make_workspace()
    rules = [make_rule(make_connection(workspace)) for _ in range(3)]
    settings.MESHES_RULES_PER_WORKSPACE = 1
    event = make_event(workspace)
    fan_out([event.pk])
    assert [entry["result"] for entry in ledger_of(event)] == ["matched"] * 3
    assert account().patch(f"/rules/{rules[0].public_id}", {"enabled": False}).status_code == 200


def test_five_hundred_rules_is_the_limit_by_default(settings):
    assert settings.MESHES_RULES_PER_WORKSPACE == 500


def test_rules_that_did_not_change_are_not_compiled_again():
    workspace = make_workspace()
    rules = [make_rule(make_connection(workspace), filter=CHEAP) for _ in range(2)]
    before = routing.current(workspace.pk)
    kept = [rule.filter for rule in before.rules]
    change(rules[0], filter={"payload.text": "other"})
    after = routing.current(workspace.pk)
    assert after.stamp > before.stamp
    assert [rule.rule.pk for rule in after.rules] == [rule.pk for rule in rules]
    assert after.rules[0].filter is not kept[0]
    assert after.rules[1].filter is kept[1]
    assert ids.encode(ids.RULE, rules[1].pk) == after.rules[1].entry["rule"]
    assert RULE_STEPS < EVENT_STEPS
