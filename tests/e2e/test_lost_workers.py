"""A worker that is gone is missed by PostgreSQL, and what it had taken runs again long before its leases lapse; one
that is only stopped, or cut off from the broker, keeps what it has. Leases are as in production: 60 s, in lanes 90 s.
"""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psutil
import psycopg2
import pytest

from meshes.services import worker
from tests.e2e.hosts import Relay
from tests.e2e.running import PROJECT, RunningUp
from tests.e2e.test_faults import QUICK, Tenant, assert_nothing_lost
from tests.polling import eventually
from tests.receivers import Answer, receiver

pytestmark = pytest.mark.fault

LEASES = ("MESHES_LEASE_SECONDS", "MESHES_LANE_LEASE_SECONDS")
BEFORE_LEASES_LAPSE = 50.0
"""What happens within this was not waited for by a lease; on a calm machine it takes about 10 s."""


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    settings = {name: value for name, value in QUICK.items() if name not in LEASES}
    with RunningUp(tmp_path_factory.mktemp("lost") / "data", settings) as up:
        yield up


class Holding:
    """A receiver that keeps every request waiting until it is let go, and then answers all at once."""

    def __init__(self, got: list[Any]) -> None:
        self.got = got
        self._let_go = threading.Event()
        self._holds = True

    def answer(self, _: Any) -> Answer:
        if self._holds:
            self._let_go.wait(100)
        return Answer()

    def hold_no_more(self) -> None:
        """Answer what comes from now on; what is held stays so."""
        self._holds = False

    def let_go(self) -> None:
        self._let_go.set()

    def times(self) -> Counter[str]:
        return Counter(got.headers["webhook-id"] for got in self.got)


@pytest.fixture
def endpoint() -> Iterator[tuple[str, Holding]]:
    with receiver() as here:
        holding = Holding(here.got)
        here.answers = holding.answer
        yield here.url, holding
        holding.let_go()


class Cable:
    """The way to a server, by a port of this machine; it can be cut, and mended."""

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self._to = family, address
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(listener.getsockname()[1])
        self._relay = Relay(listener, *self._to)

    def cut(self) -> None:
        self._relay.close()

    def mend(self) -> None:
        self._relay = Relay(socket.create_server(("127.0.0.1", self.port)), *self._to)


class OwnWorker:
    """A second worker that delivers, whose ways to PostgreSQL and to Valkey can be cut."""

    def __init__(self, up: RunningUp, log: Path, *before: str) -> None:
        """`before` stands before the worker's own arguments to Python."""
        env = stack_env(up)
        database, broker = urlsplit(env["DATABASE_URL"]), urlsplit(env["REDIS_URL"])
        folder = unquote(database.netloc.rpartition("@")[2])
        self.postgres = Cable(socket.AF_UNIX, f"{folder}/.s.PGSQL.5432")
        self.valkey = Cable(socket.AF_INET, (broker.hostname, broker.port))
        more = {
            "DATABASE_URL": f"postgresql://{database.username}@127.0.0.1:{self.postgres.port}{database.path}",
            "REDIS_URL": f"redis://:{broker.password}@127.0.0.1:{self.valkey.port}/0",
            "PYTHONUNBUFFERED": "1",
        }
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *before, *worker("deliver")],
                cwd=PROJECT, env=up.environment | env | more, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return " ready." in self.log.read_text()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.postgres.cut()
        self.valkey.cut()


def stack_env(up: RunningUp) -> dict[str, str]:
    lines = (up.folder / "stack.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


@pytest.fixture
def other(up, tmp_path) -> Iterator[OwnWorker]:
    own = OwnWorker(up, tmp_path / "worker.log")
    try:
        eventually(own.is_ready, 90)
        yield own
    finally:
        own.end()


@contextmanager
def suspended(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def deliverer(up: RunningUp) -> psutil.Process:
    return psutil.Process(up.state["pids"]["deliver"])


def rows(up: RunningUp, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg2.connect(stack_env(up)["DATABASE_URL"]) as connection, connection.cursor() as cursor:
        cursor.execute(query, values)
        return cursor.fetchall()


def sessions_of(up: RunningUp, pid: int) -> list[tuple[Any, ...]]:
    """Id, lock key and whether it has ended, of the sessions of one process."""
    found = rows(up, "SELECT worker, id::text, lock_key, ended_at IS NOT NULL FROM worker_sessions ORDER BY id")
    return [row[1:] for row in found if row[0].rpartition(":")[2] == str(pid)]


def attempts_of(tenant: Tenant, public_id: str) -> list[tuple[int, str]]:
    found = tenant.up.get(f"/api/v1/deliveries/{public_id}").json()["attempts"]
    return sorted((attempt["number"], attempt["outcome"]) for attempt in found)


def never(condition: Any, seconds: float) -> None:
    """It stays so for as long: asked again and again, as it must be at every moment."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert not condition()
        time.sleep(0.1)


def test_what_a_killed_worker_had_taken_runs_again_before_any_lease_lapses(up, endpoint):
    url, holding = endpoint
    tenant = Tenant(up, url, timeout=30)
    tenant.post_in_bulk(20)
    eventually(lambda: len(holding.got) >= 2, 60)
    killed_at = time.monotonic()
    deliverer(up).kill()
    lost = set(holding.times())
    holding.let_go()
    eventually(lambda: all(holding.times()[each] >= 2 for each in lost), BEFORE_LEASES_LAPSE)
    print(f"run again {time.monotonic() - killed_at:.1f} s after the kill")
    assert_nothing_lost(tenant, Got(holding))
    assert [attempts_of(tenant, each) for each in lost] == [[(1, "uncertain"), (2, "delivered")]] * len(lost)
    assert set(holding.times().values()) == {1, 2}


def test_what_a_killed_worker_was_routing_is_routed_before_any_lease_lapses(up, endpoint):
    url, holding = endpoint
    holding.let_go()
    tenant = Tenant(up, url)
    fanout = psutil.Process(up.state["pids"]["fanout"])
    with psycopg2.connect(stack_env(up)["DATABASE_URL"]) as blocking, blocking.cursor() as cursor:
        cursor.execute("LOCK TABLE routing_ledgers IN ACCESS EXCLUSIVE MODE")  # it claims events, and can write none
        tenant.post_in_bulk(5)
        leased = "SELECT event_id FROM unrouted WHERE lease_id IS NOT NULL AND lease_session IS NOT NULL"
        eventually(lambda: rows(up, leased), 60)
        killed_at = time.monotonic()
        fanout.kill()
    eventually(lambda: len(tenant.deliveries()) == 5, BEFORE_LEASES_LAPSE)
    print(f"routed {time.monotonic() - killed_at:.1f} s after the kill")
    assert_nothing_lost(tenant, Got(holding))


class Got:
    """A receiver as `assert_nothing_lost` wants it."""

    def __init__(self, holding: Holding) -> None:
        self.got = holding.got


def taken_by(other: OwnWorker, up: RunningUp, endpoint: tuple[str, Holding]) -> tuple[Tenant, set[str]]:
    """A tenant, and deliveries of its that are open in the other worker while the first one is stopped."""
    url, holding = endpoint
    with suspended(deliverer(up)):
        tenant = Tenant(up, url, timeout=30)
        tenant.post_in_bulk(10)
        eventually(lambda: len(holding.got) >= 2, 60)
    return tenant, set(holding.times())


def test_a_worker_that_is_stopped_for_a_while_keeps_what_it_has(up, other, endpoint):
    _, holding = endpoint
    tenant, taken = taken_by(other, up, endpoint)
    (session,) = sessions_of(up, other.process.pid)
    other.process.send_signal(signal.SIGSTOP)
    try:
        never(lambda: any(holding.times()[each] > 1 for each in taken), 20 + 20)
    finally:
        other.process.send_signal(signal.SIGCONT)
    assert sessions_of(up, other.process.pid) == [session]
    holding.let_go()
    assert_nothing_lost(tenant, Got(holding))


def test_a_worker_that_is_cut_off_from_the_broker_alone_keeps_what_it_has(up, other, endpoint):
    _, holding = endpoint
    tenant, taken = taken_by(other, up, endpoint)
    other.valkey.cut()
    never(lambda: any(holding.times()[each] > 1 for each in taken), 20)
    holding.let_go()
    assert_nothing_lost(tenant, Got(holding))
    assert set(holding.times().values()) == {1}
    assert [attempts_of(tenant, each) for each in taken] == [[(1, "delivered")]] * len(taken)


def test_a_worker_that_is_cut_off_from_postgresql_alone_loses_what_it_has_and_settles_none_of_it(up, other, endpoint):
    _, holding = endpoint
    tenant, taken = taken_by(other, up, endpoint)
    ((before, *_),) = sessions_of(up, other.process.pid)
    holding.hold_no_more()  # or what waits in its lane would take the places of what runs again
    other.postgres.cut()
    cut_at = time.monotonic()
    eventually(lambda: all(holding.times()[each] >= 2 for each in taken), BEFORE_LEASES_LAPSE)
    print(f"run again {time.monotonic() - cut_at:.1f} s after the cut")
    holding.let_go()
    assert_nothing_lost(tenant, Got(holding))
    other.postgres.mend()
    eventually(lambda: [row for row in sessions_of(up, other.process.pid) if row[0] != before and not row[2]], 60)
    for each in taken:
        numbers = [number for number, _ in attempts_of(tenant, each)]
        assert numbers == [1, 2]
        assert attempts_of(tenant, each) == [(1, "uncertain"), (2, "delivered")]


def test_a_worker_whose_session_alone_is_ended_by_the_server_comes_back_in_time(up, other, endpoint):
    _, holding = endpoint
    tenant, taken = taken_by(other, up, endpoint)
    ((session, key, _),) = sessions_of(up, other.process.pid)
    rows(
        up,
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        " AND (classid::bigint << 32 | objid::bigint) = %s",
        key,
    )
    eventually(lambda: [row[:2] for row in sessions_of(up, other.process.pid)] not in ([], [(session, key)]), 30)
    ((again, other_key, has_ended),) = sessions_of(up, other.process.pid)
    assert (again, other_key != key, has_ended) == (session, True, False)
    never(lambda: any(holding.times()[each] > 1 for each in taken), 12)
    holding.let_go()
    assert_nothing_lost(tenant, Got(holding))
    assert set(holding.times().values()) == {1}
