"""Tasks per second of one worker by the number of queues, lanes against the stock transport: `bench.lanes`."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from bench.cpu import load_average
from bench.report import Results
from bench.rig import Rig
from meshes.dev.children import run

NAME = "lanes"


def record(rig: Rig, results: Results) -> None:
    file = rig.folder / "lanes.json"
    for _ in range(rig.options.runs):
        before = load_average()
        tasks = str(rig.options.sized(10_000, 2_000))
        run(rig.program(NAME, ("-m", "bench.lanes", "--runs", "1", "--tasks", tasks, "--json", str(file))))
        for transport, made in figures(json.loads(file.read_text())["runs"]).items():
            results.add(NAME, transport, made, before)


def figures(samples: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By transport: rate and CPU at each number of queues."""
    made: dict[str, dict[str, float]] = {}
    for sample in samples:
        of_transport = made.setdefault(sample["transport"], {})
        at = sample["queues"]
        of_transport[f"tasks_per_second_at_{at}"] = sample["tasks_per_second"]
        of_transport[f"cpu_ms_at_{at}:worker"] = sample["worker_cpu_ms"]
        of_transport[f"cpu_ms_at_{at}:valkey"] = sample["server_cpu_ms"]
    return made
