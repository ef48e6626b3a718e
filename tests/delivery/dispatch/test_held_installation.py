"""A held installation: what was accepted waits, and nothing is routed, sent or refreshed until it is released."""

from datetime import UTC, datetime

import pytest
from django.db import connection

from delivery.dispatch import claims, sweep
from delivery.lanes import brokers
from delivery.models import Delivery, Unrouted
from meshes.kit import clock
from tests.factories import fan_out, make_connection, make_deliveries, make_event, make_workspace, own_lanes
from workspaces import installation
from workspaces.models import Installation, Workspace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]


@pytest.fixture
def held(db):
    """Hold the installation, as in a restored database."""

    def hold():
        installation.hold()
        assert installation.is_held()

    return hold


def release():
    installation.note_check()
    assert installation.release()


def run(name):
    (wanted,) = (each for each in sweep.sweeps() if each.name == name)
    return sweep.run_once(wanted)


def test_no_delivery_is_claimed_and_each_is_after_the_release(held):
    deliveries = make_deliveries(make_connection(make_workspace()), 2)
    ids = [delivery.pk for delivery in deliveries]
    held()
    assert claims.claim(ids, "worker") == [None, None]
    assert set(Delivery.objects.values_list("status", "attempt_number", "lease_id")) == {("pending", 0, None)}
    release()
    assert [job.delivery_id for job in claims.claim(ids, "worker")] == ids


def test_no_event_is_routed_and_each_is_after_the_release(held):
    target = make_connection(make_workspace())
    make_deliveries(target)
    event = make_event(target.workspace)
    held()
    assert fan_out([event.pk]) == []
    assert Unrouted.objects.get().lease_id is None
    release()
    assert len(fan_out([event.pk])) == 1


def test_sweeps_publish_nothing_and_remove_nothing(held):
    target = make_connection(make_workspace())
    make_deliveries(target, 2)
    gone = make_workspace(deleted_at=datetime.now(UTC))
    held()
    moved = {each.name: sweep.run_once(each) for each in sweep.sweeps() if not each.runs_while_held}
    assert moved.keys() >= {"due", "top-up", "release", "fan-out", "replay", "purge", "cancel"}
    assert set(moved.values()) == {0}
    assert brokers.flush()
    assert own_lanes().depth(brokers.lane_of(target.pk)) == 0
    assert Workspace.objects.get(pk=gone.pk).purged_at is None
    release()
    assert run("due") == 2
    run("purge")
    assert Workspace.objects.get(pk=gone.pk).purged_at is not None


def test_partitions_are_made_and_none_is_dropped(held, settings, monkeypatch):
    dropped = []
    monkeypatch.setattr(sweep.retention, "expire", lambda now: dropped.append(now) or [])
    held()
    assert sweep.keep_partitions(clock.database_now()) == 0
    assert dropped == []
    release()
    sweep.keep_partitions(clock.database_now())
    assert len(dropped) == 1


def test_a_worker_that_finds_a_restored_database_takes_nothing():
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    with connection.cursor() as cursor:
        installation.adopt(cursor)
        Installation.objects.update(database_oid=1)
        assert installation.hold_if_moved(cursor)  # as a session of a worker begins
    assert claims.claim([delivery.pk], "worker") == [None]
