"""The whole stack as child processes: PostgreSQL, Valkey, web, workers, sweeper, Flower; for ``up`` and ``demo``."""

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import redis
from django.db import OperationalError, connection

from meshes import services
from meshes.dev.children import Program, run
from meshes.dev.embedded import Postgres, Valkey, free_port, port_is_free, private_folder
from meshes.dev.stack_folder import NEW_KEYS, StackFolder
from meshes.dev.supervisor import Supervisor
from meshes.environment import PROJECT, RUN_ID, read_secret_files, words_of
from meshes.services import NO_BROKER_WORDS, ping

ADMIN_USER = FLOWER_USER = "admin"
FLOWER_PORT = 5555
"""Flower's usual port, taken where nobody else has it."""
LOOPBACK = {
    "MESHES_OUTBOUND_ALLOW_NETS": "127.0.0.0/8,::1/128",
    "MESHES_OUTBOUND_ALLOW_HTTP": "1",
    "MESHES_OUTBOUND_PORTS": "*",
}
"""Lets a stack deliver to this machine, which it refuses by default; its own ports stay refused."""
SUPERUSER_WORDS = (
    "the services are a superuser in this database, as an older version made it; all works as before,"
    ' and docs/running.md ("Roles in PostgreSQL") tells how to change that'
)
READY_SECONDS = 120.0
PORT_SECONDS = 5.0
LOGS_SECONDS = 5.0
"""How often a running stack looks whether a log is too long."""


class StackError(Exception):
    """The stack could not start, in words for the person who started it."""


class Stack:
    """One stack in a locked folder. ``environment`` is passed through to every service.

    ``flower_port`` is the one that was asked for, 0 for any free one, None for the usual one or else a free one. With
    ``loopback`` it delivers to this machine, this time; with ``new_keys`` it gives up stored credentials whose keys are
    lost; with ``only_database`` it is PostgreSQL alone, for a restore. Embedded servers run unless ``environment`` has
    DATABASE_URL or REDIS_URL. The owner calls ``start``, then ``tend`` every fraction of a second, then ``stop``, on
    its main thread.
    """

    def __init__(
        self,
        folder: StackFolder,
        environment: Mapping[str, str],
        *,
        port: int,
        durable: bool,
        report: Callable[[str], None],
        flower_port: int | None = 0,
        loopback: bool = False,
        new_keys: bool = False,
        only_database: bool = False,
    ) -> None:
        self.folder = folder
        self.port = port
        self.flower_port = flower_port or 0
        self._usual_flower_port = flower_port is None
        self.loopback = loopback
        self.durable = durable
        self.new_keys = new_keys
        self.only_database = only_database
        self.report = report
        self.environment = {name: value for name, value in read_secret_files(environment).items() if value} | (
            LOOPBACK if loopback else {}
        )
        self.administrator_url: str | None = None
        """The embedded database as its superuser."""
        self.supervisor = Supervisor(changed=self._pids_changed, report=report)
        self._sockets: Path | None = None
        self._ready = False
        self._logs_due_at = 0.0
        self._unpublished = ""
        """Why ``stack.json`` does not say what is so, where it does not."""

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def flower_url(self) -> str:
        return f"http://127.0.0.1:{self.flower_port}"

    @property
    def account_key(self) -> str:
        """An account key with all scopes, the same over restarts while it is valid."""
        return self.folder.read_env()["MESHES_ACCOUNT_KEY"]

    def start(self) -> None:
        """Return when the stack is ready and ``stack.json`` is written. Raises StackError, ServerStartError."""
        self.folder.lock()
        self.folder.end_run()
        self.folder.ensure_secrets(self.environment, new_keys=self.new_keys)
        self._choose_ports()
        self._begin_run()
        self._start_postgres()
        if self.only_database:
            self._publish_database()
            return
        self._start_valkey()
        self.folder.update_env({name: self.environment[name] for name in ("DATABASE_URL", "REDIS_URL")})
        self.folder.write_run_env(self.environment)
        self._start_flower()
        self._provision()
        self._start_services()
        self._wait_until_ready()
        self._ready = True
        self.folder.publish(self.state())

    def tend(self) -> None:
        """Start again what died, and keep the logs from growing without end."""
        self.supervisor.tend()
        if time.monotonic() > self._logs_due_at:
            self._logs_due_at = time.monotonic() + LOGS_SECONDS
            self.folder.rotate_logs()
        if self._unpublished:
            self._publish()

    def stop(self) -> None:
        """Stop everything in order; data, logs and secrets stay in the folder. Does nothing to another's stack."""
        if not self.folder.is_locked:
            return
        self._ready = False
        self.folder.withdraw()
        self.supervisor.stop()
        try:
            self.folder.update_env({"DATABASE_URL": None, "REDIS_URL": None})
        except OSError as error:
            self.report(f"stack.env still names the servers of this run: {error.strerror}")
        self.folder.end_run()
        if self._sockets is not None:  # of which run.json does not tell where it could not be written
            shutil.rmtree(self._sockets, ignore_errors=True)
        self.folder.unlock()

    def state(self) -> dict[str, object]:
        """What ``stack.json`` holds."""
        env = self.folder.read_env() | self.environment
        return {
            "api_url": self.api_url,
            "admin_url": f"{self.api_url}/admin/",
            "flower_url": self.flower_url,
            "account_key": env["MESHES_ACCOUNT_KEY"],
            "admin_user": ADMIN_USER,
            "admin_password": self.folder.read_env()["MESHES_ADMIN_PASSWORD"] or None,  # None once it was changed
            "flower_user": FLOWER_USER,
            "flower_password": env["MESHES_FLOWER_PASSWORD"],
            "pids": self.supervisor.pids(),
            "supervisor_pid": os.getpid(),
            "database_url": env["DATABASE_URL"],
            "administrator_url": self.administrator_url,
            "redis_url": env["REDIS_URL"],
            "loopback": self.loopback,
        }

    def _publish_database(self) -> None:
        """Let commands in a second terminal find it."""
        self.folder.update_env({"DATABASE_URL": self.environment["DATABASE_URL"]})
        self.folder.write_run_env(self.environment)
        urls = {"database_url": self.environment["DATABASE_URL"], "administrator_url": self.administrator_url}
        self.folder.publish({**urls, "supervisor_pid": os.getpid()})

    def _choose_ports(self) -> None:
        self.port = self.port or free_port()
        self._wait_for_port(self.port, "MESHES_PORT")
        if self._usual_flower_port and port_is_free(FLOWER_PORT):
            self.flower_port = FLOWER_PORT
        self.flower_port = self.flower_port or free_port()
        self._wait_for_port(self.flower_port, "MESHES_FLOWER_PORT")

    def _wait_for_port(self, port: int, setting: str) -> None:
        deadline = time.monotonic() + PORT_SECONDS  # a killed predecessor's processes take a second to end
        while not port_is_free(port):
            if time.monotonic() > deadline:
                raise StackError(f"Port {port} is taken. {setting} chooses another; 0 means any free one.")
            time.sleep(0.1)

    def _begin_run(self) -> None:
        self._sockets = private_folder()
        (self.folder.path / "static").mkdir(exist_ok=True)  # WhiteNoise warns where STATIC_ROOT is missing
        self.environment[RUN_ID] = self.folder.begin_run(self._sockets)
        self.environment["MESHES_DATA_DIR"] = str(self.folder.path)
        self.environment["PYTHONUNBUFFERED"] = "1"
        self.environment.setdefault("MESHES_JOURNAL", str(self.folder.path / "journal"))
        self.environment.setdefault("MESHES_SEAL_HEADS", str(self.folder.path / "seal-heads"))
        self.environment["MESHES_FLOWER_URL"] = self.flower_url
        self.environment["MESHES_OWN_PORTS"] = f"{self.port},{self.flower_port}"
        self.environment.setdefault("WEB_CONCURRENCY", "2")

    def _start_postgres(self) -> None:
        if "DATABASE_URL" in self.environment:
            self._reach_postgres()
        if "DATABASE_URL" in self.environment or self._sockets is None:
            return
        postgres = Postgres(
            self.folder.path / "postgres",
            self._sockets,
            self.folder.fresh_log("postgres"),
            durable=self.durable,
            environment=self.environment,
        )
        self.report("starting PostgreSQL")
        postgres.prepare()
        self.supervisor.start([postgres.program])
        postgres.wait_until_ready(lambda: self.supervisor.is_running("postgres"))
        self.environment["DATABASE_URL"] = postgres.url
        self.administrator_url = postgres.administrator_url
        if postgres.url == postgres.administrator_url:
            self.report(SUPERUSER_WORDS)

    def _reach_postgres(self) -> None:
        """The server that DATABASE_URL names. Raises StackError."""
        try:
            connection.ensure_connection()
        except OperationalError as error:
            raise StackError(f"{words_of(error)} (DATABASE_URL)") from None
        finally:
            connection.close()

    def _start_valkey(self) -> None:
        if "REDIS_URL" in self.environment:
            try:
                ping(self.environment["REDIS_URL"])
            except (redis.RedisError, ValueError):
                self.report(f"the broker of REDIS_URL does not answer: {NO_BROKER_WORDS}")
            return
        valkey = Valkey(self.folder.path / "valkey", self.folder.fresh_log("valkey"), environment=self.environment)
        self.report("starting Valkey")
        valkey.prepare()
        self.supervisor.start([valkey.program])
        valkey.wait_until_ready(lambda: self.supervisor.is_running("valkey"))
        self.environment["REDIS_URL"] = valkey.url
        self.environment["MESHES_OWN_PORTS"] += f",{valkey.port}"

    def _provision(self) -> None:
        self.report("migrating")
        run(
            Program(
                name="provision",
                command=(sys.executable, "manage.py", "provision", *([NEW_KEYS] if self.new_keys else [])),
                cwd=PROJECT,
                log=None,
                environment=self.environment,
            )
        )

    def _start_flower(self) -> None:
        """While the database is migrated, of which it knows nothing."""
        password = (self.folder.read_env() | self.environment)["MESHES_FLOWER_PASSWORD"]
        if not (password.isascii() and password.isprintable()) or "," in password:
            raise StackError("MESHES_FLOWER_PASSWORD must be of ASCII characters, without a comma.")
        login = {"FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{password}"}
        self.supervisor.start([self._service("flower", services.flower("127.0.0.1", self.flower_port), extra=login)])

    def _start_services(self) -> None:
        self.report("starting web, workers and sweeper")
        stops = services.SWEEP_STOP_SECONDS, services.WORKER_STOP_SECONDS, services.WEB_STOP_SECONDS
        sweep, worker, web = (seconds + services.KILL_SECONDS for seconds in stops)
        self.supervisor.start([self._service("sweep", services.sweeper(), stop_seconds=sweep)])
        rings = ("fanout", "deliver")
        self.supervisor.start([self._service(ring, services.worker(ring), stop_seconds=worker) for ring in rings])
        self.supervisor.start([self._service("web", services.web(f"127.0.0.1:{self.port}"), stop_seconds=web)])

    def _service(
        self,
        name: str,
        arguments: tuple[str, ...],
        *,
        stop_seconds: float = 10,
        extra: Mapping[str, str] | None = None,
    ) -> Program:
        return Program(
            name=name,
            command=(sys.executable, *arguments),
            cwd=PROJECT,
            log=self.folder.fresh_log(name),
            environment=self.environment | dict(extra or {}),
            stop_seconds=stop_seconds,
        )

    def _wait_until_ready(self) -> None:
        """Return when web and Flower answer. Of missing keys it tells: what needs them waits, and all else runs."""
        waiting = {"web": (self.port, "/readyz"), "flower": (self.flower_port, "/healthcheck")}
        deadline = time.monotonic() + READY_SECONDS
        while waiting:
            self.tend()
            answers = {name: ask(*probe) for name, probe in waiting.items()}
            if missing := missing_keys(*answers.get("web", (0, b""))):
                self.report(f"{missing}. What needs them waits until they are back: docs/backup.md")
            answering = {name for name, (status, _) in answers.items() if status == 200 or (name == "web" and missing)}
            waiting = {name: probe for name, probe in waiting.items() if name not in answering}
            if waiting and time.monotonic() > deadline:
                raise StackError(
                    f"Not ready after {READY_SECONDS:.0f} s: {', '.join(waiting)}; see {self.folder.logs}."
                )
            time.sleep(0.1)

    def _pids_changed(self, _pids: dict[str, int]) -> None:
        if self._ready:
            self._publish()

    def _publish(self) -> None:
        """Write ``stack.json`` now, or as soon as there is space for it."""
        try:
            self.folder.publish(self.state())
            self._unpublished = ""
        except OSError as error:
            words = f"stack.json is out of date until it can be written: {error.strerror}"
            if words != self._unpublished:
                self.report(words)
            self._unpublished = words


def answers_ok(port: int, path: str) -> bool:
    """Whether a loopback port answers a GET with 200."""
    return ask(port, path)[0] == 200


def ask(port: int, path: str) -> tuple[int, bytes]:
    """The status and body of a GET to a loopback port; 0 where there is none. By hand: HTTP clients belong to the
    outbound client."""
    request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"
    answer = b""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request.encode())
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1:2]
    return (int(status[0]) if status and status[0].isdigit() else 0), body


def missing_keys(status: int, body: bytes) -> str:
    """What `/readyz` says of keys that are missing, where nothing else keeps web from its work; else empty."""
    if status != 503:
        return ""
    try:
        checks: dict[str, str] = json.loads(body)["checks"]
    except (ValueError, KeyError):
        return ""
    runs = all(checks[name] == "ok" for name in ("database", "migrations", "partitions"))
    return checks["keys"] if runs and checks["keys"] != "ok" else ""
