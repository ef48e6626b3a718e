"""Lanes in trouble: who is, and what they may have of a worker."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from delivery.lanes.control import Lanes
from tests.delivery.lanes import health
from tests.delivery.lanes.health import HEALTHY, Health, after
from tests.delivery.lanes.ring import Report, Ring

GOOD, FAILED, HUNG = (0.05, False), (0.05, True), (15.0, False)
samples = st.lists(st.tuples(st.floats(0, 40), st.booleans()), max_size=30)


@pytest.fixture
def ring(client: Redis) -> Ring:
    return Ring(client)


def judge(*reports: Report) -> Health:
    found = HEALTHY
    for report in reports:
        found = after(found, *report)
    return found


def observe(ring: Ring, lane: str, *reports: Report) -> None:
    """Let the lane settle a message with each report."""
    for number, report in enumerate(reports):
        ring.put(lane, f"observed{number}")
        assert ring.settle(ring.take(1), report) == 1


def test_one_timeout_is_trouble_and_so_are_two_failures_in_a_row() -> None:
    assert judge(HUNG).is_troubled
    assert not judge(FAILED).is_troubled
    assert judge(FAILED, FAILED).is_troubled


def test_a_lane_that_fails_every_second_time_is_in_trouble() -> None:
    assert judge(*[FAILED, GOOD] * 4).is_troubled


def test_successes_end_trouble_and_then_everything_is_forgotten() -> None:
    assert judge(HUNG, *[GOOD] * 4).is_troubled
    assert not judge(HUNG, *[GOOD] * 5).is_troubled
    assert judge(HUNG, *[GOOD] * 12) == HEALTHY


def test_a_lane_between_the_bounds_stays_what_it_is() -> None:
    between = [(1.5, False)] * 30
    assert not judge(*between).is_troubled
    assert judge(HUNG, *between).is_troubled


@given(st.floats(0, health.LEAVE_SECONDS))
def test_quick_successes_never_leave_anything(seconds: float) -> None:

    assert not judge(*[(seconds, False)] * 50).is_troubled


@given(samples)
def test_averages_stay_within_what_was_seen(reports: list[tuple[float, bool]]) -> None:
    found = judge(*reports)
    assert 0 <= found.seconds <= max([seconds for seconds, _ in reports], default=0)
    assert 0 <= found.failures <= 1


def test_the_scripts_judge_as_the_function_does(client: Redis) -> None:
    @settings(max_examples=50, deadline=None, database=None)
    @given(samples)
    def agree(reports: list[tuple[float, bool]]) -> None:
        client.flushall()
        ring, lanes, expected = Ring(client), Lanes(client), HEALTHY
        for seconds, is_failure in reports:
            observe(ring, "conn.a", (seconds, is_failure))
            expected = after(expected, seconds, is_failure)
            kept = client.get(f"{ring.prefix}health:conn.a")
            assert lanes.stats("conn.a").is_troubled == expected.is_troubled
            assert (kept is None) == (expected == HEALTHY)
            if kept is not None:
                assert [float(part) for part in kept.split()] == [expected.seconds, expected.failures]

    agree()


def test_a_healthy_lane_keeps_nothing(ring: Ring) -> None:
    observe(ring, "conn.a", *[GOOD] * 5)
    assert ring.existing_keys() == {"turn", "wake"}


def test_trouble_is_forgotten_after_a_while(ring: Ring, lanes: Lanes) -> None:
    observe(ring, "conn.a", HUNG)
    assert ring.existing_keys() == {"turn", "wake", "health:conn.a", "troubled"}
    assert health.KEEP_SECONDS - 5 < ring.client.ttl(f"{ring.prefix}health:conn.a") <= health.KEEP_SECONDS
    ring.client.zadd(f"{ring.prefix}troubled", {"conn.a": 1})
    lanes.repair()
    assert not lanes.stats("conn.a").is_troubled


def test_a_lane_moves_to_the_slow_ring_and_back(ring: Ring, lanes: Lanes) -> None:
    for number in range(20):
        ring.put("conn.a", f"m{number}", workspace="w")
    leases = ring.take(8)
    ring.settle(leases[:1], HUNG)
    assert (ring.order(), ring.order("slow"), ring.order("slow:w")) == ([], ["@w"], ["conn.a"])
    assert lanes.ring_stats("deliver").troubled == 1
    for before, lease in pairwise(leases[1:]):
        ring.settle([before], GOOD)
        assert lease
    ring.settle(leases[7:], GOOD)
    assert (ring.order(), ring.order("slow"), ring.order("ring:w")) == (["@w"], [], ["conn.a"])


def test_lanes_in_trouble_get_no_more_than_they_may(ring: Ring) -> None:
    bad = ["conn.a", "conn.b", "conn.c"]
    for lane in bad:
        observe(ring, lane, HUNG)
    for lane in [*bad, "conn.good"]:
        ring.put(lane, "m1")
    leases = ring.take(9, slow=2)
    assert [(lease.lane, lease.is_slow) for lease in leases] == [
        ("conn.a", True),
        ("conn.b", True),
        ("conn.good", False),
    ]
    assert ring.take(9, slow=0) == []
    assert [lease.lane for lease in ring.take(9, slow=1)] == ["conn.c"]


def test_neither_ring_starves_the_other(ring: Ring) -> None:
    observe(ring, "conn.bad", HUNG)
    for number in range(8):
        ring.put("conn.bad", f"m{number}")
        ring.put("conn.good", f"m{number}")
    assert [lease.lane for _ in range(6) for lease in ring.take(1, slow=1)] == ["conn.bad", "conn.good"] * 3


def test_what_a_worker_may_not_run_wakes_those_that_may(ring: Ring) -> None:
    observe(ring, "conn.bad", HUNG)
    ring.put("conn.bad", "m1")
    wake, wake_slow = f"{ring.prefix}wake", f"{ring.prefix}wake:slow"
    ring.client.delete(wake, wake_slow)
    ring.take(9, slow=0)
    assert (ring.client.llen(wake), ring.client.llen(wake_slow)) == (0, 1)
    ring.client.delete(wake_slow)
    ring.take(9, slow=1)
    assert (ring.client.llen(wake), ring.client.llen(wake_slow)) == (0, 0)


def test_a_lease_that_was_lost_says_nothing_about_the_lane(ring: Ring, lanes: Lanes) -> None:
    ring.put("conn.a", "m1")
    leases = ring.take(1, lease_micros=1)
    ring.repair()
    assert ring.settle(leases, HUNG) == 0
    assert not lanes.stats("conn.a").is_troubled
