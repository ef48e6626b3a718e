"""`manage.py up` as a person runs it: a process of its own, told by signals, read through stack.json."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import requests

from meshes.dev.children import DIE_WITH_PARENT
from meshes.dev.stack_folder import processes_of_run
from tests.polling import eventually, patient

PROJECT = Path(__file__).resolve().parents[2]
READY_SECONDS = 120.0
OURS = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "FERNET_KEYS", "MESHES_DATA_DIR")
"""Variables that the test run sets for itself."""


class RunningUp:
    """One `up` in ``folder``, on any free ports, with these options."""

    def __init__(self, folder: Path, extra: Mapping[str, str] | None = None, *options: str) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if name not in OURS}
        own = {"MESHES_DATA_DIR": str(folder), "MESHES_PORT": "0", "MESHES_FLOWER_PORT": "0"}
        self.environment = kept | own | dict(extra or {})
        self.options = options
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.launch()
        eventually(self._is_ready, READY_SECONDS)

    def __enter__(self) -> "RunningUp":
        try:
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def launch(self) -> subprocess.Popen[str]:
        """Begin, with a tie: a test run that is killed takes its stacks along."""
        tie = ("-I", "-S", str(DIE_WITH_PARENT), str(os.getpid()), str(int(signal.SIGTERM)), "-")
        self.process = subprocess.Popen(
            [sys.executable, *tie, sys.executable, "manage.py", "up", *self.options],
            cwd=PROJECT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self.process

    def send(self, number: signal.Signals) -> str:
        """Send a signal to `up` itself, wait for its end, and return what it printed."""
        process = self.running_process
        process.send_signal(number)
        printed, _ = process.communicate(timeout=patient(60))
        return printed

    @property
    def running_process(self) -> subprocess.Popen[str]:
        assert self.process is not None, "start it first"
        return self.process

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "stack.json").read_text())
        return state

    @property
    def port(self) -> int:
        return int(self.state["api_url"].rpartition(":")[2])

    def processes(self) -> list[psutil.Process]:
        """Everything that this run started and that still lives; zombies do not."""
        run = json.loads((self.folder / "run.json").read_text())
        return processes_of_run(run["run_id"])

    def get(self, path: str, **parameters: Any) -> requests.Response:
        return self.call("GET", path, **parameters)

    def call(self, method: str, path: str, **parameters: Any) -> requests.Response:
        state = self.state
        login = {"Authorization": f"Bearer {state['account_key']}"}
        return requests.request(method, state["api_url"] + path, headers=login, timeout=patient(10), **parameters)

    def end(self) -> None:
        """For the end of a test, however far it came: Ctrl-C, or the kernel's way."""
        if self.process is not None and self.process.poll() is None:
            self.send(signal.SIGINT)

    def _is_ready(self) -> bool:
        if self.running_process.poll() is not None:
            raise AssertionError(self.running_process.communicate()[0])
        # A killed predecessor's file may still be there.
        written = (self.folder / "stack.json").exists()
        return written and bool(self.state["supervisor_pid"] == self.running_process.pid)
