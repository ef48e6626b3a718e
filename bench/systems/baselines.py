"""The baselines, with the same servers, the same WSGI server and as many threads as the system itself."""

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from bench.rig import Rig
from bench.systems import Tenant
from bench.systems.api import Api, at_once
from bench.systems.servers import Processes
from meshes import services
from meshes.dev.children import run
from meshes.dev.embedded import free_port
from meshes.dev.stack import answers_ok

WORKER = ("-P", "threads", "-c", str(services.THREADS["deliver"]), "-l", "WARNING", "--without-gossip")


class Baseline:
    """One whose processes are `Processes`, made by its `start`."""

    key = "bench"
    _processes: Processes

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def stop(self) -> None:
        self._processes.stop()

    def roots(self) -> dict[str, int]:
        return self._processes.roots()

    def log(self, name: str) -> str:
        return self._processes.log(name)


class Classic(Baseline):
    """`bench.classic` under gunicorn, with one Celery worker."""

    name = "classic"
    has_bulk = True

    def start(self) -> None:
        self._processes = Processes()
        servers = self._processes.start_servers(os.environ)
        environment = servers | {"DJANGO_SETTINGS_MODULE": "bench.classic.settings", "WEB_CONCURRENCY": "2"}
        run(self._rig.program("migrate", ("-m", "django", "migrate", "--run-syncdb", "-v", "0"), **environment))
        worker = ("-m", "celery", "-A", "bench.classic.celery", "worker", *WORKER)
        self.port = free_port()
        self._processes.start(self._rig.program("worker", worker, **environment))
        self._processes.start(self._rig.program("web", _web("bench.classic.wsgi", self.port), **environment))
        self._rig.wait_for(lambda: _listens(self.port), "classic")
        self._api = Api(self.port, self.key)

    def connect(self, tenants: Sequence[Tenant]) -> None:
        documents = [{"workspace": tenant.name, "url": url} for tenant in tenants for url in tenant.urls]
        at_once(lambda document: self._api.post("/endpoints", document), documents)

    def quieten(self, tenants: Sequence[Tenant]) -> None:
        """Delete their endpoints, so that what waits for them fails at once."""
        at_once(lambda tenant: self._api.call("DELETE", "/endpoints", {"workspace": tenant.name}), tenants)


class InRequest(Baseline):
    """`bench.inrequest` under gunicorn."""

    name = "in-request"
    has_bulk = False

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig)
        self._destinations: dict[str, Sequence[str]] = {}

    def start(self) -> None:
        self._processes = Processes()
        self.port = free_port()
        self._file: Path = self._processes.folder / "destinations.json"
        settings = {"DJANGO_SETTINGS_MODULE": "bench.web_settings", "BENCH_DESTINATIONS": str(self._file)}
        environment = settings | {"WEB_CONCURRENCY": "2"}
        self._processes.start(self._rig.program("web", _web("bench.inrequest", self.port), **environment))
        self._rig.wait_for(lambda: _listens(self.port), "in-request")

    def connect(self, tenants: Sequence[Tenant]) -> None:
        self._destinations |= {tenant.name: tenant.urls for tenant in tenants}
        self._file.write_text(json.dumps(self._destinations))

    def quieten(self, tenants: Sequence[Tenant]) -> None:
        """Nothing goes on after the answer."""


def _web(application: str, port: int) -> tuple[str, ...]:
    """The command of the system's own web service, with another application."""
    return tuple(application if word == "meshes.wsgi" else word for word in services.web(f"127.0.0.1:{port}"))


def _listens(port: int) -> bool:
    answers_ok(port, "/")  # whatever it answers: this starts its workers
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
