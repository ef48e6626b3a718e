"""All customers' endpoints in one process: `python -m bench.receiver PORT`.

A single-threaded epoll server that answers as the path says and keeps, in memory, when each request came. Cheap enough
(some 40 µs a request) that what is measured is the sender. Paths:

    /ok/<n>  200 at once      /hung/<n>  no answer      /drip/<n>  a byte of a header each second      /429/<n>  429

`/control/count`, `/control/reset` and `/control/dump` are for the harness. A dump is three arrays one after the other,
of as many items as `/control/count` says: moments (`d`, CLOCK_MONOTONIC), numbers of events (`q`), numbers n (`q`).
"""

import re
import select
import socket
import sys
import time
from array import array
from dataclasses import dataclass, field

NUMBER = re.compile(rb'"seq": ?(\d+)')
"""Events carry a number in their payload, by which an arrival is matched with what was posted."""
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
DRIP_HEAD = b"HTTP/1.1 200 OK\r\nX-Drip: "
DRIP_SECONDS = 1.0


@dataclass(slots=True)
class Arrivals:
    """What came: moment, event number and destination of each request that was answered 200."""

    moments: array = field(default_factory=lambda: array("d"))
    numbers: array = field(default_factory=lambda: array("q"))
    destinations: array = field(default_factory=lambda: array("q"))

    def add(self, number: int, destination: int) -> None:
        self.moments.append(time.monotonic())
        self.numbers.append(number)
        self.destinations.append(destination)

    def dump(self) -> bytes:
        return self.moments.tobytes() + self.numbers.tobytes() + self.destinations.tobytes()


def parse(buffer: bytes) -> tuple[bytes, bytes, bytes] | None:
    """The first request in a buffer as (path, body, rest); None while it is not whole."""
    head_end = buffer.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    length = LENGTH.search(buffer, 0, head_end)
    end = head_end + 4 + (int(length[1]) if length else 0)
    if len(buffer) < end:
        return None
    path = buffer[: buffer.index(b"\r\n")].split(b" ", 2)[1]
    return path, buffer[head_end + 4 : end], buffer[end:]


class Receiver:
    """The server. `serve` runs until the process is killed."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._buffers: dict[int, bytes] = {}
        self._dripping: set[int] = set()
        self._arrivals = Arrivals()

    def serve(self) -> None:
        listening = self._listener.fileno()
        self._poll.register(listening, select.EPOLLIN)
        drip_at = time.monotonic() + DRIP_SECONDS
        while True:
            for descriptor, _ in self._poll.poll(DRIP_SECONDS):
                if descriptor == listening:
                    self._accept()
                else:
                    self._read(descriptor)
            if time.monotonic() >= drip_at:
                drip_at = time.monotonic() + DRIP_SECONDS
                for descriptor in list(self._dripping):
                    self._send(descriptor, b"x")

    def _accept(self) -> None:
        for _ in range(64):
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            descriptor = accepted.fileno()
            accepted.setblocking(False)
            self._sockets[descriptor] = accepted
            self._buffers[descriptor] = b""
            self._poll.register(descriptor, select.EPOLLIN)
            self._read(descriptor)  # its request has often come already

    def _read(self, descriptor: int) -> None:
        try:
            received = self._sockets[descriptor].recv(262_144)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._close(descriptor)
            return
        self._buffers[descriptor] += received
        while descriptor in self._sockets and (request := parse(self._buffers[descriptor])):
            path, body, self._buffers[descriptor] = request
            self._answer(descriptor, path, body)

    def _answer(self, descriptor: int, path: bytes, body: bytes) -> None:
        _, temper, which = path.split(b"/", 2)
        if temper == b"ok":
            found = NUMBER.search(body)
            self._arrivals.add(int(found[1]) if found else -1, int(which))
            self._send(descriptor, OK)
        elif temper == b"429":
            self._send(descriptor, TOO_MANY)
        elif temper == b"drip":
            self._dripping.add(descriptor)
            self._send(descriptor, DRIP_HEAD)
        elif temper == b"control":
            self._control(descriptor, which)

    def _control(self, descriptor: int, what: bytes) -> None:
        answer = b""
        if what == b"count":
            answer = b"%d" % len(self._arrivals.moments)
        elif what == b"reset":
            self._arrivals = Arrivals()
        elif what == b"dump":
            answer = self._arrivals.dump()
        self._sockets[descriptor].setblocking(True)
        self._send(descriptor, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
        if descriptor in self._sockets:
            self._sockets[descriptor].setblocking(False)

    def _send(self, descriptor: int, answer: bytes) -> None:
        try:
            self._sockets[descriptor].sendall(answer)
        except OSError:
            self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        self._dripping.discard(descriptor)
        self._buffers.pop(descriptor, None)
        self._poll.unregister(descriptor)
        self._sockets.pop(descriptor).close()


if __name__ == "__main__":
    Receiver(int(sys.argv[1])).serve()
