"""The total deadline, and whether the receiver may have acted when a request fails."""

import errno
import logging
import socket
import struct
import subprocess
import sys
import threading
import time

import pycurl
import pytest

from connections.messages import LocalError, NetworkError, Request
from connections.outbound import client, send
from meshes.environment import PROJECT
from tests.connections.outbound.receivers import (
    LOOPBACK,
    OK,
    answering,
    closed_port,
    dripping,
    hanging,
    loopback_named,
    raises,
    read_request,
    receiver,
)

DEADLINE = 0.4


def fail(handle, *, body: bytes = b"{}", deadline: float = DEADLINE) -> NetworkError:
    with receiver(handle) as server, pytest.raises(NetworkError) as caught:
        send(Request("POST", server.url, body=body), deadline_seconds=deadline, policy=LOOPBACK)
    return caught.value


@pytest.mark.parametrize(
    ("handle", "status"),
    [
        (hanging, None),
        (dripping(b"", b""), None),
        (dripping(b"HTTP/1.1 20", b""), None),
        (dripping(b"HTTP/1.1 200 OK\r\nX-Drip: ", b"x"), 200),
        (dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), 200),
        (dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), None),
        (dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b"x"), 200),
        (dripping(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), 500),
    ],
    ids=["silence", "silence after the request", "status line", "header", "headers", "interim", "body", "chunks"],
)
def test_a_slow_answer_ends_at_the_deadline_and_was_sent(handle, status):
    started = time.monotonic()
    error = fail(handle)
    assert DEADLINE - 0.05 <= time.monotonic() - started < DEADLINE + 1
    assert (error.cause, error.sent, error.status) == ("timeout", True, status)
    assert "in the time allowed" in error.message


def test_a_receiver_that_never_reads_ends_at_the_deadline():
    error = fail(hanging, body=b"x" * 20_000_000)
    assert (error.cause, error.sent) == ("timeout", True)


def test_a_backlog_that_is_full_ends_at_the_deadline_unsent():
    """Nobody accepts: the listener's queue is filled first, so that the next connection gets no answer to its SYN."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        request = Request("POST", f"http://127.0.0.1:{address[1]}/", body=b"{}")
        with pytest.raises(NetworkError) as caught:
            send(request, deadline_seconds=DEADLINE, policy=LOOPBACK)
        for one in waiting:
            one.close()
    assert (caught.value.cause, caught.value.sent) == ("timeout", False)
    assert caught.value.message == "No connection could be made in the time allowed."


def test_a_hung_lookup_is_inside_the_deadline():
    release = threading.Event()

    def find(host: str) -> list[str]:
        release.wait(30)
        return ["127.0.0.1"]

    started = time.monotonic()
    with raises("dns_timeout") as caught:
        send(
            Request("POST", "http://a.test/"),
            deadline_seconds=DEADLINE,
            policy=loopback_named(lookup=find),
        )
    release.set()
    assert DEADLINE <= time.monotonic() - started < DEADLINE + 1
    assert caught.value.sent is False


def test_a_slow_lookup_leaves_the_rest_only_what_remains():
    def find(host: str) -> list[str]:
        threading.Event().wait(0.3)
        return ["127.0.0.1"]

    with receiver(hanging) as server:
        started = time.monotonic()
        with raises("timeout") as caught:
            send(
                Request("POST", f"http://a.test:{server.port}/"),
                deadline_seconds=0.6,
                policy=loopback_named(lookup=find),
            )
        assert time.monotonic() - started < 0.6 + 0.25
    assert caught.value.sent is True


def test_a_deadline_is_cut_to_the_greatest(monkeypatch):
    monkeypatch.setattr(client, "MAX_DEADLINE_SECONDS", 0.2)
    started = time.monotonic()
    assert fail(hanging, deadline=60).cause == "timeout"
    assert time.monotonic() - started < 2


def test_a_receiver_that_keeps_the_connection_open_costs_no_time():
    def handle(connection, server):
        read_request(connection, server)
        connection.sendall(OK)
        server.stopping.wait(30)

    with receiver(handle) as server:
        response = send(Request("POST", server.url), deadline_seconds=10, policy=LOOPBACK)
    assert response.duration_ms < 2000


def test_a_closed_port_is_unsent():
    with raises("unreachable") as caught:
        send(Request("POST", f"http://127.0.0.1:{closed_port()}/"), policy=LOOPBACK)
    assert caught.value.sent is False
    assert caught.value.message == "The server could not be reached: it accepts no connection."


def test_the_next_address_is_tried_when_one_refuses():
    with receiver(answering(OK)) as server:
        request = Request("POST", f"http://a.test:{server.port}/")
        assert send(request, policy=loopback_named("::1", "127.0.0.2", "127.0.0.1")).status == 200


def test_a_name_without_an_address_is_unsent():
    def find(host: str) -> list[str]:
        raise OSError

    with raises("unresolved") as caught:
        send(Request("POST", "http://a.test/"), policy=loopback_named(lookup=find))
    assert (caught.value.sent, caught.value.message) == (False, "The host name could not be found.")


def reset(connection, server):
    read_request(connection, server)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("handle", "status", "words"),
    [
        (answering(), None, "The server closed the connection without an answer."),
        (reset, None, "The server closed the connection without an answer."),
        (lambda c, s: None, None, "The server closed the connection without an answer."),
        (answering(b"SSH-2.0-OpenSSH_9.6\r\n"), None, "The server's answer was not valid HTTP."),
        (answering(b"<html>hello</html>"), None, "The server's answer was not valid HTTP."),
        (answering(bytes(range(256)) * 50), None, "The server's answer was not valid HTTP."),
        (answering(b"HTTP/1.1 abc OK\r\n\r\n"), None, "The server's answer was not valid HTTP."),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), 200, None),
        (answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc"), 200, None),
        (answering(b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc"), 503, None),
        (answering(b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n"), 200, None),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), 200, None),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nab"), 200, None),
    ],
)
def test_an_answer_that_breaks_off_or_is_not_http_was_sent(handle, status, words):
    error = fail(handle, deadline=5)
    broke_off = f"The server began to answer with status {status}, but the answer broke off or was not valid HTTP."
    assert (error.cause, error.sent, error.status) == ("connection_lost", True, status)
    assert error.message == (words or broke_off)


def test_an_early_answer_to_a_large_upload_is_read():
    def handle(connection, server):
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        while connection.recv(65536):
            pass

    with receiver(handle) as server:
        assert send(Request("POST", server.url, body=b"x" * 4_000_000), policy=LOOPBACK).status == 413


def test_a_missing_file_of_authorities_is_our_fault(caplog):
    with receiver(hanging) as server, caplog.at_level(logging.ERROR), pytest.raises(LocalError) as caught:
        send(
            Request("POST", f"https://a.test:{server.port}/s3cret"),
            policy=loopback_named("127.0.0.1", ca_file="/nowhere/ca.pem"),
        )
    assert caught.value.message == "The request could not be sent, through no fault of the receiver."
    assert not isinstance(caught.value, NetworkError)
    assert "/nowhere/ca.pem" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_running_out_of_file_descriptors_is_our_fault(monkeypatch, number):
    def refuse(*args: object) -> socket.socket:
        raise OSError(number, "Too many open files")

    with receiver(answering(OK)) as server:
        monkeypatch.setattr("connections.outbound.client.socket.socket", refuse)
        with pytest.raises(LocalError):
            send(Request("POST", server.url), policy=LOOPBACK)
        monkeypatch.undo()
        assert send(Request("POST", server.url), policy=LOOPBACK).status == 200


def test_without_a_handle_of_libcurl_it_is_our_fault(monkeypatch):
    def refuse() -> pycurl.Curl:
        raise pycurl.error(pycurl.E_FAILED_INIT, "no memory")

    monkeypatch.setattr("connections.outbound.client._pool", client.Pool())
    monkeypatch.setattr("connections.outbound.client.pycurl.Curl", refuse)
    with receiver(answering(OK)) as server, pytest.raises(LocalError):
        send(Request("POST", server.url), policy=LOOPBACK)
    assert server.accepted == 0


STARVED = """
import os, resource, sys
from connections.messages import LocalError, Request
from connections.outbound import send
from tests.connections.outbound.receivers import LOOPBACK
url, left = sys.argv[1], int(sys.argv[2])
send(Request("GET", url), policy=LOOPBACK)  # with all that is loaded on first use
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for each in held[:left]:
    os.close(each)
try:
    print(send(Request("GET", url), policy=LOOPBACK).status)
except LocalError:
    print("ours")
"""


def test_with_few_file_descriptors_left_it_is_our_fault_or_it_works():
    """pycurl needs a second descriptor for each socket; with one left it told libcurl no more than that."""
    with receiver(answering(OK)) as server:
        outcomes = []
        for left in range(5):
            command = [sys.executable, "-c", STARVED, server.url, str(left)]
            child = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT)
            outcomes.append(child.stdout.strip())
    assert outcomes[:2] == ["ours", "ours"]
    assert set(outcomes) == {"ours", "200"}
    assert outcomes[-1] == "200"
