"""Ninety healthy tenants beside ten in trouble: their p99, divided by their p99 beside ten more healthy ones.

The calm is measured first and last, and the shorter p99 of the two divides: a machine that gets faster or slower
meanwhile makes the ratios worse, not better.
"""

import random
import time
from dataclasses import dataclass

from bench.load import Template
from bench.rig import Rig
from bench.scenarios import delays, settle
from bench.spread import percentile
from bench.systems import System, Tenant, bulk, single

NAME = "isolation"
HEALTHY, TROUBLED = 90, 10
"""Tenants; the healthy ones are the first, also as destinations."""
PER_SECOND = 0.5
"""Events of each tenant. A flooding one posts a hundred times as many, in bulk."""
FLOOD = 100
TROUBLES = ("hung", "dead", "drip", "flood", "429")
CALM = ("calm", "calm_after")
LEAD_SECONDS = 4.0
"""Trouble begins so long before the measurement."""
GRACE_SECONDS = 10.0
"""What has not come so long after the last POST counts as having taken until then."""
DEADLINE_SECONDS = 15.5
"""The longest that a request hangs in any of the systems."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds of each healthy tenant's event beside one trouble, or one of `CALM`, and how many came in time."""

    trouble: str
    delays: list[float]
    arrived: int


def measure(system: System, rig: Rig) -> list[Sample]:
    if not system.has_bulk:
        return []  # it answers when it has sent: a healthy tenant's delay is its own destinations' alone
    healthy = [Tenant(f"healthy-{index}", (rig.url("ok", index),)) for index in range(HEALTHY)]
    system.connect(healthy)
    beside = ("calm", "hung") if rig.options.quick else ("calm", *TROUBLES, "calm_after")
    return [_beside(system, rig, healthy, trouble) for trouble in beside]


def _beside(system: System, rig: Rig, healthy: list[Tenant], trouble: str) -> Sample:
    temper = "ok" if trouble in (*CALM, "flood") else trouble
    others = [Tenant(f"beside-{trouble}-{index}", (rig.url(temper, HEALTHY + index),)) for index in range(TROUBLED)]
    system.connect(others)
    settle(system, 90)
    templates = [single(system, tenant) for tenant in healthy]
    templates += [_of_other(system, tenant, trouble) for tenant in others]
    seconds = rig.options.sized(20, 6)
    schedule = plan(len(templates), seconds)
    rig.reset()
    answers, _ = rig.load(system.port, templates, connections=4, schedule=schedule, seconds=seconds + 30)
    wanted = sum(template < HEALTHY for _, template in schedule)
    until = _wait(rig, wanted)
    arrived = rig.arrived()
    since = min(answers.due) + LEAD_SECONDS
    taken = delays(answers, arrived, range(HEALTHY), until)
    due = [due for due, template in zip(answers.due, answers.template, strict=True) if template < HEALTHY]
    measured = [delay for delay, due_at in zip(taken, due, strict=True) if due_at >= since]
    if trouble not in CALM and not rig.options.quick:
        system.quieten(others)
        time.sleep(DEADLINE_SECONDS if trouble in ("hung", "drip") else 1.0)
    return Sample(trouble, measured, sum(destination < HEALTHY for destination in arrived.destinations))


def _of_other(system: System, tenant: Tenant, trouble: str) -> Template:
    return bulk(system, tenant, FLOOD) if trouble == "flood" else single(system, tenant)


def _wait(rig: Rig, wanted: int) -> float:
    """Wait for the healthy ones' events. Returns the moment when waiting ended."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        if sum(destination < HEALTHY for destination in rig.arrived().destinations) >= wanted:
            break
        time.sleep(0.25)
    return time.monotonic()


def plan(tenants: int, seconds: float) -> list[tuple[float, int]]:
    """When each tenant posts: evenly, from a moment of its own, the same in every run."""
    chance = random.Random(4711)
    gap = 1 / PER_SECOND
    moments = []
    for tenant in range(tenants):
        moment = chance.uniform(0, gap)
        while moment < seconds + LEAD_SECONDS:
            moments.append((moment, tenant))
            moment += gap
    return sorted(moments)


def figures(samples: list[Sample]) -> dict[str, float]:
    made = {f"{sample.trouble}_p99_ms": 1000 * percentile(sample.delays, 0.99) for sample in samples}
    made |= {f"{sample.trouble}_p50_ms": 1000 * percentile(sample.delays, 0.5) for sample in samples}
    calm = min((made[f"{name}_p99_ms"] for name in CALM if f"{name}_p99_ms" in made), default=0.0)
    return made | {f"{name}_ratio": made[f"{name}_p99_ms"] / calm for name in TROUBLES if f"{name}_p99_ms" in made}
