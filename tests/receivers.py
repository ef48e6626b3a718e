"""A customer's endpoint on loopback: answers what it is told to, and keeps what it got."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Got:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"


@dataclass
class Receiver:
    """`answers` is asked for each request; `got` is what came, in order."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    answers: Callable[[Got], Answer] = lambda got: Answer()

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"ok") -> None:
        """Answer every request so from now on."""
        self.answers = lambda got: Answer(status, headers or {}, body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    """Callers that may knock at once; the default of five makes the sixth wait for a second."""


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A receiver on a free port of 127.0.0.1, ended with the block."""
    here = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            got = Got(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            here.got.append(got)
            answer = here.answers(got)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = do_PATCH = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    here.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
