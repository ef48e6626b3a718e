"""The system itself: the whole stack of `make up`, in a folder of its own, through its HTTP API."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.rig import Rig
from bench.systems import Tenant
from bench.systems.api import Api, at_once
from meshes.dev.children import log_tail
from meshes.dev.stack import Stack
from meshes.dev.stack_folder import StackFolder

ENVIRONMENT = {
    "MESHES_OUTBOUND_ALLOW_NETS": "127.0.0.0/8",
    "MESHES_OUTBOUND_ALLOW_HTTP": "1",
    "MESHES_OUTBOUND_PORTS": "*",
    # The limits that protect one customer from another are not what is measured.
    "MESHES_INGEST_RATE": "1000000",
    "MESHES_INGEST_KEY_RATE": "1000000",
    "MESHES_BACKLOG_LIMIT": "100000000",
    "MESHES_API_RATE": "1000000",
}
SERVERS = ("postgres", "valkey")


class Meshes:
    name = "meshes"
    has_bulk = True

    def __init__(self, _rig: Rig, **settings: str) -> None:
        self._settings = settings
        self._stack: Stack | None = None
        self.connections: dict[str, list[str]] = {}
        """Ids by tenant."""

    def start(self) -> None:
        folder = StackFolder(Path(tempfile.mkdtemp(prefix="meshes-bench-up-")))
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in {"DATABASE_URL", "REDIS_URL"} and not name.startswith("MESHES_")
        }
        self._stack = Stack(
            folder, environment | ENVIRONMENT | self._settings, port=0, durable=True, report=lambda sentence: None
        )
        self._stack.start()
        self.port, self.key = self._stack.port, self._stack.account_key
        self.api = Api(self.port, self.key)

    def stop(self) -> None:
        """Without patience for what is in flight: its folder goes anyway."""
        if self._stack is None:
            return
        for name, pid in self.roots().items():
            if name not in SERVERS:
                _kill(pid)
        self._stack.stop()
        shutil.rmtree(self._stack.folder.path, ignore_errors=True)
        self._stack, self.connections = None, {}

    def connect(self, tenants: Sequence[Tenant]) -> None:
        at_once(lambda tenant: self.api.post("/workspaces", {"name": tenant.name, "external_id": tenant.name}), tenants)
        at_once(lambda pair: self._connect(*pair), [(tenant.name, url) for tenant in tenants for url in tenant.urls])

    def quieten(self, tenants: Sequence[Tenant]) -> None:
        """Pause them: their deliveries are held."""
        at_once(
            lambda connection: self.api.post(f"/connections/{connection}/pause"),
            [connection for tenant in tenants for connection in self.connections[tenant.name]],
        )

    def roots(self) -> dict[str, int]:
        return self.stack.supervisor.pids()

    def log(self, name: str) -> str:
        return log_tail(self.stack.folder.logs / f"{name}.log", 1_200)

    @property
    def stack(self) -> Stack:
        assert self._stack is not None
        return self._stack

    @property
    def state(self) -> dict[str, Any]:
        """Addresses of its servers, for what no API tells."""
        return self.stack.state()

    def _connect(self, workspace: str, url: str) -> None:
        connection = self.api.post(
            "/connections", {"workspace": workspace, "type": "webhook", "name": url[-80:], "config": {"url": url}}
        )
        self.connections.setdefault(workspace, []).append(connection["id"])
        self.api.post(
            "/rules", {"workspace": workspace, "connection": connection["id"], "event": "lead.*", "enabled": True}
        )


def _kill(pid: int) -> None:
    """A process that this benchmark started, with its descendants."""
    try:
        root = psutil.Process(pid)
        for process in [*root.children(recursive=True), root]:
            process.kill()
    except psutil.NoSuchProcess:
        return
