"""Whose a lease is: what a worker that is gone had taken goes back at once, and nothing else does."""

import pytest
from redis import Redis

from delivery.lanes.control import Lanes
from tests.delivery.lanes.ring import Ring, ids, text


@pytest.fixture
def ring(client: Redis) -> Ring:
    ring = Ring(client)
    for number in range(4):
        ring.put("conn.a", f"m{number}", workspace="w")
    return ring


def owners(ring: Ring) -> dict[str, str]:
    found = ring.client.hgetall(f"{ring.prefix}owners")
    return {text(member): text(owner) for member, owner in found.items()}


def test_what_one_had_taken_goes_back_in_order_and_wakes_a_worker(ring: Ring, lanes: Lanes) -> None:
    ring.take(1, owner="other")
    ring.take(3, owner="gone")
    ring.client.delete(f"{ring.prefix}wake")
    assert sorted(lanes.leased_to("gone", "deliver")) == [("conn.a", f"m{number}") for number in (1, 2, 3)]
    assert lanes.release("gone") == 3
    assert ring.waiting("conn.a") == ["m1", "m2", "m3"]
    assert (lanes.stats("conn.a").in_flight, owners(ring)) == (1, {"conn.a m0": "other"})
    assert ring.client.llen(f"{ring.prefix}wake") == 1
    assert lanes.release("gone") == 0


def test_who_is_gone_can_settle_and_return_nothing_of_it_any_more(ring: Ring, lanes: Lanes) -> None:
    old = ring.take(1, owner="gone")
    lanes.release("gone")
    new = ring.take(1, owner="other")
    assert ids(new) == ids(old)
    assert (ring.settle(old), ring.hand_back(old), ring.settle(new)) == (0, 0, 1)


@pytest.mark.parametrize("end", ["settled", "handed back", "lapsed", "released"])
def test_no_owner_is_kept_longer_than_the_lease(ring: Ring, lanes: Lanes, end: str) -> None:
    leases = ring.take(2, owner="mine", lease_micros=1 if end == "lapsed" else 10**9)
    assert set(owners(ring).values()) == {"mine"}
    if end == "settled":
        ring.settle(leases)
    elif end == "handed back":
        ring.hand_back(leases)
    elif end == "lapsed":
        assert ring.repair().lapsed == 2
    else:
        lanes.release("mine")
    assert "owners" not in ring.existing_keys()


def test_a_lease_of_nobody_is_released_by_nobody(ring: Ring, lanes: Lanes) -> None:
    ring.take(1)
    assert (owners(ring), lanes.release(""), lanes.leased_to("", "deliver")) == ({}, 0, [])
    assert lanes.stats("conn.a").in_flight == 1


def test_a_bucket_gets_its_places_back(ring: Ring, lanes: Lanes) -> None:
    lanes.bucket("vendor", 1)
    lanes.share("conn.a", "vendor")
    assert len(ring.take(4, owner="gone")) == 1
    assert ring.take(4, owner="other") == []
    lanes.release("gone")
    assert len(ring.take(4, owner="other")) == 1


def test_many_leases_are_walked_to_the_end(client: Redis, lanes: Lanes) -> None:
    ring = Ring(client)
    for number in range(1500):
        ring.put(f"conn.{number}", "m")
    taken = sum(len(ring.take(64, owner="gone" if turn % 2 else "other")) for turn in range(24))
    assert taken == 1500
    gone = len(lanes.leased_to("gone", "deliver"))
    assert (700 < gone < 800, lanes.release("gone")) == (True, gone)
    assert set(owners(ring).values()) == {"other"}
