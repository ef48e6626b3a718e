"""What all servers share, shown on a vendor made for it."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from meshes.dev.vendors.messages import Answer, Call, Reason
from meshes.dev.vendors.server import VendorServer, route
from tests.meshes.dev.vendors.calling import call
from tests.polling import eventually


@dataclass
class Loft:
    messages: list[Any] = field(default_factory=list)


class Pigeon(VendorServer[Loft]):
    slug, account, developer_token, new_account = "pigeon", "loft-1", "pigeon-token", Loft
    error_codes = {reason: reason.name.lower() for reason in Reason}
    rate_headers = {"x-remaining": "{remaining}"}
    faults = {"STORM": Answer.text("storm", 503)}

    @classmethod
    def error(cls, status: int, code: Any, message: str, **more: Any) -> Answer:
        return Answer.of({"why": code}, status)

    @route("POST", "/lofts/{loft}/messages")
    def send(self, call: Call, loft: str) -> Answer:
        self.state_of(call).messages.append((loft, self.read_object(call)))
        return Answer.of({"id": 1}, 201)

    @route("POST", "/hooks/{secret}", "url")
    def hook(self, call: Call, secret: str) -> Answer:
        return Answer.text("ok")

    @route("GET", "/status", "open")
    def status(self, call: Call) -> Answer:
        return Answer(204)

    @route("GET", "/bug")
    def bug(self, call: Call) -> Answer:
        raise LookupError("a bug of the server")


@pytest.fixture
def pigeon() -> Iterator[Pigeon]:
    with Pigeon() as server:
        yield server


def send(pigeon: Pigeon, **options: Any) -> requests.Response:
    return call(pigeon, "POST", "/lofts/north%2Feast/messages", {"text": "é"}, **options)


def test_a_request_is_routed_by_its_decoded_segments_and_recorded(pigeon):
    answer = send(pigeon, params={"a": "1"}, headers={"X-Own": "2"})
    assert (answer.status_code, answer.json()) == (201, {"id": 1})
    assert pigeon.state.messages == [("north/east", {"text": "é"})]
    (got,) = pigeon.calls_to("/messages$", "POST")
    assert (got.method, got.path, got.query, got.headers["x-own"]) == (
        "POST", "/lofts/north%2Feast/messages", {"a": "1"}, "2",
    )  # fmt: skip
    assert pigeon.calls_to("/messages$", "GET") == []


@pytest.mark.parametrize(
    ("method", "path", "status", "why"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("PUT", "/lofts/a/messages", 405, "wrong_method"),
        ("POST", "/lofts/a/b/messages", 404, "not_found"),
    ],
)
def test_what_is_not_there_is_refused(pigeon, method, path, status, why):
    answer = call(pigeon, method, path)
    assert (answer.status_code, answer.json()) == (status, {"why": why})


@pytest.mark.parametrize(
    ("headers", "why"), [({"authorization": ""}, "missing_token"), ({"authorization": "Bearer x"}, "unknown_token")]
)
def test_only_known_tokens_open_an_account(pigeon, headers, why):
    answer = send(pigeon, headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"why": why})
    assert pigeon.state.messages == []


def test_accounts_are_apart(pigeon):
    pigeon.open_account("loft-2", "other-token")
    assert send(pigeon, token="other-token").status_code == 201
    assert pigeon.state.messages == []
    assert len(pigeon.account_state("loft-2").messages) == 1


@pytest.mark.parametrize(
    ("body", "media_type", "status", "why"),
    [
        (b"{", "application/json", 400, "malformed"),
        (b"[1]", "application/json", 400, "malformed"),
        (b"\xff", "application/json", 400, "malformed"),
        (b"{}", "text/plain", 415, "wrong_type"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(pigeon, body, media_type, status, why):
    answer = call(pigeon, "POST", "/lofts/a/messages", data=body, headers={"content-type": media_type})
    assert (answer.status_code, answer.json()) == (status, {"why": why})


def test_the_next_calls_fail_as_often_as_they_are_told_to(pigeon):
    pigeon.fail_next(500, times=2)
    pigeon.fail_next("STORM")
    pigeon.fail_next(429, "slow down", headers={"retry-after": "7"})
    answers = [send(pigeon) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [500, 500, 503, 429, 201]
    assert answers[0].json() == {"why": "down"}
    assert (answers[3].text, answers[3].headers["retry-after"]) == ("slow down", "7")
    assert len(pigeon.state.messages) == 1


def test_a_fault_can_be_kept_for_a_path_and_leaves_open_pages_alone(pigeon):
    pigeon.fail_next(500)
    pigeon.fail_next(502, path="^/status$")
    assert requests.get(pigeon.url + "/status", timeout=10).status_code == 502
    assert requests.get(pigeon.url + "/status", timeout=10).status_code == 204
    assert send(pigeon).status_code == 500


def test_a_dropped_call_does_nothing_and_a_lost_answer_did_it(pigeon):
    pigeon.fail_next("DROP")
    pigeon.fail_next("LOSE_ANSWER")
    for _ in range(2):
        with pytest.raises(requests.ConnectionError):
            send(pigeon)
    assert len(pigeon.requests) == 2
    assert len(pigeon.state.messages) == 1


def test_a_call_hangs_until_it_is_released(pigeon):
    pigeon.fail_next("HANG")
    seen: list[Exception] = []

    def ask() -> None:
        try:
            send(pigeon)
        except requests.ConnectionError as error:
            seen.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: pigeon.requests)
    assert send(pigeon).status_code == 201
    assert seen == []
    pigeon.release()
    asking.join(10)
    assert len(seen) == 1
    assert len(pigeon.state.messages) == 1


def test_a_limit_holds_for_each_account_and_each_secret_url(pigeon):
    pigeon.open_account("loft-2", "other-token")
    pigeon.limit(2, 60)
    answers = [send(pigeon) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert [answer.headers["x-remaining"] for answer in answers] == ["1", "0", "0"]
    assert send(pigeon, token="other-token").status_code == 201
    assert [call(pigeon, "POST", "/hooks/a").status_code for _ in range(3)] == [200, 200, 429]
    assert call(pigeon, "POST", "/hooks/b").status_code == 200
    assert [call(pigeon, "GET", "/status").status_code for _ in range(3)] == [204, 204, 204]


def test_a_limit_ends(pigeon):
    pigeon.limit(1, 0.05)
    assert send(pigeon).status_code == 201
    eventually(lambda: send(pigeon).status_code == 201)
    pigeon.limit(1, 60)
    assert [send(pigeon).status_code for _ in range(2)] == [201, 429]


def test_a_stopped_server_answers_no_open_connection():
    with requests.Session() as session:
        with Pigeon() as pigeon:
            assert session.get(pigeon.url + "/status", timeout=10).status_code == 204
        with pytest.raises(requests.ConnectionError):
            session.get(pigeon.url + "/status", timeout=10)


def test_a_bug_of_a_server_shows_at_its_end():
    with (
        pytest.raises(LookupError, match="a bug of the server"),
        Pigeon() as pigeon,
        pytest.raises(requests.ConnectionError),
    ):
        call(pigeon, "GET", "/bug")
