"""Other machines, as Linux network namespaces on a bridge: each with processes and a cable of its own.

The test's side of the bridge has an address, and relays on it to servers of this machine that listen elsewhere.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from meshes.services import worker
from tests.e2e.running import PROJECT

NETWORK = "10.213.77"
HERE = f"{NETWORK}.1"


def why_not() -> str:
    """Why there can be no namespaces here; '' where there can."""
    if shutil.which("ip") is None:
        return "there is no `ip` (Debian: iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"meshes-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    if made.returncode != 0:
        return f"`ip netns add` is refused: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return ""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Bridge:
    """What the hosts are plugged into. A context manager: removes itself and all hosts."""

    def __init__(self) -> None:
        self._name = f"mb{os.getpid()}"
        self._stack = ExitStack()
        self._hosts = 0

    def __enter__(self) -> "Bridge":
        ip("link", "add", self._name, "type", "bridge")
        self._stack.callback(ip, "link", "del", self._name)
        ip("addr", "add", f"{HERE}/24", "dev", self._name)
        ip("link", "set", self._name, "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def host(self) -> "Host":
        self._hosts += 1
        host = Host(self._hosts, self._name)
        self._stack.callback(host.remove)
        return host

    def relay(self, family: socket.AddressFamily, address: str | tuple[str, int]) -> int:
        """Listen on the bridge for a server of this machine. Returns the port."""
        listener = socket.create_server((HERE, 0))
        relay = Relay(listener, family, address)
        self._stack.callback(relay.close)
        return int(listener.getsockname()[1])


class Host:
    """One machine; `cut` pulls its cable, `mend` plugs it in again."""

    def __init__(self, number: int, bridge: str) -> None:
        self.name, self._cable = f"mh{os.getpid()}-{number}", f"mv{os.getpid()}n{number}"
        self._processes: list[subprocess.Popen[bytes]] = []
        ip("netns", "add", self.name)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self._cable, "master", bridge, "up")
        ip("-n", self.name, "addr", "add", f"{NETWORK}.{number + 1}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.name, "link", "set", device, "up")

    def start_worker(self, ring: str, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        command = ["ip", "netns", "exec", self.name, sys.executable, *worker(ring)]
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        self._processes.append(process)
        return process

    def cut(self) -> None:
        ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        ip("link", "set", self._cable, "up")

    def remove(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        ip("link", "del", self._cable)  # the namespace itself may live on for as long as TCP tries to say goodbye
        ip("netns", "del", self.name)


class Relay:
    """Passes on whatever connects to ``listener``, until it is closed."""

    def __init__(self, listener: socket.socket, family: socket.AddressFamily, address: str | tuple[str, int]) -> None:
        self._listener, self._family, self._address = listener, family, address
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        for each in [self._listener, *self._open]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        while self._threads:
            self._threads.pop().join(5)
        for each in [self._listener, *self._open]:
            each.close()

    def _start(self, run: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(self._family)
                self._open |= {near, far}
                with suppress(OSError):
                    far.connect(self._address)
                self._start(self._pump, near, far)
                self._start(self._pump, far, near)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
