"""Sockets that are kept for the next request, and for whom they are not."""

import gc
import os
import select
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from connections.messages import Request
from connections.outbound import Policy, client, send
from tests.connections.outbound.receivers import LOOPBACK, OK, Authority, loopback_named, raises, read_request, receiver
from tests.polling import eventually

OWNER = ("workspace", "connection")


@pytest.fixture(autouse=True)
def _handles_of_its_own(monkeypatch):
    monkeypatch.setattr(client, "_pool", client.Pool())


def serving(answer=OK, most=100):
    """Answer request after request on one connection, `most` of them; then close."""

    def handle(connection, server):
        for _ in range(most):
            if not read_request(connection, server):
                return
            connection.sendall(answer)

    return handle


def post(url, owner=OWNER, policy=LOOPBACK):
    return send(Request("POST", url, body=b"{}"), policy=policy, pool_key=owner)


def count_kept() -> int:
    return sum(len(handles) for handles in client._pool._kept.values())


def wait_for_the_end(patience=5):
    """Until the receiver's end of the connection has reached the socket that is kept."""
    (handles,) = client._pool._kept.values()
    poll = select.poll()
    poll.register(handles[0].kept.socket, select.POLLRDHUP)
    assert poll.poll(patience * 1000)


def test_requests_of_one_owner_share_a_socket():
    with receiver(serving()) as server:
        assert [post(server.url).status for _ in range(10)] == [200] * 10
        assert (server.accepted, len(server.requests)) == (1, 10)
        assert count_kept() == 1


@pytest.mark.parametrize("others", [("workspace", "other"), ("other", "connection")])
def test_no_other_owner_gets_it(others):
    with receiver(serving()) as server:
        for owner in (OWNER, others, OWNER, others):
            post(server.url, owner)
        assert server.accepted == 2


def test_without_an_owner_nothing_is_kept():
    with receiver(serving()) as server:
        for _ in range(3):
            post(server.url, None)
        assert server.accepted == 3
        assert count_kept() == 0


def test_another_port_is_another_place():
    with receiver(serving()) as first, receiver(serving()) as second:
        for server in (first, second, first, second):
            post(server.url)
        assert (first.accepted, second.accepted) == (1, 1)


def test_requests_at_once_have_a_socket_each():
    def slowly(connection, server):
        while read_request(connection, server):
            eventually(lambda: len(server.requests) >= 8)
            connection.sendall(OK)

    with receiver(slowly) as server, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: post(server.url), range(8)))
        list(pool.map(lambda _: post(server.url), range(8)))
        assert server.accepted == 8


def test_a_new_answer_of_the_dns_counts_from_the_next_dial():
    asked = []
    policy = loopback_named(lookup=lambda host: asked.append(host) or ["127.0.0.1"])
    moved = replace(policy, lookup=lambda host: ["10.0.0.1"])
    with receiver(serving(most=3)) as first:
        url = f"http://a.test:{first.port}/"
        post(url, policy=policy)
        post(url, policy=policy)
        post(url, policy=moved)
        assert (asked, first.accepted) == (["a.test"], 1)
        wait_for_the_end()
        with raises("address_refused"):
            post(url, policy=moved)
        assert (first.accepted, len(first.requests)) == (1, 3)


def test_a_policy_that_was_narrowed_forbids_the_socket_that_is_kept():
    with receiver(serving()) as server:
        url = f"http://a.test:{server.port}/"
        post(url, policy=loopback_named("127.0.0.1"))
        strict = Policy(allow_http=True, ports=None, lookup=lambda host: ["127.0.0.1"])
        with raises("address_refused"):
            post(url, policy=strict)
        assert count_kept() == 0
        post(url, policy=loopback_named("127.0.0.1"))
        assert (server.accepted, len(server.requests)) == (2, 2)


def test_a_policy_without_http_forbids_the_socket_that_is_kept():
    with receiver(serving()) as server:
        post(server.url)
        with raises("address_refused"):
            post(server.url, policy=replace(LOOPBACK, allow_http=False))
        assert len(server.requests) == 1


def test_a_socket_that_the_receiver_closed_is_replaced_before_anything_is_sent():
    with receiver(serving(most=1)) as server:
        post(server.url)
        wait_for_the_end()
        assert post(server.url).status == 200
        assert (server.accepted, len(server.requests)) == (2, 2)


def test_nothing_is_kept_for_a_receiver_that_closes_unannounced():
    with receiver(serving(most=1)) as server:
        post(server.url)
        wait_for_the_end()
        assert [post(server.url).status for _ in range(20)] == [200] * 20
        assert count_kept() == 0
        post(server.url, "another")
        assert count_kept() == 1


def test_a_request_that_left_on_a_kept_socket_and_was_not_answered_is_not_sent_again():
    def deaf_to_the_second(connection, server):
        read_request(connection, server)
        connection.sendall(OK)
        read_request(connection, server)

    with receiver(deaf_to_the_second) as server:
        post(server.url)
        with raises("connection_lost") as caught:
            post(server.url)
        assert caught.value.sent is True
        assert (server.accepted, len(server.requests)) == (1, 2)
        assert post(server.url).status == 200
        assert count_kept() == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_a_receiver_that_keeps_nothing_is_believed(answer):
    with receiver(serving(answer)) as server:
        for _ in range(2):
            post(server.url)
        assert server.accepted == 2
        assert count_kept() == 0


def test_an_answer_that_was_cut_off_leaves_no_socket():
    with receiver(serving(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90000)) as server:
        assert post(server.url).truncated
        assert count_kept() == 0


def test_an_idle_socket_is_closed_in_time():
    ended = []

    def handle(connection, server):
        serving(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2\r\nContent-Length: 2\r\n\r\nok")(connection, server)
        ended.append(time.monotonic())

    with receiver(handle) as server:
        post(server.url)
        began = time.monotonic()
        assert count_kept() == 1
        eventually(lambda: ended, 5)
        assert ended[0] - began < 4
        assert count_kept() == 0
        assert post(server.url).status == 200


def test_no_more_sockets_are_kept_than_allowed(monkeypatch):
    monkeypatch.setattr(client, "_pool", client.Pool(max_handles=3))
    with receiver(serving()) as server:
        for number in range(6):
            post(server.url, number)
        assert count_kept() <= 3
        for number in range(5, 3, -1):  # the latest are still there
            post(server.url, number)
        assert server.accepted == 6


def test_one_request_after_another_needs_one_handle():
    with receiver(serving()) as server:
        for _ in range(20):
            post(server.url)
        assert len(client._pool._idle) == 1


def test_no_file_descriptor_is_left():
    def count():
        return len(os.listdir("/proc/self/fd"))

    with receiver(serving()) as server:
        post(server.url)
        eventually(lambda: server.accepted == 1)
        gc.collect()  # what tests before have left would be closed meanwhile
        before = count()
        for _ in range(50):
            post(server.url)
        assert count() <= before


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def test_tls_is_spoken_once_for_many_requests_and_resumed_for_the_same_owner_alone(authority):
    context = authority.server("a.test")
    resumed = []

    def handle(connection, server):
        assert isinstance(connection, ssl.SSLSocket)
        resumed.append(connection.session_reused)
        serving(most=2)(connection, server)

    policy = loopback_named("127.0.0.1", ca_file=authority.ca_file)
    with receiver(handle, tls=context) as server:
        url = f"https://a.test:{server.port}/"
        for number in range(3):
            assert post(url, policy=policy).status == 200
            if number == 1:
                wait_for_the_end()
        assert resumed == [False, True]


def test_a_handle_that_changes_hands_resumes_no_session_of_the_other(authority):
    context = authority.server("a.test")
    resumed = []

    def handle(connection, server):
        resumed.append(connection.session_reused)
        serving(most=1)(connection, server)

    policy = loopback_named("127.0.0.1", ca_file=authority.ca_file)
    with receiver(handle, tls=context) as server:
        for owner in (OWNER, ("workspace", "other"), OWNER, ("workspace", "other")):
            post(f"https://a.test:{server.port}/", owner, policy=policy)
            wait_for_the_end()
            client._pool._close_overdue(time.monotonic() + 60)
    assert len(client._pool._idle) == 1
    assert resumed == [False, False, True, False]


def test_a_forked_child_leaves_the_sockets_of_its_parent_alone():
    with receiver(serving()) as server:
        post(server.url)
        left, right = socket.socketpair()
        child = os.fork()
        if child == 0:
            left.send(bytes([count_kept()]))
            os._exit(0)
        os.waitpid(child, 0)
        assert right.recv(1) == b"\x00"
        left.close()
        right.close()
        post(server.url)
        assert server.accepted == 1
