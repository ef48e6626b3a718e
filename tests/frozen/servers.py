"""What runs beside the tests: the stack as a user has it, vendors, and customers' endpoints."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from tests.frozen.documents import RENAMES

T = TypeVar("T")
PROJECT = Path(__file__).resolve().parents[2]
VENDORS = ("hubspot", "slack", "mailchimp", "amplitude")
PATIENCE = float(os.environ.get("MESHES_TEST_PATIENCE") or 3)
PRODUCTS_OWN = ("MESHES_", "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "FERNET_KEYS", "DJANGO_")


def eventually(condition: Callable[[], T], seconds: float = 30.0) -> T:
    """The first truthy answer. Raises AssertionError when the deadline, of a machine at rest, passes without one."""
    deadline = time.monotonic() + seconds * PATIENCE
    while not (answer := condition()):
        is_late = time.monotonic() > deadline
        assert not is_late, f"still not so after {seconds * PATIENCE} s"
        time.sleep(0.05)
    return answer


@dataclass
class Got:
    """One request that a receiver got."""

    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)["data"]


class Receiver(ThreadingHTTPServer):
    """A customer's endpoint: answers `statuses` one after the other, the last one for ever; 0 hangs until released."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/hook"
        self.statuses = list(statuses or (204,))
        self.got: list[Got] = []
        self.open = 0
        self.lock, self.released = threading.Lock(), threading.Event()

    def take(self, got: Got) -> int:
        with self.lock:
            self.got.append(got)
            self.open += 1
            status, released = self.statuses[0], self.released
            del self.statuses[: len(self.statuses) > 1]
        if not status:
            released.wait(60 * PATIENCE)
        with self.lock:
            self.open -= 1
        return status or 204

    def wait_for(self, requests: int) -> None:
        """Until so many are open at once."""
        eventually(lambda: self.open == requests)

    def becomes(self, *statuses: int) -> None:
        """Answer so from now on, also what hangs."""
        with self.lock:
            self.statuses, hung, self.released = list(statuses), self.released, threading.Event()
        hung.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "receiver", ""
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        status = self.server.take(Got({name.lower(): value for name, value in self.headers.items()}, body))
        answer = b"" if status == 204 else b"the receiver's words"
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def receiver(*statuses: int) -> Iterator[Receiver]:
    with Receiver(*statuses) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.becomes(204)
            server.shutdown()
            thread.join()


@contextmanager
def running_stack(folder: Path) -> Iterator[dict[str, str]]:
    """The vendors, whose addresses it gives, and `manage.py up` in a folder of its own, delivering to this machine."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PRODUCTS_OWN)}
    module = RENAMES["modules"].get("tests.vendors", "tests.vendors")
    with ExitStack() as stack:
        vendors = stack.enter_context(_process("-m", module, *VENDORS, env=environment, stdout=subprocess.PIPE))
        assert vendors.stdout is not None
        urls = json.loads(vendors.stdout.readline())
        settings = {
            "MESHES_DATA_DIR": str(folder),
            "MESHES_PORT": "0",
            "MESHES_FLOWER_PORT": "0",
            "MESHES_API_RATE": "100000",
            "MESHES_WRONG_KEYS": "100000",
            "MESHES_VENDOR_URLS": ",".join(f"{slug}={url}" for slug, url in urls.items()),
            "MESHES_OAUTH_CLIENTS": "hubspot=hubspot-client-id:hubspot-client-secret",
        }
        environment |= {RENAMES["settings"].get(name, name): value for name, value in settings.items()}
        log = stack.enter_context((folder.parent / "up.log").open("w+"))
        command = ("manage.py", "up", "--loopback")
        up = stack.enter_context(_process(*command, env=environment, stdout=log, stderr=subprocess.STDOUT))

        def is_ready() -> bool:
            assert up.poll() is None, (folder.parent / "up.log").read_text()
            return (folder / "stack.json").exists()

        eventually(is_ready, 120)
        yield urls


@contextmanager
def _process(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    options |= {"cwd": PROJECT, "text": True, "preexec_fn": _die_with_the_parent}
    with subprocess.Popen([sys.executable, *command], **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(60 * PATIENCE)


def _die_with_the_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a test run that is killed takes its stack along
