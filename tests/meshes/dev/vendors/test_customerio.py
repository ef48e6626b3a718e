from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.customerio import CustomerIo
from tests.meshes.dev.vendors.calling import basic, call

PERSON = "/api/v1/customers/ada%40acme.example"


@pytest.fixture
def customerio() -> Iterator[CustomerIo]:
    with CustomerIo() as server:
        yield server


def ask(customerio: CustomerIo, method: str, path: str, document: Any = None, key: str = "") -> requests.Response:
    return call(customerio, method, path, document, headers=basic(*(key or customerio.token).split(":")))


def test_a_person_is_written_and_updated(customerio):
    assert ask(customerio, "PUT", PERSON, {"first_name": "Ada", "plan": "free"}).json() == {}
    ask(customerio, "PUT", PERSON, {"plan": "", "age": 36})
    assert customerio.state.people == {"ada@acme.example": {"first_name": "Ada", "age": 36}}


def test_too_many_attributes_or_too_long_names_are_refused(customerio):
    for attributes in ({f"a{n}": n for n in range(301)}, {"n" * 151: 1}):
        answer = ask(customerio, "PUT", PERSON, attributes)
        assert (answer.status_code, list(answer.json())) == (400, ["meta"])
    assert customerio.state.people == {}


def test_a_value_that_is_too_long_fails_after_the_200(customerio):
    assert ask(customerio, "PUT", PERSON, {"bio": "x" * 1001, "plan": "free"}).status_code == 200
    assert customerio.state.people == {"ada@acme.example": {"plan": "free"}}
    assert customerio.state.failures == ["ada@acme.example: bio"]


def test_events_are_kept_once_for_each_id(customerio):
    event = {"name": "lead.created", "id": "01H455VB4PEX5VSKNK084SN02Q", "timestamp": 1_790_000_000, "data": {"a": 1}}
    for _ in range(2):
        assert ask(customerio, "POST", f"{PERSON}/events", event).status_code == 200
    assert customerio.state.events == [{"customer": "ada@acme.example", **event}]


@pytest.mark.parametrize("event", [{}, {"name": ""}, {"name": "a", "timestamp": "now"}, {"name": "a", "data": []}])
def test_a_wrong_event_is_refused(customerio, event):
    assert ask(customerio, "POST", f"{PERSON}/events", event).status_code == 400
    assert customerio.state.events == []


def test_the_region_shows_the_account(customerio):
    document = ask(customerio, "GET", "/api/v1/accounts/region").json()
    assert document == {"url": "track.customer.io", "data_center": "us", "environment_id": 112233}


@pytest.mark.parametrize("key", ["site-developer:wrong", "wrong:track-key"])
def test_site_and_key_must_be_right(customerio, key):
    answer = ask(customerio, "GET", "/api/v1/accounts/region", key=key)
    assert (answer.status_code, answer.json()) == (401, {"meta": {"error": "Unauthorized request"}})


def test_an_account_of_the_other_region_is_redirected(customerio):
    customerio.fail_next("EU_ACCOUNT")
    answer = ask(customerio, "GET", "/api/v1/accounts/region")
    assert (answer.status_code, answer.headers["location"][:30]) == (301, "https://track-eu.customer.io/a")
