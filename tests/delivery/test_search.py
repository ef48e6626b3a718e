"""Lists are served by indexes, open only the partitions of their time, and end in time."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from delivery.models import Delivery, Event
from delivery.search import narrow_deliveries, narrow_events
from meshes.api.pages import first_id_at
from meshes.api.problems import Problem
from meshes.kit import ids, partitions
from workspaces import endpoints

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC)
SOMEONE = ids.uuid7()


def plan_of(rows):
    """The plan where every index is taken that can be: what then still scans or sorts has none."""
    with connection.cursor() as cursor:
        for kind in ("seqscan", "sort", "bitmapscan"):
            cursor.execute(f"SET LOCAL enable_{kind} = off")
    return rows.order_by("-pk")[:51].explain()


@pytest.mark.parametrize("wanted", [{}, {"event": "lead.created"}, {"from": NOW - timedelta(days=2)}, {"to": NOW}])
def test_events_of_a_workspace_are_read_in_the_order_of_an_index(wanted):
    plan = plan_of(narrow_events(Event.objects.filter(workspace_id=SOMEONE), wanted))
    assert "Seq Scan" not in plan
    assert "Sort" not in plan


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"status": "dead"},
        {"status": "pending"},
        {"status": "in_flight"},
        {"status": "dead", "cause": "exhausted"},
        {"connection": SOMEONE, "status": "dead"},
        {"from": NOW - timedelta(days=2), "status": "dead"},
    ],
)
def test_deliveries_of_a_workspace_are_read_in_the_order_of_an_index(wanted):
    plan = plan_of(narrow_deliveries(Delivery.objects.filter(workspace_id=SOMEONE), wanted, NOW))
    assert "Seq Scan" not in plan
    assert "Sort" not in plan


def test_the_deliveries_of_an_event_are_looked_for_in_one_partition():
    plan = plan_of(narrow_deliveries(Delivery.objects.all(), {"event": ids.uuid7()}, NOW))
    week = partitions.week_of(NOW)
    assert f"deliveries_p{week:%Y%m%d}" in plan
    assert plan.count("Scan") == 1


def test_a_period_opens_its_own_partitions_only():
    week = partitions.week_of(NOW)
    begin = datetime.combine(week, datetime.min.time(), tzinfo=UTC)
    plan = plan_of(narrow_events(Event.objects.all(), {"from": begin, "to": begin + timedelta(days=7)}))
    assert plan.count("Scan") == 1
    assert f"events_p{week:%Y%m%d}" in plan


def test_bounds_are_of_the_millisecond_and_stay_in_range():
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    assert ids.milliseconds(first_id_at(moment)) == 1767323045678
    assert first_id_at(datetime.min.replace(tzinfo=UTC)).int == 0
    assert ids.milliseconds(first_id_at(datetime.max.replace(tzinfo=UTC))) < 2**48


def test_a_search_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(endpoints, "SEARCH_SECONDS", 0.05)
    with pytest.raises(Problem) as refused, endpoints.bounded_search(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(5)")
    assert (refused.value.status, refused.value.slug) == (422, "search-too-wide")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.1)")
