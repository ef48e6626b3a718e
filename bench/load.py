"""The load generator, a process of its own: `python -m bench.load SPEC.json ANSWERS.bin`.

Single-threaded, keep-alive HTTP/1.1, one request at a time on each connection. Without a schedule it is a closed loop:
every connection posts again as soon as it was answered. With one it is an open loop: a request goes out at its moment,
on a further connection if none is free, and its delay counts from that moment, so that a slow server cannot make its
own clients wait unseen (coordinated omission).
"""

import json
import re
import select
import socket
import sys
import time
from array import array
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path

FIRST_NUMBER = 1_000_000_000
"""Event numbers have ten digits, so that a template's length is fixed."""
MOST_CONNECTIONS = 512
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Template:
    """A request to be. `head` ends with its blank line; the body is `parts` with one event number in each gap."""

    head: str
    parts: list[str]

    @property
    def events(self) -> int:
        return len(self.parts) - 1


@dataclass(frozen=True, slots=True)
class Spec:
    """What to send. Closed loop: `count` requests over the templates in turn. Open loop: `schedule`, pairs of
    (seconds from the start, template), in order of time. `seconds` ends the run whatever is still open."""

    port: int
    templates: list[Template]
    first_number: int
    connections: int
    seconds: float
    count: int = 0
    schedule: list[tuple[float, int]] = field(default_factory=list)

    @staticmethod
    def read(path: Path) -> "Spec":
        document = json.loads(path.read_text())
        return Spec(**document | {"templates": [Template(**each) for each in document["templates"]]})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


class Compiled:
    """A template as bytes; `request(number)` costs a join."""

    def __init__(self, template: Template) -> None:
        self.events = template.events
        self._head = template.head.encode()
        self._parts = [part.encode() for part in template.parts]

    def request(self, first: int) -> bytes:
        pieces = [self._head, self._parts[0]]
        for index in range(self.events):
            pieces += (b"%d" % (first + index), self._parts[index + 1])
        return b"".join(pieces)


@dataclass(slots=True)
class Answers:
    """One entry a request: when it was due, sent and answered (CLOCK_MONOTONIC; 0 = never), the status, its first
    event number and its template."""

    due: array = field(default_factory=lambda: array("d"))
    sent: array = field(default_factory=lambda: array("d"))
    answered: array = field(default_factory=lambda: array("d"))
    status: array = field(default_factory=lambda: array("q"))
    number: array = field(default_factory=lambda: array("q"))
    template: array = field(default_factory=lambda: array("q"))

    def add(self, due: float, number: int, template: int) -> int:
        for column, value in zip(self._columns(), (due, 0.0, 0.0, 0, number, template), strict=True):
            column.append(value)
        return len(self.due) - 1

    def _columns(self) -> tuple[array, ...]:
        return self.due, self.sent, self.answered, self.status, self.number, self.template

    def write(self, path: Path) -> None:
        path.write_bytes(b"".join(column.tobytes() for column in self._columns()))

    @staticmethod
    def read(path: Path) -> "Answers":
        content = path.read_bytes()
        size = len(content) // 6
        answers = Answers()
        for index, column in enumerate(answers._columns()):
            column.frombytes(content[index * size : (index + 1) * size])
        return answers


class Load:
    """One run."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._templates = [Compiled(template) for template in spec.templates]
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._buffers: dict[int, bytes] = {}
        self._busy: dict[int, int] = {}
        self._idle: deque[int] = deque()
        self._waiting: deque[int] = deque()
        self._next_number = spec.first_number
        self.answers = Answers()

    def run(self) -> Answers:
        for _ in range(self._spec.connections):
            self._idle.append(self._connect())
        self._began = time.monotonic()
        ends_at = self._began + self._spec.seconds
        while not self._finished() and time.monotonic() < ends_at:
            self._hand_out()
            for descriptor, _ in self._poll.poll(self._patience(ends_at)):
                self._read(descriptor)
        for descriptor in list(self._sockets):
            self._close(descriptor)
        return self.answers

    def _total(self) -> int:
        return len(self._spec.schedule) or self._spec.count

    def _finished(self) -> bool:
        return len(self.answers.due) == self._total() and not self._busy and not self._waiting

    def _patience(self, ends_at: float) -> float:
        """Seconds until something is due or over."""
        following, now = len(self.answers.due), time.monotonic()
        if self._spec.schedule and following < len(self._spec.schedule):
            return max(0.0, min(self._began + self._spec.schedule[following][0], ends_at) - now)
        return max(0.0, ends_at - now)

    def _hand_out(self) -> None:
        if not self._spec.schedule:
            while self._idle and len(self.answers.due) < self._spec.count:
                self._draw(time.monotonic(), len(self.answers.due) % len(self._templates))
                self._send(self._idle.popleft(), self._waiting.popleft())
            return
        while (following := len(self.answers.due)) < len(self._spec.schedule):
            offset, template = self._spec.schedule[following]
            if time.monotonic() < self._began + offset:
                break
            self._draw(self._began + offset, template)
        while self._waiting and (self._idle or len(self._sockets) < MOST_CONNECTIONS):
            self._send(self._idle.popleft() if self._idle else self._connect(), self._waiting.popleft())

    def _draw(self, due: float, template: int) -> None:
        self._waiting.append(self.answers.add(due, self._next_number, template))
        self._next_number += self._templates[template].events

    def _connect(self) -> int:
        made = socket.create_connection(("127.0.0.1", self._spec.port), timeout=10)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        descriptor = made.fileno()
        self._sockets[descriptor] = made
        self._buffers[descriptor] = b""
        self._poll.register(descriptor, select.EPOLLIN)
        return descriptor

    def _send(self, descriptor: int, index: int) -> None:
        template = self._templates[self.answers.template[index]]
        self.answers.sent[index] = time.monotonic()
        try:
            self._sockets[descriptor].sendall(template.request(self.answers.number[index]))
        except OSError:
            self._close(descriptor)
            descriptor = self._connect()
            self._sockets[descriptor].sendall(template.request(self.answers.number[index]))
        self._busy[descriptor] = index

    def _read(self, descriptor: int) -> None:
        if descriptor not in self._sockets:
            return
        try:
            received = self._sockets[descriptor].recv(262_144)
        except OSError:
            received = b""
        if not received:
            self._hung_up(descriptor)
            return
        buffer = self._buffers[descriptor] = self._buffers[descriptor] + received
        head_end = buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = LENGTH.search(buffer, 0, head_end)
        if length is None:
            raise SystemExit(f"an answer without Content-Length:\n{buffer.decode(errors='replace')}")
        if len(buffer) < head_end + 4 + int(length[1]):
            return
        index = self._busy.pop(descriptor)
        self.answers.answered[index] = time.monotonic()
        self.answers.status[index] = int(buffer[9:12])
        self._buffers[descriptor] = b""
        if b"\r\nconnection: close" in buffer[:head_end].lower():
            self._close(descriptor)
            descriptor = self._connect()
        self._idle.append(descriptor)

    def _hung_up(self, descriptor: int) -> None:
        """The server closed: an idle connection is replaced, a request without an answer stays unanswered."""
        self._busy.pop(descriptor, None)
        if descriptor in self._idle:
            self._idle.remove(descriptor)
        self._close(descriptor)
        self._idle.append(self._connect())

    def _close(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        self._buffers.pop(descriptor)
        self._sockets.pop(descriptor).close()


if __name__ == "__main__":
    Load(Spec.read(Path(sys.argv[1]))).run().write(Path(sys.argv[2]))
