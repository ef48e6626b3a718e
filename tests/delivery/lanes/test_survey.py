import pytest
from redis import Redis

from delivery.lanes import control
from delivery.lanes.control import Lanes, LaneStats
from tests.delivery.lanes.ring import Ring


@pytest.fixture
def ring(client: Redis) -> Ring:
    return Ring(client)


def names(found: list[tuple[str, LaneStats]]) -> list[str]:
    return [lane for lane, _ in found]


def test_an_empty_ring_has_nothing_to_show(lanes: Lanes) -> None:
    found = lanes.survey("deliver", 5)
    assert (found.busiest, found.paused, found.oldest, found.is_whole) == ([], [], [], True)


def test_the_busiest_the_paused_and_the_oldest(ring: Ring, lanes: Lanes) -> None:
    for depth, lane in enumerate(("conn.a", "conn.b", "conn.c", "conn.d"), 1):
        for number in range(depth):
            ring.put(lane, f"m{number}")
    lanes.pause("conn.b", 7200)
    lanes.pause("conn.idle", 3600)
    lanes.limit("conn.c", rate=0.01, burst=1)
    ring.take(3)
    found = lanes.survey("deliver", 3)
    assert [(lane, stats.waiting) for lane, stats in found.busiest] == [
        ("conn.d", 3),
        ("conn.b", 2),
        ("conn.c", 2),
    ]
    assert names(found.paused) == ["conn.idle", "conn.b"]
    assert names(found.oldest) == ["conn.b", "conn.c", "conn.d"]
    assert (found.stats.paused, found.stats.throttled) == (2, 1)


def test_the_cost_is_bounded_and_said(ring: Ring, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MOST_LOOKED_AT", 2)
    for lane in ("conn.a", "conn.b", "conn.c"):
        ring.put(lane, "m1")
    found = lanes.survey("deliver", 9)
    assert names(found.busiest) == ["conn.a", "conn.b"]
    assert not found.is_whole
