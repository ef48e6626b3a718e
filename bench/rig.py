"""What every measurement stands on: the receivers, the load generator, progress, and the conditions of the run."""

import http.client
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from bench.cpu import cpu_seconds, load_average
from bench.load import FIRST_NUMBER, Answers, Spec, Template
from meshes.dev.children import Child, Program, log_tail
from meshes.dev.embedded import free_port

ROOT = Path(__file__).parents[1]


class BenchError(Exception):
    """A measurement cannot be trusted, in words for the person who runs it."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured. `scale` multiplies what takes long to fill: backlog, history, idle connections."""

    quick: bool = False
    runs: int = 2
    scale: float = 1.0

    def sized(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Arrived:
    """What the receivers answered 200, as parallel arrays: moment, event number, destination."""

    moments: array
    numbers: array
    destinations: array

    def __len__(self) -> int:
        return len(self.moments)

    def first_by_number(self) -> dict[int, float]:
        """When each event number first came, at whichever destination."""
        first: dict[int, float] = {}
        for number, moment in zip(self.numbers, self.moments, strict=True):
            if moment < first.get(number, float("inf")):
                first[number] = moment
        return first


class Rig:
    """The receivers and a folder for files, for the length of a `with`. Use it on the main thread."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self.options = options
        self.say = say
        self._next_number = FIRST_NUMBER

    def __enter__(self) -> "Rig":
        self.folder = Path(tempfile.mkdtemp(prefix="meshes-bench-"))
        self.port = free_port()
        self.dead_port = free_port()
        self._receiver = Child(self.program("receiver", ("-m", "bench.receiver", str(self.port))))
        self.wait_for(self._answers, "receivers")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._receiver.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def program(self, name: str, arguments: Sequence[str], **environment: str) -> Program:
        """A Python program of this project, with its log in the rig's folder."""
        return Program(
            name=name,
            command=(sys.executable, *arguments),
            cwd=ROOT,
            log=self.folder / f"{name}.log",
            environment=os.environ | environment,
        )

    @property
    def roots(self) -> dict[str, int]:
        return {"receivers": self._receiver.pid}

    # --- receivers

    def url(self, temper: str, destination: int) -> str:
        """An endpoint that is `ok`, `hung`, `drip`, `429`, or `dead`: nobody listens."""
        port = self.dead_port if temper == "dead" else self.port
        return f"http://127.0.0.1:{port}/{temper}/{destination}"

    def reset(self) -> None:
        self._control("reset")

    def arrived_count(self) -> int:
        return int(self._control("count"))

    def arrived(self) -> Arrived:
        content = self._control("dump")
        size = len(content) // 3
        columns = []
        for index, kind in enumerate("dqq"):
            columns.append(array(kind))
            columns[-1].frombytes(content[index * size : (index + 1) * size])
        return Arrived(*columns)

    def wait_for_arrivals(self, number: int, seconds: float) -> int:
        """Wait until so many came, or time is up, or nothing has come for five seconds. Returns how many did."""
        deadline = time.monotonic() + seconds
        count, changed_at = -1, time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - changed_at < 5:
            now = self.arrived_count()
            if now >= number:
                return now
            if now != count:
                count, changed_at = now, time.monotonic()
            time.sleep(0.05)
        return count

    def _answers(self) -> bool:
        try:
            return bool(self._control("count"))
        except OSError:
            return False

    def _control(self, what: str) -> bytes:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            client.request("GET", f"/control/{what}")
            return client.getresponse().read()
        finally:
            client.close()

    # --- load

    def load(
        self,
        port: int,
        templates: list[Template],
        *,
        connections: int = 8,
        count: int = 0,
        schedule: list[tuple[float, int]] | None = None,
        seconds: float = 60.0,
    ) -> tuple[Answers, float]:
        """Run the generator to its end. Returns its answers, and its CPU seconds."""
        spec = Spec(port, templates, self._next_number, connections, seconds, count, schedule or [])
        self._next_number += sum(template.events for template in templates) * max(count, len(schedule or [])) + 1
        spec.write(self.folder / "spec.json")
        answers = self.folder / "answers.bin"
        program = self.program("load", ("-m", "bench.load", str(self.folder / "spec.json"), str(answers)))
        generator = Child(program)
        try:
            deadline, cpu = time.monotonic() + seconds + 30, 0.0
            while generator.exit_code() is None:
                if time.monotonic() > deadline:
                    raise BenchError("the load generator does not end")
                cpu = cpu_seconds({"load": generator.pid})["load"] or cpu
                time.sleep(0.05)
        finally:
            generator.kill()
        if generator.exit_code():
            raise BenchError(f"the load generator failed: {log_tail(self.folder / 'load.log')}")
        return Answers.read(answers), cpu

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise BenchError(f"waited {seconds:.0f} s in vain for: {what}")
            time.sleep(0.02)


def conditions(options: Options) -> dict[str, object]:
    """What figures depend on beside the code."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "load_average": load_average(),
        "quick": options.quick,
        "runs": options.runs,
        "scale": options.scale,
    }


def _commit() -> str:
    command = ("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
