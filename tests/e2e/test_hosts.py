"""Two worker hosts, one cut off in the middle of its deliveries and brought back."""

import os
import signal
import socket
from urllib.parse import unquote, urlsplit

import psutil
import pytest

from tests.e2e import hosts
from tests.e2e.running import RunningUp
from tests.e2e.test_faults import QUICK, ROUNDS, Tenant, assert_nothing_lost
from tests.polling import eventually
from tests.receivers import receiver

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    if reason := hosts.why_not():
        pytest.skip(f"two hosts were not run: {reason}")
    networks = {"MESHES_OUTBOUND_ALLOW_NETS": f"127.0.0.0/8,{hosts.NETWORK}.0/24"}
    with RunningUp(tmp_path_factory.mktemp("hosts") / "data", QUICK | networks) as up:
        yield up


@pytest.fixture
def bridge(up):
    with hosts.Bridge() as bridge:
        yield bridge


@pytest.fixture
def here():
    with receiver() as here:
        yield here


def environment_of_hosts(up, bridge):
    """The stack's environment as another machine has it: its servers are behind the bridge."""
    env = dict(line.split("=", 1) for line in (up.folder / "stack.env").read_text().splitlines() if "=" in line)
    database, broker = urlsplit(env["DATABASE_URL"]), urlsplit(env["REDIS_URL"])
    sockets = unquote(database.netloc.rpartition("@")[2])
    postgres = bridge.relay(socket.AF_UNIX, f"{sockets}/.s.PGSQL.5432")
    valkey = bridge.relay(socket.AF_INET, (broker.hostname, broker.port))
    return up.environment | {
        "DATABASE_URL": f"postgresql://{database.username}@{hosts.HERE}:{postgres}{database.path}",
        "REDIS_URL": f"redis://:{broker.password}@{hosts.HERE}:{valkey}/0",
        "SECRET_KEY": env["SECRET_KEY"],
        "FERNET_KEYS": env["FERNET_KEYS"],
        "PYTHONUNBUFFERED": "1",
    }


@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_a_host_cut_off_mid_delivery_and_brought_back_loses_nothing(up, bridge, here, tmp_path, round_number):
    port = bridge.relay(socket.AF_INET, ("127.0.0.1", urlsplit(here.url).port))
    tenant = Tenant(up, f"http://{hosts.HERE}:{port}/hook")
    environment = environment_of_hosts(up, bridge)
    own = psutil.Process(up.state["pids"]["deliver"])
    own.suspend()
    try:
        first, second = bridge.host(), bridge.host()
        logs = [tmp_path / "first.log", tmp_path / "second.log"]
        workers = [
            host.start_worker("deliver", environment, log) for host, log in zip((first, second), logs, strict=True)
        ]
        eventually(lambda: all(b" ready." in log.read_bytes() for log in logs), 60)
        tenant.post_in_bulk(400)
        eventually(lambda: len(here.got) > 40, 30)
        first.cut()
        tenant.post_in_bulk(200)
        assert_nothing_lost(tenant, here)  # by the other, which also takes over what the first one had
        first.mend()
        os.kill(workers[1].pid, signal.SIGKILL)
        tenant.post_in_bulk(100)
        assert_nothing_lost(tenant, here)  # by the one that was cut off
        assert workers[0].poll() is None
    finally:
        own.resume()
