"""How many files a reader must follow: `python -m bench.files_entered [--json] [--functions]`.

Counts the files of the product in which a function's body runs, in any thread, while each of these happens once, warm:

* webhook: the first attempt of a delivery, from the start of its task to the acknowledgement of its message;
* refresh: a token that is due is renewed before use, from the call of `REFRESH` until it returns;
* event: a POST of an event through the whole web application, until its wake-up has been published.

PostgreSQL, Valkey, the receiver and the vendor's token endpoint are real and local. What development alone needs
(`bench.shape.DEV`) is not the product. Each is traced `PASSES` times; a file counts that every pass entered, so that a
timer that fires now and then moves no figure.
"""

import argparse
import base64
import inspect
import json
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from urllib.parse import urlsplit

from bench.shape import DEV, PACKAGES

ROOT = Path(__file__).parents[1]
WARM_UPS, PASSES = 3, 5
QUIET_SECONDS = 0.3
"""Without a call of the product for so long, what was begun has ended."""
PATIENCE_SECONDS = 60.0
REFRESH = "connections.oauth.refresh:Authorization.prepare"
IS_FUNCTION = inspect.CO_OPTIMIZED | inspect.CO_NEWLOCALS
"""Flags that the code of a function has, and that of a module or of a class has not."""


class Tracer:
    """Notes which functions below a folder run, in every thread that starts after `install`, while it records."""

    def __init__(self, root: Path, packages: tuple[str, ...], without: tuple[str, ...] = ()) -> None:
        self._under = tuple(f"{root / package}/" for package in packages)
        self._without = tuple(str(root / path) for path in without)
        self._prefix = f"{root}/"
        self._recording = False
        self._within: CodeType | None = None
        self._entered: dict[CodeType, None] = {}
        self.called_at = time.monotonic()

    def install(self) -> None:
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def remove(self) -> None:
        threading.setprofile(None)
        sys.setprofile(None)

    @contextmanager
    def recording(self, within: CodeType | None = None) -> Iterator[list[CodeType]]:
        """The functions that run meanwhile, in the order of entry; only during a call of `within` where it is given."""
        found: list[CodeType] = []
        self._entered, self._within, self._recording = {}, within, within is None
        try:
            yield found
        finally:
            self._recording, self._within = False, None
            found += self._entered

    def file_of(self, code: CodeType) -> str:
        return code.co_filename.removeprefix(self._prefix)

    def wait_for_quiet(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() - self.called_at < QUIET_SECONDS:
            if time.monotonic() > deadline:
                raise TimeoutError("functions of the product run all the time")
            time.sleep(0.01)

    def _note(self, frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if event == "return":
            if code is self._within:
                self._recording = False
            return
        if event != "call" or not code.co_filename.startswith(self._under):
            return
        if code.co_filename.startswith(self._without) or code.co_flags & IS_FUNCTION != IS_FUNCTION:
            return
        self.called_at = time.monotonic()
        if code is self._within:
            self._recording = True
        if self._recording:
            self._entered.setdefault(code)


def summary(tracer: Tracer, passes: list[list[CodeType]]) -> dict[str, Any]:
    """Files and functions that every pass entered, files in the order of the last pass."""
    always = set.intersection(*map(set, passes))
    codes = [code for code in passes[-1] if code in always]
    files = list(dict.fromkeys(map(tracer.file_of, codes)))
    sometimes = {tracer.file_of(code) for codes in passes for code in codes} - set(files)
    functions = [code for code in codes if not code.co_name.startswith("<") or code.co_name == "<lambda>"]
    return {
        "files": len(files),
        "functions": len(functions),
        "entered": files,
        "now_and_then": sorted(sometimes),
        "names": [f"{tracer.file_of(code)}:{code.co_firstlineno} {code.co_qualname}" for code in functions],
    }


# --- the world in which it happens


@contextmanager
def world() -> Iterator["World"]:
    """Servers, settings and an empty database, then a tenant with connections; ended with the block."""
    from meshes.dev.embedded import EmbeddedServers
    from meshes.dev.vendors.registry import VENDORS
    from tests.receivers import receiver

    with ExitStack() as stack:
        servers = EmbeddedServers()
        servers.start()
        stack.callback(servers.stop)
        vendor = stack.enter_context(VENDORS["hubspot"]())
        endpoint = stack.enter_context(receiver())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="meshes-files-"))
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "meshes.settings",
            "DATABASE_URL": servers.postgres.url,
            "REDIS_URL": servers.valkey.url,
            "SECRET_KEY": secrets.token_urlsafe(48),
            "FERNET_KEYS": base64.urlsafe_b64encode(os.urandom(32)).decode(),
            "MESHES_DATA_DIR": folder,
            "MESHES_VENDOR_URLS": f"hubspot={vendor.url}",
            "MESHES_OAUTH_CLIENTS": f"hubspot={vendor.client_id}:{vendor.client_secret}",
            "MESHES_OUTBOUND_ALLOW_NETS": "127.0.0.0/8",
            "MESHES_OUTBOUND_ALLOW_HTTP": "1",
            "MESHES_OUTBOUND_PORTS": "*",
            "MESHES_ALLOWED_HOSTS": "testserver",
        }
        import django
        from django.conf import settings
        from django.core.management import call_command

        django.setup()
        settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # WhiteNoise warns where it is missing
        call_command("migrate", interactive=False, verbosity=0)
        yield World(vendor, endpoint)


class World:
    """One tenant: a webhook connection with a rule for every event, and one that was authorized at a vendor."""

    def __init__(self, vendor: Any, endpoint: Any) -> None:
        from django.test import Client
        from kombu import Consumer, Queue

        from meshes.celery import app
        from workspaces import keys

        app.loader.import_default_modules()  # the tasks
        self.app, self.endpoint, self.vendor = app, endpoint, vendor
        issued = keys.create_key(name="bench", kind="account", scopes=keys.SCOPES)
        self._client = Client(headers={"authorization": f"Bearer {issued.key}"})
        self._broker = app.connection_for_read()
        self._messages: dict[str, list[Any]] = {"delivery.fan_out": [], "delivery.deliver": []}
        queues = [Queue(ring, routing_key=ring) for ring in ("fanout", "deliver")]
        self._consumer = Consumer(self._broker.channel(), queues, on_message=self._note, accept=["json"])
        self._consumer.consume()
        self.post("/workspaces", {"name": "Bench", "external_id": "bench"})
        webhook = self._connect("webhook", {"url": endpoint.url})
        self.post("/rules", {"workspace": "bench", "connection": webhook, "event": "lead.*"})
        self.vendor_connection = self._connect("hubspot", {})
        vendor.change_reply(expires_in=1)  # so that each token is due at once
        self._authorize(self.vendor_connection)

    def post(self, path: str, document: dict[str, Any]) -> Any:
        answer = self._client.post(f"/api/v1{path}", document, content_type="application/json")
        if not 200 <= answer.status_code < 300:
            raise RuntimeError(f"{path}: {answer.status_code} {answer.content!r}")
        return answer.json()

    def post_event(self) -> None:
        self.post("/events", {"workspace": "bench", "event": "lead.created", "payload": {"email": "ada@example.com"}})

    def test_vendor(self) -> None:
        """Ask the vendor who the connection is, with a token that is due."""
        told = self.post(f"/connections/{self.vendor_connection}/test", {})
        if not told["ok"]:
            raise RuntimeError(f"the vendor's connection does not work: {told}")

    def next_task(self, task: str) -> Callable[[], None]:
        """Take the message of a task from its ring, as a worker does: what is returned runs it and acknowledges."""
        from celery.worker.request import Request

        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._messages[task]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no message of {task} comes")
            with suppress(TimeoutError):
                self._broker.drain_events(timeout=0.05)
        message = self._messages[task].pop(0)
        request = Request(
            message,
            app=self.app,
            task=self.app.tasks[task],
            hostname="bench",
            on_ack=lambda logger, errors: message.ack(),
            on_reject=message.reject_log_error,
            decoded=False,
            body=message.body,
            headers=message.headers,
        )
        return lambda: in_thread(request.execute)

    def _note(self, message: Any) -> None:
        self._messages[message.headers["task"]].append(message)

    def _connect(self, type: str, config: dict[str, Any]) -> str:
        made = self.post("/connections", {"workspace": "bench", "type": type, "name": type, "config": config})
        return str(made["id"])

    def _authorize(self, connection: str) -> None:
        """What the owner's browser does."""
        import requests
        from django.test import Client

        start = urlsplit(self.post(f"/connections/{connection}/authorize", {})["url"])
        browser = Client()
        leaving = browser.get(start.path)["Location"]
        back = urlsplit(requests.get(leaving, allow_redirects=False, timeout=PATIENCE_SECONDS).headers["location"])
        answer = browser.get(f"{back.path}?{back.query}", follow=True)
        if answer.status_code != 200:
            raise RuntimeError(f"not authorized: {answer.status_code} {answer.content!r}")


def in_thread(act: Callable[[], object]) -> None:
    """In a thread of its own, as a task runs; raises what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001  (raised below)
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


# --- what is measured


def webhook(here: World, tracer: Tracer) -> list[CodeType]:
    here.post_event()
    here.next_task("delivery.fan_out")()
    task = here.next_task("delivery.deliver")
    tracer.wait_for_quiet()
    before = len(here.endpoint.got)
    with tracer.recording() as found:
        task()
    if len(here.endpoint.got) != before + 1:
        raise RuntimeError("the delivery did not arrive")
    return found


def refresh(here: World, tracer: Tracer) -> list[CodeType]:
    tracer.wait_for_quiet()
    before = here.vendor.token_requests
    with tracer.recording(within=code_of(REFRESH)) as found:
        here.test_vendor()
    if here.vendor.token_requests != before + 1:
        raise RuntimeError(f"{here.vendor.token_requests - before} tokens were asked for, not one")
    return found


def event(here: World, tracer: Tracer) -> list[CodeType]:
    tracer.wait_for_quiet()
    with tracer.recording() as found:
        here.post_event()
        tracer.wait_for_quiet()
    for task in ("delivery.fan_out", "delivery.deliver"):
        here.next_task(task)()
    return found


SCENES: tuple[Callable[[World, Tracer], list[CodeType]], ...] = (webhook, refresh, event)


def code_of(place: str) -> CodeType:
    """Of the function at `module:qualified.name`."""
    module, _, name = place.partition(":")
    found: Any = __import__(module, fromlist=["_"])
    for part in name.split("."):
        found = getattr(found, part)
    code: CodeType = inspect.unwrap(found).__code__
    return code


def measure() -> dict[str, dict[str, Any]]:
    tracer = Tracer(ROOT, PACKAGES, without=DEV)
    tracer.install()
    try:
        with world() as here:
            found = {}
            for scene in SCENES:
                passes = [scene(here, tracer) for _ in range(WARM_UPS + PASSES)]
                found[scene.__name__] = summary(tracer, passes[WARM_UPS:])
            return found
    finally:
        tracer.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="as JSON, with the functions' names")
    parser.add_argument("--functions", action="store_true", help="list the functions, not the files")
    options = parser.parse_args()
    found = measure()
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, figures in found.items():
        print(f"{name}: {figures['files']} files, {figures['functions']} functions")
        print("".join(f"    {line}\n" for line in figures["names" if options.functions else "entered"]), end="")
        if figures["now_and_then"]:
            print(f"    not in every pass: {', '.join(figures['now_and_then'])}")


if __name__ == "__main__":
    main()
