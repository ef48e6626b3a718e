"""HTTP/1.1 on a free port of 127.0.0.1: one thread for each connection, kept open between requests."""

import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from meshes.dev.vendors.messages import Answer, Call

Responder = Callable[[Call], Answer | None]
"""Answers a call; None closes the connection without an answer."""


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    """Callers that may knock at once; the default of five makes the sixth wait for a second."""

    def __init__(self, respond: Responder, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.respond = respond
        self.errors: list[BaseException] = []
        """What went wrong in the server itself, while callers only saw it hang up."""
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends open connections too: none may be answered by a server that is gone."""
        self.shutdown()
        self._thread.join()
        with self._guard:
            for connection in self._open:
                _hang_up(connection)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):  # a caller may hang up
            self.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    """Buffered: head and body leave in one piece, or the second waits for an acknowledgement of the first."""
    server: Listener

    def handle_any(self) -> None:
        answer = self.server.respond(self._read())
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def _read(self) -> Call:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Call(self.command, parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), headers, body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the caller was first
