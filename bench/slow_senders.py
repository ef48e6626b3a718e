"""Which server for the web: `python -m bench.slow_senders [events] [turns]`.

Each server is one process with 16 threads on the same PostgreSQL and Valkey, in turns: POSTs of one event in a closed
loop over 16 connections, `/healthz` at rest, and `/healthz` beside three times 500 connections that send half a header,
half a body, and a byte a second, and begin again when they are closed. Waitress and granian are measured where they are
installed (`make bench` installs them).
"""

import importlib.util
import resource
import selectors
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

from bench import alone
from bench.cpu import cpu_seconds, load_average
from bench.load import Template
from bench.rig import BenchError, Options, Rig
from bench.spread import percentile
from meshes import services
from meshes.dev.children import Child
from meshes.dev.embedded import free_port

THREADS = str(services.WEB_THREADS)
SLOW = 500
"""Connections of each kind."""
PROBES, PROBES_A_SECOND = 300, 20
LONGEST = 10.0
"""Seconds after which a probe counts as unanswered, and its delay as this."""

KINDS = {
    "half a header": b"POST /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le",
    "half a body": b'POST /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{"event": "',
    "a byte a second": b"POST /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
}


def servers(port: int) -> dict[str, tuple[str, ...]]:
    bind = f"127.0.0.1:{port}"
    gthread = ("-k", "gthread", "--threads", THREADS, "--worker-connections", "4000", "--no-control-socket")
    made = {
        "gunicorn, buffering": services.web(bind),
        "gunicorn, gthread": ("-m", "gunicorn", "meshes.wsgi", "--bind", bind, *gthread),
        "waitress": ("-m", "waitress", "--listen", bind, "--threads", THREADS, "--connection-limit=4000",
                     "--asyncore-use-poll", "meshes.wsgi:application"),
        "granian": ("-m", "granian", "--interface", "wsgi", "--port", str(port), "--blocking-threads", THREADS,
                    "--no-ws", "meshes.wsgi:application"),
    }  # fmt: skip
    return {name: line for name, line in made.items() if importlib.util.find_spec(line[1])}


def measure(events: int, turns: int) -> dict[str, Any]:
    templates = make_templates()
    figures: dict[str, Any] = {"events": events, "slow_connections": SLOW * len(KINDS), "load_average": load_average()}
    with Rig(Options(), print) as rig:
        for _ in range(turns):
            for name, figure in ((name, measure_server(rig, name, templates, events)) for name in servers(0)):
                figures.setdefault(name, []).append(figure)
                print(name, figure, flush=True)
    return figures


def measure_server(rig: Rig, name: str, templates: list[Template], events: int) -> dict[str, float]:
    port = free_port()
    server = Child(rig.program(name.replace(", ", "-"), servers(port)[name], WEB_CONCURRENCY="1"))
    try:
        rig.wait_for(lambda: probe(port) < 1, f"{name} to answer")
        rig.load(port, templates, connections=16, count=max(200, events // 10))
        before = cpu_seconds({name: server.pid})[name]
        answers, _ = rig.load(port, templates, connections=16, count=events)
        spent = cpu_seconds({name: server.pid})[name] - before
        if set(answers.status) != {202}:
            raise BenchError(f"{name} answered {sorted(set(answers.status))}")
        took = [answered - sent for sent, answered in zip(answers.sent, answers.answered, strict=True)]
        calm = probes(port)
        attack = Child(rig.program("attack", ("-m", "bench.slow_senders", "attack", str(port))))
        try:
            time.sleep(3)  # until they are all there
            beside = probes(port)
        finally:
            attack.kill()
        return {
            "events_per_second": round(events / (max(answers.answered) - min(answers.sent))),
            "cpu_us_per_event": round(1e6 * spent / events),
            "post_p50_ms": round(1000 * percentile(took, 0.5), 1),
            "post_p99_ms": round(1000 * percentile(took, 0.99), 1),
            "healthz_p99_ms": round(1000 * percentile(calm, 0.99), 1),
            "healthz_p99_ms_beside_slow_senders": round(1000 * percentile(beside, 0.99), 1),
        }
    finally:
        server.kill()


def make_templates() -> list[Template]:
    from workspaces import keys
    from workspaces.models import Workspace

    key = keys.create_key(name="bench", kind="account", scopes=["events:write"]).key
    made = []
    for index in range(10):
        workspace = Workspace.objects.create(name=f"slow-{index}", external_id=f"slow-{index}", ingest_rate=1e6)
        body = f'{{"workspace": "{workspace.external_id}", "event": "bench.slow", "payload": {{"n": "'
        tail = '"}}'
        length = len(body) + 10 + len(tail)
        head = (
            f"POST /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
        made.append(Template(head, [body, tail]))
    return made


def probes(port: int) -> list[float]:
    """Delays of `/healthz`, each on a connection of its own, from the moment that it was due."""
    began, delays = time.monotonic(), []
    for index in range(PROBES):
        due = began + index / PROBES_A_SECOND
        time.sleep(max(0.0, due - time.monotonic()))
        probe(port)
        delays.append(min(LONGEST, time.monotonic() - due))
        if delays[-1] >= LONGEST:
            return delays + [LONGEST] * (PROBES - len(delays))
    return delays


def probe(port: int) -> float:
    """Seconds that `/healthz` took; LONGEST where it did not answer."""
    began = time.monotonic()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=LONGEST) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            if connection.recv(64).split(b" ")[1:2] == [b"200"]:
                return time.monotonic() - began
    except OSError:
        pass
    return LONGEST


def attack(port: int) -> None:
    """Keep SLOW connections of each kind open, for as long as this process lives."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    selector = selectors.DefaultSelector()
    for begin in KINDS.values():
        for _ in range(SLOW):
            connect(selector, port, begin)
    while True:
        tick = time.monotonic() + 1
        while (left := tick - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                selector.unregister(key.fileobj)
                key.fileobj.close()
                connect(selector, port, key.data)
        for key in list(selector.get_map().values()):
            if key.data is KINDS["a byte a second"]:
                with suppress(OSError):  # it is readable too, so it begins again
                    key.fileobj.send(b"x")


def connect(selector: selectors.BaseSelector, port: int, begin: bytes) -> None:
    try:
        made = socket.create_connection(("127.0.0.1", port), timeout=5)
        made.sendall(begin)
    except OSError:
        return
    made.setblocking(False)
    selector.register(made, selectors.EVENT_READ, begin)


if __name__ == "__main__":
    if sys.argv[1:2] == ["attack"]:
        attack(int(sys.argv[2]))
    else:
        numbers = [int(argument) for argument in sys.argv[1:]]
        alone.run("slow_senders", partial(measure, *(numbers + [3000, 2][len(numbers) :])))
