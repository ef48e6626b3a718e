"""A proxy that pools transactions, as PgBouncer does: a session of the server serves whoever has a transaction to run.

It speaks enough of the protocol for psycopg2 without passwords: the start, then queries one by one.
"""

import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SSL_REQUEST = 80877103
READY = b"Z\x00\x00\x00\x05I"
Message = tuple[bytes, bytes]


def read_exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return data


def read_message(source: socket.socket) -> Message:
    kind = read_exactly(source, 1)
    (length,) = struct.unpack("!I", read_exactly(source, 4))
    return kind, read_exactly(source, length - 4)


def write_message(sink: socket.socket, message: Message) -> None:
    sink.sendall(message[0] + struct.pack("!I", len(message[1]) + 4) + message[1])


class Pool:
    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[tuple[bytes, socket.socket]] = []
        self._lock = threading.Lock()
        self.greeting: list[Message] = []

    def take(self, startup: bytes) -> socket.socket:
        """The session that was given back last, as PgBouncer does, or a new one."""
        with self._lock:
            for place in reversed(range(len(self._idle))):
                if self._idle[place][0] == startup:
                    return self._idle.pop(place)[1]
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._path)
        server.sendall(struct.pack("!I", len(startup) + 4) + startup)
        greeting = []
        while (message := read_message(server))[0] != b"Z":
            greeting.append(message)
        self.greeting = greeting
        return server

    def give_back(self, startup: bytes, server: socket.socket) -> None:
        with self._lock:
            self._idle.append((startup, server))

    def close(self) -> None:
        for _, server in self._idle:
            server.close()


def serve(pool: Pool, client: socket.socket) -> None:
    with suppress(OSError, ConnectionError), client:
        startup = read_startup(client)
        pool.give_back(startup, pool.take(startup))
        for kind, body in pool.greeting:
            write_message(client, (kind, secrets.token_bytes(8) if kind == b"K" else body))  # a cancel key of its own
        client.sendall(READY)
        server: socket.socket | None = None
        while (message := read_message(client))[0] != b"X":
            server = server or pool.take(startup)
            write_message(server, message)
            if is_over(server, client):
                pool.give_back(startup, server)
                server = None


def read_startup(client: socket.socket) -> bytes:
    while True:
        (length,) = struct.unpack("!I", read_exactly(client, 4))
        startup = read_exactly(client, length - 4)
        if struct.unpack("!I", startup[:4])[0] != SSL_REQUEST:
            return startup
        client.sendall(b"N")


def is_over(server: socket.socket, client: socket.socket) -> bool:
    """Pass on an answer; whether the transaction is over with it."""
    while True:
        message = read_message(server)
        write_message(client, message)
        if message[0] == b"Z":
            return message[1] == b"I"


@contextmanager
def transaction_pool(folder: str, port: str = "5432") -> Iterator[int]:
    """A pool before the server whose socket is in the folder; the port of 127.0.0.1 at which it listens."""
    pool = Pool(f"{folder}/.s.PGSQL.{port}")
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(pool, client), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        pool.close()
