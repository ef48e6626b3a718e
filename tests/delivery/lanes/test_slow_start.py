"""A lane that begins to run fills few slots until messages of it have come back."""

import pytest
from redis import Redis

from tests.delivery.lanes.ring import Report, Ring, ids

GOOD, FAILED = (0.01, False), (0.01, True)


@pytest.fixture
def ring(client: Redis) -> Ring:
    return Ring(client, in_flight=8, first_window=2)


def fill(ring: Ring, lane: str, count: int = 40) -> None:
    for number in range(count):
        ring.put(lane, f"m{number}", workspace="w")


def in_flight_after(ring: Ring, lane: str, report: Report | None, times: int) -> list[int]:
    """How many messages the ring gives out again, each time that one has been settled."""
    open_leases, found = ring.take(99), []
    for _ in range(times):
        ring.settle([open_leases.pop(0)], *([report] if report else []))
        open_leases += ring.take(99)
        found.append(len(open_leases))
    return found


def test_it_widens_with_every_message_that_comes_back_up_to_its_cap(ring: Ring) -> None:
    fill(ring, "conn.a")
    assert in_flight_after(ring, "conn.a", GOOD, 8) == [3, 4, 5, 6, 7, 8, 8, 8]


def test_tasks_that_report_nothing_widen_it_too(client: Redis) -> None:
    ring = Ring(client, "fanout", first_window=2)
    fill(ring, "fanout.w")
    assert in_flight_after(ring, "fanout.w", None, 3) == [3, 4, 5]


def test_a_failure_narrows_it(ring: Ring) -> None:
    fill(ring, "conn.a")
    leases = ring.take(9)
    for _ in range(3):
        ring.settle([leases.pop(0)], GOOD)
        leases += ring.take(9)
    assert len(leases) == 5
    ring.settle(leases[:2], GOOD, FAILED)
    assert ring.take(9) == []
    ring.settle(leases[2:4], GOOD, GOOD)
    assert len(ring.take(9)) == 2


def test_it_begins_anew_when_it_was_empty(ring: Ring) -> None:
    fill(ring, "conn.a", 4)
    while leases := ring.take(9):
        ring.settle(leases, *[GOOD] * len(leases))
    assert "windows" not in ring.existing_keys()
    fill(ring, "conn.a", 4)
    assert ids(ring.take(9)) == ["m0", "m1"]


def test_endpoints_that_hang_from_the_first_request_on_leave_slots_to_others(ring: Ring) -> None:
    for number in range(10):
        fill(ring, f"conn.hung{number}")
    assert len(ring.take(64)) == 20
    fill(ring, "conn.good")
    assert [lease.lane for lease in ring.take(44)] == ["conn.good", "conn.good"]
