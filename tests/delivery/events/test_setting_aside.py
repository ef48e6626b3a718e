"""An accepted event always gets on: what fails is tried again for ever, or set aside by its true cause."""

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import Error, connection, transaction

from delivery import tasks
from delivery.dispatch import sweep
from delivery.events import erasure, setting_aside
from delivery.events.setting_aside import MOST_LOSSES, Claim, Suspects
from delivery.models import Delivery, RoutingLedger, Unrouted
from delivery.rules import fanout, routing
from meshes.kit import ids, partitions
from tests import factories
from tests.delivery.groups import Direct, run_fan_out_here, sleep_by
from tests.factories import fan_out, make_connection, make_event, make_rule, make_workspace
from tests.faults import raise_sqlstate

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

PASSING = ("08006", "40001", "40P01", "53100", "53300", "55P03", "57P01", "57P03", "58030", "25006")
ITEMS_OWN = ("22003", "22P05", "23502", "23503", "54000")


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(setting_aside, "suspects", Suspects())


@pytest.fixture
def workspace():
    made = make_workspace()
    make_rule(make_connection(made))
    return made


def refuse(state, which="true"):
    """Deliveries of these events are refused with the SQLSTATE, until `accept`."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF {which} THEN RAISE EXCEPTION 'the volume is full' USING ERRCODE = '{state}'; END IF;"
            " RETURN NEW; END $$"
        )
        cursor.execute(
            "CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON deliveries FOR EACH ROW EXECUTE FUNCTION refuse()"
        )


def accept():
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER refuse ON deliveries")


def waiting(event):
    return Unrouted.objects.get(event=event)


def end_rest(*events):
    past = datetime.now(UTC) - timedelta(seconds=1)
    Unrouted.objects.filter(event__in=events).update(lease_until=past)


def lose_worker(event):
    """A worker claims the event and is never heard of again."""
    claim = Claim(event.pk, ids.uuid7())
    (fact,) = fanout.claim_events([claim])
    end_rest(event)
    return claim, fact


# --- ours, for ever -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", PASSING)
def test_while_nothing_can_be_written_every_event_waits_uncounted_and_then_gets_on(workspace, state):
    events = [make_event(workspace) for _ in range(3)]
    refuse(state)
    for tried in range(1, 3 * MOST_LOSSES):
        assert fan_out([event.pk for event in events]) == []
        rows = [waiting(event) for event in events]
        assert [(row.tries, row.failures, row.poisoned_at, row.cause) for row in rows] == [(0, tried, None, "")] * 3
        assert {row.lease_id for row in rows} == {None}
        assert {row.detail.rpartition("(")[2] for row in rows} == {f"{state})"}
        assert setting_aside.set_aside_lost() == 0
        end_rest(*events)
    accept()
    assert len(fan_out([event.pk for event in events])) == 3
    assert not Unrouted.objects.exists()


def test_a_missing_partition_of_deliveries_is_ours(workspace):
    event = make_event(workspace)
    partition = partitions.Partition("deliveries", partitions.week_of(datetime.now(UTC)))
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(f"ALTER TABLE deliveries DETACH PARTITION {partition.name}")
    for _ in range(2 * MOST_LOSSES):
        assert fan_out([event.pk]) == []
        end_rest(event)
    row = waiting(event)
    assert (row.tries, row.poisoned_at, row.detail) == (0, None, "check violation (23514: deliveries)")
    partitions.ensure("deliveries", partition.start)
    assert len(fan_out([event.pk])) == 1


def test_what_is_neither_the_events_nor_passing_is_ours_too(workspace):
    """As where a migration is missing: every event would fail, and none is to blame."""
    event, other = make_event(workspace), make_event(workspace)
    refuse("42703", f"NEW.event_id = '{event.pk}'")
    for _ in range(MOST_LOSSES + 1):
        fan_out([event.pk, other.pk])
        end_rest(event)
    assert (waiting(event).tries, waiting(event).poisoned_at) == (0, None)
    assert not Unrouted.objects.filter(event=other).exists()


def test_an_event_rests_longer_each_time_and_is_hinted_only_then(workspace):
    event = make_event(workspace)
    Unrouted.objects.update(created_at=event.created_at - timedelta(minutes=1))
    refuse("53100")
    for failures, seconds in [(0, 1), (1, 2), (3, 8), (9, 30), (10_000, 30)]:
        Unrouted.objects.filter(event=event).update(failures=failures, lease_until=None)
        before = datetime.now(UTC)
        fan_out([event.pk])
        rest = (waiting(event).lease_until - before).total_seconds()
        assert 0.8 * seconds <= rest <= 1.2 * seconds + 10
        assert fan_out([event.pk]) == [], "it rests"
        assert waiting(event).failures == failures + 1
    assert sweep.fan_out_forgotten(datetime.now(UTC)) == 0
    end_rest(event)
    assert sweep.fan_out_forgotten(datetime.now(UTC)) == 1


def test_a_resting_event_can_be_erased(workspace):
    event = make_event(workspace)
    refuse("53100")
    fan_out([event.pk])
    done = erasure.erase_events(workspace, [event.pk], datetime.now(UTC))
    assert (done.events, done.busy) == (1, [])
    assert not Unrouted.objects.exists()


# --- lost workers ---------------------------------------------------------------------------------------------------


def test_only_a_lost_worker_is_counted_and_the_fifth_sets_the_event_aside(workspace):
    event = make_event(workspace)
    for lost in range(MOST_LOSSES):
        assert waiting(event).tries == max(0, lost - 1), "counted by who takes over"
        assert lose_worker(event)[1] is not None
        assert setting_aside.set_aside_lost() == (lost == MOST_LOSSES - 1)
    row = waiting(event)
    assert (row.tries, row.cause, row.detail) == (5, "workers_lost", "5 workers were lost while they routed it")
    assert row.poisoned_at is not None
    assert fan_out([event.pk]) == []
    assert sweep.fan_out_forgotten(datetime.now(UTC)) == 0


def test_a_fifth_claim_of_a_lapsed_lease_is_left_to_the_sweep(workspace):
    event = make_event(workspace)
    Unrouted.objects.filter(event=event).update(tries=MOST_LOSSES - 1, lease_id=uuid.uuid4())
    end_rest(event)
    assert fan_out([event.pk]) == []
    assert waiting(event).poisoned_at is None
    assert setting_aside.set_aside_lost() == 1


@pytest.mark.parametrize("losses", [0, MOST_LOSSES - 2])
def test_a_lease_that_lapsed_while_it_could_not_be_handed_back_is_no_lost_worker(workspace, losses):
    event = make_event(workspace)
    Unrouted.objects.filter(event=event).update(tries=losses)
    claim, fact = lose_worker(event)
    other, taken = lose_worker(event)
    assert (fact is None, taken is None, waiting(event).tries) == (False, False, losses + 1)
    setting_aside.hand_back([setting_aside.Failure(claim, "", "disk full (53100)")])
    assert (waiting(event).tries, waiting(event).lease_id) == (losses, other.lease_id), "the lease is another's"


def test_an_event_that_was_set_aside_for_a_worker_that_lives_comes_back(workspace):
    event = make_event(workspace)
    Unrouted.objects.filter(event=event).update(tries=MOST_LOSSES - 1)
    claim, _ = lose_worker(event)
    assert setting_aside.set_aside_lost() == 1
    setting_aside.hand_back([setting_aside.Failure(claim, "", "disk full (53100)")])
    assert (waiting(event).tries, waiting(event).poisoned_at, waiting(event).cause) == (MOST_LOSSES - 1, None, "")
    assert len(fan_out([event.pk])) == 1


def test_a_claim_that_is_run_again_meets_its_own_lease(workspace):
    """As where the connection was lost at the commit: the group runs the same claims again."""
    claims = [Claim(make_event(workspace).pk, ids.uuid7()) for _ in range(2)]
    first, again = fanout.claim_events(claims), fanout.claim_events(claims)
    assert first == again
    assert None not in first
    assert set(Unrouted.objects.values_list("tries", flat=True)) == {0}
    assert fanout.claim_events([Claim(claims[0].event_id, ids.uuid7())]) == [None], "of a live lease"


def test_rows_of_before_are_claimed_and_stay_set_aside_as_they_were(workspace):
    counted, aside = make_event(workspace), make_event(workspace)
    past = datetime.now(UTC) - timedelta(minutes=5)
    Unrouted.objects.filter(event=counted).update(tries=4, lease_until=past)
    Unrouted.objects.filter(event=aside).update(tries=5, lease_until=past, poisoned_at=past)
    assert setting_aside.set_aside_lost() == 0
    assert len(fan_out([counted.pk, aside.pk])) == 1
    assert (waiting(aside).tries, waiting(aside).poisoned_at, waiting(aside).cause) == (5, past, "")
    assert setting_aside.route_again([aside.pk]) == [(workspace.pk, aside.pk)]
    assert len(fan_out([aside.pk])) == 1


# --- its own --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ITEMS_OWN)
def test_what_fails_alone_while_others_pass_is_set_aside_by_its_cause(workspace, state):
    bad, *good = (make_event(workspace) for _ in range(4))
    refuse(state, f"NEW.event_id = '{bad.pk}'")
    assert len(fan_out([event.pk for event in (*good, bad)])) == 3
    row = waiting(bad)
    assert (row.tries, row.cause, row.lease_id) == (0, "refused", None)
    assert row.poisoned_at is not None
    assert row.detail.endswith(f"({state})")
    assert fan_out([bad.pk]) == []
    accept()
    setting_aside.route_again([bad.pk])
    assert len(fan_out([bad.pk])) == 1


def test_its_own_timeout_sets_an_event_aside_where_others_pass(workspace):
    bad, good = make_event(workspace), make_event(workspace)
    refuse("57014", f"NEW.event_id = '{bad.pk}'")
    fan_out([good.pk, bad.pk])
    assert (waiting(bad).cause, waiting(bad).detail) == ("timeout", "query canceled (57014)")
    assert waiting(bad).poisoned_at is not None


@pytest.mark.parametrize("state", ["57014", "23502", "22003"])
def test_where_all_fail_alike_none_of_them_is_to_blame(workspace, state):
    events = [make_event(workspace) for _ in range(4)]
    refuse(state)
    for _ in range(2 * MOST_LOSSES):
        fan_out([event.pk for event in events])
        end_rest(*events)
    assert set(Unrouted.objects.values_list("tries", "poisoned_at", "cause")) == {(0, None, "")}


def test_a_lone_event_is_set_aside_after_three_failures_of_its_own(workspace):
    event = make_event(workspace)
    refuse("22003")
    causes = []
    for _ in range(3):
        fan_out([event.pk])
        causes.append(waiting(event).cause)
        end_rest(event)
    assert causes == ["", "", "refused"]


def test_an_error_of_ours_sets_aside_what_it_concerns_and_says_so(workspace, monkeypatch, caplog):
    bad, good = make_event(workspace), make_event(workspace)

    def evaluate(fact, rules):
        if fact.event_id == bad.pk:
            raise KeyError("ada@example.com")
        return routing.evaluate(fact, rules)

    monkeypatch.setattr(factories, "evaluate", evaluate)
    fan_out([good.pk, bad.pk])
    row = waiting(bad)
    assert row.cause == "error"
    assert row.detail == "an error in Meshes itself (KeyError); its log has it, under the event's id"
    assert any(str(bad.pk) in record.getMessage() and record.exc_info for record in caplog.records)


def test_a_lack_of_memory_or_files_is_ours(workspace, monkeypatch):
    event, other = make_event(workspace), make_event(workspace)
    for lack in (MemoryError(), OSError(24, "Too many open files")):

        def evaluate(fact, rules, lack=lack):
            if fact.event_id == event.pk:
                raise lack
            return routing.evaluate(fact, rules)

        monkeypatch.setattr(factories, "evaluate", evaluate)
        fan_out([event.pk, other.pk])
        assert (waiting(event).poisoned_at, waiting(event).tries) == (None, 0)
        end_rest(event)


# --- in a task ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tasks_here(monkeypatch):
    return run_fan_out_here(monkeypatch)


def test_a_task_hands_back_what_it_could_not_write(workspace, tasks_here):
    event = make_event(workspace)
    refuse("53100")
    for failures in range(1, 8):
        tasks.fan_out(str(event.pk))
        assert (waiting(event).tries, waiting(event).failures, waiting(event).lease_id) == (0, failures, None)
        end_rest(event)
    accept()
    tasks.fan_out(str(event.pk))
    assert RoutingLedger.objects.filter(event=event).exists()
    assert Delivery.objects.filter(event=event).count() == 1
    assert tasks_here == []


def fail_to_hand_back(monkeypatch, state, times):
    """The next `times` calls fail. The list holds what they were given."""
    tried = []

    def hand_back(failures):
        tried.append(failures)
        if len(tried) <= times:
            raise_sqlstate(state)
        return setting_aside.hand_back(failures)

    monkeypatch.setattr(tasks, "_hand_backs", Direct(hand_back))
    return tried


@pytest.mark.parametrize("state", ["53100", "57014", "42P01", "XX000", "42501", "23514"])
def test_a_task_hands_back_with_patience_while_that_is_refused_too(workspace, tasks_here, monkeypatch, state):
    event = make_event(workspace)
    refuse("53100")
    fail_to_hand_back(monkeypatch, state, 7)
    tasks.fan_out(str(event.pk))
    assert (waiting(event).tries, waiting(event).failures, waiting(event).lease_id) == (0, 1, None)
    assert len(tasks_here) == 7
    assert tasks_here[0] < 1 < max(tasks_here) <= 12


@pytest.mark.parametrize("state", ["57014", "XX000"])
def test_while_a_task_cannot_hand_back_its_lease_lives_uncounted(workspace, tasks_here, monkeypatch, state):
    """For longer than five leases, after which it was set aside as `workers_lost`."""
    event, seen = make_event(workspace), []
    refuse("53100")
    fail_to_hand_back(monkeypatch, state, 3 * MOST_LOSSES)

    def outlast(seconds):
        assert fanout.claim_events([Claim(event.pk, ids.uuid7())]) == [None], "of a live lease"
        seen.append((waiting(event).tries, waiting(event).lease_id))
        end_rest(event)

    sleep_by(monkeypatch, outlast)
    tasks.fan_out(str(event.pk))
    assert len(seen) == 3 * MOST_LOSSES
    assert {tries for tries, _ in seen} == {0}
    assert len({lease_id for _, lease_id in seen}) == 1
    row = waiting(event)
    assert (row.tries, row.failures, row.cause, row.poisoned_at, row.lease_id) == (0, 1, "", None, None)


def test_a_large_payload_is_read_by_itself_and_what_fails_then_is_handed_back(workspace, tasks_here, monkeypatch):
    event = make_event(workspace, {"email": "a@example.com", "text": "x" * 20_000})

    def read(facts):
        raise_sqlstate("53100")

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "_large_payloads", Direct(read))
        tasks.fan_out(str(event.pk))
    assert (waiting(event).tries, waiting(event).failures, waiting(event).lease_id) == (0, 1, None)
    end_rest(event)
    tasks.fan_out(str(event.pk))
    (delivery,) = Delivery.objects.filter(event=event)
    assert delivery.status == "pending"


def test_a_payload_is_read_for_its_own_workspace_alone(workspace):
    event = make_event(workspace, {"text": "x" * 20_000})
    (fact,) = fanout.claim_events([Claim(event.pk, ids.uuid7())], 16_384)
    assert fact.payload == ""
    (read,) = fanout.read_payloads([fact])
    assert json.loads(read.payload) == {"text": "x" * 20_000}
    assert fanout.read_payloads([replace(fact, workspace_id=make_workspace().pk)]) == [None]


def test_an_event_that_is_deleted_before_its_large_payload_is_read_is_passed_over(workspace, tasks_here, monkeypatch):
    event = make_event(workspace, {"text": "x" * 20_000})
    monkeypatch.setattr(tasks, "_large_payloads", Direct(lambda facts: [None for _ in facts]))
    tasks.fan_out(str(event.pk))
    assert not Delivery.objects.exists()
    assert waiting(event).failures == 0


def test_a_task_that_cannot_claim_leaves_the_event_as_it_was(workspace, tasks_here, monkeypatch):
    event = make_event(workspace)

    def claim(claims):
        raise_sqlstate("53100")

    monkeypatch.setattr(tasks, "_event_claims", Direct(claim))
    tasks.fan_out(str(event.pk))
    assert (waiting(event).tries, waiting(event).failures, waiting(event).lease_until) == (0, 0, None)


# --- suspects -------------------------------------------------------------------------------------------------------


def test_two_that_fail_while_another_passes_both_fail_alone():
    suspects, (one, two, three) = Suspects(), (uuid.uuid4() for _ in range(3))
    began = time.monotonic()
    assert [suspects.fails_alone(each, began) for each in (one, two)] == [False, False]
    suspects.note_passed([three])
    assert [suspects.fails_alone(each, time.monotonic()) for each in (one, two)] == [True, True]


def test_what_passed_before_it_failed_proves_nothing():
    suspects, (one, two) = Suspects(), (uuid.uuid4() for _ in range(2))
    suspects.note_passed([two])
    assert not suspects.fails_alone(one, time.monotonic())


def test_suspects_are_bounded(monkeypatch):
    monkeypatch.setattr(setting_aside, "MOST_SUSPECTS", 10)
    suspects = Suspects()
    for _ in range(100):
        suspects.fails_alone(uuid.uuid4(), time.monotonic())
    assert len(suspects._failed) <= 10


def test_errors_of_the_database_are_told_without_what_they_quote(workspace):
    event = make_event(workspace)
    claim = Claim(event.pk, ids.uuid7())
    with pytest.raises(Error) as failed, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT 'ada@example.com'::int")
    failure = setting_aside.judge(claim, failed.value, time.monotonic())
    assert failure.detail == "invalid text representation (22P02)"


# --- through the groups that threads share --------------------------------------------------------------------------


@pytest.fixture
def _no_session_left(transactional_db):
    """Groups keep their connections; a database with sessions cannot be dropped. They connect anew when they must."""
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER IF EXISTS refuse ON deliveries; DROP FUNCTION IF EXISTS refuse()")
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.mark.usefixtures("_no_session_left")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("state", ["53100", "22003", "57014"])
def test_of_many_at_once_only_the_one_that_is_refused_is_not_routed(workspace, state):
    """What is refused in a batch is written again one by one, by the same claims."""
    bad, *good = (make_event(workspace) for _ in range(24))
    refuse(state, f"NEW.event_id = '{bad.pk}'")
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda event: tasks.fan_out(str(event.pk)), (*good, bad)))
        for _ in range(2):  # it may have begun when all others were done, which proves nothing yet
            end_rest(bad)
            pool.submit(tasks.fan_out, str(bad.pk)).result(60)
    assert set(RoutingLedger.objects.values_list("event_id", flat=True)) == {event.pk for event in good}
    row = Unrouted.objects.get()
    assert (row.event_id, row.tries, row.lease_id) == (bad.pk, 0, None)
    assert (row.poisoned_at is None) == (state == "53100")
    assert row.cause == {"53100": "", "22003": "refused", "57014": "timeout"}[state]


@pytest.mark.usefixtures("_no_session_left")
@pytest.mark.django_db(transaction=True)
def test_of_many_that_all_fail_none_is_counted_or_set_aside_and_all_get_on(workspace):
    events = [make_event(workspace) for _ in range(24)]
    with ThreadPoolExecutor(24) as pool:
        for state in ("53100", "23502", "57014", "53100", "23502", "57014"):
            refuse(state)
            list(pool.map(lambda event: tasks.fan_out(str(event.pk)), events))
            end_rest(*events)
        assert set(Unrouted.objects.values_list("tries", "failures", "poisoned_at")) == {(0, 6, None)}
        accept()
        list(pool.map(lambda event: tasks.fan_out(str(event.pk)), events))
    assert not Unrouted.objects.exists()
    assert RoutingLedger.objects.count() == Delivery.objects.count() == 24
