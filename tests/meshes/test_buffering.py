"""A request has a thread only while it is answered, and each of its parts a deadline."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshes import buffering, services
from meshes.answers import HEADERS
from meshes.buffering import Framing
from meshes.dev.embedded import free_port
from tests.meshes.echoing import LARGE
from tests.polling import eventually

PATIENCE = 60.0
"""Seconds for what must come at last, on however slow a machine."""
NEVER = "3600"
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
GET_LARGE = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
MANY = 3 * services.WEB_THREADS
SLOW = {
    "nothing": b"",
    "half a header": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Le",
    "half a body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhal",
    "half a chunk": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhal",
    "chunks without end": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
}


class Server:
    """One process of the web server, in front of an application that tells what it got."""

    def __init__(self, *options: str, seconds: str) -> None:
        self.port = free_port()
        self.connections: list[socket.socket] = []
        arguments = list(services.web(f"127.0.0.1:{self.port}"))
        arguments[arguments.index("meshes.wsgi")] = "tests.meshes.echoing:application"
        settings = {"MESHES_HEADER_SECONDS": seconds, "MESHES_BODY_SECONDS": seconds, "WEB_CONCURRENCY": "1"}
        environment = os.environ | settings | {"DJANGO_SETTINGS_MODULE": "meshes.settings"}
        self.process = subprocess.Popen([sys.executable, *arguments, *options], env=environment)
        eventually(self.answers, PATIENCE)

    def answers(self) -> bool:
        try:
            return self.ask(GET).startswith(b"HTTP/1.1 200 OK")
        except ConnectionRefusedError:
            return False

    def connect(self, begin: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        self.connections.append(connection)
        connection.sendall(begin)
        return connection

    def ask(self, request: bytes) -> bytes:
        """All that is answered until the server ends the connection, which is asked of it."""
        with self.connect(request.replace(b"Host: a", b"Host: a\r\nConnection: close", 1)) as connection:
            return read_all(connection)

    def end(self) -> None:
        for connection in self.connections:
            connection.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def patient():
    server = Server(seconds=NEVER)
    yield server
    server.end()


@pytest.fixture(scope="module")
def hasty():
    server = Server(seconds="1")
    yield server
    server.end()


def read_all(connection: socket.socket) -> bytes:
    received = bytearray()
    while data := connection.recv(65_536):
        received += data
    return bytes(received)


def told(answer: bytes) -> Any:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    return json.loads(body)


def problem(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: application/problem+json" in head
    assert b"Connection: close" in head
    for name, value in HEADERS.items():
        assert f"\r\n{name}: {value}".encode() in head
    assert b"\r\nServer:" not in head
    document = json.loads(body)
    assert int(head[9:12]) == document["status"]
    return document["status"], document["type"].removeprefix("urn:meshes:problem:")


# --- slow clients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", SLOW.values(), ids=SLOW)
def test_others_are_answered_beside_more_slow_senders_than_there_are_threads(patient, begin):
    slow = [patient.connect(begin) for _ in range(MANY)]
    assert told(patient.ask(GET))["target"] == "/x"
    for connection in slow:
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)


@pytest.mark.parametrize("begin", [begin for begin in SLOW.values() if begin])
def test_what_has_not_arrived_at_its_deadline_is_answered_408(hasty, begin):
    with hasty.connect(begin) as connection:
        assert problem(read_all(connection)) == (408, "request-timeout")


def test_a_connection_that_says_nothing_is_closed_without_a_word(hasty):
    with hasty.connect() as connection:
        assert read_all(connection) == b""


@pytest.mark.parametrize("begin", [SLOW["half a header"], SLOW["half a body"].replace(b": 10", b": 999999")])
def test_a_byte_now_and_then_does_not_put_the_deadline_off(hasty, begin):
    connection = hasty.connect(begin)
    ended = threading.Event()

    def drip() -> None:
        while not ended.wait(0.05):
            try:
                connection.send(b"x")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        assert problem(read_all(connection)) == (408, "request-timeout")
    finally:
        ended.set()
        dripping.join()


def test_others_are_answered_while_many_clients_do_not_take_their_answers(patient):
    for _ in range(MANY):
        patient.connect(GET_LARGE)
    assert told(patient.ask(GET))["target"] == "/x"
    assert len(patient.ask(GET_LARGE).partition(b"\r\n\r\n")[2]) == LARGE


def test_an_answer_that_is_not_taken_is_given_up_at_its_deadline(hasty):
    (worker,) = psutil.Process(hasty.process.pid).children()
    with hasty.connect(GET_LARGE) as connection:
        port = connection.getsockname()[1]

        def is_open() -> bool:
            return any(each.raddr and each.raddr.port == port for each in worker.net_connections("tcp"))

        eventually(is_open, PATIENCE)
        eventually(lambda: not is_open(), PATIENCE)


def test_more_connections_than_are_allowed_end_the_oldest_ones_that_wait():
    server = Server("--worker-connections", "20", seconds=NEVER)
    try:
        slow = [server.connect(SLOW["half a header"]) for _ in range(60)]
        assert told(server.ask(GET))["target"] == "/x"
        assert read_all(slow[0]) == b""
        slow[-1].sendall(b"ngth: 0\r\n\r\n")
        assert slow[-1].recv(15) == b"HTTP/1.1 200 OK"
    finally:
        server.end()


def test_the_largest_unfinished_request_gives_way_when_memory_is_short(monkeypatch):
    worker = buffering.BufferingWorker.__new__(buffering.BufferingWorker)
    closed = []
    worker.held_bytes = buffering.MEMORY_LIMIT + 1
    small, large = (type("Waiting", (), {"counted_bytes": size})() for size in (10, 20))
    worker.waiting = {buffering.Phase.BODY: {large: 0.0, small: 0.0}}
    monkeypatch.setattr(worker, "_close", closed.append)
    assert worker._close_largest()
    assert closed == [large]


def test_a_stop_answers_what_it_has_and_does_not_wait_for_slow_senders():
    server = Server(seconds=NEVER)
    try:
        for begin in SLOW.values():
            server.connect(begin)
        reading = server.connect(GET_LARGE)
        assert reading.recv(15) == b"HTTP/1.1 200 OK"
        server.process.send_signal(signal.SIGTERM)
        assert len(read_all(reading).partition(b"\r\n\r\n")[2]) == LARGE
        assert server.process.wait(PATIENCE) == 0
    finally:
        server.end()


# --- HTTP -----------------------------------------------------------------------------------------------------------


def test_a_body_arrives_whole_however_it_was_cut(patient):
    body = bytes(range(256)) * 400
    request = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with patient.connect() as connection:
        for start in range(0, len(request), 5_000):
            connection.sendall(request[start : start + 5_000])
        assert told(read_all(connection)) == {
            "method": "POST",
            "target": "/",
            "length": len(body),
            "digest": hashlib.sha256(body).hexdigest(),
        }


def test_a_chunked_body_arrives_whole_also_byte_by_byte(patient):
    request = (
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Trailer: t\r\n\r\n"
    )
    with patient.connect() as connection:
        for byte in request:
            connection.sendall(bytes([byte]))
        answer = told(read_all(connection))
    assert answer["digest"] == hashlib.sha256(b"abc0123456789").hexdigest()


def test_requests_in_one_piece_are_answered_in_order_on_one_connection(patient):
    first, second = (b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in (1, 2))
    post = b"POST /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
    with patient.connect(first + second + post) as connection:
        answer = read_all(connection)
    targets = [json.loads(part.partition(b"\r\n\r\n")[2])["target"] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
    assert targets == ["/1", "/2", "/3"]


def test_a_connection_serves_one_request_after_the_other(patient):
    with patient.connect() as connection:
        for _ in range(3):
            connection.sendall(GET)
            assert b"keep-alive" in connection.recv(65_536)


def test_a_body_is_asked_for_once_where_the_client_expects_it(patient):
    request = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    with patient.connect(request) as connection:
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hi")
        assert told(read_all(connection))["length"] == 2


def test_a_body_that_ends_early_is_answered_and_ends_the_connection(patient):
    with patient.connect(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf") as connection:
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    assert told(answer)["length"] == 4
    assert b"Connection: close" in answer


def test_a_body_that_is_announced_too_large_is_not_waited_for(patient):
    with patient.connect(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\nx") as connection:
        answer = read_all(connection)
    assert told(answer)["length"] == 1
    assert b"Connection: close" in answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: rot13\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\n\r\n", 417),
        (b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
    ],
    ids=range(15),
)
def test_what_is_no_http_is_refused_as_a_problem(patient, request_, status):
    with patient.connect(request_) as connection:
        assert problem(read_all(connection))[0] == status
    assert told(patient.ask(GET))["target"] == "/x"


# --- framing --------------------------------------------------------------------------------------------------------

REQUESTS = {
    "no body": GET,
    "length": b"POST / HTTP/1.1\r\ncontent-LENGTH:  5\r\nHost: a\r\n\r\nhello",
    "chunks": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, CHUNKED\r\n\r\n5\r\nhello\r\n1;a\r\n\n\r\n0\r\n\r\n",
    "trailers": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n0\r\n0\r\nA: b\r\nC: d\r\n\r\n",
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@given(data=st.data())
def test_a_request_is_whole_with_its_last_byte_and_not_before(request_, data):
    cuts = data.draw(st.sets(st.integers(1, len(request_) - 1)))
    framing, arrived = Framing(), bytearray()
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(request_)], strict=True):
        assert not framing.is_whole(arrived)
        arrived += request_[start:end]
    assert framing.is_whole(arrived)
    assert not framing.is_cut


@given(st.binary(max_size=300))
def test_no_bytes_make_the_framing_fail(data):
    framing, arrived = Framing(), bytearray()
    for byte in data:
        arrived.append(byte)
        framing.is_whole(arrived)


def test_small_chunks_are_followed_once():
    """Each is looked at when it comes; a look at all of them each time would take minutes."""
    framing = Framing()
    arrived = bytearray(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    began = time.process_time()
    for _ in range(100_000):
        arrived += b"1\r\nx\r\n"
        assert not framing.is_whole(arrived)
    assert framing._end == len(arrived)
    assert time.process_time() - began < 30
