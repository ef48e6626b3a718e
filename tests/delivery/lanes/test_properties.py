"""What must hold whatever is called in any order, with rates, shared budgets, workspaces and lanes in trouble.

Time is the test's, so that rates are exact. The model knows what is where and who may run; in which order lanes
come is left to the scripts, and held by the tests of turns.
"""

import math
from dataclasses import dataclass, field

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

from delivery.lanes.control import CAPACITY, Lanes
from delivery.lanes.lease import Lease
from tests.delivery.lanes.clock import Clock, fake_clock
from tests.delivery.lanes.health import HEALTHY, Health, after
from tests.delivery.lanes.ring import HOUR, Report, Ring, text

WORKSPACES = {"conn.a": "w1", "conn.b": "w1", "conn.c": "w1", "conn.d": "w2", "conn.e": ""}
NAMES = sorted(WORKSPACES)
BUCKETS = ["one", "two"]
IN_FLIGHT = 2
CLOSE = 1e-5
"""Tokens: a microsecond of rounding."""

lane_names = st.sampled_from(NAMES)
messages = st.lists(st.tuples(lane_names, st.integers(0, 30)), min_size=1, max_size=15)
rates = st.none() | st.tuples(st.sampled_from([0.5, 2.0, 3.0]), st.sampled_from([1.0, 1.5, 3.0]))
reports = st.sampled_from([(0.1, False), (0.1, True), (20.0, False)])


@dataclass
class Budget:
    """A bucket of tokens in the plain way: it fills by the rate, up to the burst."""

    in_flight: int | None = None
    rate: tuple[float, float] | None = None
    tokens: float = 0.0

    def fill(self, seconds: float) -> None:
        if self.rate:
            self.tokens = min(self.rate[1], self.tokens + self.rate[0] * seconds)

    def has_token(self, spare: float = 0.0) -> bool:
        return self.rate is None or self.tokens >= 1 - spare

    def spend(self) -> None:
        if self.rate:
            assert self.has_token(CLOSE), f"{self.tokens} tokens"
            self.tokens -= 1

    def seconds_to_token(self) -> float:
        return 0.0 if self.rate is None else max(0.0, (1 - self.tokens) / self.rate[0])


@dataclass
class Lane:
    waiting: list[str] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    own: Budget = field(default_factory=Budget)
    bucket: str | None = None
    paused_until: float = 0.0
    health: Health = HEALTHY


class Properties(RuleBasedStateMachine):
    client: Redis

    @initialize(first=messages)
    def start(self, first: list[tuple[str, int]]) -> None:
        self.client.flushall()
        self.clock = Clock(self.client)
        self.ring = Ring(self.client, in_flight=IN_FLIGHT)
        self.control = Lanes(self.client, in_flight=IN_FLIGHT, first_window=CAPACITY)
        self.lanes = {name: Lane() for name in NAMES}
        self.buckets = {name: Budget() for name in BUCKETS}
        self.lapsing: list[Lease] = []
        self.put(first)

    # What may happen

    @rule(batch=messages)
    def put(self, batch: list[tuple[str, int]]) -> None:
        for name, number in batch:
            lane, message_id = self.lanes[name], f"m{number}"
            is_new = message_id not in lane.waiting and all(lease.message_id != message_id for lease in lane.leases)
            assert self.ring.put(name, message_id, workspace=WORKSPACES[name]) == int(is_new)
            lane.waiting += [message_id] * is_new

    @rule(most=st.integers(1, 6), slow=st.integers(0, 2), lapses=st.booleans())
    def take(self, most: int, slow: int, lapses: bool) -> None:
        leases = self.ring.take(most, slow=slow, lease_micros=1 if lapses else HOUR)
        for lease in leases:
            self.check_taken(lease)
        slow_taken = sum(lease.is_slow for lease in leases)
        assert len(leases) <= most
        assert slow_taken <= slow
        if len(leases) < most:
            self.check_nobody_left_out(has_slow_room=slow_taken < slow)
        self.check_next_wake()
        self.lapsing += leases if lapses else []

    @precondition(lambda self: any(lane.leases for lane in self.lanes.values()))
    @rule(data=st.data(), report=st.none() | reports)
    def settle(self, data: st.DataObject, report: Report | None) -> None:
        lease = data.draw(st.sampled_from([lease for lane in self.lanes.values() for lease in lane.leases]))
        assert self.ring.settle([lease], *([report] if report else [])) == 1
        lane = self.lanes[lease.lane]
        lane.leases.remove(lease)
        if report:
            lane.health = after(lane.health, *report)

    @precondition(lambda self: any(lane.leases for lane in self.lanes.values()))
    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from([lease for lane in self.lanes.values() for lease in lane.leases]))
        assert self.ring.hand_back([lease]) == 1
        self.return_message(lease)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 10.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for budget in [*self.buckets.values(), *(lane.own for lane in self.lanes.values())]:
            budget.fill(seconds)

    @rule()
    def repair(self) -> None:
        self.pass_time(0.001)
        lapsed = {lease for lease in self.lapsing if lease in self.lanes[lease.lane].leases}
        assert self.ring.repair().lapsed == len(lapsed)
        for lease in sorted(lapsed, key=lapse_order, reverse=True):
            self.return_message(lease)
        self.lapsing.clear()

    @rule()
    def wake(self) -> None:
        self.ring.wake()

    @rule(name=lane_names, seconds=st.sampled_from([0.0, 0.3, 5.0]))
    def pause(self, name: str, seconds: float) -> None:
        self.lanes[name].paused_until = self.clock.now + seconds
        self.control.pause(name, seconds)

    @rule(name=lane_names, in_flight=st.none() | st.integers(1, 3), rate=rates)
    def limit(self, name: str, in_flight: int | None, rate: tuple[float, float] | None) -> None:
        own = self.lanes[name].own
        if (own.in_flight, own.rate) == (in_flight, rate):
            return
        if rate != own.rate:  # debts of another rate would have to be reckoned over: begin with none
            self.client.zrem(f"{self.ring.prefix}debts", name)
        tokens = own.tokens if rate == own.rate else (rate[1] if rate else 0.0)
        self.lanes[name].own = Budget(in_flight, rate, tokens)
        self.control.limit(name, in_flight, rate=rate and rate[0], burst=rate and rate[1])

    @rule(name=st.sampled_from(BUCKETS), in_flight=st.none() | st.integers(1, 3), rate=rates)
    def define(self, name: str, in_flight: int | None, rate: tuple[float, float] | None) -> None:
        budget = self.buckets[name]
        if (budget.in_flight, budget.rate) == (in_flight, rate):
            return
        if rate != budget.rate:
            self.client.zrem(f"{self.ring.prefix}debts", f"@{name}")
        tokens = budget.tokens if rate == budget.rate else (rate[1] if rate else 0.0)
        self.buckets[name] = Budget(in_flight, rate, tokens)
        self.control.bucket(name, in_flight, rate=rate and rate[0], burst=rate and rate[1])

    @rule(name=lane_names, bucket=st.none() | st.sampled_from(BUCKETS))
    def share(self, name: str, bucket: str | None) -> None:
        self.lanes[name].bucket = bucket
        self.control.share(name, bucket)

    @rule(name=lane_names)
    def purge(self, name: str) -> None:
        assert self.control.purge(name) == len(self.lanes[name].waiting)
        self.lanes[name].waiting.clear()

    # What must hold

    def check_taken(self, lease: Lease) -> None:
        lane = self.lanes[lease.lane]
        assert lane.waiting[0] == lease.message_id
        assert lane.paused_until <= self.clock.now
        lane.waiting.pop(0)
        lane.leases.append(lease)
        assert len(lane.leases) <= (lane.own.in_flight or IN_FLIGHT)
        lane.own.spend()
        if lane.bucket:
            budget = self.buckets[lane.bucket]
            budget.spend()
            assert budget.in_flight is None or self.leased_of(lane.bucket) <= budget.in_flight
        assert lease.is_slow == lane.health.is_troubled

    def check_nobody_left_out(self, *, has_slow_room: bool) -> None:
        for name, lane in self.lanes.items():
            if self.may_run(lane, CLOSE * -1) and (has_slow_room or not lane.health.is_troubled):
                raise AssertionError(f"{name} may run, and was left out")

    def check_next_wake(self) -> None:
        """Whoever waits for a moment alone is woken at it, to the millisecond.

        Whoever has not had its turn yet, such as a lane whose shared budget was just spent, stands in a ring, and a
        worker is awake for it.
        """
        for name, lane in self.lanes.items():
            seconds = self.seconds_asleep(lane)
            if seconds is None or seconds <= 0.001:
                continue
            if self.control.stats(name).is_in_ring:
                assert self.client.exists(f"{self.ring.prefix}wake", f"{self.ring.prefix}wake:slow")
            else:
                assert 0 <= self.ring.next_wake <= math.ceil(seconds * 1000) + 1

    def seconds_asleep(self, lane: Lane) -> float | None:
        """How long the lane may not run because of time; None if something else keeps it."""
        if not lane.waiting or len(lane.leases) >= (lane.own.in_flight or IN_FLIGHT):
            return None
        seconds = max(lane.paused_until - self.clock.now, lane.own.seconds_to_token(), 0.0)
        if lane.bucket and seconds == 0:
            budget = self.buckets[lane.bucket]
            if budget.in_flight is not None and self.leased_of(lane.bucket) >= budget.in_flight:
                return None
            seconds = budget.seconds_to_token()
        return seconds

    def may_run(self, lane: Lane, spare: float) -> bool:
        budget = self.buckets[lane.bucket] if lane.bucket else Budget()
        has_room = budget.in_flight is None or self.leased_of(lane.bucket) < budget.in_flight
        is_free = len(lane.leases) < (lane.own.in_flight or IN_FLIGHT) and lane.paused_until <= self.clock.now
        return bool(lane.waiting) and is_free and has_room and lane.own.has_token(spare) and budget.has_token(spare)

    def leased_of(self, bucket: str | None) -> int:
        return sum(len(lane.leases) for lane in self.lanes.values() if lane.bucket == bucket)

    def return_message(self, lease: Lease) -> None:
        lane = self.lanes[lease.lane]
        lane.leases.remove(lease)
        lane.waiting.insert(0, lease.message_id)

    @invariant()
    def no_message_is_lost(self) -> None:
        for name, lane in self.lanes.items():
            assert self.ring.waiting(name) == lane.waiting
            stats = self.control.stats(name)
            assert (stats.in_flight, stats.is_troubled) == (len(lane.leases), lane.health.is_troubled)

    @invariant()
    def budgets_count_what_is_leased(self) -> None:
        counted = self.client.hgetall(f"{self.ring.prefix}shared_leases")
        expected = {name: self.leased_of(name) for name in BUCKETS if self.leased_of(name)}
        assert {text(name): int(number) for name, number in counted.items()} == expected

    @invariant()
    def nothing_is_kept_of_idle_lanes(self) -> None:
        if all(not lane.waiting and not lane.leases for lane in self.lanes.values()):
            kept = {"turn", "wake", "wake:slow", "limits", "shares", "buckets", "debts", "asleep", "paused", "troubled"}
            keys = {key for key in self.ring.existing_keys() if not key.startswith(("health:", "test:"))}
            assert keys <= kept


def lapse_order(lease: Lease) -> tuple[int, str]:
    return int(lease.ends_at), f"{lease.lane} {lease.message_id}"


@pytest.mark.parametrize("examples", [60])
def test_whatever_happens_the_properties_hold(client: Redis, examples: int) -> None:
    machine = type("BoundProperties", (Properties,), {"client": client})
    limits = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        database=None,
    )
    with fake_clock():
        run_state_machine_as_test(machine, settings=limits)
