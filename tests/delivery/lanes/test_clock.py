"""A server whose clock jumps."""

from collections.abc import Iterator

import pytest
from redis import Redis

from delivery.lanes.control import Lanes
from tests.delivery.lanes.clock import Clock, fake_clock
from tests.delivery.lanes.ring import Ring, ids

LEASE = 90_000_000


@pytest.fixture(autouse=True)
def _clock_of_the_test() -> Iterator[None]:
    with fake_clock():
        yield


@pytest.fixture
def clock(client: Redis) -> Clock:
    return Clock(client)


@pytest.fixture
def ring(client: Redis, clock: Clock) -> Ring:
    return Ring(client)


@pytest.fixture
def lanes(client: Redis, clock: Clock) -> Lanes:
    return Lanes(client)


def test_a_clock_set_back_holds_no_lane_for_longer_than_its_rate(ring: Ring, lanes: Lanes, clock: Clock) -> None:
    lanes.limit("conn.a", rate=1, burst=1)
    for number in range(3):
        ring.put("conn.a", f"m{number}")
    ring.take(9)
    clock.advance(-3600)
    assert ring.take(9) == []
    lanes.repair()
    clock.advance(1)
    assert ids(ring.take(9)) == ["m1"]
    clock.advance(1)
    assert ids(ring.take(9)) == ["m2"]


def test_a_clock_set_back_holds_no_bucket_for_longer_than_its_rate(ring: Ring, lanes: Lanes, clock: Clock) -> None:
    lanes.bucket("vendor", rate=1, burst=1)
    for name in ("a", "b"):
        lanes.share(f"conn.{name}", "vendor")
        ring.put(f"conn.{name}", "m")
    ring.take(9)
    clock.advance(-3600)
    lanes.repair()
    clock.advance(1)
    assert len(ring.take(9)) == 1


def test_a_clock_set_back_keeps_leases_whose_end_comes_in_time(ring: Ring, lanes: Lanes, clock: Clock) -> None:
    ring.put("conn.a", "m1")
    ring.put("conn.b", "m1")
    held, lost = ring.take(2, lease_micros=LEASE)
    clock.advance(-3600)
    lanes.repair()
    assert ring.take(9) == []
    assert ring.settle([held]) == 1
    clock.advance(91)
    assert lanes.repair().lapsed == 1
    again = ring.take(9, lease_micros=LEASE)
    assert [lease.lane for lease in again] == [lost.lane]
    assert (ring.settle([lost]), ring.settle(again)) == (0, 1)
    assert "shortened" not in ring.existing_keys()


def test_a_clock_set_forward_ends_leases_and_the_old_holder_holds_nothing(ring: Ring, clock: Clock) -> None:
    ring.put("conn.a", "m1")
    old = ring.take(1)
    clock.advance(2 * 3600)
    assert ring.repair().lapsed == 1
    new = ring.take(1)
    assert (len(new), ring.settle(old), ring.settle(new)) == (1, 0, 1)


def test_a_clock_set_forward_ends_pauses_early_and_back_keeps_them(ring: Ring, lanes: Lanes, clock: Clock) -> None:
    ring.put("conn.a", "m1")
    lanes.pause("conn.a", 600)
    clock.advance(-3600)
    lanes.repair()
    assert ring.take(1) == []
    clock.advance(3600 + 601)
    assert ids(ring.take(1)) == ["m1"]  # whoever claims it asks PostgreSQL, and pauses it again
