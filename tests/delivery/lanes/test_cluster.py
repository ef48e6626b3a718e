"""The scripts on a cluster of three nodes: each touches one slot alone, and is refused if it touches another."""

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from delivery.lanes import control
from delivery.lanes.control import RINGS, SCRIPTS, Lanes, key_prefix, source
from tests.delivery.lanes.ring import Ring
from tests.delivery.lanes.valkey import BINARY
from tests.polling import eventually

SLOTS = 16384


@pytest.fixture(scope="module")
def ports() -> Iterator[list[int]]:
    """Three nodes on loopback, each with a third of the slots."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cl")))
        ports = free_ports(3)
        for port in ports:
            node = folder / str(port)
            node.mkdir()
            command = [
                str(BINARY),
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--cluster-enabled",
                "yes",
                "--save",
                "",
            ]
            process = subprocess.Popen(command, cwd=node, stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
        clients = [stack.enter_context(Redis(port=port, socket_timeout=5)) for port in ports]
        for number, client in enumerate(clients):
            eventually(partial(answers, client))
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
        for client in clients:
            eventually(partial(is_whole, client), 30)
        yield ports


def free_ports(number: int) -> list[int]:
    """Ports whose bus ports (10,000 above) are free too."""
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < number:
            here, bus = stack.enter_context(socket.socket()), stack.enter_context(socket.socket())
            here.bind(("127.0.0.1", 0))
            port = here.getsockname()[1]
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            found.append(port)
    return found


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def is_whole(client: Redis) -> bool:
    lines = bytes(client.execute_command("CLUSTER", "INFO")).split()
    return {b"cluster_state:ok", b"cluster_known_nodes:3"} <= set(lines)


def owner(ports: list[int], ring: str) -> Redis:
    """A client of the node that has the ring."""
    with Redis(port=ports[0]) as client:
        slot = client.execute_command("CLUSTER", "KEYSLOT", key_prefix(ring))
    return Redis(port=next(ports[n] for n in range(3) if slot <= SLOTS * (n + 1) // 3 - 1), socket_timeout=5)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that begins so may touch one slot only; others may touch all slots of their node."""
    monkeypatch.setattr(control, "source", lambda name: "#!lua\n" + source(name))


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", sorted(RINGS))
def test_every_script_runs_on_the_node_of_its_ring(ports: list[int], name: str) -> None:
    assert len(SCRIPTS) == 13  # each of which is called below
    prefix = "conn" if name == "deliver" else "fanout"
    with owner(ports, name) as client:
        ring, lanes = Ring(client, name), Lanes(client)
        first, second = f"{prefix}.a", f"{prefix}.b"
        lanes.bucket("vendor", 1, rate=1000, ring=name)
        lanes.share(second, "vendor")
        lanes.limit(first, 3, rate=1000, burst=3)
        lanes.put((lane, f"m{number}", "{}", "w") for number in range(4) for lane in (first, second))
        leases = ring.take(4)
        assert len(leases) == 4
        assert ring.settle(leases[:2], (30.0, True), (30.0, True)) == 2
        assert ring.hand_back(leases[2:]) == 2
        assert lanes.ring_stats(name).troubled == 2
        lanes.pause(first, 0.05)
        assert lanes.stats(first).waiting == 3
        assert eventually(lambda: ring.wake() == -1)
        assert lanes.repair([name]).lapsed == 0
        assert lanes.release("nobody", [name]) == 0
        assert [lanes.purge(first), lanes.purge(second)] == [3, 3]


def test_a_script_that_touched_another_slot_would_be_refused(ports: list[int]) -> None:
    text = "#!lua\nredis.call('INCR', KEYS[1]) return redis.call('GET', 'meshes:lanes:{fanout}:turn')"
    with owner(ports, "deliver") as client, pytest.raises(ResponseError, match="slot|non local key"):  # noqa: RUF043
        client.eval(text, 1, key_prefix("deliver"))
