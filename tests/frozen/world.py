"""One running stack as a user has it, vendors and receivers beside it, and the client that keeps every answer."""

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
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import requests

from tests.frozen.documents import RENAMES, Description, Names, renamed

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]
API = "/api/v1"
VENDORS = ("hubspot", "slack", "mailchimp", "amplitude")
PATIENCE = float(os.environ.get("MESHES_TEST_PATIENCE") or 3)
PRODUCTS_OWN = ("MESHES_", "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "FERNET_KEYS", "DJANGO_")
UNSAID = {"date", "content-length", "connection", "set-cookie", "server"}
"""Headers of answers that are not held."""


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


@dataclass
class Receiver:
    """A customer's endpoint: answers `statuses` one after the other, the last one for ever; 0 hangs until released."""

    url: str
    statuses: list[int]
    got: list[Got] = field(default_factory=list)
    open: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

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

    def opens(self, requests: int) -> None:
        eventually(lambda: self.open == requests)

    def becomes(self, *statuses: int) -> None:
        """Answer so from now on, also what hangs."""
        with self.lock:
            self.statuses, hung, self.released = list(statuses), self.released, threading.Event()
        hung.set()


@contextmanager
def receiver(*statuses: int) -> Iterator[Receiver]:
    here = Receiver("", list(statuses or (204,)))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version, sys_version = "receiver", ""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status = here.take(Got({name.lower(): value for name, value in self.headers.items()}, body))
            answer = b"" if status == 204 else b"the receiver's words"
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.request_queue_size = True, 128
    here.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield here
    finally:
        here.becomes(204)
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Answer:
    """What came of one call."""

    story: str
    operation: str
    status: int
    headers: dict[str, str]
    document: Any
    is_kept: bool
    is_repetition: bool
    allowed: str = ""


class World:
    """The stack's client. `answers` has every answer; `kept`, by story, those that the golden file holds."""

    def __init__(self, folder: Path, vendors: dict[str, str]) -> None:
        self.stack = json.loads((folder / "stack.json").read_text())
        self.vendors = vendors
        self.url = self.stack["api_url"]
        self.key = self.stack["account_key"]
        self.session = requests.Session()
        self.answers: list[Answer] = []
        self.kept: dict[str, list[Any]] = {}
        self.names = Names()
        self.story = ""
        self.description = Description(self.send("GET", "/api/schema").json())
        self._made = 0

    def send(self, method: str, path: str, **parameters: Any) -> requests.Response:
        parameters.setdefault("allow_redirects", False)
        url = path if path.startswith("http") else self.url + path
        return self.session.request(method, url, timeout=30 * PATIENCE, **parameters)

    def ask(
        self,
        call: str,
        body: Any = None,
        status: int | None = 200,
        *,
        key: str | None = None,
        keep: bool = True,
        repetition: bool = False,
        **headers: str,
    ) -> Any:
        """`ask("POST /rules", {…}, 201)`: the document of the answer, which must have this status.

        `body` is JSON, or bytes to send as they are; `key` another than the account's, "" for none; `keep` says whether
        the answer is constant enough for the golden file.
        """
        method, _, path = call.partition(" ")
        sent = {"authorization": f"Bearer {self.key if key is None else key}"} if key != "" else {}
        if body is not None:
            sent["content-type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = (
            body
            if isinstance(body, bytes)
            else json.dumps(renamed(body, "fields")).encode()
            if body is not None
            else None
        )
        response = self.send(method, API + path, data=data, headers=sent)
        document = json.loads(response.content) if response.content else None
        if response.status_code == 413:
            self.session.close()  # the connection ends where a body is not read to its end
        operation = self.description.operation_of(method, API + path)
        kept = {name.lower(): value for name, value in response.headers.items() if name.lower() not in UNSAID}
        answer = Answer(self.story, operation, response.status_code, kept, document, keep, repetition)
        self.answers.append(answer)
        assert status in (None, response.status_code), f"{call} {body!r}: {response.status_code} {response.text}"
        if keep:
            self._keep(answer, method, path)
        return as_before(document)

    def once(self, call: str, body: Any, status: int, **options: Any) -> Any:
        """`ask`, and the same again under its Idempotency-Key: done once, answered alike; another body is refused."""
        self._made += 1
        options["idempotency_key"] = f"frozen-{self._made}"
        first = self.ask(call, body, status, **options)
        again = self.ask(call, body, status, repetition=True, **options)
        secrets = {"key", "signing_secret", "url"} if again.get("secret_shown") else set()
        assert {name for name in secrets & set(again) if again[name] is not None} == set()
        assert {name: again[name] for name in ("id", "event", "name") if name in again} == {
            name: first[name] for name in ("id", "event", "name") if name in first
        }
        other = json.dumps(renamed(body, "fields")).encode() + b" "
        self.ask(call, other, 422, **options)
        return first

    def until(self, call: str, condition: Callable[[Any], Any], keep: bool = True) -> Any:
        """Ask until the answer is so, then once more for the golden file."""
        eventually(lambda: condition(self.ask(call, keep=False)))
        return self.ask(call, keep=keep)

    def page(self, path: str, status: int = 200, **parameters: Any) -> requests.Response:
        """A page for browsers, whose status and headers the golden file holds."""
        response = self.send(parameters.pop("method", "GET"), path, **parameters)
        assert response.status_code == status, response.text[:500]
        kept = {name.lower(): value for name, value in response.headers.items() if name.lower() not in UNSAID}
        bare = self.names.constant_text(path.removeprefix(self.url).partition("?")[0])
        self.answers.append(Answer(self.story, f"GET {bare}", status, kept, None, True, False))
        self.kept.setdefault(self.story, []).append([f"GET {bare}", status, self.names.constant(kept)])
        return response

    def _keep(self, answer: Answer, method: str, path: str) -> None:
        if answer.status in (201, 202):
            self.names.learn(answer.document)
        line = [f"{method} {self.names.constant_text(path)}", answer.status, self.names.constant(answer.headers)]
        self.kept.setdefault(self.story, []).append([*line, self.names.constant(answer.document)])

    # What most stories begin with.

    def workspace(self, name: str = "Acme") -> str:
        self._made += 1
        made = self.ask("POST /workspaces", {"name": name, "external_id": f"tenant_{self._made}"}, 201, keep=False)
        self.names.learn(made)
        identity: str = made["id"]
        return identity

    def webhook(self, workspace: str, to: Receiver | str, **more: Any) -> Any:
        url = to if isinstance(to, str) else to.url
        body = {"workspace": workspace, "type": "webhook", "name": "Hook", "config": {"url": url}} | more
        return self.ask("POST /connections", body, 201)

    def rule(self, workspace: str, connection: str, event: str = "lead.*", **more: Any) -> Any:
        body = {"workspace": workspace, "connection": connection, "event": event} | more
        return self.ask("POST /rules", body, 201)

    def post(self, workspace: str, payload: Any, event: str = "lead.created", **options: Any) -> str:
        body = {"workspace": workspace, "event": event, "payload": payload}
        identity: str = self.ask("POST /events", body, 202, **options)["id"]
        return identity

    def settled(self, event: str, *statuses: str, keep: bool = True) -> Any:
        """The event when its deliveries have come to these statuses."""
        return self.until(f"GET /events/{event}", lambda seen: statuses_of(seen) == sorted(statuses), keep)

    def tell(self, vendor: str, control: str, **arguments: Any) -> None:
        response = self.session.post(f"{self.vendors[vendor]}/_vendor/{control}", json=arguments, timeout=30 * PATIENCE)
        assert response.status_code == 204, response.text


def statuses_of(event: Any) -> list[str]:
    return sorted(delivery["status"] for delivery in event["deliveries"])


def as_before(document: Any) -> Any:
    """An answer with the names of the golden files, for stories that were written with them."""
    names = {new: old for old, new in RENAMES["fields"].items()}
    if isinstance(document, dict):
        return {names.get(name, name): as_before(value) for name, value in document.items()}
    return [as_before(item) for item in document] if isinstance(document, list) else document


def _dies_with_its_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a test run that is killed takes its stack along


@contextmanager
def _process(*command: str, environment: dict[str, str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    options |= {"cwd": PROJECT, "env": environment, "text": True, "preexec_fn": _dies_with_its_parent}
    process = subprocess.Popen([sys.executable, *command], **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60 * PATIENCE)
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def running_world(folder: Path) -> Iterator[World]:
    """The vendors, and `manage.py up` in a folder of its own, delivering to this machine."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PRODUCTS_OWN)}
    vendors_module = RENAMES["modules"].get("tests.vendors", "tests.vendors")
    with ExitStack() as stack:
        vendors = stack.enter_context(
            _process("-m", vendors_module, *VENDORS, environment=environment, stdout=subprocess.PIPE)
        )
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
        up = stack.enter_context(
            _process("manage.py", "up", "--loopback", environment=environment, stdout=log, stderr=subprocess.STDOUT)
        )

        def is_ready() -> bool:
            assert up.poll() is None, (folder.parent / "up.log").read_text()
            return (folder / "stack.json").exists()

        eventually(is_ready, 120)
        yield World(folder, urls)
