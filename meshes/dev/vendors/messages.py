"""What a vendor's server gets and gives: calls, answers and refusals, and HTTP on loopback that carries them."""

import base64
import binascii
import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


class Reason(Enum):
    """Why a server refuses before the vendor's own rules are asked, and the usual status."""

    MISSING_TOKEN = "missing token", 401
    UNKNOWN_TOKEN = "unknown token", 401
    EXPIRED_TOKEN = "expired token", 401
    REVOKED_TOKEN = "revoked token", 401
    MALFORMED = "malformed", 400
    WRONG_TYPE = "wrong type", 415
    NOT_FOUND = "not found", 404
    WRONG_METHOD = "wrong method", 405
    THROTTLED = "throttled", 429
    DOWN = "down", 503


class RefusedError(Exception):
    """The call ends here: with this answer, or with the vendor's own for a reason."""

    def __init__(self, why: "Answer | Reason", message: str = "") -> None:
        super().__init__(why, message)
        self.why = why
        self.message = message


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `path` is as it was sent, without the query; header names are in lower case; `account` is the one
    that its credentials open, once they are known."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    account: str = ""

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise malformed(str(error)) from None

    def object(self) -> dict[str, Any]:
        document = self.json()
        if not isinstance(document, dict):
            raise malformed("not a JSON object")
        return document

    def fields(self) -> dict[str, Any]:
        """Of a JSON object or a form, as the content type says; empty where the body is neither."""
        if self.media_type == "application/json":
            return self.object()
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))

    def credential(self, scheme: str) -> str:
        """What follows the scheme in the Authorization header; empty for another scheme."""
        given, _, credential = self.headers.get("authorization", "").partition(" ")
        return credential.strip() if given.lower() == scheme.lower() else ""

    def basic(self) -> tuple[str, str] | None:
        """User name and password of basic authentication."""
        try:
            user, colon, password = base64.b64decode(self.credential("Basic"), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return (user, password) if colon else None


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body and its headers. `of` makes JSON of a document."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Any, status: int = 200, media_type: str = "application/json", **headers: str) -> "Answer":
        """A JSON answer; keywords are headers, their underscores hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        return cls(status, body.encode(), {"content-type": media_type, **named})

    @classmethod
    def text(cls, text: str, status: int = 200, media_type: str = "text/plain; charset=utf-8") -> "Answer":
        return cls(status, text.encode(), {"content-type": media_type})

    def with_headers(self, headers: Mapping[str, str]) -> "Answer":
        """With these headers too; its own win."""
        return replace(self, headers={**headers, **self.headers})


class Listener(ThreadingHTTPServer):
    """HTTP/1.1 on a free port of 127.0.0.1: one thread for each connection, kept open between requests."""

    daemon_threads = True
    request_queue_size = 128
    """Callers that may connect at once; the default of five makes the sixth wait for a second."""

    def __init__(self, respond: Callable[[Call], Answer | None], port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.respond = respond
        self.errors: list[BaseException] = []
        """What went wrong in the server itself, while callers only saw it hang up."""
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends open connections too: none may be answered by a server that is gone."""
        self.shutdown()
        self._thread.join()
        with self._guard:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the caller was first
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
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.respond(Call(self.command, parts.path, query, headers, body))
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

    def log_message(self, format: str, *args: object) -> None:
        pass


def malformed(message: str) -> RefusedError:
    return RefusedError(Reason.MALFORMED, f"The body cannot be read: {message}")


def is_email(value: Any) -> bool:
    """Whether a text has the form of an address, as far as vendors look: one @, and a dot within the domain."""
    local, _, domain = str(value).partition("@")
    return bool(local) and "@" not in domain and "." in domain[1:-1] and str(value).split() == [str(value)]
