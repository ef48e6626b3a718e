"""Gunicorn's threaded worker, but a request gets a thread only once it has arrived whole, and frees it as soon as the
answer is made: `-k meshes.buffering.BufferingWorker`.

    accept → IDLE → HEADER → BODY → a thread of the pool → SENDING → IDLE, or LINGERING → closed

One event loop receives and sends for all connections. Each phase has a deadline, counted from its beginning, so a
sender of one byte a second meets it too. Gunicorn's own parser still decides what a request is: the loop only looks for
its end, and a parser that wants more than has arrived is told that the connection ended.
"""

import re
import resource
import selectors
import socket
import time
from concurrent.futures import Future
from enum import Enum, auto
from functools import cache, partial
from http import HTTPStatus
from typing import Any

from django.conf import settings
from gunicorn.http import errors
from gunicorn.workers.gthread import TConn, ThreadWorker

from meshes.answers import HEADERS

HEADER_LIMIT = 64 * 1024
"""Bytes of a header. The parser has limits too, for one line and the number of fields."""
LINE_LIMIT = 8192
"""Bytes of a line between chunks; a longer one is the parser's to refuse."""
RECEIVE_BYTES = 256 * 1024
"""Received at once from one connection, before the others have their turn."""
ANSWER_LIMIT = 32 * 1024 * 1024
"""Bytes of one answer that may wait for its client."""
MEMORY_LIMIT = 256 * 1024 * 1024
"""Bytes that unfinished requests and untaken answers of one process hold; above, the largest of them is closed."""
ACCEPT_AT_ONCE = 16
OTHER_DESCRIPTORS = 256
"""File descriptors of a process for all but its clients: databases, logs, requests to the outside."""
IDLE_SECONDS = 5.0
"""How long a connection may stay open between two requests."""
LINGER_SECONDS = 2.0
"""How long a connection that ends is read on, so that its client sees the answer."""
STOP_SECONDS = 2.0
"""The longest that a stopping worker waits for what has not arrived yet."""

_HEADER_END = b"\r\n\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked", re.IGNORECASE)
_CONTINUE = re.compile(rb"\A[^\r\n]*HTTP/1\.1\r\n(?:.*\r\n)?expect:[ \t]*100-continue[ \t]*\r\n", re.I | re.S)
_REFUSALS: dict[type[Exception], int] = {
    errors.LimitRequestLine: 414,
    errors.LimitRequestHeaders: 431,
    errors.UnsupportedTransferCoding: 501,
    errors.ExpectationFailed: 417,
}
_CHUNK_SIZE = re.compile(rb"([0-9a-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n", re.IGNORECASE)


class Phase(Enum):
    """What a connection waits for."""

    IDLE = auto()
    HEADER = auto()
    BODY = auto()
    SENDING = auto()
    LINGERING = auto()


class Framing:
    """How far one request has arrived. Ask `is_whole` again whenever more bytes have."""

    def __init__(self) -> None:
        self.body_at: int | None = None
        """Where the body begins; None while the header has not ended."""
        self.wants_continue = False
        self.is_cut = False
        """Whether it is answered without its end, so that no other request can follow it."""
        self._searched = 0
        self._end = 0
        """Where the body ends; with chunks, where the next one begins."""
        self._is_chunked = False

    def is_whole(self, data: bytearray) -> bool:
        """Whether nothing more is needed for an answer, be it because what has come is too much or malformed."""
        if self.body_at is None and not self._find_body(data):
            self.is_cut = _BARE_LF.search(data) is not None
        elif self._is_chunked:
            return self._follow_chunks(data)
        else:
            self.is_cut = self._end - (self.body_at or 0) > settings.MESHES_BULK_BODY_LIMIT
        return self.is_cut or (self.body_at is not None and len(data) >= self._end)

    def _find_body(self, data: bytearray) -> bool:
        end = data.find(_HEADER_END, max(0, self._searched - len(_HEADER_END)))
        self._searched = len(data)
        if end < 0:
            return False
        self._end = self.body_at = end + len(_HEADER_END)
        header = bytes(data[: end + 2])
        if _CHUNKED.search(header):
            self._is_chunked = True
        elif length := _LENGTH.search(header):
            self._end += int(length[1])
        self.wants_continue = _CONTINUE.match(header) is not None
        return True

    def _follow_chunks(self, data: bytearray) -> bool:
        """Go on to the first chunk that has not arrived whole. Malformed ones are the parser's to refuse."""
        while len(data) - (self.body_at or 0) <= settings.MESHES_BULK_BODY_LIMIT:
            line_end = data.find(b"\r\n", self._end, self._end + LINE_LIMIT)
            if line_end < 0 and len(data) - self._end < LINE_LIMIT:
                return False
            size = _CHUNK_SIZE.match(data, self._end, line_end + 2)
            if size is None:
                break
            if int(size[1], 16) == 0:
                return data.find(_HEADER_END, line_end) >= 0
            if len(data) < (end := line_end + int(size[1], 16) + 4):
                return False
            self._end = end
        self.is_cut = True
        return True


class BufferedSocket:
    """What the parser and the answer take for a blocking socket: reading gives what has arrived and then the end,
    writing never waits. Only the event loop touches the real socket while no thread has the connection."""

    def __init__(self, real: socket.socket) -> None:
        real.setblocking(False)
        self.real = real
        self.arrived = bytearray()
        self.unsent = bytearray()
        self.has_ended = False
        """Whether a reader was told that the connection ended."""

    def fileno(self) -> int:
        return self.real.fileno()

    def recv(self, size: int) -> bytes:
        data = bytes(self.arrived[:size])
        del self.arrived[:size]
        self.has_ended = self.has_ended or not data
        return data

    def sendall(self, data: bytes) -> None:
        if len(self.unsent) + len(data) > ANSWER_LIMIT:
            raise ConnectionResetError("the answer is too large to be kept for its client")
        self.unsent += data

    def flush(self) -> None:
        """Send what the client takes now. Raises OSError when it is gone."""
        try:
            while self.unsent:
                with memoryview(self.unsent) as data:
                    sent = self.real.send(data[:RECEIVE_BYTES])
                del self.unsent[:sent]
        except BlockingIOError:
            return

    def setblocking(self, flag: bool) -> None:
        """Gunicorn calls it around each request; this socket never blocks."""

    def close(self) -> None:
        self.real.close()


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A client's connection: its phase, and how far its present request has arrived."""

    def __init__(self, cfg: Any, real: socket.socket, client: Any, server: Any) -> None:
        super().__init__(cfg, BufferedSocket(real), client, server)
        self.data_ready = True  # a thread need not wait for any
        self.framing = Framing()
        self.phase: Phase | None = None
        """None while it is a thread's."""
        self.keeps_alive = False
        self.counted_bytes = 0


class BufferingWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Overrides how gthread accepts, waits for data, ends a request and refuses; its threads and its loop stay."""

    def init_process(self) -> None:
        # What proxies say is believed by `workspaces.security_log` alone; gunicorn would let any peer on this machine
        # set the scheme, and by headers of those names even the path.
        self.cfg.set("secure_scheme_headers", {})
        self.cfg.set("forwarder_headers", "")
        _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
        self.most_connections = max(1, min(self.worker_connections - 1, most_files - OTHER_DESCRIPTORS))
        self.waiting: dict[Phase, dict[Connection, float]] = {phase: {} for phase in Phase}
        """Connections by what they wait for, with their deadlines: in each phase the oldest first."""
        self.held_bytes = 0
        super().init_process()

    # --- receiving

    def accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            if self.nr_conns >= self.most_connections and not self._close_longest_waiting():
                return
            try:
                real, client = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self.log.error("no connection can be accepted: %s", error)
                self._close_longest_waiting()
                return
            self.nr_conns += 1
            connection = Connection(self.cfg, real, client, listener.getsockname())
            self._enter(connection, Phase.HEADER)
            self._receive(connection)

    def _receive(self, connection: Connection, *_: Any) -> None:
        """Take what has arrived, and hand the request over when nothing more is needed."""
        try:
            data = connection.sock.real.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data and connection.framing.body_at is None:
            self._close(connection)
            return
        connection.sock.arrived += data
        self._count(connection)
        self._advance(connection, has_ended=not data)
        while self.held_bytes > MEMORY_LIMIT and self._close_largest():
            pass

    def _advance(self, connection: Connection, *, has_ended: bool = False) -> None:
        """Into the phase that follows from what has arrived."""
        framing, sock = connection.framing, connection.sock
        is_whole = framing.is_whole(sock.arrived)
        if framing.body_at is None and len(sock.arrived) > HEADER_LIMIT:
            self._refuse(connection, 431)
        elif is_whole or has_ended:
            framing.is_cut = framing.is_cut or has_ended
            self._leave(connection)
            self.enqueue_req(connection)
        elif framing.body_at is None:
            self._enter(connection, Phase.HEADER if sock.arrived else Phase.IDLE)
        elif connection.phase is not Phase.BODY:
            self._enter(connection, Phase.BODY)
            if framing.wants_continue:
                sock.unsent += b"HTTP/1.1 100 Continue\r\n\r\n"
                self._flush(connection)

    # --- in a thread of the pool

    def handle(self, connection: Connection) -> bool:
        """Answer one request; whether another may follow it on this connection."""
        keeps_alive = super().handle(connection)
        try:
            connection.sock.flush()
        except OSError:
            return False
        return bool(keeps_alive) and not connection.framing.is_cut and not connection.sock.has_ended

    def handle_request(self, request: Any, connection: Connection) -> Any:
        request._expected_100_continue = False  # was answered while the body was waited for
        if connection.framing.is_cut:
            request.force_close()
        return super().handle_request(request, connection)

    def handle_error(self, request: Any, sock: BufferedSocket, client: Any, error: Exception) -> None:
        """Answer what the parser refuses, as problem+json like all other errors."""
        own_fault = (errors.ConfigurationProblem, errors.InvalidResponseHeader, errors.InvalidResponseHeaderName)
        if isinstance(error, errors.ParseException) and not isinstance(error, own_fault):
            refused = next((status for kind, status in _REFUSALS.items() if isinstance(error, kind)), 400)
        else:
            self.log.error("a request was not answered", exc_info=error)
            refused = 500
        sock.unsent += refusal(refused)

    # --- sending

    def finish_request(self, connection: Connection, future: Future[bool]) -> None:
        connection.keeps_alive = not future.cancelled() and future.exception() is None and future.result()
        self._send(connection)

    def _send(self, connection: Connection, *_: Any) -> None:
        """Send what is left of the answer; then the next request, or the end."""
        if not self._flush(connection):
            return
        if connection.sock.unsent:
            self._enter(connection, Phase.SENDING)
        elif connection.keeps_alive:
            connection.sock.arrived[:0] = connection.parser.unreader.take_buffered()
            connection.framing = Framing()
            self._advance(connection)
        else:
            self._linger(connection)

    def _refuse(self, connection: Connection, status: int) -> None:
        connection.sock.unsent += refusal(status)
        connection.keeps_alive = False
        self._send(connection)

    def _flush(self, connection: Connection) -> bool:
        """Send what the client takes now; False where it is gone, and the connection closed."""
        try:
            connection.sock.flush()
        except OSError:
            self._close(connection)
            return False
        self._count(connection)
        return True

    def _linger(self, connection: Connection) -> None:
        """End a connection so that its last answer arrives though its client may still be sending (RFC 9112, 9.6)."""
        connection.sock.arrived.clear()
        self._count(connection)
        try:
            connection.sock.real.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(connection)
        else:
            self._enter(connection, Phase.LINGERING)

    def _discard(self, connection: Connection, *_: Any) -> None:
        try:
            if connection.sock.real.recv(RECEIVE_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close(connection)

    # --- waiting

    def _enter(self, connection: Connection, phase: Phase) -> None:
        """Wait in a phase; its deadline counts from the first entry."""
        if connection.phase is phase:
            return
        self._leave(connection)
        act = {Phase.SENDING: self._send, Phase.LINGERING: self._discard}.get(phase, self._receive)
        events = selectors.EVENT_WRITE if phase is Phase.SENDING else selectors.EVENT_READ
        self.poller.register(connection.sock, events, partial(act, connection))
        seconds = _seconds(phase) if self.alive else min(_seconds(phase), STOP_SECONDS)
        self.waiting[phase][connection] = time.monotonic() + seconds
        connection.phase = phase

    def _leave(self, connection: Connection) -> None:
        if connection.phase is not None:
            self.poller.unregister(connection.sock)
            del self.waiting[connection.phase][connection]
            connection.phase = None

    def _close(self, connection: Connection) -> None:
        self._leave(connection)
        self.held_bytes -= connection.counted_bytes
        self.nr_conns -= 1
        connection.sock.close()

    def _count(self, connection: Connection) -> None:
        held = len(connection.sock.arrived) + len(connection.sock.unsent)
        self.held_bytes += held - connection.counted_bytes
        connection.counted_bytes = held

    def _close_longest_waiting(self) -> bool:
        """Make room for another connection; False where every one is a thread's."""
        for phase in (Phase.LINGERING, Phase.IDLE, Phase.HEADER, Phase.BODY, Phase.SENDING):
            for connection in self.waiting[phase]:
                self._close(connection)
                return True
        return False

    def _close_largest(self) -> bool:
        """Make room in memory; False where nothing waits."""
        waiting = [connection for phase in self.waiting.values() for connection in phase]
        if waiting:
            self._close(max(waiting, key=lambda connection: connection.counted_bytes))
        return bool(waiting)

    def murder_keepalived(self, force: bool = False) -> None:
        """Gthread's hook, called once a second at least: end what has met its deadline; by force, whatever waits."""
        now = time.monotonic()
        for phase, deadlines in self.waiting.items():
            while deadlines:
                connection, deadline = next(iter(deadlines.items()))
                if deadline > now and not force:
                    break
                self._expire(connection, phase)

    def _expire(self, connection: Connection, phase: Phase) -> None:
        if phase in {Phase.HEADER, Phase.BODY} and connection.sock.arrived:
            self._refuse(connection, 408)
        else:
            self._close(connection)

    def _cap_keepalive(self, deadline: float) -> None:
        """Gthread's hook when it stops: nothing is waited for any longer than that, but that an answer is taken."""
        for phase in Phase:
            if phase is not Phase.SENDING:
                self.waiting[phase] = {
                    connection: min(ends_at, deadline) for connection, ends_at in self.waiting[phase].items()
                }


def _seconds(phase: Phase) -> float:
    seconds = {
        Phase.IDLE: IDLE_SECONDS,
        Phase.HEADER: settings.MESHES_HEADER_SECONDS,
        Phase.BODY: settings.MESHES_BODY_SECONDS,
        Phase.SENDING: settings.MESHES_BODY_SECONDS,
        Phase.LINGERING: LINGER_SECONDS,
    }
    return float(seconds[phase])


@cache
def refusal(status: int) -> bytes:
    """A whole answer that ends the connection."""
    from meshes.api.problems import (  # gunicorn imports this module before Django is set up
        CONTENT_TYPE,
        Problem,
        render,
    )

    body = render(Problem(status)).content
    fields = {"Connection": "close", "Content-Type": CONTENT_TYPE, "Content-Length": str(len(body))} | HEADERS
    if settings.MESHES_HTTPS:  # whatever could not be read came by the proxy that does TLS
        fields["Strict-Transport-Security"] = f"max-age={settings.SECURE_HSTS_SECONDS}; includeSubDomains"
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
