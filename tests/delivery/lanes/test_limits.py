"""Rates, and budgets that lanes share."""

import pytest
from redis import Redis

from delivery.lanes.control import Lanes
from tests.delivery.lanes.ring import Ring, ids
from tests.polling import eventually


@pytest.fixture
def ring(client: Redis) -> Ring:
    return Ring(client)


def fill(ring: Ring, *lanes: str, count: int = 20) -> None:
    for lane in lanes:
        for number in range(count):
            ring.put(lane, f"m{number}")


def test_a_lane_out_of_tokens_sleeps_until_its_next_one(ring: Ring, lanes: Lanes) -> None:
    lanes.limit("conn.a", rate=0.5, burst=1)
    fill(ring, "conn.a")
    assert ids(ring.take(9)) == ["m0"]
    assert 1990 <= ring.next_wake <= 2000
    assert ring.take(9) == []
    assert (ring.order(), lanes.ring_stats("deliver").throttled) == ([], 1)
    assert lanes.stats("conn.a").throttled_until is not None
    assert lanes.stats("conn.a").paused_until is None
    assert ids(eventually(lambda: ring.take(9))) == ["m1"]


def test_a_burst_is_given_out_at_once(ring: Ring, lanes: Lanes) -> None:
    lanes.limit("conn.a", rate=0.01, burst=3)
    fill(ring, "conn.a")
    assert len(ring.take(9)) == 3
    assert 99_000 < ring.next_wake <= 100_000


def test_a_rate_without_a_burst_makes_good_a_tenth_of_a_second(ring: Ring, lanes: Lanes) -> None:
    lanes.limit("conn.a", rate=40)
    assert (lanes.stats("conn.a").rate, lanes.stats("conn.a").burst) == (40, 5)
    fill(ring, "conn.a")
    assert len(ring.take(64)) == 5


def test_the_rate_and_the_cap_hold_together(ring: Ring, lanes: Lanes) -> None:
    lanes.limit("conn.a", 2, rate=1, burst=3)
    fill(ring, "conn.a")
    leases = ring.take(9)
    assert len(leases) == 2
    ring.settle(leases)
    assert len(ring.take(9)) == 1
    assert ring.take(9) == []


def test_a_lane_with_nothing_waiting_does_not_sleep_and_its_debt_is_forgotten(ring: Ring, lanes: Lanes) -> None:
    lanes.limit("conn.a", rate=20)
    ring.put("conn.a", "m1")
    ring.settle(ring.take(1))
    assert ring.existing_keys() == {"limits", "debts", "turn", "wake"}
    eventually(lambda: not lanes.repair().lapsed and "debts" not in ring.existing_keys())


def test_a_message_put_to_a_lane_out_of_tokens_waits_for_the_next(ring: Ring, lanes: Lanes) -> None:
    lanes.limit("conn.a", rate=0.1)
    ring.put("conn.a", "m1")
    ring.take(1)
    client = ring.client
    client.delete(f"{ring.prefix}wake")
    ring.put("conn.a", "m2")
    assert ring.order() == []
    assert client.llen(f"{ring.prefix}wake") == 1  # whoever waits must learn when to wake
    assert ring.take(1) == []
    assert 8_000 < ring.next_wake <= 10_000


def test_a_new_rate_counts_at_once_and_none_frees_the_lane(ring: Ring, lanes: Lanes) -> None:
    lanes.limit("conn.a", rate=0.01, burst=1)
    fill(ring, "conn.a")
    ring.take(1)
    assert ring.take(1) == []
    lanes.limit("conn.a", rate=1000, burst=1)
    assert ids(eventually(lambda: ring.take(1), 1)) == ["m1"]
    lanes.limit("conn.a")
    assert len(ring.take(3)) == 3
    assert "limits" not in ring.existing_keys()


def test_a_limit_that_is_set_again_changes_nothing(ring: Ring, lanes: Lanes) -> None:
    lanes.limit("conn.a", rate=0.01, burst=2)
    fill(ring, "conn.a")
    ring.take(9)
    lanes.limit_many([("conn.b", 3, None, None), ("conn.c", None, 5.0, None)])
    lanes.limit("conn.a", rate=0.01, burst=2)
    assert ring.take(9) == []
    assert (lanes.stats("conn.b").limit, lanes.stats("conn.c").rate) == (3, 5)


def test_neither_a_resume_nor_a_pause_that_ends_gives_a_token(ring: Ring, lanes: Lanes) -> None:
    lanes.limit("conn.a", rate=0.01, burst=1)
    fill(ring, "conn.a")
    ring.take(1)
    lanes.resume("conn.a")
    assert ring.take(9) == []
    assert lanes.stats("conn.a").throttled_until is not None


@pytest.mark.parametrize(("rate", "burst"), [(0, None), (-1, None), (float("nan"), None), (1, 0.5), (None, 2)])
def test_terms_that_make_no_sense_are_refused(lanes: Lanes, client: Redis, rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        lanes.limit("conn.a", rate=rate, burst=burst)
    assert client.keys("*") == []


def test_lanes_that_share_a_bucket_share_its_tokens_in_turn(ring: Ring, lanes: Lanes) -> None:
    lanes.bucket("vendor", rate=20, burst=2)
    for name in ("a", "b", "c"):
        lanes.share(f"conn.{name}", "vendor")
        fill(ring, f"conn.{name}")
    taken = [lease.lane for lease in ring.take(9)]
    while len(taken) < 6:
        taken += [lease.lane for lease in eventually(lambda: ring.take(9))]
    assert taken == ["conn.a", "conn.b", "conn.c", "conn.a", "conn.b", "conn.c"]
    assert lanes.stats("conn.a").bucket == "vendor"


def test_a_bucket_out_of_tokens_sleeps_once_however_many_lanes_wait(ring: Ring, lanes: Lanes) -> None:
    lanes.bucket("vendor", rate=0.01, burst=1)
    for number in range(50):
        lanes.share(f"conn.{number}", "vendor")
        ring.put(f"conn.{number}", "m")
    ring.put("conn.other", "m")
    assert [lease.lane for lease in ring.take(64)] == ["conn.0", "conn.other"]
    assert ring.order() == []
    assert ring.client.zcard(f"{ring.prefix}asleep") == 1
    assert ring.client.zcard(f"{ring.prefix}parked:vendor") == 49
    assert ring.take(64) == []


def test_the_cap_of_a_bucket_holds_over_all_its_lanes(ring: Ring, lanes: Lanes) -> None:
    lanes.bucket("vendor", 3)
    for name in ("a", "b"):
        lanes.share(f"conn.{name}", "vendor")
    fill(ring, "conn.a", "conn.b")
    leases = ring.take(64)
    assert [lease.lane for lease in leases] == ["conn.a", "conn.b", "conn.a"]
    assert ring.take(64) == []
    ring.settle(leases[:1])
    ring.hand_back(leases[1:2])
    assert [lease.lane for lease in ring.take(64)] == ["conn.b", "conn.a"]


def test_a_lapsed_lease_returns_its_place_in_the_bucket(ring: Ring, lanes: Lanes) -> None:
    lanes.bucket("vendor", 1)
    lanes.share("conn.a", "vendor")
    lanes.share("conn.b", "vendor")
    fill(ring, "conn.a", "conn.b", count=1)
    ring.take(9, lease_micros=1)
    assert ring.repair().lapsed == 1
    assert len(ring.take(9)) == 1


def test_what_is_leased_moves_with_its_lane_between_buckets(ring: Ring, lanes: Lanes) -> None:
    for name in ("one", "two"):
        lanes.bucket(name, 2)
    lanes.share("conn.a", "one")
    fill(ring, "conn.a", "conn.b")
    lanes.limit("conn.b", 1)
    leases = ring.take(9)
    lanes.share("conn.b", "two")
    lanes.share("conn.a", "two")
    lanes.share("conn.a", "two")
    assert ring.client.hgetall(f"{ring.prefix}shared_leases") == {b"two": b"3"}
    ring.settle(leases)
    assert ring.client.hgetall(f"{ring.prefix}shared_leases") == {}
    assert len(ring.take(9)) == 2


@pytest.mark.parametrize("way", ["pause", "purge", "share"])
def test_a_lane_that_goes_lets_the_next_one_of_its_bucket_in(ring: Ring, lanes: Lanes, way: str) -> None:
    lanes.bucket("vendor", 1)
    for name in ("a", "b"):
        lanes.share(f"conn.{name}", "vendor")
        ring.put(f"conn.{name}", "m")
    (lease,) = ring.take(9)
    ring.put("conn.a", "m2")
    ring.settle([lease])
    ring.take(0)
    if way == "share":
        lanes.share("conn.b", None)
        assert sorted(lease.lane for lease in ring.take(9)) == ["conn.a", "conn.b"]
        return
    if way == "pause":
        lanes.pause("conn.b", 3600)
    else:
        lanes.purge("conn.b")
    assert [lease.lane for lease in ring.take(9)] == ["conn.a"]


def test_a_bucket_without_terms_holds_nobody(ring: Ring, lanes: Lanes) -> None:
    lanes.bucket("vendor", 1)
    lanes.share("conn.a", "vendor")
    fill(ring, "conn.a", count=5)
    leases = ring.take(9)
    lanes.bucket("vendor")
    lanes.bucket("vendor")
    leases += ring.take(9)
    assert len(leases) == 5
    ring.settle(leases)
    lanes.share("conn.a", None)
    assert ring.existing_keys() == {"turn", "wake"}


def test_a_bucket_needs_a_name_and_a_ring(lanes: Lanes, client: Redis) -> None:
    with pytest.raises(ValueError, match="name of a bucket"):
        lanes.bucket("a b", 1)
    with pytest.raises(ValueError, match="not a ring"):
        lanes.bucket("vendor", 1, ring="other")
    assert client.keys("*") == []
