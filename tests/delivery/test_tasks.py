"""What a delivery tells its lane, and how what it came to is written back."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from django.db import Error, OperationalError, connection, transaction

from connections.models import Connection
from connections.providers.base import Outcome, Verdict
from delivery import tasks
from delivery.dispatch import attempts, claims, settling
from delivery.lanes import lease
from delivery.models import Attempt, Delivery, WorkerSession
from meshes.kit import partitions
from tests.delivery.groups import Direct, sleep_by
from tests.factories import deliver, lapse_lease, make_connection, make_deliveries, make_workspace
from tests.faults import raise_sqlstate

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]


@pytest.mark.parametrize(
    ("verdict", "reported"),
    [
        (Verdict(Outcome.DELIVERED), (1.5, False)),
        (Verdict(Outcome.REJECTED, "refused"), (1.5, False)),
        (Verdict(Outcome.RETRY, "server_error"), (1.5, True)),
        (Verdict(Outcome.UNCERTAIN, "timeout"), (1.5, True)),
        (Verdict(Outcome.RETRY, "too_many_requests", throttled=True), (1.5, False)),
        (Verdict(Outcome.RETRY, "our_fault", is_ours=True), None),
    ],
    ids=lambda value: getattr(value, "error_class", None),
)
def test_a_lane_hears_how_its_endpoint_does(verdict, reported):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    (job,) = claims.claim([delivery.pk], "worker")
    tasks.tell_lane(attempts.Result(job, verdict, datetime.now(UTC), duration_ms=1500))
    assert lease._reports.pop(str(delivery.pk), None) == reported


# --- what an attempt came to is written back ------------------------------------------------------------------------


@pytest.fixture
def settled_here(monkeypatch):
    """`tasks._settle`, in the test's own transaction. The list holds the delays it would have waited."""
    waited = []
    monkeypatch.setattr(tasks, "_settlements", Direct(lambda results: settling.settle(results, "worker")))
    monkeypatch.setattr(tasks, "_regains", Direct(claims.regain_leases))
    sleep_by(monkeypatch, waited.append)
    return waited


def claimed():
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    (job,) = claims.claim([delivery.pk], "worker")
    return delivery, attempts.Result(job, Verdict(Outcome.DELIVERED), datetime.now(UTC), duration_ms=5)


def refuse_attempts(state, times):
    """The next `times` attempts that are inserted fail with this SQLSTATE, but for those of a lost worker."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE refusals")
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.error_class <> 'worker_lost'"
            f" AND nextval('refusals') <= {times} THEN RAISE EXCEPTION 'a test' USING ERRCODE = '{state}'; END IF;"
            " RETURN NEW; END $$"
        )
        cursor.execute("CREATE TRIGGER refuse BEFORE INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION refuse()")


def shown(delivery):
    delivery.refresh_from_db()
    attempts = Attempt.objects.filter(delivery=delivery).order_by("number")
    return delivery.status, delivery.losses, [(a.number, a.outcome, a.error_class) for a in attempts]


@pytest.mark.parametrize("state", ["53100", "57P03", "25006", "40P01"])
def test_while_nothing_can_be_written_a_result_is_kept_and_written_later(settled_here, state):
    delivery, result = claimed()
    refuse_attempts(state, 12)
    tasks._settle(result)
    assert shown(delivery) == ("succeeded", 0, [(1, "delivered", "")])
    assert len(settled_here) == 12
    assert settled_here[0] < settled_here[2] < settled_here[4] <= max(settled_here) <= 12.0


def test_without_a_partition_of_attempts_a_result_is_kept_too(settled_here, monkeypatch):
    delivery, result = claimed()
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    partition = partitions.Partition("attempts", partitions.week_of(datetime.now(UTC)))
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE attempts DETACH PARTITION {partition.name}")
    sleep_by(monkeypatch, lambda seconds: partitions.ensure("attempts", partition.start))
    tasks._settle(result)
    assert shown(delivery) == ("succeeded", 0, [(1, "delivered", "")])


@pytest.mark.parametrize("losses", [0, 4])
def test_a_lease_that_lapsed_while_nothing_could_be_written_is_no_lost_worker(settled_here, monkeypatch, losses):
    delivery, result = claimed()
    Delivery.objects.filter(pk=delivery.pk).update(losses=losses)
    refuse_attempts("53100", 1)

    def lapse(seconds):
        lapse_lease(delivery)
        assert claims.end_lapsed_leases([delivery.pk]) == 1
        assert shown(delivery)[0] == ("dead" if losses == 4 else "pending")

    sleep_by(monkeypatch, lapse)
    tasks._settle(result)
    assert shown(delivery) == ("succeeded", losses, [(1, "delivered", "")])


def test_what_another_worker_has_claimed_meanwhile_is_its_own(settled_here, monkeypatch):
    delivery, result = claimed()
    refuse_attempts("53100", 1)

    def lapse(seconds):
        lapse_lease(delivery)
        claims.end_lapsed_leases([delivery.pk])
        assert claims.claim([delivery.pk], "another worker") != [None]

    sleep_by(monkeypatch, lapse)
    tasks._settle(result)
    assert shown(delivery) == ("pending", 0, [(1, "uncertain", "worker_lost")])
    assert delivery.state == "in_flight"
    assert Attempt.objects.get(delivery=delivery).error == claims.OVERTAKEN_WORDS
    assert claims.regain_leases([result.job]) == [False], "run again by the group: the loss is taken back once"
    assert shown(delivery)[1] == 0


OURS = ["57014", "42P01", "XX000", "42501", "0A000", "72000"]


@pytest.mark.parametrize("state", OURS)
def test_what_is_not_the_evidence_s_fault_is_written_later_with_its_evidence(settled_here, state):
    delivery, result = claimed()
    refuse_attempts(state, 3)
    headers = [["x-request-id", "7"]]
    received = {"status_code": 200, "response_headers": headers, "response_body": b"thanks"}
    tasks._settle(replace(result, evidence=received))
    assert shown(delivery) == ("succeeded", 0, [(1, "delivered", "")])
    attempt = Attempt.objects.get(delivery=delivery)
    assert (attempt.error, attempt.response_headers, bytes(attempt.response_body)) == ("", headers, b"thanks")
    assert len(settled_here) == 3


@pytest.mark.parametrize(("state", "waits"), [("23514", 2), ("22003", 2), ("54000", 2)])
def test_what_is_refused_without_its_evidence_too_is_tried_again(settled_here, state, waits):
    """Each time whole and bare: the fifth insert is the whole one of the third time."""
    delivery, result = claimed()
    refuse_attempts(state, 4)
    tasks._settle(result)
    assert shown(delivery) == ("succeeded", 0, [(1, "delivered", "")])
    assert Attempt.objects.get(delivery=delivery).error == ""
    assert len(settled_here) == waits


@pytest.mark.parametrize("state", ["57014", "23514"])
def test_while_a_worker_cannot_write_nobody_else_sends_and_nothing_is_lost(settled_here, monkeypatch, state):
    """Longer than five leases: what would have been sent five times, and then dead as `poison`."""
    delivery, result = claimed()
    refuse_attempts(state, 30)
    leases = []

    def outlast(seconds):
        delivery.refresh_from_db()
        leases.append((delivery.lease_id, delivery.state))
        assert claims.end_lapsed_leases([delivery.pk]) == 0
        assert claims.claim([delivery.pk], "another worker") == [None]
        lapse_lease(delivery)

    sleep_by(monkeypatch, outlast)
    tasks._settle(result)
    assert set(leases) == {(result.job.lease_id, "in_flight")}
    assert len(leases) >= 15
    assert shown(delivery) == ("succeeded", 0, [(1, "delivered", "")])


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_kept_lease_does_not_end_with_a_session_that_its_worker_outlived(settled_here, monkeypatch, has_ended):
    """As where a worker was cut off from PostgreSQL and is back."""
    delivery, result = claimed()
    session = WorkerSession.objects.create(lock_key=7, worker="worker", ended_at=datetime.now(UTC))
    if not has_ended:
        WorkerSession.objects.update(ended_at=None)
    Delivery.objects.filter(pk=delivery.pk).update(lease_session=session.pk)
    refuse_attempts("57014", 1)

    def sweep(seconds):
        assert claims.end_lapsed_leases([delivery.pk]) == 0
        delivery.refresh_from_db()
        assert delivery.lease_session == (None if has_ended else session.pk)

    sleep_by(monkeypatch, sweep)
    tasks._settle(result)
    assert shown(delivery) == ("succeeded", 0, [(1, "delivered", "")])


@pytest.mark.parametrize(
    ("state", "level"), [("57014", "WARNING"), ("53100", "WARNING"), ("42P01", "ERROR"), ("XX000", "ERROR")]
)
def test_what_only_a_person_can_end_is_told_as_an_error(settled_here, caplog, state, level):
    delivery, result = claimed()
    refuse_attempts(state, 1)
    tasks._settle(result)
    (record,) = [each for each in caplog.records if each.name == "delivery.tasks"]
    assert (record.levelname, record.exc_info) == (level, None)
    assert record.getMessage().startswith(f"delivery {delivery.pk} is not settled for now: ")
    assert record.getMessage().endswith(f"({state})")


def test_a_bug_while_settling_is_told_with_its_trace_and_the_result_is_kept(settled_here, monkeypatch, caplog):
    delivery, result = claimed()
    failures = iter([KeyError("a bug"), KeyError("a bug")])  # whole, then bare

    def settle(results):
        for failure in failures:
            raise failure
        return settling.settle(results, "worker")

    monkeypatch.setattr(tasks, "_settlements", Direct(settle))
    tasks._settle(result)
    assert shown(delivery) == ("succeeded", 0, [(1, "delivered", "")])
    assert Attempt.objects.get(delivery=delivery).error == ""
    (record,) = [each for each in caplog.records if each.name == "delivery.tasks"]
    assert (record.levelname, record.exc_info[0]) == ("ERROR", KeyError)


def test_where_the_lease_cannot_be_kept_either_the_result_is_kept(settled_here, monkeypatch):
    delivery, result = claimed()
    refuse_attempts("XX000", 1)
    kept = []

    def regain(results):
        kept.append(len(results))
        raise_sqlstate("57014")

    monkeypatch.setattr(tasks, "_regains", Direct(regain))
    tasks._settle(result)
    assert (kept, shown(delivery)) == ([1], ("succeeded", 0, [(1, "delivered", "")]))


def test_an_attempt_that_outlasted_its_lease_is_no_lost_worker(settled_here):
    """As where its new tokens could not be written for a while."""
    delivery, result = claimed()
    lapse_lease(delivery)
    assert claims.end_lapsed_leases([delivery.pk]) == 1
    tasks._settle(replace(result, duration_ms=60_000))
    assert shown(delivery) == ("succeeded", 0, [(1, "delivered", "")])


def test_a_lease_that_lapsed_without_such_trouble_stays_ended(settled_here):
    delivery, result = claimed()
    lapse_lease(delivery)
    claims.end_lapsed_leases([delivery.pk])
    tasks._settle(result)
    assert shown(delivery) == ("pending", 1, [(1, "uncertain", "worker_lost")])


@pytest.mark.parametrize("words", ["The vendor said \x00.", "The vendor said \ud800."], ids=["NUL", "half a pair"])
def test_evidence_that_the_database_never_takes_costs_the_delivery_nothing(settled_here, words):
    delivery, result = claimed()
    tasks._settle(replace(result, verdict=Verdict(Outcome.REJECTED, "refused", words)))
    assert shown(delivery) == ("dead", 0, [(1, "rejected", "refused")])
    assert delivery.cause == "rejected"
    assert delivery.detail.startswith("What was sent and answered could not be stored: ")
    assert settled_here == []


def test_an_answer_that_is_no_json_for_the_database_costs_the_delivery_nothing(settled_here):
    delivery, result = claimed()
    received = {"status_code": 200, "response_headers": [["x-odd", "\x00"]], "response_body": b""}
    tasks._settle(replace(result, evidence=received))
    assert shown(delivery) == ("succeeded", 0, [(1, "delivered", "")])
    attempt = Attempt.objects.get(delivery=delivery)
    assert attempt.error == "What was sent and answered could not be stored: untranslatable character (22P05)."


def test_fields_that_were_left_out_are_evidence_too(settled_here):
    delivery, result = claimed()
    tasks._settle(replace(result, evidence={"omitted_fields": [{"field": "phone", "reason": "not a number: \x00"}]}))
    assert shown(delivery) == ("succeeded", 0, [(1, "delivered", "")])
    assert Attempt.objects.get(delivery=delivery).omitted_fields is None
    assert settled_here == []


# --- what is claimed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["57014", "XX000", "53100"])
def test_what_is_claimed_is_attempted_where_the_rest_of_the_batch_fails(state, monkeypatch):
    (first,), (blocked,) = (make_deliveries(make_connection(make_workspace())) for _ in range(2))
    Connection.objects.filter(pk=blocked.connection_id).update(status="paused")

    def fail_to_look(delivery_ids):
        assert delivery_ids == [blocked.pk]
        with transaction.atomic():
            raise_sqlstate(state)

    monkeypatch.setattr(claims, "_start_probes", fail_to_look)
    job, none = claims.claim([first.pk, blocked.pk], "worker")
    assert (job.delivery_id, none) == (first.pk, None)
    with pytest.raises(Error):
        claims.claim([blocked.pk], "worker")


@pytest.mark.parametrize("state", ["57014", "42P01", "XX000", "57P03"])
def test_a_claim_that_fails_is_left_to_a_sweep(monkeypatch, state):
    (delivery,) = make_deliveries(make_connection(make_workspace()))

    def claim(delivery_ids):
        raise_sqlstate(state)

    monkeypatch.setattr(tasks, "_claims", Direct(claim))
    monkeypatch.setattr(tasks, "_forbid_database", lambda: None)
    tasks.deliver(str(delivery.pk))
    assert shown(delivery) == ("pending", 0, [])
    assert (delivery.attempt_number, delivery.lease_id) == (0, None)


# --- a fault of ours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [OSError(24, "Too many open files"), MemoryError(), OperationalError("server closed the connection")],
    ids=lambda fault: type(fault).__name__,
)
def test_a_fault_of_ours_that_passes_is_never_counted(monkeypatch, fault):
    (delivery,) = make_deliveries(make_connection(make_workspace(), retry_schedule=[0]))
    monkeypatch.setattr(attempts, "Conversation", fail_with(fault))
    for number in range(1, 8):
        make_due(delivery)
        assert deliver(delivery) == 1
        assert (delivery.status, delivery.cause, delivery.attempt_number) == ("pending", "our_fault", number)
        assert (delivery.budget_used, delivery.losses) == (0, 0)
    assert 240 <= (delivery.next_attempt_at - datetime.now(UTC)).total_seconds() <= 360


def test_an_error_of_ours_goes_by_the_schedule_and_ends_by_its_name(monkeypatch):
    (delivery,) = make_deliveries(make_connection(make_workspace(), retry_schedule=[0, 0.01]))
    monkeypatch.setattr(attempts, "Conversation", fail_with(KeyError("a bug")))
    for _ in range(2):
        make_due(delivery)
        assert deliver(delivery) == 1
    delivery.refresh_from_db()
    assert (delivery.status, delivery.cause, delivery.losses) == ("dead", "our_fault", 0)
    assert delivery.detail == "An error in Meshes itself; its log has it, under the delivery's id."


def fail_with(fault):
    def fail(*args, **kwargs):
        raise fault

    return fail


def make_due(delivery):
    Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=datetime.now(UTC))
