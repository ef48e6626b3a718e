"""Deliveries per second from the API to the receivers' 200, at 1, 5 and 50 destinations an event, and their CPU."""

import time
from dataclasses import dataclass

from bench.rig import BenchError, Rig
from bench.scenarios import Meter, Spent, check_accepted, settle
from bench.systems import System, Tenant, single

NAME = "throughput"
FAN_OUTS = (1, 5, 50)
CONNECTIONS = 8
PATIENCE_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One fan-out's run: seconds from the first POST until the last delivery came, and what it cost."""

    destinations: int
    deliveries: int
    seconds: float
    spent: Spent


def measure(system: System, rig: Rig) -> list[Sample]:
    warm = [Tenant("warm", (rig.url("ok", 0),))]
    system.connect(warm)
    rig.reset()
    rig.load(system.port, [single(system, warm[0])], connections=CONNECTIONS, count=100)
    rig.wait_for_arrivals(100, 20)
    return [at(system, rig, connect(system, rig, destinations)) for destinations in FAN_OUTS]


def connect(system: System, rig: Rig, destinations: int) -> list[Tenant]:
    """Ten tenants with so many destinations each."""
    tenants = [
        Tenant(
            f"fan-{destinations}-{index}",
            tuple(rig.url("ok", 1000 * index + number) for number in range(destinations)),
        )
        for index in range(rig.options.sized(10, 2))
    ]
    system.connect(tenants)
    return tenants


def at(system: System, rig: Rig, tenants: list[Tenant]) -> Sample:
    """One run: post in a closed loop, and wait until everything has come, or count what came in time."""
    settle(system, PATIENCE_SECONDS)
    destinations = len(tenants[0].urls)
    deliveries = rig.options.sized(4_000, 300)
    events = deliveries // destinations
    rig.reset()
    meter, began = Meter(system, rig), time.monotonic()
    templates = [single(system, tenant) for tenant in tenants]
    answers, load_cpu = rig.load(
        system.port, templates, connections=CONNECTIONS, count=events, seconds=PATIENCE_SECONDS
    )
    check_accepted(answers)
    expected = events * destinations
    came = rig.wait_for_arrivals(expected, PATIENCE_SECONDS - (time.monotonic() - began))
    spent = meter.read(load_cpu)
    if not came:
        raise BenchError(f"{system.name}: nothing of {expected} deliveries came")
    arrived = rig.arrived()
    own = [
        moment for moment, number in zip(arrived.moments, arrived.numbers, strict=True) if number >= answers.number[0]
    ]
    return Sample(destinations, len(own), max(own) - min(answers.sent), spent)


def figures(samples: list[Sample]) -> dict[str, float]:
    made: dict[str, float] = {}
    for sample in samples:
        at = sample.destinations
        made[f"deliveries_per_second_at_{at}"] = sample.deliveries / sample.seconds
        made[f"cpu_ms_at_{at}"] = 1000 * sum(sample.spent.system.values()) / sample.deliveries
        made |= {
            f"cpu_ms_at_{at}:{name}": 1000 * seconds / sample.deliveries
            for name, seconds in sample.spent.system.items()
        }
        made[f"harness_cpu_ms_at_{at}:load"] = 1000 * sample.spent.load / sample.deliveries
        made[f"harness_cpu_ms_at_{at}:receivers"] = 1000 * sample.spent.receivers / sample.deliveries
    return made
