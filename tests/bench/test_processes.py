"""The receivers and the load generator, against each other on loopback."""

import socket
import threading

import pytest

from bench.load import FIRST_NUMBER, Answers, Load, Spec, Template
from bench.receiver import Receiver, parse
from bench.systems import Tenant, bulk, single
from meshes.dev.embedded import free_port


@pytest.fixture(scope="module")
def port():
    chosen = free_port()
    threading.Thread(target=Receiver(chosen).serve, daemon=True).start()
    return chosen


def template(path, events=1):
    parts = ['{"seq":', *[',"seq":'] * (events - 1), "}"]
    length = sum(map(len, parts)) + 10 * events
    return Template(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n", parts)


def ask(port, path):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        return client.recv(100_000).partition(b"\r\n\r\n")[2]


def test_a_request_is_parsed_once_it_is_whole():
    whole = b"POST /ok/7 HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcGET"
    assert parse(whole) == (b"/ok/7", b"abc", b"GET")
    assert parse(whole[:-5]) is None


def test_a_closed_loop_posts_so_many_and_every_one_arrives(port):
    ask(port, "/control/reset")
    answers = Load(Spec(port, [template("/ok/3")], FIRST_NUMBER, connections=2, seconds=10, count=50)).run()
    assert list(answers.status) == [200] * 50
    assert sorted(answers.number) == [FIRST_NUMBER + index for index in range(50)]
    assert ask(port, "/control/count") == b"50"


def test_an_open_loop_does_not_wait_for_answers(port):
    schedule = [(0.0, 0), (0.0, 0), (0.01, 1)]
    answers = Load(
        Spec(
            port, [template("/hung/1"), template("/429/2")], FIRST_NUMBER, connections=1, seconds=0.5, schedule=schedule
        )
    ).run()
    assert list(answers.status) == [0, 0, 429]
    assert answers.due[2] - answers.due[0] == pytest.approx(0.01)


def test_each_event_of_a_bulk_request_has_a_number_of_its_own(port):
    answers = Load(Spec(port, [template("/ok/1", 3)], FIRST_NUMBER, connections=1, seconds=5, count=2)).run()
    assert list(answers.number) == [FIRST_NUMBER, FIRST_NUMBER + 3]


def test_specification_and_answers_survive_their_files(tmp_path):
    spec = Spec(1, [template("/ok/1")], FIRST_NUMBER, 2, 3.0, schedule=[[0.5, 0]])
    spec.write(tmp_path / "spec")
    assert Spec.read(tmp_path / "spec") == spec
    answers = Answers()
    answers.add(1.5, 2, 3)
    answers.write(tmp_path / "answers")
    assert Answers.read(tmp_path / "answers") == answers


def test_the_length_of_a_request_is_that_of_its_body_with_ten_digits():
    class System:
        port, key = 80, "k"

    for made in (single(System(), Tenant("t", ())), bulk(System(), Tenant("t", ()), 4)):
        body = f"{FIRST_NUMBER}".join(made.parts)
        assert f"Content-Length: {len(body)}\r\n" in made.head
