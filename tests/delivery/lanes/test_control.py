from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from delivery.lanes.control import PUT_AT_ONCE, Lanes, LaneStats, RingStats
from tests.delivery.lanes.ring import Ring, ids
from tests.polling import eventually

SOON = 0.05
FAR = 3600.0


@pytest.fixture
def ring(client: Redis) -> Ring:
    return Ring(client)


def server_time(ring: Ring) -> datetime:
    seconds, micros = ring.client.time()
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=micros)


def test_a_paused_lane_is_not_taken_from_and_others_are(ring: Ring, lanes: Lanes) -> None:
    ring.put("conn.a", "m1")
    lanes.pause("conn.a", FAR)
    ring.put("conn.a", "m2")
    ring.put("conn.b", "other")
    assert ids(ring.take(9)) == ["other"]
    assert ring.order() == []


def test_a_pause_leaves_leases_alone_and_settling_does_not_end_it(ring: Ring, lanes: Lanes) -> None:
    ring.put("conn.a", "m1")
    ring.put("conn.a", "m2")
    leases = ring.take(1)
    lanes.pause("conn.a", FAR)
    assert ring.settle(leases) == 1
    assert ring.take(9) == []


def test_a_pause_ends_by_itself(ring: Ring, lanes: Lanes) -> None:
    ring.put("conn.a", "m1")
    until = datetime.now(UTC) + timedelta(seconds=SOON)
    lanes.pause("conn.a", SOON)
    assert ring.take(1) == []
    assert ids(eventually(lambda: ring.take(1))) == ["m1"]
    assert datetime.now(UTC) >= until
    assert "asleep" not in ring.existing_keys()


def test_repair_ends_pauses_too(ring: Ring, lanes: Lanes) -> None:
    ring.put("conn.a", "m1")
    lanes.pause("conn.a", SOON)
    eventually(lambda: lanes.repair().woken == 1)
    assert ring.order() == ["conn.a"]


def test_an_idle_lane_keeps_nothing_of_a_pause_that_is_over(ring: Ring, lanes: Lanes) -> None:
    lanes.pause("conn.a", SOON)
    assert ring.existing_keys() == {"asleep", "paused", "wake"}
    eventually(lambda: lanes.repair().woken == 1)
    assert ring.existing_keys() == {"wake"}


def test_resume_ends_a_pause_now_and_wakes_a_worker(ring: Ring, lanes: Lanes) -> None:
    ring.put("conn.a", "m1")
    lanes.pause("conn.a", FAR)
    ring.client.delete(f"{ring.prefix}wake")
    lanes.resume("conn.a")
    lanes.resume("conn.a")
    assert ring.client.llen(f"{ring.prefix}wake") == 1
    assert ids(ring.take(9)) == ["m1"]


def test_the_last_pause_counts(ring: Ring, lanes: Lanes) -> None:
    ring.put("conn.a", "m1")
    lanes.pause("conn.a", FAR)
    lanes.pause("conn.a", -SOON)
    assert ids(ring.take(9)) == ["m1"]


def test_a_lane_may_have_a_limit_of_its_own(ring: Ring, lanes: Lanes) -> None:
    lanes.limit("conn.a", 2)
    for number in range(20):
        ring.put("conn.a", f"m{number}")
    assert len(ring.take(64)) == 2
    lanes.limit("conn.a", 5)
    assert len(ring.take(64)) == 3
    lanes.limit("conn.a", None)
    assert len(ring.take(64)) == 3
    assert "limits" not in ring.existing_keys()


def test_a_lower_limit_waits_for_the_leases_above_it(ring: Ring, lanes: Lanes) -> None:
    for number in range(6):
        ring.put("conn.a", f"m{number}")
    leases = ring.take(4)
    lanes.limit("conn.a", 2)
    assert ring.take(9) == []
    ring.settle(leases[:2])
    assert ring.take(9) == []
    ring.settle(leases[2:3])
    assert len(ring.take(9)) == 1


def test_a_limit_that_is_reached_when_it_is_set_holds_at_once(ring: Ring, lanes: Lanes) -> None:
    for number in range(3):
        ring.put("conn.a", f"m{number}")
    leases = ring.take(1)
    lanes.limit("conn.a", 1)
    assert ring.take(9) == []
    ring.settle(leases)
    assert ids(ring.take(9)) == ["m1"]


def test_a_limit_below_one_is_refused(ring: Ring, lanes: Lanes) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        lanes.limit("conn.a", 0)
    assert ring.existing_keys() == set()


def test_depths_are_of_waiting_messages(ring: Ring, lanes: Lanes, client: Redis) -> None:
    for number in range(3):
        ring.put("conn.a", f"m{number}")
    Ring(client, "fanout").put("fanout.w", "e1")
    ring.take(1)
    assert lanes.depths(["conn.a", "conn.none", "fanout.w"]) == [2, 0, 1]
    assert lanes.depth("conn.a") == 2


def test_stats_of_a_lane(ring: Ring, lanes: Lanes) -> None:
    before = datetime.now(UTC)
    ring.put("conn.a", "m0")
    ring.put("conn.a", "m1")
    ring.take(1)
    stats = lanes.stats("conn.a")
    assert stats == LaneStats(1, 1, 8, True, None, stats.oldest_at)
    assert stats.oldest_at is not None
    assert before <= stats.oldest_at <= datetime.now(UTC)
    assert lanes.stats("conn.a").oldest_at == stats.oldest_at


def test_stats_of_a_paused_and_of_an_unknown_lane(ring: Ring, lanes: Lanes) -> None:
    before = server_time(ring)
    lanes.pause("conn.a", FAR)
    after = server_time(ring)
    lanes.limit("conn.a", 3)
    until = lanes.stats("conn.a").paused_until
    assert until is not None
    assert before <= until - timedelta(seconds=FAR) <= after
    assert lanes.stats("conn.a") == LaneStats(0, 0, 3, False, until, None)
    assert lanes.stats("conn.none") == LaneStats(0, 0, 8, False, None, None)


def test_stats_of_a_ring(ring: Ring, lanes: Lanes) -> None:
    ring.put("conn.a", "m0")
    ring.put("conn.a", "m1")
    ring.put("conn.b", "m0")
    lanes.pause("conn.b", FAR)
    ring.take(1)
    assert lanes.ring_stats("deliver") == RingStats(ready=1, busy=2, paused=1, in_flight=1)
    assert lanes.ring_stats("fanout") == RingStats(0, 0, 0, 0)


def test_purge_forgets_what_waits_and_not_what_is_leased(ring: Ring, lanes: Lanes) -> None:
    for number in range(5):
        ring.put("conn.a", f"m{number}")
    leases = ring.take(2)
    assert [lanes.purge("conn.a"), lanes.purge("conn.a")] == [3, 0]
    assert ring.take(9) == []
    assert ring.put("conn.a", "m3") == 1
    assert ring.settle(leases) == 2
    ring.settle(ring.take(9))
    assert ring.existing_keys() == {"turn", "wake"}


@pytest.mark.parametrize(
    "name", ["deliver", "conn.", "conn.a b", "conn.a{b}", "other.a", "celery", "conn." + "a" * 129]
)
def test_what_is_no_lane_is_refused(lanes: Lanes, client: Redis, name: str) -> None:
    for call in (lanes.stats, lanes.purge, lanes.resume, lanes.depth):
        with pytest.raises(ValueError, match="not the name of a lane"):
            call(name)
    assert client.keys("*") == []


def test_many_messages_are_put_at_once_each_where_it_belongs(lanes: Lanes, client: Redis) -> None:
    messages = [("conn.a", "m1", "{}"), ("conn.a", "m1", "{}"), ("conn.b", "m1", "{}"), ("fanout.w", "e1", "{}")]
    client.script_flush()
    assert lanes.put(messages) == 3
    assert lanes.put(messages) == 0
    assert lanes.put([]) == 0
    assert lanes.depths(["conn.a", "conn.b", "fanout.w"]) == [1, 1, 1]


def test_more_messages_than_one_call_takes_keep_their_order(lanes: Lanes, ring: Ring) -> None:
    messages = [("conn.a", f"m{number}", "{}") for number in range(2 * PUT_AT_ONCE + 1)]
    lanes.limit("conn.a", len(messages))
    assert lanes.put([*messages[:1], *messages]) == len(messages)  # what is refused holds up nothing behind it
    assert ids(ring.take(len(messages))) == [message_id for _, message_id, _ in messages]
