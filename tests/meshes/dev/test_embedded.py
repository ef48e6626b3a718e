"""The embedded servers start, serve, and end with whoever started them, however that ends."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from meshes.dev import binaries, embedded
from meshes.dev.children import Child, stop_together
from meshes.dev.embedded import EmbeddedServers, Postgres, ServerStartError, Valkey, free_port, private_folder
from tests.polling import eventually

PROJECT = Path(__file__).resolve().parents[3]
STARTS_SERVERS = """
import sys, time
from meshes.dev.embedded import EmbeddedServers
servers = EmbeddedServers()
servers.start()
print(*(child.pid for child in servers._children), flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def servers():
    servers = EmbeddedServers()
    servers.start()
    yield servers
    servers.stop()


def scalar(url: str, statement: str):
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            (value,) = cursor.fetchone() or (None,)
            return value
    finally:
        connection.close()


def ended(pid: int) -> Callable[[], bool]:
    def check() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return check


def test_postgres_18_serves_utf_8_on_a_socket_alone(servers):
    url = servers.postgres.url
    assert scalar(url, "SELECT current_setting('server_version_num')::int / 10000") == 18
    assert scalar(url, "SELECT lower('ÄÖ')") == "äö"
    assert scalar(url, "SHOW listen_addresses") == ""
    assert scalar(url, "SELECT current_database()") == "meshes"


def test_postgres_logs_what_it_refuses_without_what_was_to_be_written(servers):
    connection = psycopg2.connect(servers.postgres.url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE kept (name text UNIQUE, number int NOT NULL)")
        cursor.execute("INSERT INTO kept VALUES (%s, 1)", ["ada@customer.example"])
        for number in (2, None):
            with pytest.raises(psycopg2.IntegrityError):
                cursor.execute("INSERT INTO kept VALUES (%s, %s)", ["ada@customer.example", number])
        with pytest.raises(psycopg2.DataError):
            cursor.execute("SELECT count(*) / 0 FROM kept WHERE name = %s", ["ada@customer.example"])
    connection.close()
    eventually(lambda: "division by zero" in servers.postgres.log.read_text())
    log = servers.postgres.log.read_text()
    assert "duplicate key value violates unique constraint" in log
    assert "violates not-null constraint" in log
    assert "customer" not in log


def test_the_socket_is_nobody_elses(servers):
    assert stat.S_IMODE(servers.folder.stat().st_mode) == 0o700


def test_valkey_wants_its_password(servers):
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=servers.valkey.port, retry=Retry(NoBackoff(), 0)).ping()
    with redis.Redis.from_url(servers.valkey.url) as client:
        assert client.ping() is True
        assert client.info("server")["valkey_version"].startswith("9.")


def test_valkeys_password_is_not_on_its_command_line(servers):
    commands = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert any("valkey-server" in command for command in commands)
    assert not any(servers.valkey.password in command for command in commands)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account to change to")
def test_as_root_postgres_runs_as_nobody_in_a_folder_that_nobody_may_not_reach(tmp_path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with running_postgres(private / "postgres") as (postgres, child):
        assert psutil.Process(child.pid).username() == "nobody"
        assert scalar(postgres.url, "SELECT 1") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account to change to")
def test_as_root_binaries_that_nobody_may_not_run_are_copied_once(tmp_path, monkeypatch):
    monkeypatch.setattr(binaries, "_everyone_may_run", lambda path: False)
    monkeypatch.setattr(binaries, "ROOT_CACHE", tmp_path / "cache")
    first = binaries.postgres_binaries()
    assert first.is_relative_to(tmp_path / "cache")
    version = subprocess.run([first / "postgres", "--version"], check=True, capture_output=True, text=True).stdout
    assert version.startswith("postgres (PostgreSQL) 18.")
    made_at = first.stat().st_ctime_ns
    assert binaries.postgres_binaries() == first
    assert first.stat().st_ctime_ns == made_at
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cluster_survives_kill_9_and_a_second_start(tmp_path):
    with running_postgres(tmp_path / "postgres") as (postgres, child):
        scalar(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer; COMMIT; SELECT 1")
        child.kill()
    assert (tmp_path / "postgres" / "postmaster.pid").exists()
    with running_postgres(tmp_path / "postgres") as (postgres, child):
        assert scalar(postgres.url, "SELECT answer FROM kept") == 42


def test_a_lock_file_that_names_a_process_of_another_kind_is_stale(tmp_path):
    with running_postgres(tmp_path / "postgres") as (_postgres, child):
        child.kill()
    lock = tmp_path / "postgres" / "postmaster.pid"
    # A zombie of the server's account: what a kill leaves until init has seen it.
    account = embedded.account_for_postgres()
    zombie = subprocess.Popen(["/bin/true"], user=account.uid if account else None)
    eventually(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE)
    lock.write_text(lock.read_text().replace(str(child.pid), str(zombie.pid), 1))
    with running_postgres(tmp_path / "postgres") as (postgres, _child):
        assert scalar(postgres.url, "SELECT 1") == 1
    zombie.wait()


def test_a_folder_in_which_postgres_runs_is_left_alone(tmp_path):
    with running_postgres(tmp_path / "postgres") as (postgres, _child):
        with pytest.raises(ServerStartError, match="Another PostgreSQL is running"):
            postgres._remove_stale_lock(seconds=0)
        assert (tmp_path / "postgres" / "postmaster.pid").exists()
        assert scalar(postgres.url, "SELECT 1") == 1


def test_a_cluster_left_half_made_is_made_anew(tmp_path):
    unfinished = tmp_path / "postgres.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    with running_postgres(tmp_path / "postgres") as (postgres, _child):
        assert scalar(postgres.url, "SELECT 1") == 1
    assert not unfinished.exists()


def test_a_durable_cluster_keeps_fsync(tmp_path):
    with running_postgres(tmp_path / "postgres", durable=True) as (postgres, _child):
        assert scalar(postgres.url, "SHOW fsync") == "on"
        assert scalar(postgres.url, "SHOW full_page_writes") == "on"


def test_pg_variables_of_the_environment_change_nothing(tmp_path):
    environment = os.environ | {"PGDATA": "/nonexistent", "PGPORT": "1", "PGDATABASE": "other"}
    with running_postgres(tmp_path / "postgres", environment=environment) as (postgres, _child):
        assert scalar(postgres.url, "SELECT current_database()") == "meshes"


def test_a_server_that_cannot_start_says_why(tmp_path):
    log = tmp_path / "valkey.log"
    valkey = Valkey(tmp_path / "valkey", log)
    valkey.prepare()
    (tmp_path / "valkey" / "valkey.conf").write_text("port not-a-port\n")
    child = Child(valkey.program)
    with pytest.raises(ServerStartError, match="Valkey ended while it started") as refused:
        valkey.wait_until_ready(lambda: child.exit_code() is None)
    assert "not-a-port" in str(refused.value)


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_servers_end_when_their_parent_is_killed(tmp_path, number):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", STARTS_SERVERS]
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert [psutil.Process(pid).is_running() for pid in pids] == [True, True]
        parent.send_signal(number)
    for pid in pids:
        eventually(ended(pid))


def test_stop_leaves_neither_process_nor_folder():
    servers = EmbeddedServers()
    servers.start()
    pids = [child.pid for child in servers._children]
    servers.stop()
    assert not servers.folder.exists()
    assert [psutil.pid_exists(pid) for pid in pids] == [False, False]


def test_the_folder_of_a_killed_run_is_removed_by_the_next_and_that_of_a_living_one_is_not(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "private_folder", lambda: Path(tempfile.mkdtemp(prefix="meshes-", dir=tmp_path)))
    (tmp_path / "meshes-killed").mkdir()
    (tmp_path / "meshes-killed" / "owner.lock").touch()
    (tmp_path / "meshes-sockets").mkdir()
    living, next_one = EmbeddedServers(), EmbeddedServers()
    assert {path.name for path in tmp_path.iterdir()} == {living.folder.name, next_one.folder.name, "meshes-sockets"}
    living.stop()
    next_one.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["meshes-sockets"]


def test_sockets_are_not_put_where_their_path_is_too_long(tmp_path):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    folder = private_folder(long)
    assert folder.parent != long
    assert len(str(folder)) < 40
    folder.rmdir()


def test_a_free_port_is_below_the_range_of_the_kernel():
    assert 20_000 <= free_port() <= 32_000


class running_postgres:  # noqa: N801  reads as a function in a with statement
    """A server on its own socket folder, stopped at the end."""

    def __init__(self, folder: Path, *, durable: bool = False, environment=os.environ) -> None:
        self.sockets = private_folder()
        log = folder.with_suffix(".log")
        self.postgres = Postgres(folder, self.sockets, log, durable=durable, environment=environment)

    def __enter__(self) -> tuple[Postgres, Child]:
        self.postgres.prepare()
        self.child = Child(self.postgres.program)
        self.postgres.wait_until_ready(lambda: self.child.exit_code() is None)
        return self.postgres, self.child

    def __exit__(self, *_exception: object) -> None:
        stop_together([self.child])
        for left in self.sockets.iterdir():
            left.unlink()
        self.sockets.rmdir()
