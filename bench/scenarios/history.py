"""Whether a long history slows down: ingest and delivery at ten thousand and at five million stored attempts.

The history is copies, in SQL, of one tenant's events with their payloads, ledgers, deliveries, attempts and access
records. The second size is scaled by --scale. Two systems, one with each history, take turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.cpu import load_average
from bench.filling import Filler, copy_id
from bench.report import Results
from bench.rig import Rig
from bench.scenarios import ingest, settle, throughput
from bench.systems import Tenant, single
from bench.systems.meshes import Meshes

NAME = "history"
FEW, MANY = 10_000, 5_000_000
TENANTS = 10
PER_MILLISECOND = 20
"""Copies of one row get older by a millisecond after so many."""
TABLES = {
    "events": {"id": "id"},
    "payloads": {"event_id": "event_id"},
    "routing_ledgers": {"event_id": "event_id"},
    "deliveries": {"id": "id", "event_id": "event_id"},
    "attempts": {"id": "id", "delivery_id": "delivery_id"},
    "access_records": {"id": "id", "delivery_id": "delivery_id"},
}
"""What is copied, with the columns that get ids of their own; a reference gets the id that its row gets."""
DRAWN = {"access_records": {"number": "nextval('access_records_number')"}}
"""Columns that are drawn anew for each copy."""


PAIRS_A_RUN = 2


@dataclass(frozen=True, slots=True)
class Stage:
    """A system with its history, ready to be measured. `posting`: tenants whose events nobody wants."""

    system: Meshes
    attempts: int
    fan: list[Tenant]
    posting: list[Tenant]


@dataclass(frozen=True, slots=True)
class Sample:
    """Rates at one size of the history."""

    attempts: int
    delivery: throughput.Sample
    ingest: ingest.Sample


def record(rig: Rig, results: Results) -> None:
    before = load_average()
    systems = [Meshes(rig), Meshes(rig)]
    try:
        for system in systems:
            system.start()
        for made in figures(measure(systems, rig)):
            results.add(NAME, "meshes", made, before)
    finally:
        for system in systems:
            system.stop()


def measure(systems: Sequence[Meshes], rig: Rig) -> list[list[Sample]]:
    """Pairs of samples, with few and with many: the systems take turns, so a slower minute of the machine hits both."""
    sizes = (1_000, 20_000) if rig.options.quick else (FEW, max(FEW, int(MANY * rig.options.scale)))
    stages = [_prepare(system, rig, size) for system, size in zip(systems, sizes, strict=True)]
    for stage in stages:  # what is measured begins warm
        _sample(stage, rig)
    return [[_sample(stage, rig) for stage in stages] for _ in range(PAIRS_A_RUN * rig.options.runs)]


def _prepare(system: Meshes, rig: Rig, size: int) -> Stage:
    tenants = [Tenant(f"past-{index}", (rig.url("ok", index),)) for index in range(TENANTS)]
    system.connect(tenants)
    rig.reset()
    rig.load(system.port, [single(system, tenant) for tenant in tenants], count=TENANTS)
    rig.wait_for_arrivals(TENANTS, 60)
    settle(system)
    filler = Filler(system.state["administrator_url"], rig.say)
    rig.say(f"history: filling up to {size:,} attempts")
    fill(filler, [str(row[0]) for row in filler.run("SELECT id FROM deliveries")], size // TENANTS)
    filler.close()
    posting = [Tenant(f"posting-{index}", ()) for index in range(TENANTS)]
    system.connect(posting)
    settle(system, 120)
    return Stage(system, size, throughput.connect(system, rig, 5), posting)


def fill(filler: Filler, deliveries: list[str], copies: int) -> None:
    """Copy the rows of these deliveries so many times."""
    events = "SELECT event_id FROM deliveries WHERE id = ANY(%(base)s::uuid[])"
    conditions = {
        "events": f"id IN ({events})",
        "payloads": f"event_id IN ({events})",
        "routing_ledgers": f"event_id IN ({events})",
        "deliveries": "id = ANY(%(base)s::uuid[])",
        "attempts": "delivery_id = ANY(%(base)s::uuid[])",
        "access_records": "delivery_id = ANY(%(base)s::uuid[])",
    }
    for table, columns in TABLES.items():
        changed = {column: copy_id(f"base.{old}", "n", f"-(n / {PER_MILLISECOND})") for column, old in columns.items()}
        filler.copy(table, conditions[table], changed | DRAWN.get(table, {}), copies, {"base": deliveries})
    filler.analyze(*TABLES)


def _sample(stage: Stage, rig: Rig) -> Sample:
    delivery = throughput.at(stage.system, rig, stage.fan)
    posted = ingest.post(stage.system, rig, stage.posting, "single", 1, rig.options.sized(3_000, 500))
    settle(stage.system)
    return Sample(stage.attempts, delivery, posted)


def figures(samples: list[list[Sample]]) -> list[dict[str, float]]:
    """One set of figures for each pair."""
    made = []
    for few, many in samples:
        rates = {}
        for name, sample in (("few", few), ("many", many)):
            rates[f"{name}_attempts"] = float(sample.attempts)
            rates[f"{name}_deliveries_per_second"] = sample.delivery.deliveries / sample.delivery.seconds
            rates[f"{name}_events_per_second"] = sample.ingest.events / sample.ingest.seconds
            rates[f"{name}_cpu_ms_per_delivery"] = (
                1000 * sum(sample.delivery.spent.system.values()) / sample.delivery.deliveries
            )
        for what in ("deliveries_per_second", "events_per_second", "cpu_ms_per_delivery"):
            rates[f"{what}_ratio"] = rates[f"many_{what}"] / rates[f"few_{what}"]
        made.append(rates)
    return made
