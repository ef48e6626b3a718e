"""Sweeps: whatever hint was lost, the rows are found again."""

import re
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import Error, connection, connections, transaction

from connections.models import Connection
from delivery.dispatch import claims, hold, sweep
from delivery.lanes import brokers
from delivery.models import Attempt, Delivery, SweepRun, Unrouted
from tests.factories import (
    fan_out,
    lapse_lease,
    make_connection,
    make_deliveries,
    make_event,
    make_rule,
    make_workspace,
    own_lanes,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]


def waiting(target):
    """How many hints wait in the connection's lane."""
    assert brokers.flush()
    return own_lanes().depth(brokers.lane_of(target.pk))


def later(**delay):
    return datetime.now(UTC) + timedelta(**delay)


def set_status(target, status):
    Connection.objects.filter(pk=target.pk).update(status=status)


def test_due_deliveries_are_hinted_once_they_are_due():
    target = make_connection(make_workspace())
    _, not_yet = make_deliveries(target, 2)
    Delivery.objects.filter(pk=not_yet.pk).update(next_attempt_at=later(hours=1))
    assert sweep.DueDeliveries()(datetime.now(UTC)) == 1
    assert waiting(target) == 1


def test_a_hint_is_not_doubled_in_the_lane():
    target = make_connection(make_workspace())
    make_deliveries(target, 3)
    due = sweep.DueDeliveries()
    assert [due(datetime.now(UTC)) for _ in range(3)] == [3, 0, 0]
    assert sweep.DueDeliveries()(datetime.now(UTC)) == 3  # another sweeper knows nothing of it; the lane does
    assert waiting(target) == 3


def test_ten_thousand_due_at_once_are_found_in_one_sweep():
    target = make_connection(make_workspace())
    (delivery,) = make_deliveries(target)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO deliveries (id, workspace_id, event_id, rule_id, connection_id, event_type, action, frozen,"
            " status, cause, detail, outcome, attempt_number, budget_used, losses, claimed_by, next_attempt_at,"
            " created_at) SELECT overlay(d.id::text placing lpad(to_hex(n), 12, '0') from 25)::uuid, d.workspace_id,"
            " d.event_id, d.rule_id, d.connection_id, d.event_type, d.action, d.frozen, 'pending', '', '', '', 0, 0, 0,"
            " '', clock_timestamp(), d.created_at FROM deliveries d, generate_series(1, 9999) n WHERE d.id = %s",
            [delivery.pk],
        )
    assert sweep.DueDeliveries()(datetime.now(UTC)) == 10_000
    assert waiting(target) == 1_000  # a lane holds a window; the top-up brings the rest


def test_top_up_hints_what_the_due_sweep_never_saw():
    target = make_connection(make_workspace())
    make_deliveries(target, 2)
    Delivery.objects.filter(connection=target).update(next_attempt_at=later(hours=-5))
    assert sweep.top_up_lanes(datetime.now(UTC)) == 2
    assert waiting(target) == 2


def test_top_up_sets_the_lanes_own_limit_again():
    target = make_connection(make_workspace(), in_flight=2, rate=0.5)
    make_deliveries(target)
    sweep.top_up_lanes(datetime.now(UTC))
    stats = own_lanes().stats(brokers.lane_of(target.pk))
    assert (stats.limit, stats.rate) == (2, 0.5)


def test_hints_carry_the_workspace_whose_turns_the_lane_shares():
    target = make_connection(make_workspace())
    make_deliveries(target)
    sweep.DueDeliveries()(datetime.now(UTC))
    assert waiting(target) == 1
    assert own_lanes().stats(brokers.lane_of(target.pk)).workspace == str(target.workspace_id)


def test_top_up_passes_over_a_lane_that_is_paused():
    target = make_connection(make_workspace(), paused_until=later(minutes=5))
    make_deliveries(target)
    assert sweep.top_up_lanes(later(seconds=30)) == 0
    assert waiting(target) == 0


def test_a_lease_that_cannot_be_ended_keeps_nobody_else_waiting():
    (lapsed,), other = make_deliveries(make_connection(make_workspace())), make_connection(make_workspace())
    claims.claim([lapsed.pk], "a worker that is lost")
    lapse_lease(lapsed)
    make_deliveries(other, 2)
    Delivery.objects.update(next_attempt_at=later(minutes=-1))
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'a test' USING ERRCODE = '57014'; END $$"
        )
        cursor.execute("CREATE TRIGGER refuse BEFORE INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION refuse()")
    with pytest.raises(Error), transaction.atomic():
        sweep.top_up_lanes(datetime.now(UTC))
    assert waiting(other) == 2
    lapsed.refresh_from_db()
    assert (lapsed.status, lapsed.losses) == ("pending", 0)


def test_a_lapsed_lease_ends_as_an_uncertain_attempt():
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    claims.claim([delivery.pk], "worker 1")
    lapse_lease(delivery)
    assert sweep.top_up_lanes(later(seconds=10)) == 1
    attempt = Attempt.objects.get(delivery=delivery)
    assert (attempt.outcome, attempt.error_class, attempt.worker) == ("uncertain", "worker_lost", "worker 1")


def test_pending_deliveries_of_a_paused_connection_become_held_and_return_in_order():
    target = make_connection(make_workspace())
    deliveries = make_deliveries(target, 3)
    set_status(target, "paused")
    sweep.top_up_lanes(datetime.now(UTC))
    assert set(Delivery.objects.filter(connection=target).values_list("status", "cause")) == {("held", "paused")}
    assert hold.release_held(datetime.now(UTC)) == 0
    set_status(target, "active")
    assert hold.release_held(datetime.now(UTC)) == 3
    assert set(Delivery.objects.filter(connection=target).values_list("status", "cause")) == {("pending", "")}
    assert waiting(target) == len(deliveries)


def test_held_deliveries_are_released_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(hold, "RELEASED_AT_ONCE", 2)
    target = make_connection(make_workspace(), status="paused")
    deliveries = make_deliveries(target, 5)
    set_status(target, "active")
    assert [hold.release_held(datetime.now(UTC)) for _ in range(4)] == [2, 2, 1, 0]
    assert len(deliveries) == 5


def test_open_deliveries_of_a_deleted_connection_are_cancelled():
    target = make_connection(make_workspace())
    (delivery,) = make_deliveries(target)
    set_status(target, "deleted")
    sweep.top_up_lanes(datetime.now(UTC))
    delivery.refresh_from_db()
    assert (delivery.status, delivery.cause) == ("cancelled", "connection_deleted")


def test_a_forgotten_event_is_hinted_and_a_fresh_one_left_to_its_own_hint():
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    event = make_event(workspace)
    assert sweep.fan_out_forgotten(datetime.now(UTC)) == 0
    assert sweep.fan_out_forgotten(later(seconds=5)) == 1
    assert brokers.flush()
    assert own_lanes().depth(f"fanout.{workspace.pk}") == 1
    fan_out([event.pk])
    assert not Unrouted.objects.filter(event=event).exists()
    assert sweep.fan_out_forgotten(later(seconds=5)) == 0


@pytest.mark.django_db(transaction=True)
def test_two_sweepers_do_not_run_the_same_sweep_at_once():
    entered, may_end, ran = threading.Event(), threading.Event(), []

    def slow(now):
        entered.set()
        may_end.wait(5)
        return 1

    def run_first():
        ran.append(sweep.run_once(sweep.Sweep("tested", 1, slow)))
        connections.close_all()

    first = threading.Thread(target=run_first)
    first.start()
    entered.wait(5)
    assert sweep.run_once(sweep.Sweep("tested", 1, lambda now: 1)) is None
    may_end.set()
    first.join()
    assert ran == [1]
    assert sweep.run_once(sweep.Sweep("tested", 1, lambda now: 1)) == 1


@pytest.mark.django_db(transaction=True)
def test_a_sweep_that_fails_is_run_again():
    stopping, tries = threading.Event(), []

    def flaky(now):
        tries.append(now)
        if len(tries) == 1:
            raise RuntimeError("once")
        stopping.set()
        return 0

    started = time.monotonic()
    thread = threading.Thread(target=sweep.run_until, args=(sweep.Sweep("flaky", 0.01, flaky), stopping))
    thread.start()
    thread.join(10)
    assert len(tries) == 2
    assert time.monotonic() - started < 10
    assert SweepRun.objects.filter(name="flaky").exists()


@pytest.mark.django_db(transaction=True)
def test_a_sweep_that_only_fails_is_never_noted_as_a_success():
    stopping, tries = threading.Event(), []

    def failing(now):
        tries.append(now)
        if len(tries) == 2:
            stopping.set()
        raise RuntimeError("each time")

    thread = threading.Thread(target=sweep.run_until, args=(sweep.Sweep("failing", 0.01, failing), stopping))
    thread.start()
    thread.join(20)
    assert len(tries) == 2
    assert not SweepRun.objects.filter(name="failing").exists()


def test_the_command_says_which_sweep_is_late(capsys):
    with pytest.raises(CommandError, match="A sweep is late"):
        call_command("sweep", "--check")
    assert re.search(r"^due +never  late$", capsys.readouterr().out, re.MULTILINE)
    for each in sweep.sweeps():
        sweep.note_success(each.name)
    call_command("sweep", "--check")
    assert re.search(r"^access log +0 s ago$", capsys.readouterr().out, re.MULTILINE)
