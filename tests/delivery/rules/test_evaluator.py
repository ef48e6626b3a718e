"""Heavy events are evaluated in a process of its own: the same answers, and no loss where it dies."""

import json
import signal

import psutil
import pytest

from delivery import tasks
from delivery.models import RoutingLedger, Unrouted
from delivery.rules import heavy, routing
from delivery.rules.heavy import Evaluator, EvaluatorLostError
from delivery.rules.routing import Fact, evaluate
from tests.delivery.groups import run_fan_out_here
from tests.factories import make_connection, make_event, make_rule, make_workspace
from tests.polling import eventually

pytestmark = pytest.mark.django_db

LIST = {"list": list(range(20_000)), "email": "a@example.com"}
DEAR = {"$and": [{"payload.list": {"$neq": [1, 2, index]}} for index in range(22)]}
CHEAP = {"payload.email": "a@example.com"}
MAPPING = [{"to": "mail", "from": "payload.email"}, {"to": "none", "from": "payload.nothing"}]


@pytest.fixture
def own():
    own = Evaluator()
    yield own
    own.end()


@pytest.fixture
def in_tasks(own, monkeypatch, redis_client):
    """`tasks.fan_out` in the test's own transaction, with this evaluator, and nothing known of workspaces."""
    run_fan_out_here(monkeypatch)
    monkeypatch.setattr(tasks, "_evaluator", own)
    heavy._last_were_heavy.clear()


def make_fact(workspace, payload=None, **rules) -> Fact:
    event = make_event(workspace, payload or LIST)
    return Fact(event.pk, workspace.pk, event.type, json.dumps(payload or LIST))


def rules_of(workspace):
    return routing.current(workspace.pk)


def test_it_answers_what_an_evaluation_here_does(own):
    workspace = make_workspace()
    connection = make_connection(workspace)
    for filter_ in (None, CHEAP, {"payload.email": "other"}, DEAR):
        make_rule(connection, filter=filter_, mapping=None if filter_ else MAPPING)
    fact, rules = make_fact(workspace), rules_of(workspace)
    there, here = own.evaluate(fact, rules), evaluate(fact, rules)
    assert there == here
    assert {entry["result"] for entry in here.entries} > {"matched", "filtered"}


def test_it_uses_the_rules_that_it_is_given_and_asks_for_others_when_they_have_changed(own):
    workspace = make_workspace()
    rule = make_rule(make_connection(workspace), filter=CHEAP)
    fact = make_fact(workspace)
    assert [own.evaluate(fact, rules_of(workspace)).entries[0]["result"] for _ in range(2)] == ["matched"] * 2
    rule.filter = {"payload.email": "other"}
    rule.save()
    assert own.evaluate(fact, rules_of(workspace)).entries[0]["result"] == "filtered"


def test_it_is_a_process_of_low_priority_that_holds_no_connection_to_a_server(own):
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    own.evaluate(make_fact(workspace), rules_of(workspace))
    process = psutil.Process(own._process.pid)
    assert process.nice() == psutil.Process().nice() + heavy.NICENESS
    assert [each for each in process.net_connections("all") if each.raddr] == []


def test_one_that_dies_over_an_event_is_told_and_the_next_event_has_another(own, monkeypatch):
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    fact, rules = make_fact(workspace), rules_of(workspace)
    own.evaluate(fact, rules)
    own._process.kill()
    with monkeypatch.context() as patch:
        patch.setattr(own, "_running", lambda: own._pipe)  # it was alive when it was asked
        with pytest.raises(EvaluatorLostError):
            own.evaluate(fact, rules)
    assert own.evaluate(fact, rules).entries


def test_one_that_died_between_two_events_is_not_missed(own):
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    fact, rules = make_fact(workspace), rules_of(workspace)
    before = own.evaluate(fact, rules)
    first = own._process
    first.kill()
    eventually(lambda: psutil.Process(first.pid).status() == psutil.STATUS_ZOMBIE)
    assert own.evaluate(fact, rules) == before
    assert own._process.pid != first.pid


@pytest.mark.parametrize("has_rules", [True, False])
def test_an_answer_that_is_late_is_thrown_away(own, monkeypatch, has_rules):
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    facts, rules = [make_fact(workspace) for _ in range(2)], rules_of(workspace)
    if has_rules:
        own.evaluate(facts[0], rules)
    else:
        other = make_workspace()
        own.evaluate(make_fact(other), rules_of(other))
    own._process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(heavy, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(heavy.HeavyError):
        own.evaluate(facts[0], rules)
    with pytest.raises(heavy.HeavyError):
        own.evaluate(facts[1], rules)
    own._process.send_signal(signal.SIGCONT)
    monkeypatch.setattr(heavy, "PATIENCE_SECONDS", 60.0)
    assert own.evaluate(facts[1], rules) == evaluate(facts[1], rules)
    assert own.evaluate(facts[0], rules) == evaluate(facts[0], rules)


def test_one_that_is_stuck_is_ended(own, monkeypatch):
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    fact, rules = make_fact(workspace), rules_of(workspace)
    own.evaluate(fact, rules)
    stuck = own._process
    stuck.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(heavy, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(heavy, "STUCK_SECONDS", 0.0)
    with pytest.raises(heavy.HeavyError):
        own.evaluate(fact, rules)
    assert stuck.returncode == -signal.SIGKILL
    monkeypatch.setattr(heavy, "PATIENCE_SECONDS", 60.0)
    assert own.evaluate(fact, rules).entries


def test_what_fails_there_is_an_error_of_this_event_alone(own, monkeypatch):
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    good, rules = make_fact(workspace), rules_of(workspace)
    bad = Fact(good.event_id, good.workspace_id, good.type, "no JSON")
    make_rule(make_connection(workspace), filter=CHEAP)
    rules = rules_of(workspace)
    with pytest.raises(RuntimeError, match="JSONDecodeError"):
        own.evaluate(bad, rules)
    assert own.evaluate(good, rules).entries


def test_it_ends_with_its_worker(own):
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    own.evaluate(make_fact(workspace), rules_of(workspace))
    own._process.send_signal(signal.SIGTERM)  # to the group, at a warm stop: the worker's last events may need it
    own.evaluate(make_fact(workspace), rules_of(workspace))
    own._pipe.close()
    assert own._process.wait(60) == 0


@pytest.mark.usefixtures("in_tasks")
def test_a_heavy_event_is_routed_by_it_and_a_light_one_is_not(own):
    workspace = make_workspace()
    make_rule(make_connection(workspace), filter=CHEAP)
    light = make_event(workspace, {"email": "a@example.com"})
    tasks.fan_out(str(light.pk))
    assert own._process is None
    make_rule(make_connection(workspace), filter=DEAR)
    event = make_event(workspace, LIST)
    tasks.fan_out(str(event.pk))
    assert own._process is not None
    assert not Unrouted.objects.exists()
    entries = RoutingLedger.objects.get(event_id=event.pk).entries
    assert [entry["result"] for entry in entries] == ["matched", "evaluation_limit"]


@pytest.mark.usefixtures("in_tasks")
def test_rules_that_are_dear_to_compile_make_an_event_heavy_until_they_are():
    workspace = make_workspace()
    connection = make_connection(workspace)
    for number in range(3):
        make_rule(connection, filter={"payload.email": {"$regex": rf"^\pL{{{number + 9}}}$"}}, mapping=MAPPING)
    left = []
    for _ in range(4):
        event = make_event(workspace, {"email": "a@example.com"})
        tasks.fan_out(str(event.pk))
        left.append(rules_of(workspace).compilation_steps(event.type))
        assert [entry["result"] for entry in RoutingLedger.objects.get(event_id=event.pk).entries] == ["filtered"] * 3
    assert left[0] > left[1] > left[2] == left[3] == 0
