"""Worker sessions, against PostgreSQL's own locks: who is missed, when, and what ends with a session."""

import uuid
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection, connections
from django.db.backends.postgresql.base import DatabaseWrapper

from connections.models import Connection, ConnectionHealth
from delivery.dispatch import attempts, claims, sessions, settling, sweep
from delivery.events import setting_aside
from delivery.events.setting_aside import Claim
from delivery.lanes import brokers
from delivery.models import Attempt, Delivery, Unrouted, WorkerSession
from delivery.rules import fanout
from meshes.kit import ids
from meshes.kit.clock import database_now
from tests.factories import make_connection, make_deliveries, make_event, make_rule, make_workspace, own_lanes
from tests.polling import eventually
from tests.pooling import transaction_pool

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "direct"])


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """The direct connection leads to the tests' own database."""
    for key in ("NAME", "HOST", "PORT", "USER", "PASSWORD"):
        monkeypatch.setitem(connections.settings["direct"], key, connection.settings_dict[key])
    return connections.settings["direct"]


@pytest.fixture
def wrapper(direct):
    """A database connection of another process's, as far as PostgreSQL knows."""
    made = DatabaseWrapper(direct | {"OPTIONS": {}}, "direct")
    yield made
    made.close()


@pytest.fixture
def keeper(wrapper, monkeypatch):
    """A keeper that is not running: the test does what its thread does."""
    kept = sessions.Keeper("here:1")
    monkeypatch.setattr(sessions.Keeper, "current", None)
    assert kept._join(wrapper)
    yield kept
    sessions.Channel.owner = ""


def run_sweep() -> int:
    return sweep.end_lost_sessions(database_now())


def long_missing() -> None:
    """As if the missing had been missed for the whole grace."""
    WorkerSession.objects.exclude(missing_since=None).update(missing_since=database_now() - timedelta(minutes=1))


def lose(wrapper) -> None:
    """The process dies: the server closes its session."""
    wrapper.close()
    eventually(lambda: not held_keys() & set(WorkerSession.objects.values_list("lock_key", flat=True)))


def held_keys() -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT classid::bigint << 32 | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
        )
        return {row[0] for row in cursor.fetchall()}


def claimed(number: int = 1, **values):
    deliveries = make_deliveries(make_connection(make_workspace(), **values), number)
    jobs = claims.claim([each.pk for each in deliveries], "here:1")
    assert None not in jobs
    return deliveries, jobs


# --- who is missed --------------------------------------------------------------------------------------------------


def test_a_worker_that_is_there_is_never_missed(keeper):
    for _ in range(3):
        assert run_sweep() == 0
    row = WorkerSession.objects.get()
    assert (row.worker, row.missing_since, row.ended_at, sessions.Keeper.current) == ("here:1", None, None, row.pk)


def test_a_worker_that_is_gone_is_missed_after_the_grace(keeper, wrapper):
    lose(wrapper)
    run_sweep()
    row = WorkerSession.objects.get()
    assert (row.missing_since is None, row.ended_at) == (False, None)
    run_sweep()
    assert WorkerSession.objects.get().ended_at is None
    long_missing()
    run_sweep()
    assert WorkerSession.objects.get().ended_at is not None


def test_the_grace_and_a_sweep_a_second_leave_room_below_fifteen_seconds():
    every = next(each.every_seconds for each in sweep.sweeps() if each.name == "sessions")
    unnoticed_by_tcp = 2 + 1 * 3  # keepalives: idle, and three times the interval
    assert unnoticed_by_tcp + every + sessions.GRACE_SECONDS + every < 15


def test_who_comes_back_in_time_goes_on_in_its_session_under_another_lock(keeper, wrapper):
    before = WorkerSession.objects.get()
    lose(wrapper)
    run_sweep()
    assert keeper._join(wrapper)
    run_sweep()
    after = WorkerSession.objects.get()
    assert (after.pk, after.missing_since, after.ended_at) == (before.pk, None, None)
    assert after.lock_key != before.lock_key


def test_who_comes_back_too_late_begins_another_session(keeper, wrapper):
    before = sessions.Keeper.current
    lose(wrapper)
    run_sweep()
    long_missing()
    run_sweep()
    assert keeper._join(wrapper)
    assert sessions.Keeper.current not in (None, before)
    assert set(WorkerSession.objects.filter(ended_at=None).values_list("pk", flat=True)) == {sessions.Keeper.current}


def test_an_ended_session_is_forgotten_when_all_its_leases_have_lapsed(keeper, wrapper):
    lose(wrapper)
    run_sweep()
    long_missing()
    run_sweep()
    WorkerSession.objects.update(ended_at=database_now() - timedelta(seconds=91))
    run_sweep()
    assert not WorkerSession.objects.exists()


# --- what ends with it ----------------------------------------------------------------------------------------------


def end(wrapper) -> int:
    lose(wrapper)
    run_sweep()
    long_missing()
    return run_sweep()


def in_lane(delivery: Delivery) -> str:
    """Put a delivery's message in its lane, and lease it there as its worker would have."""
    lane, lanes = brokers.lane_of(delivery.connection_id), own_lanes()
    lanes.put([(lane, str(delivery.pk), "{}")])
    lanes._scripts.run("take", "deliver", 90_000_000, 64, 16, str(sessions.Keeper.current))
    return lane


def test_claims_and_messages_of_a_lost_worker_are_free_at_once(keeper, wrapper, redis_client):
    (delivery,), _ = claimed()
    lane = in_lane(delivery)
    assert (own_lanes().stats(lane).waiting, own_lanes().stats(lane).in_flight) == (0, 1)
    assert end(wrapper) == 1
    delivery.refresh_from_db()
    assert (delivery.status, delivery.cause, delivery.losses, delivery.lease_id) == ("pending", "worker_lost", 1, None)
    assert (own_lanes().stats(lane).waiting, own_lanes().stats(lane).in_flight) == (1, 0)
    assert list(Attempt.objects.values_list("number", "outcome", "worker")) == [(1, "uncertain", "here:1")]
    (again,) = claims.claim([delivery.pk], "there:2")
    assert again.attempt_number == 2
    assert run_sweep() == 0


def test_where_the_broker_has_forgotten_it_the_top_up_finds_it(keeper, wrapper, redis_client):
    (delivery,), _ = claimed()
    redis_client.flushdb()
    assert end(wrapper) == 0
    assert sweep.top_up_lanes(database_now() + timedelta(seconds=5)) == 1
    delivery.refresh_from_db()
    assert (delivery.cause, delivery.lease_id) == ("worker_lost", None)


def test_where_the_connection_is_held_meanwhile_it_is_held_too(keeper, wrapper, redis_client):
    (delivery,), _ = claimed()
    Connection.objects.update(status="paused")
    end(wrapper)
    sweep.top_up_lanes(database_now())
    sweep.top_up_lanes(database_now())
    delivery.refresh_from_db()
    assert (delivery.status, delivery.lease_id) == ("held", None)


def test_the_claims_of_others_and_of_nobody_stay(keeper, wrapper, monkeypatch, redis_client):
    monkeypatch.setattr(sessions.Keeper, "current", None)
    (of_nobody,), _ = claimed()
    in_lane(of_nobody)
    assert end(wrapper) == 0
    sweep.top_up_lanes(database_now() + timedelta(seconds=5))
    of_nobody.refresh_from_db()
    assert (of_nobody.lease_session, of_nobody.lease_id is None) == (None, False)


def test_a_late_settle_is_refused(keeper, wrapper, loopback, redis_client):
    (delivery,), (job,) = claimed(url="http://127.0.0.1:9/")
    result = attempts.attempt(job)
    in_lane(delivery)
    assert end(wrapper) == 1
    assert settling.settle([result], "here:1") == [False]
    assert Attempt.objects.count() == 1


def test_nothing_is_claimed_in_a_session_that_has_ended(keeper, wrapper):
    WorkerSession.objects.update(ended_at=database_now())
    (delivery,), _ = claimed()
    delivery.refresh_from_db()
    assert delivery.lease_session is None
    event = make_event(delivery.workspace)
    assert fanout.claim_events([Claim(event.pk, ids.uuid7())]) != [None]
    assert Unrouted.objects.get(pk=event.pk).lease_session is None


def test_the_events_of_a_lost_worker_are_routed_again_and_the_loss_counts(keeper, wrapper):
    target = make_connection(make_workspace())
    make_rule(target)
    event = make_event(target.workspace)
    assert fanout.claim_events([Claim(event.pk, ids.uuid7())]) != [None]
    assert fanout.claim_events([Claim(event.pk, ids.uuid7())]) == [None]
    assert end(wrapper) == 1
    assert fanout.claim_events([Claim(event.pk, ids.uuid7())]) != [None]
    assert Unrouted.objects.get().tries == 1


def test_an_event_that_rests_goes_on_resting(keeper, wrapper):
    event = make_event(make_workspace())
    claim = Claim(event.pk, ids.uuid7())
    assert fanout.claim_events([claim]) != [None]
    setting_aside.hand_back([setting_aside.Failure(claim, "", "disk full")])
    rests_until = Unrouted.objects.get().lease_until
    assert end(wrapper) == 0
    assert Unrouted.objects.get().lease_until == rests_until


def test_a_lost_probe_makes_room_for_the_next(keeper, wrapper, redis_client):
    target = make_connection(make_workspace())
    ConnectionHealth.objects.create(
        connection=target, workspace=target.workspace, breaker="open", consecutive_failures=9, opened_times=3
    )
    (delivery,) = make_deliveries(target)
    lane = in_lane(delivery)
    assert None not in claims.claim([delivery.pk], "here:1")
    assert own_lanes().stats(lane).paused_until is not None
    assert end(wrapper) == 1
    assert ConnectionHealth.objects.get().probe_until <= database_now()
    assert own_lanes().stats(lane).paused_until is None
    assert None not in claims.claim([delivery.pk], "there:2")


# --- behind a pool --------------------------------------------------------------------------------------------------


def test_a_direct_connection_is_known_as_one(wrapper):
    assert sessions.is_direct(wrapper)
    out = StringIO()
    call_command("check", databases=["default"], stderr=out, stdout=out)
    assert "delivery.W001" not in out.getvalue()


@pytest.mark.parametrize("options", [{"databases": ["default"]}, {"deploy": True, "tags": ["delivery"]}])
def test_behind_a_pool_of_transactions_there_is_no_session_and_check_says_so(direct, monkeypatch, options):
    with transaction_pool(direct["HOST"], direct["PORT"] or "5432") as port:
        monkeypatch.setitem(direct, "HOST", "127.0.0.1")
        monkeypatch.setitem(direct, "PORT", str(port))
        pooled = DatabaseWrapper(direct | {"OPTIONS": {}}, "direct")
        first, second = (shared_lock(direct) for _ in range(2))
        assert (first, second) == (True, True)  # a pool indeed: both are one session to PostgreSQL
        assert not sessions.is_direct(pooled)
        assert not sessions.Keeper("here:1")._join(pooled)
        pooled.close()
        out = StringIO()
        connections["direct"].close()
        call_command("check", stderr=out, stdout=out, **options)
        assert out.getvalue().count("delivery.W001") == 1
    assert not WorkerSession.objects.exists()


def test_the_sweeper_works_over_the_direct_connection(direct, settings, monkeypatch):
    monkeypatch.setitem(connections.settings, "default", connections.settings["default"])  # as it was, afterwards
    settings.MESHES_DIRECT_DATABASE_URL = "postgresql://elsewhere/meshes"
    call_command("sweep", once=True, stdout=StringIO())
    assert connections.settings["default"] is direct


def shared_lock(direct) -> bool:
    """Take one and the same advisory lock from a client of its own."""
    client = DatabaseWrapper(direct | {"OPTIONS": {}}, "direct")
    try:
        with client.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [uuid.UUID(int=7).int])
            return bool(cursor.fetchone()[0])
    finally:
        client.close()


def test_whether_postgresql_answers_where_the_work_is_written(direct, wrapper):
    assert sessions._answers(wrapper)
    assert wrapper.connection is None
    gone = DatabaseWrapper(direct | {"HOST": "127.0.0.1", "PORT": "1", "OPTIONS": {}}, "default")
    assert not sessions._answers(gone)
