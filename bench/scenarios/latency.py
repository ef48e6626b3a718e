"""From a POST until the request reaches the receiver, when nothing else happens."""

from dataclasses import dataclass

from bench.rig import Rig
from bench.scenarios import check_accepted, delays, settle
from bench.spread import percentile
from bench.systems import System, Tenant, single

NAME = "latency"
PER_SECOND = 20.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds of each event."""

    delays: list[float]


def measure(system: System, rig: Rig) -> Sample:
    tenants = [Tenant(f"rest-{index}", (rig.url("ok", index),)) for index in range(10)]
    system.connect(tenants)
    settle(system)
    templates = [single(system, tenant) for tenant in tenants]
    warm, events = 20, rig.options.sized(400, 40)
    schedule = [(index / PER_SECOND, index % len(tenants)) for index in range(warm + events)]
    rig.reset()
    answers, _ = rig.load(system.port, templates, connections=2, schedule=schedule)
    check_accepted(answers)
    rig.wait_for_arrivals(len(schedule), 10)
    taken = delays(answers, rig.arrived(), range(len(templates)), until=float("inf"))
    return Sample(taken[warm:])


def figures(sample: Sample) -> dict[str, float]:
    return {f"p{share}_ms": 1000 * percentile(sample.delays, share / 100) for share in (50, 99)}
