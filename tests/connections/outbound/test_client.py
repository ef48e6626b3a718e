"""What goes over the wire, and what is read from it."""

import gzip
import os
import threading
import time

import pytest

from connections.messages import Request
from connections.outbound import send
from tests.connections.outbound.receivers import (
    LOOPBACK,
    OK,
    Receiver,
    answering,
    loopback_named,
    raises,
    read_request,
    receiver,
)


def post(server: Receiver, *headers: tuple[str, str], body: bytes = b"{}", **options):
    return send(Request("POST", server.url + "/hook", headers, body), policy=LOOPBACK, **options)


def answer(*pieces: bytes, **options):
    with receiver(answering(*pieces)) as server:
        return post(server, **options)


def test_a_post_on_the_wire_is_exactly_this():
    headers = (
        ("Content-Type", "application/json"),
        ("webhook-id", "msg_1"),
        ("X-Empty", ""),
        ("X-Two", "a"),
        ("X-Two", "b"),
    )
    with receiver(answering(OK)) as server:
        response = send(Request("POST", server.url + "/in?k=v", headers, b'{"a":1}'), policy=LOOPBACK)
    assert server.requests == [
        b"POST /in?k=v HTTP/1.1\r\n"
        b"Host: 127.0.0.1:%d\r\n"
        b"User-Agent: Meshes/0.1\r\n"
        b"Accept: */*\r\n"
        b"Content-Type: application/json\r\n"
        b"webhook-id: msg_1\r\n"
        b"X-Empty:\r\n"
        b"X-Two: a\r\n"
        b"X-Two: b\r\n"
        b"Content-Length: 7\r\n"
        b"\r\n"
        b'{"a":1}' % server.port
    ]
    assert (response.status, response.headers, response.body) == (200, (("Content-Length", "2"),), b"ok")
    assert (response.truncated, 0 <= response.duration_ms < 5000) == (False, True)


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [
        ("GET", b"", None),
        ("HEAD", b"", None),
        ("DELETE", b"", None),
        ("DELETE", b"gone", b"4"),
        ("POST", b"", b"0"),
        ("PUT", b"", b"0"),
        ("PATCH", b"x", b"1"),
        ("POST", bytes(range(256)) * 1024, b"262144"),
        ("POST", b"x" * 2_000_000, b"2000000"),
    ],
)
def test_each_method_is_sent_with_its_body_and_nothing_else(method, body, length):
    with receiver(answering(OK)) as server:
        response = send(Request(method, server.url, body=body), policy=LOOPBACK)
    head, _, sent = server.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert (lines[0], sent, response.status) == (f"{method} / HTTP/1.1".encode(), body, 200)
    assert [line.split(b": ")[1] for line in lines if line.startswith(b"Content-Length")] == (
        [length] if length else []
    )
    assert not [line for line in lines if line.lower().startswith((b"expect", b"content-type", b"accept-encoding"))]


def test_a_named_host_is_sent_without_its_final_dot():
    with receiver(answering(OK)) as server:
        send(Request("GET", f"http://Hooks.Example.test.:{server.port}/"), policy=loopback_named("127.0.0.1"))
    assert f"Host: hooks.example.test:{server.port}".encode() in server.requests[0].split(b"\r\n")


def test_the_path_is_sent_as_it_was_given():
    with receiver(answering(OK)) as server:
        send(Request("GET", f"{server.url}/a/../%2E/b?c=\u00fc#d"), policy=LOOPBACK)
    assert server.requests[0].startswith(b"GET /a/../%2E/b?c=%C3%BC HTTP/1.1\r\n")


def test_an_ipv6_literal_is_dialled():
    with receiver(answering(OK), address="::1") as server:
        assert send(Request("GET", f"http://[::1]:{server.port}/"), policy=LOOPBACK).status == 200
    assert f"Host: [::1]:{server.port}".encode() in server.requests[0].split(b"\r\n")


def test_a_caller_may_bring_the_user_agent():
    with receiver(answering(OK)) as server:
        post(server, ("User-Agent", "Acme/2"))
    assert server.requests[0].count(b"User-Agent") == 1
    assert b"User-Agent: Acme/2\r\n" in server.requests[0]


@pytest.mark.parametrize(
    "status", [200, 201, 204, 301, 302, 304, 307, 400, 401, 407, 410, 413, 429, 500, 503, 599, 999]
)
def test_every_status_is_an_answer(status):
    assert answer(b"HTTP/1.1 %d Word\r\n\r\n" % status).status == status


def test_headers_come_in_order_as_latin_1_text():
    response = answer(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nx-b:\xe9\r\nSet-Cookie: b=2\r\nX-Folded: one\r\n two\r\n",
        b"X-None:\r\nContent-Length: 0\r\n\r\n",
    )
    assert response.headers == (
        ("Set-Cookie", "a=1"),
        ("x-b", "é"),
        ("Set-Cookie", "b=2"),
        ("X-Folded", "one two"),
        ("X-None", ""),
        ("Content-Length", "0"),
    )


@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_the_answer_is_the_one_after_the_interim_ones(interim):
    response = answer(b"HTTP/1.1 " + interim + b"\r\nX-Early: 1\r\n\r\n", OK)
    assert (response.status, response.headers, response.body) == (200, (("Content-Length", "2"),), b"ok")


def test_trailers_are_no_headers():
    response = answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"
    )
    assert (response.body, dict(response.headers).get("X-T")) == (b"ok", None)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_ends_at_its_headers(status):
    def handle(connection, server):
        read_request(connection, server)
        connection.sendall(b"HTTP/1.1 %d X\r\n\r\n" % status)
        server.stopping.wait(30)

    with receiver(handle) as server:
        started = time.monotonic()
        response = post(server)
    assert (response.status, response.body) == (status, b"")
    assert time.monotonic() - started < 2


def test_an_answer_to_head_has_no_body():
    with receiver(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")) as server:
        response = send(Request("HEAD", server.url), policy=LOOPBACK)
    assert (response.status, response.body, response.truncated) == (200, b"", False)


def test_a_body_without_a_length_ends_with_the_connection():
    assert answer(b"HTTP/1.0 200 OK\r\n\r\nhel", b"lo").body == b"hello"


@pytest.mark.parametrize(("size", "truncated"), [(65535, False), (65536, False), (65537, True), (5_000_000, True)])
def test_a_body_is_read_to_the_limit_and_the_answer_counts(size, truncated):
    response = answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, b"a" * size)
    assert (response.status, response.body, response.truncated) == (200, b"a" * min(size, 65536), truncated)


def test_a_body_without_end_ends_at_the_limit():
    def flood(connection, server):
        read_request(connection, server)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.stopping.is_set():
            connection.sendall(b"a" * 65536)

    with receiver(flood) as server:
        response = post(server, body_limit=1000)
    assert (response.status, response.body, response.truncated) == (200, b"a" * 1000, True)


def test_a_compressed_body_is_not_decompressed():
    bomb = gzip.compress(b"\0" * 10_000_000)
    response = answer(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb), bomb)
    assert (response.body, response.truncated) == (bomb, False)


def test_a_compressed_transfer_that_nobody_asked_for_is_no_answer():
    bomb = gzip.compress(b"\0" * 10_000_000)
    with raises("connection_lost") as caught:
        answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", bomb)
    assert (caught.value.sent, caught.value.status) == (True, 200)


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"a" * 70_000 + b"\r\n",
        b"X: " + b"a" * 250_000 + b"\r\n",
        b"X: a\r\n" * 12_000,
    ],
)
def test_headers_over_the_limit_are_an_error(head):
    with raises("response_too_large") as caught:
        answer(b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 0\r\n\r\n")
    assert (caught.value.sent, caught.value.status) == (True, 200)
    assert caught.value.message == "The headers of the answer are larger than 64 KB."


def test_headers_below_the_limit_are_read():
    response = answer(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n")
    assert response.headers[0] == ("X", "a" * 60_000)


def test_interim_answers_without_end_count_as_headers():
    with raises("response_too_large") as caught:
        answer(b"HTTP/1.1 100 Continue\r\n\r\n" * 4000)
    assert (caught.value.sent, caught.value.status) == (True, None)


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "TE", "Trailer", "Upgrade"),
        *("Expect", "Proxy-Connection", "Proxy-Authorization", "Accept-Encoding", "hOsT"),
    ],
)
def test_headers_of_the_connection_are_not_the_callers(name):
    with receiver(answering(OK)) as server, raises("invalid_request") as caught:
        post(server, (name, "1"))
    assert caught.value.message == f"The header {name} cannot be set."
    assert server.accepted == 0


@pytest.mark.parametrize(
    "header",
    [
        ("", "x"),
        ("X Y", "x"),
        ("X:", "x"),
        ("X\r\nY", "x"),
        ("X\0", "x"),
        ("Ä", "x"),
        ("X", "a\r\nEvil: 1"),
        ("X", "a\nb"),
        ("X", "a\rb"),
        ("X", "a\0b"),
        ("X", "a\x7f"),
        ("X", "é"),
        ("X", " a"),
        ("X", "a "),
        ("X", "\t"),
        ("X", "a\n"),
        ("X", "a" * 40_000),
        ("X", None),
        ("X", b"a"),
    ],
)
def test_a_header_that_breaks_the_form_is_refused(header):
    with receiver(answering(OK)) as server, raises("invalid_request") as caught:
        post(server, header)
    assert "Evil" not in caught.value.message
    assert server.accepted == 0


def test_a_header_may_have_tabs_and_spaces_inside():
    with receiver(answering(OK)) as server:
        post(server, ("X", "a \t~b"))
    assert b"X: a \t~b\r\n" in server.requests[0]


@pytest.mark.parametrize(
    "request_",
    [Request("TRACE", "http://a.test"), Request("get", "http://a.test"), Request("CONNECT", "http://a.test")],
)
def test_other_methods_are_refused(request_):
    with raises("invalid_request", match="method"):
        send(request_, policy=LOOPBACK)


@pytest.mark.parametrize(
    "request_", [Request("GET", "http://a.test", body=b"x"), Request("HEAD", "http://a.test", body=b"x")]
)
def test_a_body_is_refused_where_it_has_no_meaning(request_):
    with raises("invalid_request", match="has no body"):
        send(request_, policy=LOOPBACK)


def test_a_request_and_its_answer_print_no_secrets():
    request = Request("POST", "https://a.test/s3cret", (("Authorization", "s3cret"),), b"s3cret")
    assert repr(request) == "Request(method='POST')"
    assert "s3cret" not in repr(answer(b"HTTP/1.1 200 OK\r\nX: s3cret\r\n\r\ns3cret"))


def test_nothing_of_one_request_is_left_for_the_next():
    """One thread uses one handle again and again; here after the richest of requests comes the barest."""
    with receiver(answering(b"HTTP/1.1 200 OK\r\nSet-Cookie: id=1; Path=/\r\nContent-Length: 0\r\n\r\n")) as server:
        url = f"http://a.test:{server.port}/"
        rich = Request("PUT", url, (("Authorization", "Bearer s3cret"), ("User-Agent", "Acme")), b"s3cret")
        send(rich, policy=loopback_named("127.0.0.1"))
        for _ in range(3):
            send(Request("GET", url), policy=loopback_named("127.0.0.1"))
    bare = b"GET / HTTP/1.1\r\nHost: a.test:%d\r\nUser-Agent: Meshes/0.1\r\nAccept: */*\r\n\r\n" % server.port
    assert server.requests[1:] == [bare, bare, bare]
    assert server.accepted == 4


def test_64_sends_at_once_each_get_their_own_answer():
    """The receiver answers none before all 64 are there, and then with what each has sent."""
    together = threading.Barrier(64)

    def echo(connection, server):
        body = read_request(connection, server).partition(b"\r\n\r\n")[2]
        together.wait(20)
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Echo: %s\r\nContent-Length: %d\r\n\r\n%s" % (body, len(body), body))

    answers: dict[int, tuple[str, bytes]] = {}

    def call(number: int) -> None:
        request = Request("POST", f"http://r{number}.test:{server.port}/", body=b"%d" % number)
        response = send(request, policy=loopback_named("127.0.0.1"), deadline_seconds=20)
        answers[number] = (dict(response.headers)["X-Echo"], response.body)

    with receiver(echo) as server:
        callers = [threading.Thread(target=call, args=(number,)) for number in range(64)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(30)
    assert answers == {number: (str(number), b"%d" % number) for number in range(64)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking with threads is what is tested
def test_a_forked_child_sends_with_handles_of_its_own():
    with receiver(answering(OK)) as server:
        request = Request("GET", f"http://a.test:{server.port}/")
        send(request, policy=loopback_named("127.0.0.1"))  # leaves an idle handle in the parent
        child = os.fork()
        if child == 0:
            status = 0
            try:
                status = send(request, policy=loopback_named("127.0.0.1")).status
            finally:
                os._exit(0 if status == 200 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert send(request, policy=loopback_named("127.0.0.1")).status == 200
    assert server.accepted == 3
