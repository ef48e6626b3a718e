import pytest
from redis import Redis

from delivery.lanes.control import Lanes, Repairs
from tests.delivery.lanes.ring import Ring, ids

AT_REST = {"turn", "wake"}


@pytest.fixture
def ring(client: Redis) -> Ring:
    return Ring(client)


def test_messages_of_a_lane_are_taken_in_their_order(ring: Ring) -> None:
    for message_id in ("m1", "m2", "m3"):
        assert ring.put("conn.a", message_id) == 1
    assert ids(ring.take(2)) == ["m1", "m2"]
    assert ids(ring.take(2)) == ["m3"]
    assert ring.take(2) == []


def test_the_body_arrives_as_it_was_put(ring: Ring) -> None:
    ring.put("conn.a", "m1", '{"n": "é\u0000"}')
    reply = ring.scripts.run("take", ring.name, 1_000_000, 1, 1)
    assert reply[4] == '{"n": "é\u0000"}'.encode()


def test_lanes_take_turns(ring: Ring) -> None:
    for lane in ("conn.a", "conn.b", "conn.c"):
        for number in range(3):
            ring.put(lane, f"{lane[-1]}{number}")
    assert ids(ring.take(4)) == ["a0", "b0", "c0", "a1"]
    assert ids(ring.take(4)) == ["b1", "c1", "a2", "b2"]


def test_a_message_is_in_its_lane_once_while_it_waits_and_while_it_is_leased(ring: Ring) -> None:
    assert ring.put("conn.a", "m1") == 1
    assert ring.put("conn.a", "m1") == 0
    leases = ring.take(5)
    assert ids(leases) == ["m1"]
    assert ring.put("conn.a", "m1") == 0
    assert ring.take(5) == []
    ring.settle(leases)
    assert ring.put("conn.a", "m1") == 1


def test_a_full_lane_refuses_and_others_do_not(ring: Ring) -> None:
    assert [ring.put("conn.a", f"m{n}", capacity=3) for n in range(4)] == [1, 1, 1, -1]
    assert ring.put("conn.b", "other", capacity=3) == 1
    assert ring.waiting("conn.a") == ["m0", "m1", "m2"]


def test_a_lane_at_its_cap_leaves_the_ring_until_something_is_settled(ring: Ring) -> None:
    for number in range(10):
        ring.put("conn.a", f"m{number}")
    leases = ring.take(64)
    assert ids(leases) == [f"m{number}" for number in range(8)]
    assert ring.order() == []
    assert ring.settle(leases[:1]) == 1
    assert ids(ring.take(64)) == ["m8"]


def test_a_lane_with_nothing_left_leaves_no_key(ring: Ring) -> None:
    ring.put("conn.a", "m1")
    ring.put("conn.a", "m2")
    ring.settle(ring.take(2))
    assert ring.existing_keys() == AT_REST


def test_only_the_holder_of_a_lease_can_settle_it(ring: Ring) -> None:
    ring.put("conn.a", "m1")
    (old,) = ring.take(1, lease_micros=1)
    assert ring.repair().lapsed == 1
    (new,) = ring.take(1)
    assert ring.settle([old]) == 0
    assert ring.hand_back([old]) == 0
    assert ring.settle([new]) == 1


def test_settling_twice_is_settling_once(ring: Ring) -> None:
    ring.put("conn.a", "m1")
    leases = ring.take(1)
    assert [ring.settle(leases), ring.settle(leases)] == [1, 0]


def test_what_is_handed_back_is_first_again_in_the_same_order(ring: Ring) -> None:
    for number in range(4):
        ring.put("conn.a", f"m{number}")
    leases = ring.take(3)
    assert ring.hand_back(leases[1:]) == 2
    assert ring.waiting("conn.a") == ["m1", "m2", "m3"]
    assert ring.order() == ["conn.a"]


def test_a_lapsed_lease_puts_its_message_back_first(ring: Ring) -> None:
    for number in range(4):
        ring.put("conn.a", f"m{number}")
    ring.take(1, lease_micros=1)
    held = ring.take(1)
    ring.take(1, lease_micros=1)
    assert ring.repair()[:3] == (2, 0, 0)
    assert ring.waiting("conn.a") == ["m0", "m2", "m3"]
    assert ring.settle(held) == 1


def test_repair_is_bounded_and_goes_on(ring: Ring, lanes: Lanes) -> None:
    for number in range(5):
        ring.put(f"conn.{number}", "m")
    ring.take(5, lease_micros=1)
    assert ring.repair(most=2).lapsed == 2
    assert lanes.repair() == Repairs(lapsed=3, woken=0, fallen=0)
    assert len(ring.take(9)) == 5


def test_repair_returns_a_lane_that_fell_out_of_the_ring(ring: Ring, lanes: Lanes) -> None:
    ring.put("conn.a", "m1")
    ring.client.delete(f"{ring.prefix}ring", f"{ring.prefix}wake")
    assert lanes.repair() == Repairs(lapsed=0, woken=0, fallen=1)
    assert ids(ring.take(1)) == ["m1"]


def test_repair_forgets_a_busy_lane_that_has_no_messages(ring: Ring, lanes: Lanes) -> None:
    ring.client.zadd(f"{ring.prefix}busy", {"conn.gone": 1})
    assert lanes.repair() == Repairs(lapsed=0, woken=0, fallen=0)
    assert ring.existing_keys() == set()


def test_taking_leaves_a_token_for_others_only_while_work_remains(ring: Ring) -> None:
    ring.put("conn.a", "m1")
    ring.put("conn.b", "m2")
    ring.client.delete(f"{ring.prefix}wake")
    ring.take(1)
    assert ring.client.llen(f"{ring.prefix}wake") == 1
    ring.client.delete(f"{ring.prefix}wake")
    ring.take(1)
    assert ring.client.llen(f"{ring.prefix}wake") == 0


def test_there_is_never_more_than_one_token(ring: Ring) -> None:
    for number in range(20):
        ring.put(f"conn.{number}", "m")
    assert ring.client.llen(f"{ring.prefix}wake") == 1


def test_the_rings_are_apart(client: Redis) -> None:
    deliver, fanout = Ring(client, "deliver"), Ring(client, "fanout")
    deliver.put("conn.a", "m1")
    fanout.put("fanout.a", "m1")
    assert [lease.lane for lease in fanout.take(9)] == ["fanout.a"]
    assert [lease.lane for lease in deliver.take(9)] == ["conn.a"]


def test_a_full_server_still_takes_and_settles(ring: Ring) -> None:
    for number in range(3):
        ring.put("conn.a", f"m{number}")
    ring.client.config_set("maxmemory", 1)
    try:
        leases = ring.take(2)
        assert ids(leases) == ["m0", "m1"]
        assert ring.settle(leases[:1]) == 1
        assert ring.hand_back(leases[1:]) == 1
    finally:
        ring.client.config_set("maxmemory", 0)
    assert ids(ring.take(9)) == ["m1", "m2"]


def test_scripts_that_the_server_forgot_are_loaded_again(ring: Ring) -> None:
    ring.put("conn.a", "m1")
    ring.client.script_flush()
    leases = ring.take(1)
    ring.client.script_flush()
    assert ring.settle(leases) == 1


def test_take_ends_pauses_that_are_over(ring: Ring, client: Redis) -> None:
    ring.put("conn.a", "m1")
    client.zadd(f"{ring.prefix}asleep", {"conn.a": 1, "conn.idle": 1})
    client.delete(f"{ring.prefix}ring", f"{ring.prefix}ready")
    assert ids(ring.take(1)) == ["m1"]
    assert "asleep" not in ring.existing_keys()
