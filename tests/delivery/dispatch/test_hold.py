"""What follows in delivery when a connection changes."""

from datetime import UTC, datetime, timedelta

import pytest

from connections import lifecycle
from connections.models import ConnectionHealth
from delivery.lanes import brokers
from tests.factories import make_connection, make_workspace, own_lanes

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_client")]


@pytest.fixture
def failing():
    """A connection whose breaker is open, and that has failed for four days."""
    now = datetime.now(UTC)
    target = make_connection(make_workspace(), paused_until=now + timedelta(minutes=5))
    ConnectionHealth.objects.create(
        connection=target,
        workspace=target.workspace,
        breaker="open",
        consecutive_failures=9,
        opened_times=3,
        first_failure_at=now - timedelta(days=4),
        last_failure_at=now,
    )
    brokers.pause(target.workspace_id, target.pk, 300)
    return target


def stats_of(target):
    return own_lanes().stats(brokers.lane_of(target.pk))


def test_resume_closes_the_breaker_and_wakes_the_lane(failing):
    lifecycle.resume(failing)
    health = ConnectionHealth.objects.get(connection=failing)
    assert (health.breaker, health.consecutive_failures, health.opened_times) == ("closed", 0, 0)
    before = failing.health
    assert (health.first_failure_at, health.last_failure_at) == (None, before.last_failure_at)
    assert stats_of(failing).paused_until is None


def test_a_rename_forgets_no_failure(failing):
    lifecycle.edit(failing, actor="test", name="Renamed")
    health = ConnectionHealth.objects.get(connection=failing)
    assert (health.breaker, health.consecutive_failures) == ("open", 9)
    assert stats_of(failing).paused_until is not None


def test_a_limit_reaches_the_lane(failing):
    lifecycle.edit(failing, actor="test", in_flight=3)
    assert stats_of(failing).limit == 3
    failing.refresh_from_db()
    lifecycle.edit(failing, actor="test", in_flight=None)
    assert stats_of(failing).limit == 8


def test_a_rate_reaches_the_lane_and_goes_with_the_connection(failing):
    lifecycle.edit(failing, actor="test", rate=2.5)
    assert stats_of(failing).rate == 2.5
    failing.refresh_from_db()
    lifecycle.delete(failing)
    assert (stats_of(failing).rate, stats_of(failing).limit) == (None, 8)


def test_a_pause_empties_the_lane(failing):
    target = make_connection(failing.workspace)
    own_lanes().put([(brokers.lane_of(target.pk), "one", "{}")])
    lifecycle.pause(target)
    assert stats_of(target).waiting == 0
