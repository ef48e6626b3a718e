"""A million pending deliveries that come due at one moment: how long they take, what they need, how late wake-ups are.

Scaled by --scale. The deliveries are copies, in SQL, of what fifty tenants' events made. The scheduler's lateness is
that of `bench.due`: ten thousand deliveries due in one instant, until the wake-up of the last is in its lane.
"""

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import redis

from bench import alone, cpu
from bench.cpu import load_average
from bench.filling import Filler, copy_id
from bench.report import Results
from bench.rig import BenchError, Rig
from bench.scenarios import Meter, settle
from bench.systems import Tenant, single
from bench.systems.meshes import Meshes
from meshes.dev.children import run

NAME = "backlog"
FULL = 1_000_000
TENANTS = 50
SLOWEST_PER_SECOND = 60
"""Below this rate the run is given up."""
TOLD_EVERY = 60
"""Looks, of about a second."""


@dataclass(slots=True)
class Sample:
    """Moments (seconds since all became due) with how many had come, and the most memory seen."""

    pending: int
    came: list[tuple[float, int]] = field(default_factory=list)
    most_bytes: dict[str, int] = field(default_factory=dict)
    most_valkey_bytes: int = 0
    spent: dict[str, float] = field(default_factory=dict)
    """CPU seconds by process."""


def record(rig: Rig, results: Results) -> None:
    before = load_average()
    system = Meshes(rig)
    try:
        system.start()
        drained = figures(measure(system, rig))
    finally:
        system.stop()
    results.add(NAME, "meshes", drained | lateness(rig), before)


def measure(system: Meshes, rig: Rig) -> Sample:
    tenants = [Tenant(f"backlog-{index}", (rig.url("ok", index),)) for index in range(TENANTS)]
    system.connect(tenants)
    rig.reset()
    rig.load(system.port, [single(system, tenant) for tenant in tenants], count=TENANTS)
    rig.wait_for_arrivals(TENANTS, 60)
    settle(system)
    pending = int(rig.options.sized(FULL, 20_000) * (1 if rig.options.quick else rig.options.scale))
    rig.say(f"backlog: {pending:,} deliveries")
    due_at = fill(Filler(system.state["administrator_url"], rig.say), pending // TENANTS)
    rig.reset()
    return watch(system, rig, Sample(pending // TENANTS * TENANTS), due_at)


def fill(filler: Filler, each: int) -> datetime:
    """Copy each delivery as a pending one. Returns the moment at which all come due."""
    changed = {
        "id": copy_id("base.id", "n"),
        "status": "'pending'",
        "next_attempt_at": "now() + interval '1 day'",
        "finished_at": "NULL",
        "outcome": "''",
        "attempt_number": "0",
        "budget_used": "0",
        "lease_id": "NULL",
        "lease_until": "NULL",
        "claimed_at": "NULL",
    }
    filler.copy("deliveries", "true", changed, each, {})
    filler.analyze("deliveries")
    filler.run("UPDATE deliveries SET next_attempt_at = now() WHERE status = 'pending'")
    filler.close()
    return datetime.now(UTC)


def watch(system: Meshes, rig: Rig, sample: Sample, due_at: datetime) -> Sample:
    """Look every second until all have come."""
    client = redis.Redis.from_url(system.state["redis_url"])
    meter = Meter(system, rig)
    patience = 30 + sample.pending / SLOWEST_PER_SECOND
    while not sample.came or sample.came[-1][1] < sample.pending:
        passed = (datetime.now(UTC) - due_at).total_seconds()
        sample.came.append((passed, rig.arrived_count()))
        if len(sample.came) % TOLD_EVERY == 0:
            rig.say(f"backlog: {sample.came[-1][1]:,} of {sample.pending:,} after {passed:.0f} s")
        for name, size in cpu.resident_bytes(system.roots()).items():
            sample.most_bytes[name] = max(size, sample.most_bytes.get(name, 0))
        sample.most_valkey_bytes = max(sample.most_valkey_bytes, int(client.info("memory")["used_memory"]))
        if passed > patience:
            raise BenchError(f"{sample.came[-1][1]} of {sample.pending} after {passed:.0f} s")
        time.sleep(1.0)
    client.close()
    sample.spent = meter.read(0.0).system
    return sample


def lateness(rig: Rig) -> dict[str, float]:
    number = rig.options.sized(10_000, 2_000)
    run(rig.program("due", ("-m", "bench.due", str(number))))
    made = json.loads((alone.RESULTS / "due.json").read_text())
    return {"due": float(made["deliveries"])} | {
        name: float(seconds) for name, seconds in made.items() if name.endswith("_seconds_late")
    }


def figures(sample: Sample) -> dict[str, float]:
    half = next(moment for moment, came in sample.came if came >= sample.pending / 2)
    whole = sample.came[-1][0]
    at_half = next(came for _, came in sample.came if came >= sample.pending / 2)
    made = {
        "pending": float(sample.pending),
        "drain_seconds": whole,
        "deliveries_per_second": sample.pending / whole,
        "first_half_per_second": at_half / half,
        "valkey_mb": sample.most_valkey_bytes / 2**20,
    }
    if whole > half:
        made["second_half_per_second"] = (sample.pending - at_half) / (whole - half)
    made |= {f"cpu_ms:{name}": 1000 * seconds / sample.pending for name, seconds in sample.spent.items()}
    return made | {f"memory_mb:{name}": size / 2**20 for name, size in sample.most_bytes.items()}
