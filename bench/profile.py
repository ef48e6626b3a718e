"""Where the time goes: `python -m bench.profile [--seconds 10] [--destinations 5] [--py-spy PATH]`.

Starts the whole stack with pg_stat_statements, keeps it busy, and looks at each Python process with py-spy, one after
the other (py-spy is not among this project's dependencies: `pip install py-spy` in an environment of your own). It
prints, by process, the share of CPU samples in each function together with what it calls, and PostgreSQL's dearest
statements.
"""

import argparse
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from bench.rig import Options, Rig
from bench.scenarios import Meter, settle
from bench.systems import Tenant, single
from bench.systems.meshes import Meshes

MOST = 16
"""Functions that are shown of a process, and as many in which the samples were."""
OURS = ("meshes", "delivery", "connections", "workspaces")
STATEMENTS = """
    SELECT calls, rows, round(total_exec_time::numeric), round(total_plan_time::numeric),
           round((shared_blks_dirtied + 0.0) / calls, 2),
           round(wal_bytes / calls), left(regexp_replace(query, '\\s+', ' ', 'g'), 150)
    FROM pg_stat_statements WHERE calls > 0 ORDER BY total_exec_time + total_plan_time DESC LIMIT 14
"""

TOTALS = """
    SELECT sum(calls) FILTER (WHERE query !~* '^(BEGIN|COMMIT|ROLLBACK|SET|SELECT pg_|SELECT \\$1$)')::float,
           sum(wal_bytes)::float
    FROM pg_stat_statements
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=10, help="of each process")
    parser.add_argument("--destinations", type=int, default=5)
    parser.add_argument("--py-spy", default="py-spy")
    parser.add_argument("--explain", type=int, metavar="MS", help="print the plans of statements that took so long")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the stack")
    parser.add_argument("--rate", type=float, default=250, help="deliveries a second")
    arguments = parser.parse_args()
    with Rig(Options(), print) as rig:
        system = Meshes(rig, **dict(pair.split("=", 1) for pair in arguments.set))
        try:
            system.start()
            preload_statistics(system, arguments.explain)
            profile(system, rig, arguments)
        finally:
            system.stop()


def preload_statistics(system: Meshes, explain_ms: int | None) -> None:
    """PostgreSQL with pg_stat_statements: a setting that takes a restart, which the supervisor makes."""
    execute(system, "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
    execute(system, "ALTER SYSTEM SET pg_stat_statements.track_planning = on")
    if explain_ms is not None:
        execute(system, "ALTER SYSTEM SET session_preload_libraries = 'auto_explain'")
        execute(system, f"ALTER SYSTEM SET auto_explain.log_min_duration = {explain_ms}")
        execute(system, "ALTER SYSTEM SET auto_explain.log_analyze = on")
    postgres = psutil.Process(system.roots()["postgres"])
    postgres.send_signal(2)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        system.stack.tend()
        time.sleep(0.2)
        try:
            execute(system, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        except psycopg2.Error:
            continue
        return
    raise SystemExit("PostgreSQL did not come back")


def execute(system: Meshes, statement: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(system.state["administrator_url"])
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def profile(system: Meshes, rig: Rig, arguments: argparse.Namespace) -> None:
    tenants = [
        Tenant(f"t{index}", tuple(rig.url("ok", 100 * index + number) for number in range(arguments.destinations)))
        for index in range(10)
    ]
    system.connect(tenants)
    templates = [single(system, tenant) for tenant in tenants]
    rig.load(system.port, templates, connections=4, count=50)
    execute(system, "SELECT pg_stat_statements_reset()")
    rate = arguments.rate / arguments.destinations
    schedule = [(index / rate, index % 10) for index in range(int(rate * (arguments.seconds + 2)))]
    meter, began = Meter(system, rig), rig.arrived_count()
    profiles: dict[str, str] = {}
    load_cpu = 0.0
    for name, pid in pids(system).items():
        looking = threading.Thread(target=look, args=(name, pid, arguments, rig.folder, profiles))
        looking.start()
        load_cpu += rig.load(system.port, templates, schedule=schedule, seconds=schedule[-1][0] + 20)[1]
        looking.join()
    settle(system)
    spent, made = meter.read(load_cpu), rig.arrived_count() - began
    print(f"\n{made} deliveries; CPU ms per delivery: ", end="")
    print(", ".join(f"{name} {1000 * seconds / made:.2f}" for name, seconds in spent.system.items()))
    ((calls, wal),) = execute(system, TOTALS)
    print(f"{calls / made:.2f} statements and {wal / made:,.0f} bytes of WAL per delivery")
    for name, raw in profiles.items():
        print(f"\n## {name}\n{tops(raw.splitlines())}")
    print("\n## PostgreSQL: calls, rows, ms to run, ms to plan, blocks dirtied a call, WAL bytes a call")
    for row in execute(system, STATEMENTS):
        print("  ".join(str(column) for column in row))
    if arguments.explain is not None:
        print((system.stack.folder.logs / "postgres.log").read_text()[-20_000:])


def pids(system: Meshes) -> dict[str, int]:
    """One Python process of each service: of `web`, a worker."""
    roots = system.roots()
    web = psutil.Process(roots["web"]).children()[0].pid
    return {name: roots[name] for name in ("deliver", "fanout", "sweep")} | {"web": web}


def look(name: str, pid: int, arguments: argparse.Namespace, folder: Path, profiles: dict[str, str]) -> None:
    raw = folder / f"{name}.raw"
    command = (arguments.py_spy, "record", "--nonblocking", "--gil", "-F", "-f", "raw", "-r", "250", "-d",
               str(arguments.seconds), "-p", str(pid), "-o", str(raw))  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    profiles[name] = raw.read_text()


def tops(lines: Iterable[str]) -> str:
    """Functions of this project by the share of samples in which they or what they call ran, then those, of whatever
    library, in which the samples were; from py-spy's raw stacks."""
    inclusive: Counter[str] = Counter()
    own: Counter[str] = Counter()
    total = 0
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            inclusive[frame] += int(count)
    if not total:
        return "(idle)"
    whole = [(name, n) for name, n in inclusive.most_common(400) if any(f"({app}/" in name for app in OURS)][:MOST]
    rows = [f"{total} samples. With what it calls:"]
    rows += [f"{100 * n / total:5.1f} %  {name}" for name, n in [*whole]]
    rows += ["Itself:", *(f"{100 * n / total:5.1f} %  {name}" for name, n in own.most_common(MOST))]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
