"""The web server as it is started, in a process of its own, with the database of the test."""

import os
import socket
import threading
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest
import requests
from django.db import connection as database
from django.db import transaction

from meshes import services
from meshes.dev.embedded import free_port
from meshes.dev.stack import LOOPBACK
from tests.factories import make_connection, make_workspace
from tests.polling import eventually, patient
from tests.processes import serving
from tests.workspaces.callers import issue

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_client")]

TESTS = 40
SEARCHES = 12
PLACES = services.WEB_THREADS // 4


@pytest.fixture
def web():
    """The address of one process, which delivers to this machine."""
    port = free_port()
    server = urlsplit(os.environ["DATABASE_URL"])
    url = urlunsplit(server._replace(path=f"/{database.settings_dict['NAME']}"))
    environment = LOOPBACK | {"DATABASE_URL": url, "WEB_CONCURRENCY": "1"}
    with serving(services.web(f"127.0.0.1:{port}"), port, "/healthz", environment) as address:
        yield address


@contextmanager
def hanging_receiver():
    """A port that takes every connection and never answers; the connections that came."""
    came: list[socket.socket] = []
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0), backlog=TESTS) as listener:

        def accept():
            while True:
                try:
                    came.append(stack.enter_context(listener.accept()[0]))
                except OSError:
                    return

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()[1], came
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()


def test_health_is_answered_within_a_second_while_forty_tests_of_connections_hang(web):
    login = {"Authorization": f"Bearer {issue().key}"}
    answers = []

    def ask_for_test(connection):
        path = f"{web}/api/v1/connections/{connection}/test"
        answers.append(requests.post(path, json={}, headers=login, timeout=patient(120)))

    with hanging_receiver() as (port, came):
        hooks = [make_connection(make_workspace(), url=f"http://127.0.0.1:{port}/hook") for _ in range(TESTS)]
        threads = [threading.Thread(target=ask_for_test, args=[hook.public_id]) for hook in hooks]
        for thread in threads:
            thread.start()
        eventually(lambda: len(came) == PLACES and len(answers) == TESTS - PLACES, 30)
        for _ in range(20):
            assert requests.get(f"{web}/healthz", timeout=patient(1)).json() == {"status": "ok"}
        assert {(answer.status_code, "Retry-After" in answer.headers) for answer in answers} == {(503, True)}
        assert len(came) == PLACES  # all of them still hang
        for held in came:
            held.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
    assert len(answers) == TESTS


def test_events_are_taken_while_the_searches_of_a_key_hang(web):
    """Two hang in PostgreSQL; the others are told to come back, and hold no thread."""
    login = {"Authorization": f"Bearer {issue().key}"}
    event = {"workspace": make_workspace().public_id, "event": "lead.created", "payload": {}}
    answers = []

    def search():
        answers.append(requests.get(f"{web}/api/v1/deliveries?outcome=retry", headers=login, timeout=patient(60)))

    threads = [threading.Thread(target=search) for _ in range(SEARCHES)]
    with transaction.atomic(), database.cursor() as cursor:
        cursor.execute("LOCK TABLE rules IN ACCESS EXCLUSIVE MODE")  # which ingest does not read
        for thread in threads:
            thread.start()
        eventually(lambda: len(answers) >= SEARCHES - 2, 60)
        assert {(answer.status_code, answer.headers["Retry-After"]) for answer in answers} == {(429, "2")}
        for _ in range(20):
            posted = requests.post(f"{web}/api/v1/events", json=event, headers=login, timeout=patient(5))
            assert posted.status_code == 202
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers].count(429) == SEARCHES - 2
    assert requests.get(f"{web}/api/v1/deliveries?outcome=retry", headers=login, timeout=patient(10)).status_code == 200


def status_and_type(web, method, path):
    """By hand: clients write methods in capitals."""
    address = urlsplit(web)
    with socket.create_connection((address.hostname, address.port), timeout=patient(10)) as client:
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        head, _, _ = client.makefile("rb").read().partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    return int(head.split()[1]), fields["Content-Type"]


def test_methods_that_nothing_has_are_told_from_malformed_ones(web):
    plain, problem = "text/plain; charset=utf-8", "application/problem+json"
    for method in ("foo", "get", "FOO", "X" * 30, "TRACE"):
        assert status_and_type(web, method, "/admin/") == (405, plain)
        assert status_and_type(web, method, "/healthz") == (405, problem)
        assert status_and_type(web, method, "/api/docs") == (405, problem)
        assert status_and_type(web, method, "/api/v1/events") == (401, problem)
    assert status_and_type(web, "CONNECT", "/healthz") == (405, problem)
    assert status_and_type(web, "F(O", "/admin/") == (400, problem)
