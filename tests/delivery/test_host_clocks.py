"""A host whose clock is an hour ahead, or was set back by one, delays and hastens nothing: PostgreSQL's clock counts.

`time_machine` shifts the clock of this process; those of PostgreSQL and Valkey, and the monotonic one, go on.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import time_machine
from django.test import Client

from connections import lifecycle
from connections.models import Connection, ConnectionHealth
from connections.oauth import authorize
from delivery.dispatch import claims, replays, sweep
from delivery.dispatch.replays import ORIGINAL, Terms
from delivery.lanes import brokers
from delivery.models import Delivery, Replay, Unrouted
from meshes.console.signin.models import OperatorSession
from meshes.kit import clock
from meshes.kit.clock import database_now
from tests.factories import deliver, make_connection, make_deliveries, make_event, make_rule, make_workspace, own_lanes
from tests.operators import superuser
from workspaces import idempotency, keys
from workspaces.idempotency import Answer
from workspaces.keys import CredentialError
from workspaces.models import IdempotencyRecord

pytestmark = pytest.mark.django_db


@pytest.fixture(params=[timedelta(hours=1), timedelta(hours=-1)], ids=["an hour ahead", "an hour back"])
def shift(request, monkeypatch) -> Iterator[timedelta]:
    monkeypatch.setattr(clock, "_kept", None)
    with time_machine.travel(datetime.now(UTC) + request.param, tick=True):
        assert abs(datetime.now(UTC) - database_now() - request.param) < timedelta(minutes=5)
        yield request.param


def seconds_from_now(moment: datetime) -> float:
    return (moment - database_now()).total_seconds()


def paused_for(target: Connection) -> tuple[float, float]:
    """Seconds that the connection is paused for: by PostgreSQL, and by its lane's broker."""
    target.refresh_from_db()
    lanes = own_lanes()
    until = lanes.stats(brokers.lane_of(target.pk)).paused_until
    seconds, micros = lanes._client.time()
    assert target.paused_until is not None
    assert until is not None
    return seconds_from_now(target.paused_until), until.timestamp() - seconds - micros / 1e6


# --- deliveries -----------------------------------------------------------------------------------------------------


def test_a_delivery_is_made_at_once_and_signed_with_the_time(shift, endpoint):
    (delivery,) = make_deliveries(make_connection(make_workspace(), url=endpoint.url))
    assert deliver(delivery) == 1
    assert delivery.status == "succeeded"
    assert abs(seconds_from_now(delivery.finished_at)) < 60
    assert abs(seconds_from_now(delivery.created_at)) < 60
    assert abs(int(endpoint.got[0].headers["webhook-timestamp"]) - database_now().timestamp()) < 60


def test_a_retry_is_due_after_its_five_seconds(shift, endpoint):
    endpoint.answer(503)
    (delivery,) = make_deliveries(make_connection(make_workspace(), url=endpoint.url))
    before = database_now()
    assert deliver(delivery) == 1
    assert timedelta(seconds=3.9) < delivery.next_attempt_at - before
    assert delivery.next_attempt_at - database_now() < timedelta(seconds=6.1)


@pytest.mark.parametrize("asks", ["seconds", "a date"])
def test_a_pause_that_the_receiver_asks_for_ends_on_time(shift, endpoint, asks):
    later = datetime.now(UTC) + timedelta(seconds=240)  # by the receiver's clock, which its answer's `Date` tells too
    endpoint.answer(429, {"retry-after": "240" if asks == "seconds" else format_datetime(later, usegmt=True)})
    target = make_connection(make_workspace(), url=endpoint.url)
    (delivery,) = make_deliveries(target)
    assert deliver(delivery) == 1
    by_postgresql, by_lane = paused_for(target)
    assert 180 < by_postgresql <= 240
    assert 180 < by_lane <= 240
    assert 180 < seconds_from_now(delivery.next_attempt_at) < 300


def test_a_breaker_opens_for_its_time_and_lets_one_probe_through_for_its_time(shift, endpoint):
    endpoint.answer(500)
    target = make_connection(make_workspace(), url=endpoint.url)
    deliveries = make_deliveries(target, 5)
    assert deliver(*deliveries) == 5
    assert ConnectionHealth.objects.get().breaker == "open"
    assert all(0 < seconds <= 30 for seconds in paused_for(target))
    over = database_now() - timedelta(seconds=1)
    Connection.objects.update(paused_until=over)
    Delivery.objects.update(next_attempt_at=over)
    assert [job is not None for job in claims.claim([each.pk for each in deliveries[:2]], "worker")] == [True, False]
    assert 0 < seconds_from_now(ConnectionHealth.objects.get().probe_until) <= 60


def test_a_pause_is_over_for_a_claim_when_it_is_over_for_postgresql(shift, endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    deliveries = make_deliveries(target, 2)
    Connection.objects.update(paused_until=database_now() + timedelta(minutes=5))
    assert deliver(deliveries[0]) == 0
    assert 240 < paused_for(target)[1] <= 300
    Connection.objects.update(paused_until=database_now())
    assert deliver(deliveries[1]) == 1


# --- sweeps ---------------------------------------------------------------------------------------------------------


def named(name: str) -> sweep.Sweep:
    return next(each for each in sweep.sweeps() if each.name == name)


def test_what_becomes_due_is_hinted_once(shift):
    deliveries = make_deliveries(make_connection(make_workspace()), 2)
    due = named("due")
    Delivery.objects.filter(pk=deliveries[1].pk).update(next_attempt_at=database_now() + timedelta(minutes=30))
    assert [sweep.run_once(due), sweep.run_once(due)] == [1, 0]


def test_a_forgotten_event_is_hinted_after_its_grace_and_not_before(shift, redis_client):
    target = make_connection(make_workspace())
    make_rule(target)
    forgotten, young = make_event(target.workspace), make_event(target.workspace)
    Unrouted.objects.filter(pk=forgotten.pk).update(created_at=database_now() - timedelta(minutes=1))
    Unrouted.objects.filter(pk=young.pk).update(created_at=database_now() + timedelta(minutes=1))
    assert sweep.run_once(named("fan-out")) == 1


def test_a_replay_begins_at_once(shift):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    Delivery.objects.update(status="dead", cause="exhausted", next_attempt_at=None)
    replays.start(delivery.workspace_id, {"status": "dead"}, Terms(ORIGINAL), 1, delivery.pk, "a test")
    assert sweep.run_once(named("replay")) == 1
    delivery.refresh_from_db()
    assert abs(seconds_from_now(delivery.next_attempt_at)) < 60
    sweep.run_once(named("replay"))
    assert abs(seconds_from_now(Replay.objects.get().next_batch_at)) < 60


# --- beside deliveries ----------------------------------------------------------------------------------------------


def test_an_idempotency_key_is_kept_for_24_hours(shift):
    stamp = idempotency.stamp(make_workspace().pk, "/events", "k", b"{}")
    assert idempotency.remember(stamp, Answer(202, '{"id": 1}')) is None
    for age, is_kept in ((timedelta(hours=23, minutes=30), True), (timedelta(hours=24, minutes=30), False)):
        IdempotencyRecord.objects.update(created_at=database_now() - age)
        assert (idempotency.recall(stamp) is not None) is is_kept
    assert sweep.run_once(named("partitions")) >= 0
    assert idempotency.remember(stamp, Answer(202, '{"id": 2}')) is None  # the old one has lapsed


def test_a_key_ends_at_its_moment(shift):
    soon, over = database_now() + timedelta(minutes=30), database_now() - timedelta(minutes=30)
    live, ended = (keys.create_key(name="k", kind="account", scopes=keys.SCOPES, expires_at=at) for at in (soon, over))
    assert keys.verify(live.key).id == live.row.pk
    with pytest.raises(CredentialError, match="expired"):
        keys.verify(ended.key)


def test_an_operator_stays_logged_in_for_the_time_of_a_session(shift):
    root = superuser()
    assert isinstance(root.client, Client)
    session = OperatorSession.objects.live().get()
    assert -60 < seconds_from_now(session.seen_at) <= 0
    assert -60 < seconds_from_now(session.started_at) <= 0
    assert root.client.get("/admin/").status_code == 200


def test_an_authorization_that_was_begun_is_open_for_its_time(shift):
    target = make_connection(make_workspace())
    ends_at = authorize.keep_state(
        authorize.make_state(), target, "browser:x", "client", "https://meshes.example.com/back"
    )
    assert 0 < seconds_from_now(ends_at) <= authorize.LIFETIME.total_seconds()


def test_moments_of_a_connections_life_are_true(shift):
    target = make_connection(make_workspace())
    lifecycle.pause(target)
    target.refresh_from_db()
    assert abs(seconds_from_now(target.status_changed_at)) < 60
