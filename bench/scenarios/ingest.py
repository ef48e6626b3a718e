"""Events per second that the API accepts, one by one and in bulk, and how long a POST takes.

Everything else runs beside it and fans out what comes; no rule wants these events, so nothing is sent.
"""

from dataclasses import dataclass

from bench.load import Answers
from bench.rig import Rig
from bench.scenarios import Meter, Spent, check_accepted, settle
from bench.spread import percentile
from bench.systems import System, Tenant, bulk, single

NAME = "ingest"
CONNECTIONS = {"single": 16, "bulk": 4}
BULK = 100


@dataclass(frozen=True, slots=True)
class Sample:
    """One way of posting: how many events, over what time, and the seconds that each request took."""

    way: str
    events: int
    seconds: float
    took: list[float]
    spent: Spent


def measure(system: System, rig: Rig) -> list[Sample]:
    if not system.has_bulk:
        return []  # it keeps nothing, so it accepts nothing: a POST is as slow as its destinations
    tenants = [Tenant(f"ingest-{index}", ()) for index in range(10)]
    system.connect(tenants)
    settle(system)
    sizes = {"single": (1, rig.options.sized(4_000, 600)), "bulk": (BULK, rig.options.sized(20_000, 2_000))}
    return [post(system, rig, tenants, way, each, events // each) for way, (each, events) in sizes.items()]


def post(system: System, rig: Rig, tenants: list[Tenant], way: str, each: int, requests: int) -> Sample:
    """Post in a closed loop, after a tenth as many to warm up."""
    templates = [single(system, tenant) if each == 1 else bulk(system, tenant, each) for tenant in tenants]
    rig.load(system.port, templates, connections=CONNECTIONS[way], count=max(8, requests // 10))
    settle(system)
    meter = Meter(system, rig)
    answers, load_cpu = rig.load(system.port, templates, connections=CONNECTIONS[way], count=requests, seconds=90)
    check_accepted(answers)
    return sample_of(way, each, answers, meter.read(load_cpu))


def sample_of(way: str, each: int, answers: Answers, spent: Spent) -> Sample:
    took = [answered - sent for sent, answered in zip(answers.sent, answers.answered, strict=True)]
    return Sample(way, each * len(took), max(answers.answered) - min(answers.sent), took, spent)


def figures(samples: list[Sample]) -> dict[str, float]:
    made: dict[str, float] = {}
    for sample in samples:
        made[f"{sample.way}_events_per_second"] = sample.events / sample.seconds
        made[f"{sample.way}_p50_ms"] = 1000 * percentile(sample.took, 0.5)
        made[f"{sample.way}_p99_ms"] = 1000 * percentile(sample.took, 0.99)
        made[f"{sample.way}_harness_cpu_ms:load"] = 1000 * sample.spent.load / sample.events
        made |= {
            f"{sample.way}_cpu_ms:{name}": 1000 * seconds / sample.events
            for name, seconds in sample.spent.system.items()
        }
    return made
