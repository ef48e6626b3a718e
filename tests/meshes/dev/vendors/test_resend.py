import http.client
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.resend import Resend
from tests.meshes.dev.vendors.calling import call

EMAIL = {"from": "Acme <hello@acme.example>", "to": "ada@other.example", "subject": "Hi", "html": "<p>Hi</p>"}


@pytest.fixture
def resend() -> Iterator[Resend]:
    with Resend() as server:
        yield server


def send(resend: Resend, key: str = "", **changes: Any) -> requests.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return call(resend, "POST", "/emails", {**EMAIL, **changes}, headers=headers)


def error(answer: requests.Response) -> tuple[int, str]:
    assert answer.json()["statusCode"] == answer.status_code
    return answer.status_code, answer.json()["name"]


def test_a_key_sends_once(resend):
    first, again = send(resend, "dlv-1"), send(resend, "dlv-1")
    assert (first.status_code, again.json()) == (200, first.json())
    assert resend.state.emails == [{**first.json(), **EMAIL}]
    assert error(send(resend, "dlv-1", subject="Other")) == (409, "invalid_idempotent_request")
    assert error(send(resend, "k" * 257)) == (400, "invalid_idempotency_key")
    assert len(resend.state.emails) == 1


def test_without_a_key_every_request_sends(resend):
    assert send(resend).json() != send(resend).json()
    assert len(resend.state.emails) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"to": None}, (422, "missing_required_field")),
        ({"subject": ""}, (422, "missing_required_field")),
        ({"html": None}, (422, "missing_required_field")),
        ({"to": ["no address"]}, (422, "validation_error")),
        ({"to": ["a@b.co"] * 51}, (422, "validation_error")),
        ({"from": "Acme"}, (422, "invalid_from_address")),
        ({"from": "hello@other.example"}, (403, "validation_error")),
    ],
)
def test_a_wrong_email_is_refused(resend, changes, expected):
    assert error(send(resend, **changes)) == expected
    assert resend.state.emails == []


def test_contacts_are_created_and_updated(resend):
    missing = call(resend, "PATCH", "/contacts/ada%40other.example", {"first_name": "Ada"})
    assert error(missing) == (404, "not_found")
    created = call(resend, "POST", "/contacts", {"email": "ada@other.example"})
    assert (created.status_code, created.json()["object"]) == (201, "contact")
    assert call(resend, "PATCH", "/contacts/ada%40other.example", {"first_name": "Ada"}).status_code == 200
    assert resend.state.contacts["ada@other.example"]["first_name"] == "Ada"
    assert error(call(resend, "POST", "/contacts", {})) == (422, "missing_required_field")


def test_events_are_taken(resend):
    event = {"event": "lead.created", "email": "ada@other.example", "payload": {}}
    assert call(resend, "POST", "/events/send", event).status_code == 202
    assert resend.state.events == [event]
    assert error(call(resend, "POST", "/events/send", {"event": "a"})) == (422, "missing_required_field")


def test_keys(resend):
    assert call(resend, "GET", "/domains").json()["data"][0]["name"] == "acme.example"
    assert error(call(resend, "GET", "/domains", token="")) == (401, "missing_api_key")
    assert error(call(resend, "GET", "/domains", token="re_other")) == (403, "invalid_api_key")
    assert error(call(resend, "GET", "/domains", token="re_sending_only")) == (401, "restricted_api_key")
    assert call(resend, "POST", "/emails", EMAIL, token="re_sending_only").status_code == 200


def test_callers_must_name_themselves(resend):
    connection = http.client.HTTPConnection("127.0.0.1", int(resend.url.rpartition(":")[2]), timeout=10)
    connection.request("GET", "/domains", headers={"authorization": f"Bearer {resend.token}"})
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (403, b"error code: 1010")
    connection.close()


def test_the_limit_of_a_second(resend):
    resend.limit(1, 60)
    first, second = (call(resend, "GET", "/domains") for _ in range(2))
    assert (first.headers["ratelimit-limit"], first.headers["ratelimit-remaining"]) == ("1", "0")
    assert error(second) == (429, "rate_limit_exceeded")
    assert 1 <= int(second.headers["retry-after"]) <= 60
