"""Real Celery workers in processes of their own, and the journal in which their tasks write."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from celery import Celery

from delivery.lanes.worker import CELERY_SETTINGS, install
from tests.polling import eventually

ROOT = Path(__file__).parents[3]


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path

    def times(self, what: str) -> dict[str, float]:
        """Task id → when it last started or ended."""
        return {task_id: moment for kind, task_id, moment in self._lines() if kind == what}

    def counts(self, what: str) -> Counter[str]:
        return Counter(task_id for kind, task_id, _ in self._lines() if kind == what)

    def has_ended(self, tasks: int) -> bool:
        return len(self.counts("end")) >= tasks

    def _lines(self) -> list[tuple[str, str, float]]:
        if not self.path.exists():
            return []
        rows = [line.split(" ") for line in self.path.read_text().splitlines()]
        return [(kind, task_id, float(moment)) for kind, task_id, moment in rows]


class Worker:
    """Starts at once; use as a context manager, which kills it if it still runs."""

    def __init__(
        self,
        broker: str,
        folder: Path,
        *,
        threads: int = 8,
        queues: str = "deliver",
        transport: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.log = folder / f"worker-{len(list(folder.glob('worker-*')))}.log"
        self.environment = {
            "LANES_TEST_BROKER": broker,
            "LANES_TEST_JOURNAL": str(folder / "journal"),
            "LANES_TEST_SETTINGS": json.dumps(settings),
            "LANES_TEST_TRANSPORT": json.dumps(transport or {}),
        }
        command = f"-m celery -A tests.delivery.lanes.celery_app worker -P threads -c {threads} -Q {queues} -l INFO"
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command.split(), *quiet],
                cwd=ROOT,
                env=os.environ | self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self) -> "Worker":
        eventually(self._is_ready, 20)
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 30) -> int:
        """Ask for a warm shutdown, and wait for its end."""
        self.process.terminate()
        return self.process.wait(seconds)

    def is_running(self) -> bool:
        return self.process.poll() is None

    def _is_ready(self) -> bool:
        assert self.is_running(), self.log.read_text(errors="replace")
        return " ready." in self.log.read_text(errors="replace")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running():
            self.kill()


class Publisher:
    """Sends tasks to lanes, and remembers their ids."""

    def __init__(self, broker: str) -> None:
        self.app = Celery("publisher", broker=broker, set_as_current=False)
        install(self.app)
        self.app.conf.update(CELERY_SETTINGS)
        self.sent: list[str] = []

    def send(
        self, count: int, *, lanes: int, seconds: float = 0.0, kind: str = "conn.", reported: float | None = None
    ) -> list[str]:
        """Tasks that last `seconds` and report `reported`, over the lanes `<kind><number>` in turn."""
        first = len(self.sent)
        new = [f"t{number}" for number in range(first, first + count)]
        with self.app.producer_or_acquire() as producer, producer.batch():
            for number, task_id in enumerate(new):
                lane = f"{kind}{number % lanes}"
                self.app.send_task("work", (seconds, reported), queue=lane, task_id=task_id, producer=producer)
        self.sent += new
        return new

    def close(self) -> None:
        self.app.close()
