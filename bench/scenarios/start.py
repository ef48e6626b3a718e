"""From `manage.py up` in an empty folder to the first delivery: servers made, migrated, started, first event posted."""

import json
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from bench.cpu import load_average
from bench.report import Results
from bench.rig import Rig
from bench.systems.api import Api
from bench.systems.meshes import ENVIRONMENT
from meshes.dev.children import Child

NAME = "start"


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds until the stack said that it is ready, and until the first delivery reached its receiver."""

    ready: float
    delivered: float


def record(rig: Rig, results: Results) -> None:
    for _ in range(rig.options.runs):
        before = load_average()
        results.add(NAME, "meshes", figures(measure(rig)), before)


def measure(rig: Rig) -> Sample:
    folder = Path(tempfile.mkdtemp(prefix="meshes-bench-start-"))
    environment = ENVIRONMENT | {"MESHES_DATA_DIR": str(folder), "MESHES_PORT": "0"}
    program = replace(rig.program("up", ("manage.py", "up"), **environment), stop_signal=signal.SIGINT)
    rig.reset()
    began = time.monotonic()
    up = Child(program)
    try:
        rig.wait_for((folder / "stack.json").exists, "make up", 120)
        ready = time.monotonic() - began
        state = json.loads((folder / "stack.json").read_text())
        _post_first(Api(int(state["api_url"].rpartition(":")[2]), state["account_key"]), rig.url("ok", 0))
        rig.wait_for(lambda: rig.arrived_count() > 0, "the first delivery", 60)
        return Sample(ready, min(rig.arrived().moments) - began)
    finally:
        up.ask_to_stop()
        rig.wait_for(lambda: up.exit_code() is not None, "the end of `up`", 60)
        shutil.rmtree(folder, ignore_errors=True)


def _post_first(api: Api, url: str) -> None:
    api.post("/workspaces", {"name": "First", "external_id": "first"})
    made = api.post("/connections", {"workspace": "first", "type": "webhook", "name": "first", "config": {"url": url}})
    api.post("/rules", {"workspace": "first", "connection": made["id"], "event": "*", "enabled": True})
    api.post("/events", {"workspace": "first", "event": "lead.created", "payload": {"seq": 1}})


def figures(sample: Sample) -> dict[str, float]:
    return {"ready_seconds": sample.ready, "first_delivery_seconds": sample.delivered}
