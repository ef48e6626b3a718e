"""The scripts against a model in Python: whatever is called in whatever order, both agree on every message."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from delivery.lanes.control import Lanes
from delivery.lanes.lease import Lease
from tests.delivery.lanes.ring import HOUR, Ring, ids

NAMES = ["conn.a", "conn.b", "conn.c"]
CAPACITY = 6
IN_FLIGHT = 3
FIRST_WINDOW = 1
lane_names = st.sampled_from(NAMES)
message_ids = st.sampled_from([f"m{number}" for number in range(12)])
messages = st.lists(st.tuples(lane_names, message_ids), min_size=1, max_size=10)


class Model:
    """One ring as the design describes it."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[str]] = {lane: [] for lane in NAMES}
        self.leases: dict[str, list[Lease]] = {lane: [] for lane in NAMES}
        self.caps: dict[str, int] = {}
        self.windows: dict[str, int] = {}
        self.paused: set[str] = set()
        self.ring: list[str] = []

    def cap(self, lane: str) -> int:
        return self.caps.get(lane, IN_FLIGHT)

    def room(self, lane: str) -> int:
        return min(self.cap(lane), self.windows.get(lane, FIRST_WINDOW))

    def may_run(self, lane: str) -> bool:
        return bool(self.waiting[lane]) and len(self.leases[lane]) < self.room(lane) and lane not in self.paused

    def offer(self, lane: str) -> None:
        if self.may_run(lane) and lane not in self.ring:
            self.ring.append(lane)
        if not self.waiting[lane] and not self.leases[lane]:
            self.windows.pop(lane, None)

    def has(self, lane: str, message_id: str) -> bool:
        return message_id in self.waiting[lane] or message_id in ids(self.leases[lane])

    def put(self, lane: str, message_id: str) -> int:
        if len(self.waiting[lane]) >= CAPACITY:
            return -1
        if self.has(lane, message_id):
            return 0
        self.waiting[lane].append(message_id)
        self.offer(lane)
        return 1

    def take(self, most: int) -> list[tuple[str, str]]:
        taken: list[tuple[str, str]] = []
        in_flight = {lane: len(leases) for lane, leases in self.leases.items()}
        while self.ring and len(taken) < most:
            lane = self.ring.pop(0)
            if self.waiting[lane] and in_flight[lane] < self.room(lane) and lane not in self.paused:
                taken.append((lane, self.waiting[lane].pop(0)))
                in_flight[lane] += 1
                if self.waiting[lane] and in_flight[lane] < self.room(lane):
                    self.ring.append(lane)
        return taken

    def end(self, lease: Lease) -> bool:
        held = lease in self.leases[lease.lane]
        if held:
            self.leases[lease.lane].remove(lease)
        return held

    def settle(self, leases: list[Lease], failed: Lease | None) -> int:
        ended = []
        for lease in leases:
            if self.end(lease):
                ended.append(lease)
                self.observe(lease.lane, is_failure=lease is failed)
        for lease in ended:
            self.offer(lease.lane)
        return len(ended)

    def observe(self, lane: str, *, is_failure: bool) -> None:
        reached = self.windows.get(lane, FIRST_WINDOW)
        if is_failure:
            self.windows.pop(lane, None)
        elif self.waiting[lane] and len(self.leases[lane]) + 1 >= reached and reached < self.cap(lane):
            self.windows[lane] = reached + 1

    def hand_back(self, leases: list[Lease]) -> int:
        ended = [lease for lease in reversed(leases) if self.end(lease)]
        for lease in ended:
            self.waiting[lease.lane].insert(0, lease.message_id)
        for lease in ended:
            self.offer(lease.lane)
        return len(ended)


class LanesMachine(RuleBasedStateMachine):
    client: Redis

    @initialize(first=messages)
    def start(self, first: list[tuple[str, str]]) -> None:
        self.client.flushall()
        self.ring = Ring(self.client, in_flight=IN_FLIGHT, first_window=FIRST_WINDOW)
        self.lanes = Lanes(self.client, in_flight=IN_FLIGHT, first_window=FIRST_WINDOW)
        self.model = Model()
        self.lapsing: list[Lease] = []
        self.known: list[Lease] = []
        self.put(first)

    @rule(batch=messages)
    def put(self, batch: list[tuple[str, str]]) -> None:
        for lane, message_id in batch:
            assert self.ring.put(lane, message_id, capacity=CAPACITY) == self.model.put(lane, message_id)

    @rule(most=st.integers(1, 8), lapses=st.booleans())
    def take(self, most: int, lapses: bool) -> None:
        leases = self.ring.take(most, lease_micros=1 if lapses else HOUR)
        for lease in leases:
            assert not any(lease.message_id == held.message_id for held in self.model.leases[lease.lane])
        assert [(lease.lane, lease.message_id) for lease in leases] == self.model.take(most)
        for lease in leases:
            self.model.leases[lease.lane].append(lease)
            assert len(self.model.leases[lease.lane]) <= self.model.cap(lease.lane)
        self.known += leases
        self.lapsing += leases if lapses else []

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        leases = self.some(data)
        failed = data.draw(st.none() | st.sampled_from(leases))
        reports = [(0.0, lease is failed) for lease in leases]
        assert self.ring.settle(leases, *reports) == self.model.settle(leases, failed)
        for lane in NAMES:  # one failure is no trouble, which is another test's
            self.client.delete(f"{self.ring.prefix}health:{lane}")

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        leases = self.some(data)
        assert self.ring.hand_back(leases) == self.model.hand_back(leases)

    @rule()
    def repair(self) -> None:
        lapsed = sorted((lease for lease in self.lapsing if lease in self.model.leases[lease.lane]), key=_lapse_order)
        assert self.ring.repair()[:3] == (len(lapsed), 0, 0)
        self.model.hand_back(lapsed)
        self.lapsing.clear()

    @rule(lane=lane_names)
    def pause(self, lane: str) -> None:
        self.lanes.pause(lane, 3600)
        self.model.paused.add(lane)
        self.model.ring = [other for other in self.model.ring if other != lane]

    @rule(lane=lane_names)
    def resume(self, lane: str) -> None:
        self.lanes.resume(lane)
        self.model.paused.discard(lane)
        self.model.offer(lane)

    @rule(lane=lane_names, in_flight=st.none() | st.integers(1, 3))
    def limit(self, lane: str, in_flight: int | None) -> None:
        self.lanes.limit(lane, in_flight)
        if in_flight is None:
            self.model.caps.pop(lane, None)
        else:
            self.model.caps[lane] = in_flight
        self.model.offer(lane)

    @rule(lane=lane_names)
    def purge(self, lane: str) -> None:
        assert self.lanes.purge(lane) == len(self.model.waiting[lane])
        self.model.waiting[lane].clear()
        self.model.ring = [other for other in self.model.ring if other != lane]
        self.model.offer(lane)

    @invariant()
    def agree(self) -> None:
        for lane in NAMES:
            assert self.ring.waiting(lane) == self.model.waiting[lane]
            assert self.lanes.stats(lane).in_flight == len(self.model.leases[lane])
        assert self.ring.order() == self.model.ring

    @invariant()
    def no_lane_that_may_run_is_left_out(self) -> None:
        assert set(self.ring.order()) >= {lane for lane in NAMES if self.model.may_run(lane)}

    @invariant()
    def an_idle_lane_has_no_key(self) -> None:
        keys = self.ring.existing_keys()
        for lane in NAMES:
            if not self.model.waiting[lane]:
                assert f"waiting:{lane}" not in keys
                if not self.model.leases[lane]:
                    assert f"messages:{lane}" not in keys
                    assert not self.client.hexists(f"{self.ring.prefix}windows", lane)

    def some(self, data: st.DataObject) -> list[Lease]:
        """Leases, each once: such as are held, and such as have ended."""
        held = [lease for leases in self.model.leases.values() for lease in leases]
        return data.draw(st.lists(st.sampled_from(held + self.known), unique=True, min_size=1, max_size=6))


def _lapse_order(lease: Lease) -> tuple[int, str]:
    return int(lease.ends_at), f"{lease.lane} {lease.message_id}"


@pytest.mark.parametrize("examples", [80])
def test_the_scripts_do_what_the_model_does(client: Redis, examples: int) -> None:
    machine = type("BoundLanesMachine", (LanesMachine,), {"client": client})
    limits = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        database=None,
    )
    run_state_machine_as_test(machine, settings=limits)


def test_a_lane_waits_at_most_one_round(client: Redis) -> None:
    ring = Ring(client)
    for lane in range(50):
        for number in range(lane + 1):
            ring.put(f"conn.{lane}", f"m{number}")
    seen = [lease.lane for _ in range(5) for lease in ring.take(10)]
    assert sorted(seen) == sorted(f"conn.{lane}" for lane in range(50))
