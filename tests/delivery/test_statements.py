"""What the pipeline costs the database at load: statements, counted over all threads of the process."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, connections

from connections.providers.base import Outcome, Verdict
from delivery import tasks
from delivery.dispatch import attempts, claims, settling
from delivery.events import intake
from delivery.models import Attempt, Delivery, Event, Unrouted
from delivery.rules import routing
from tests.delivery.api import account, tenant
from tests.factories import make_connection, make_deliveries, make_event, make_rule, make_workspace
from tests.receivers import Answer
from tests.statements import counted_statements

pytestmark = pytest.mark.django_db(transaction=True)

EVENT = {"event": "lead.created", "payload": {"email": "ada@example.com"}}


@pytest.fixture(autouse=True)
def _no_session_left(transactional_db):
    """Groups keep their connections; a database with sessions cannot be dropped. They connect anew when they must."""
    yield
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def post_all(caller, bodies, threads=16, **headers):
    """Post these events from as many threads, which then leave no connection; the statuses, in order."""

    def post(body):
        status = caller.post("/events", body, **headers).status_code
        connections.close_all()
        return status

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(post, bodies))


@pytest.mark.alone
def test_a_delivery_at_load_costs_at_most_three_tenths_of_a_statement(endpoint):
    together = threading.Barrier(64)  # a destination that answers when all threads wait for it: always 64 at once
    endpoint.answers = lambda got: [Answer(), together.wait(30)][0]
    deliveries = make_deliveries(make_connection(make_workspace(), url=endpoint.url), 5 * 64)
    with ThreadPoolExecutor(64) as pool, counted_statements() as statements:
        list(pool.map(lambda delivery: tasks.deliver(str(delivery.pk)), deliveries))
    assert Delivery.objects.filter(status="succeeded").count() == len(deliveries) == Attempt.objects.count()
    assert len(statements) / len(deliveries) <= 0.3


def test_a_batch_of_deliveries_costs_no_more_statements_than_one():
    deliveries = make_deliveries(make_connection(make_workspace()), 64)
    with counted_statements() as statements:
        jobs = [job for job in claims.claim([delivery.pk for delivery in deliveries], "worker") if job]
        results = [attempts.Result(job, Verdict(Outcome.DELIVERED), job.clock.moment, 1) for job in jobs]
        assert settling.settle(results, "worker") == [True] * 64
    assert Delivery.objects.filter(status="succeeded").count() == 64 == Attempt.objects.count()
    assert len(statements) <= 6


def test_a_lone_delivery_costs_one_statement_to_claim_and_one_to_settle(endpoint):
    first, second = make_deliveries(make_connection(make_workspace(), url=endpoint.url), 2)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(tasks.deliver, str(first.pk)).result()  # the first success of a connection is written down
        with counted_statements() as statements:
            pool.submit(tasks.deliver, str(second.pk)).result()
    assert len(statements) == 2


def test_events_posted_at_once_share_their_statements():
    workspace, caller = make_workspace(), account()
    intake._counts.clear()
    assert post_all(caller, [EVENT | {"workspace": workspace.public_id}]) == [202]
    with counted_statements() as statements:
        assert post_all(caller, [EVENT | {"workspace": workspace.public_id}] * 100) == [202] * 100
    assert Event.objects.count() == Unrouted.objects.count() == 101
    assert len(statements) <= 100


def test_a_lone_event_costs_one_statement():
    workspace, caller = make_workspace(), account()
    intake._counts.clear()
    caller.post("/events", EVENT | {"workspace": workspace.external_id})
    with counted_statements() as statements:
        assert caller.post("/events", EVENT | {"workspace": workspace.external_id}).status_code == 202
    assert len(statements) == 1


def test_a_lone_event_with_an_idempotency_key_costs_three_statements():
    workspace, caller = make_workspace(), account()
    intake._counts.clear()
    caller.post("/events", EVENT | {"workspace": workspace.external_id})
    with counted_statements() as statements:
        body = EVENT | {"workspace": workspace.external_id}
        assert caller.post("/events", body, Idempotency_Key="once").status_code == 202
    assert len(statements) == 3


def test_one_refused_event_does_not_touch_those_beside_it():
    good, bad = make_workspace(), make_workspace()
    caller = account()
    bodies = [EVENT | {"workspace": workspace.external_id} for workspace in (good, bad)]
    assert post_all(caller, bodies) == [202, 202]
    type(bad).objects.filter(pk=bad.pk).update(deleted_at="2026-01-01T00:00:00Z")
    statuses = post_all(caller, bodies * 10)
    assert statuses == [202, 422] * 10
    assert Event.objects.filter(workspace=bad).count() == 1
    assert Event.objects.filter(workspace=good).count() == 11


def test_an_external_id_that_moved_on_names_its_new_workspace_at_once():
    first, caller = make_workspace(external_id="acme"), account()
    assert post_all(caller, [EVENT | {"workspace": "acme"}]) == [202]
    type(first).objects.filter(pk=first.pk).update(external_id="acme-old")
    second = make_workspace(external_id="acme")
    assert post_all(caller, [EVENT | {"workspace": "acme"}]) == [202]
    assert Event.objects.filter(workspace=second).count() == 1


def test_a_key_of_one_workspace_does_not_see_another_that_the_process_knows():
    own, foreign = make_workspace(), make_workspace()
    assert post_all(account(), [EVENT | {"workspace": foreign.external_id}]) == [202]
    assert post_all(tenant(own), [EVENT | {"workspace": foreign.external_id}]) == [422]


def test_fan_out_at_load_costs_less_than_one_statement_an_event():
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    events = [make_event(workspace) for _ in range(100)]
    with ThreadPoolExecutor(16) as pool, counted_statements() as statements:
        list(pool.map(lambda event: tasks.fan_out(str(event.pk)), events))
    assert Delivery.objects.count() == 100
    assert len(statements) / len(events) <= 1


def test_an_event_whose_evaluation_lasts_stops_no_other_workspace(monkeypatch):
    slow, quick = (make_event(make_rule(make_connection(make_workspace())).workspace) for _ in range(2))
    is_quick_done = threading.Event()

    def evaluate(fact, rules, note):
        assert fact.event_id != slow.pk or is_quick_done.wait(60)
        return routing.evaluate(fact, rules, note)

    monkeypatch.setattr(tasks, "evaluate", evaluate)
    with ThreadPoolExecutor(2) as pool:
        ends = pool.submit(tasks.fan_out, str(slow.pk))
        pool.submit(tasks.fan_out, str(quick.pk)).result(60)
        assert list(Delivery.objects.values_list("event_id", flat=True)) == [quick.pk]
        is_quick_done.set()
        ends.result(60)
    assert Delivery.objects.count() == 2
