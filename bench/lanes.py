"""Tasks per second of one Celery worker process: lanes against kombu's stock Redis transport, in the same run.

    python -m bench.lanes [--tasks 10000] [--runs 2] [--json bench/results/lanes.json]

Each scenario publishes no-op tasks over a number of queues, then starts a worker (threads, 64) on a Valkey server of
its own, and reads how long that took from the first task to the last, and what CPU the worker and the server spent. The
stock transport consumes the queues by name, as it must. A scenario that takes over a minute is cut off, and counts as
far as it came. The scenarios take turns, so that a noisy minute hurts them alike; of each the median is shown.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from celery import Celery
from redis import Redis
from redis.exceptions import RedisError

from delivery.lanes.control import CAPACITY
from delivery.lanes.worker import CELERY_SETTINGS, install
from meshes.dev.binaries import valkey_binary
from meshes.dev.children import Child, Program, stop_together

ROOT = Path(__file__).parents[1]
NO_LOG = Path(os.devnull)
SCENARIOS = [("lanes", 1), ("lanes", 100), ("lanes", 10_000), ("lanes", 100_000), ("stock", 1), ("stock", 100)]
IDLE_LANES = 100_000
IDLE_SECONDS = 20.0
CUT_OFF_SECONDS = 60.0
PROGRESS = "bench:progress"


@dataclass(frozen=True, slots=True)
class Result:
    transport: str
    queues: int
    tasks: int
    tasks_per_second: float
    worker_cpu_ms: float
    """Per task."""
    server_cpu_ms: float
    published_per_second: float


def make_app(transport: str) -> Celery:
    app = Celery("bench", broker=os.environ.get("BENCH_BROKER"), set_as_current=False)
    if transport == "lanes":
        install(app)
        app.conf.update(CELERY_SETTINGS)
    app.conf.update(task_ignore_result=True, task_acks_late=True, worker_prefetch_multiplier=1)
    app.task(name="noop")(count)
    return app


_numbers = itertools.count(1)
_first: list[tuple[float, float]] = []


def count() -> None:
    """The task. Keeps figures in this process, and lets them out now and then, at a cost that does not show."""
    done = next(_numbers)
    if done == 1:
        _first.append((time.perf_counter(), time.process_time()))
    if done % 200 == 0 or done == int(os.environ["BENCH_TASKS"]):
        wall, cpu = _first[0]
        figures = {"done": done, "seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        _progress().set(PROGRESS, json.dumps(figures))


def _progress() -> Redis:
    return Redis(unix_socket_path=os.environ["BENCH_BROKER"].removeprefix("redis+socket://"))


if "BENCH_TRANSPORT" in os.environ:
    app = make_app(os.environ["BENCH_TRANSPORT"])


@contextmanager
def valkey() -> Iterator[tuple[str, Redis, int]]:
    """A server of its own: its URL, a client, and its process id."""
    with tempfile.TemporaryDirectory(prefix="vk") as folder:
        socket = f"{folder}/s"
        command = (str(valkey_binary()), "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no")
        server = Child(Program(name="valkey", command=command, cwd=Path(folder), log=NO_LOG, environment=os.environ))
        try:
            client = Redis(unix_socket_path=socket)
            while not _answers(client):
                time.sleep(0.02)
            yield f"redis+socket://{socket}", client, server.pid
        finally:
            stop_together([server])


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def run(transport: str, queues: int, tasks: int) -> Result:
    """One scenario, on an empty server and with a new worker."""
    tasks = min(max(tasks, queues), queues * CAPACITY)
    with valkey() as (url, client, pid):
        environment = os.environ | {"BENCH_BROKER": url, "BENCH_TRANSPORT": transport, "BENCH_TASKS": str(tasks)}
        command = [sys.executable, "-m", "bench.lanes", "--publish", str(queues), "--tasks", str(tasks)]
        published = float(subprocess.check_output(command, cwd=ROOT, env=environment))
        before = cpu_seconds(pid)
        figures = consume(client, environment, transport, queues, tasks)
        done = figures["done"]
        return Result(
            transport=transport,
            queues=queues,
            tasks=done,
            tasks_per_second=done / figures["seconds"],
            worker_cpu_ms=1000 * figures["cpu"] / done,
            server_cpu_ms=1000 * (cpu_seconds(pid) - before) / done,
            published_per_second=published,
        )


def publish(queues: int, tasks: int) -> float:
    """Spread the tasks over the queues, in batches. Returns the rate. A process has but one transport."""
    started = time.perf_counter()
    with app.producer_or_acquire() as producer, producer.batch():
        for number in range(tasks):
            app.send_task("noop", queue=f"conn.{number % queues}", task_id=f"t{number}", producer=producer)
    return tasks / (time.perf_counter() - started)


def consume(client: Redis, environment: dict[str, str], transport: str, queues: int, tasks: int) -> dict[str, Any]:
    """Run a worker until all tasks are done, or time is up. Returns its last figures."""
    names = "deliver" if transport == "lanes" else ",".join(f"conn.{number}" for number in range(queues))
    with worker(environment, names):
        return wait_for(client, tasks)


@contextmanager
def worker(environment: dict[str, str], names: str) -> Iterator[int]:
    """A worker on these queues: its process id."""
    command = (sys.executable, "-m", "celery", "-A", "bench.lanes", "worker", "-P", "threads", "-c", "64", "-Q", names)
    quiet = ("-l", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat")
    process = Child(Program(name="worker", command=(*command, *quiet), cwd=ROOT, log=NO_LOG, environment=environment))
    try:
        yield process.pid
    finally:
        process.kill()


def wait_for(client: Redis, tasks: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"done": 0}
    deadline = time.monotonic() + CUT_OFF_SECONDS
    while figures["done"] < tasks and time.monotonic() < deadline:
        time.sleep(0.1)
        figures = json.loads(client.get(PROGRESS) or '{"done": 0}')
    return figures


def idle() -> dict[str, Any]:
    """What lanes cost that have had work and have none any more: bytes in the server, and CPU of worker and server."""
    with valkey() as (url, client, server):
        environment = os.environ | {"BENCH_BROKER": url, "BENCH_TRANSPORT": "lanes", "BENCH_TASKS": str(IDLE_LANES)}
        command = [sys.executable, "-m", "bench.lanes", "--publish", str(IDLE_LANES), "--tasks", str(IDLE_LANES)]
        with worker(environment, "deliver") as pid:
            subprocess.check_call(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
            done = wait_for(client, IDLE_LANES)["done"]
            time.sleep(2)
            before, server_before = cpu_seconds(pid), cpu_seconds(server)
            time.sleep(IDLE_SECONDS)
            keys = {key.decode(): client.memory_usage(key) for key in client.keys("meshes:*")}
            return {
                "lanes": done,
                "keys": keys,
                "worker_cpu_percent": 100 * (cpu_seconds(pid) - before) / IDLE_SECONDS,
                "server_cpu_percent": 100 * (cpu_seconds(server) - server_before) / IDLE_SECONDS,
            }


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def median(results: list[Result]) -> Result:
    """Of several runs of one scenario: the one in the middle by speed."""
    middle = statistics.median_low(result.tasks_per_second for result in results)
    return next(result for result in results if result.tasks_per_second == middle)


def table(results: list[Result]) -> str:
    head = "| transport | queues | tasks/s | worker CPU per task | server CPU per task | published/s |"
    rows = [head, "|---|---|---|---|---|---|"]
    rows += [
        f"| {r.transport} | {r.queues:,} | {r.tasks_per_second:,.0f} | {r.worker_cpu_ms:.2f} ms "
        f"| {r.server_cpu_ms:.3f} ms | {r.published_per_second:,.0f} |"
        for r in results
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--idle", action="store_true", help="only what idle lanes cost")
    parser.add_argument(
        "--publish", type=int, metavar="QUEUES", help="(of the scenarios) publish only, and print the rate"
    )
    arguments = parser.parse_args()
    if arguments.publish:
        print(publish(arguments.publish, arguments.tasks))
        return
    if arguments.idle:
        print(json.dumps(idle(), indent=2))
        return
    runs: dict[tuple[str, int], list[Result]] = {scenario: [] for scenario in SCENARIOS}
    for _ in range(arguments.runs):
        for transport, queues in SCENARIOS:
            runs[transport, queues].append(run(transport, queues, arguments.tasks))
    results = [median(of_scenario) for of_scenario in runs.values()]
    print(table(results))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        every = [asdict(result) for of_scenario in runs.values() for result in of_scenario]
        document = {"cores": os.cpu_count(), "medians": [asdict(result) for result in results], "runs": every}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
