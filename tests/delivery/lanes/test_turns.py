"""Turns go round the workspaces, and within a workspace round its connections."""

import random
from collections import Counter

import pytest
from redis import Redis

from delivery.lanes.control import CAPACITY, Lanes
from tests.delivery.lanes.ring import Ring, ids


@pytest.fixture
def ring(client: Redis) -> Ring:
    return Ring(client)


def owner(lane: str) -> str:
    """`conn.w1-7` is of workspace `w1`."""
    return lane.removeprefix("conn.").partition("-")[0]


def fill(ring: Ring, workspace: str, lanes: int, count: int = 1) -> None:
    Lanes(ring.client, in_flight=ring.in_flight, first_window=CAPACITY).put(
        (f"conn.{workspace}-{lane}", f"m{number}", "{}", workspace) for number in range(count) for lane in range(lanes)
    )


def test_a_workspace_with_a_thousand_connections_gets_its_share_and_no_more(ring: Ring) -> None:
    fill(ring, "many", 1000)
    fill(ring, "few", 2, count=8)
    fill(ring, "one", 1, count=8)
    shares = Counter(owner(lease.lane) for lease in ring.take(24))
    assert shares == {"many": 8, "few": 8, "one": 8}


def test_connections_of_a_workspace_take_turns(ring: Ring) -> None:
    fill(ring, "w", 3, count=2)
    assert [lease.lane for lease in ring.take(6)] == ["conn.w-0", "conn.w-1", "conn.w-2"] * 2


def test_what_one_workspace_leaves_the_others_get(ring: Ring) -> None:
    fill(ring, "one", 1)
    fill(ring, "many", 10)
    assert len(ring.take(64)) == 11


def test_lanes_without_a_workspace_take_turns_with_workspaces(ring: Ring) -> None:
    fill(ring, "w", 5)
    ring.put("conn.alone", "m1")
    assert [owner(lease.lane) for lease in ring.take(3)] == ["w", "alone", "w"]


def test_a_lane_that_is_paused_leaves_its_workspace_and_no_trace(ring: Ring, lanes: Lanes) -> None:
    fill(ring, "w", 2)
    lanes.pause("conn.w-0", 3600)
    assert ring.order("ring:w") == ["conn.w-1"]
    lanes.pause("conn.w-1", 3600)
    assert ring.order() == []
    assert "ring:w" not in ring.existing_keys()
    lanes.resume("conn.w-1")
    assert ring.order() == ["@w"]


def test_the_workspace_is_known_while_the_lane_has_messages(ring: Ring, lanes: Lanes) -> None:
    fill(ring, "w", 1, count=2)
    leases = ring.take(2)
    assert lanes.stats("conn.w-0").workspace == "w"
    ring.hand_back(leases[:1])
    assert ring.order() == ["@w"]
    leases = leases[1:] + ring.take(2)
    ring.settle(leases)
    assert lanes.stats("conn.w-0").workspace is None
    assert ring.existing_keys() == {"turn", "wake"}


def test_a_purged_lane_leaves_nothing(ring: Ring, lanes: Lanes) -> None:
    fill(ring, "w", 1, count=3)
    assert lanes.purge("conn.w-0") == 3
    assert ring.existing_keys() == {"turn", "wake"}


def test_repair_returns_a_lane_whose_workspace_lost_its_place(ring: Ring, lanes: Lanes) -> None:
    fill(ring, "w", 3)
    ring.client.delete(f"{ring.prefix}ring")
    assert lanes.repair().fallen == 1
    assert sorted(ids(ring.take(9))) == ["m0", "m0", "m0"]


@pytest.mark.parametrize("seed", range(5))
def test_nobody_waits_for_more_than_one_round_of_the_workspaces_and_its_lanes(client: Redis, seed: int) -> None:
    """With everything ready, a lane of a workspace of k lanes is taken within k rounds of the workspaces."""
    draw = random.Random(seed)
    sizes = {f"w{number}": draw.choice([1, 2, 5, 20]) for number in range(12)}
    ring = Ring(client, in_flight=1000)
    for workspace in draw.sample(sorted(sizes), len(sizes)):
        fill(ring, workspace, sizes[workspace], count=60)
    taken = [lease.lane for _ in range(30) for lease in ring.take(draw.randint(1, 12))]
    for round_start in range(0, len(taken) - len(sizes) + 1, len(sizes)):
        one_round = [owner(lane) for lane in taken[round_start : round_start + len(sizes)]]
        assert sorted(one_round) == sorted(sizes)
    for workspace, size in sizes.items():
        mine = [lane for lane in taken if owner(lane) == workspace]
        for start in range(0, len(mine) - size + 1, size):
            assert len(set(mine[start : start + size])) == size
