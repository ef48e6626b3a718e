"""What 100,000 idle connections cost: bytes in Valkey, and the CPU of processes that have nothing to do.

Two hundred connections are made and used through the API; the rest are copies of them, in SQL. Scaled by --scale.
"""

import time
from dataclasses import dataclass

import redis

from bench import cpu
from bench.cpu import load_average
from bench.filling import Filler, copy_id
from bench.report import Results
from bench.rig import Rig
from bench.scenarios import settle
from bench.systems import Tenant, single
from bench.systems.meshes import Meshes

NAME = "idle"
USED = 200
WATCHED_SECONDS = 10.0
CALM_SECONDS = 6.0
"""After the last work, what is kept for a while is given up."""


@dataclass(frozen=True, slots=True)
class Reading:
    """At rest: keys and bytes in Valkey, and CPU seconds by process over the time watched."""

    connections: int
    keys: list[str]
    value_bytes: int
    spent: dict[str, float]


def record(rig: Rig, results: Results) -> None:
    before = load_average()
    system = Meshes(rig)
    try:
        system.start()
        without, beside = measure(system, rig)
        results.add(NAME, "meshes", figures(without, beside), before)
        if left := sorted(set(beside.keys) - set(without.keys)):
            rig.say(f"idle: left in Valkey: {', '.join(left[:20])}")
    finally:
        system.stop()


def measure(system: Meshes, rig: Rig) -> tuple[Reading, Reading]:
    """With the one connection that made what all share, and with all of them, each used once or copied."""
    _use(system, rig, [Tenant("first", (rig.url("ok", 0),))])
    without = _read(system, 1)
    tenants = [
        Tenant(f"idle-{index}", tuple(rig.url("ok", 10 * index + number) for number in range(10)))
        for index in range(USED // 10)
    ]
    _use(system, rig, tenants)
    total = int(rig.options.sized(100_000, 10_000) * rig.options.scale)
    multiply(Filler(system.state["administrator_url"], rig.say), total)
    settle(system)
    return without, _read(system, total)


def _use(system: Meshes, rig: Rig, tenants: list[Tenant]) -> None:
    """Deliver once to each connection."""
    system.connect(tenants)
    rig.reset()
    rig.load(system.port, [single(system, tenant) for tenant in tenants], count=len(tenants))
    rig.wait_for_arrivals(sum(len(tenant.urls) for tenant in tenants), 60)
    settle(system)


def multiply(filler: Filler, total: int) -> None:
    """Copy each connection and its rule until there are `total` of them."""
    each = max(0, total // (USED + 1) - 1)
    connection = {"id": copy_id("base.id", "n"), "name": "base.name || ' ' || n"}
    rule = {"id": copy_id("base.id", "n"), "connection_id": copy_id("base.connection_id", "n")}
    filler.copy("connections", "true", connection, each, {})
    filler.copy("rules", "true", rule, each, {})
    filler.analyze("connections", "rules")
    filler.close()


def _read(system: Meshes, connections: int) -> Reading:
    time.sleep(CALM_SECONDS)
    before = cpu.cpu_seconds(system.roots())
    time.sleep(WATCHED_SECONDS)
    spent = cpu.spent(before, cpu.cpu_seconds(system.roots()))
    client = redis.Redis.from_url(system.state["redis_url"])
    keys = [key.decode(errors="replace") for key in client.scan_iter(count=1000)]
    size = sum(client.memory_usage(key) or 0 for key in keys)
    client.close()
    return Reading(connections, keys, size, spent)


def figures(without: Reading, beside: Reading) -> dict[str, float]:
    made = {
        "connections": float(beside.connections),
        "valkey_bytes": float(beside.value_bytes - without.value_bytes),
        "valkey_keys": float(len(beside.keys) - len(without.keys)),
    }
    for name in beside.spent:
        made[f"cpu_ms_a_second:{name}"] = 1000 * beside.spent[name] / WATCHED_SECONDS
        made[f"cpu_ms_a_second_without:{name}"] = 1000 * without.spent[name] / WATCHED_SECONDS
    made["cpu_ms_a_second"] = 1000 * sum(beside.spent.values()) / WATCHED_SECONDS
    made["cpu_ms_a_second_without"] = 1000 * sum(without.spent.values()) / WATCHED_SECONDS
    return made
