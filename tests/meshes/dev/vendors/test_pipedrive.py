from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.pipedrive import Pipedrive
from tests.meshes.dev.vendors.calling import call, connect

PERSONS = "/api/v2/persons"
ADA = {"name": "Ada Lovelace", "emails": [{"value": "Ada@acme.example", "primary": True, "label": "work"}]}


@pytest.fixture
def pipedrive() -> Iterator[Pipedrive]:
    with Pipedrive() as server:
        yield server


def ask(pipedrive: Pipedrive, method: str, path: str, document: Any = None) -> requests.Response:
    return call(pipedrive, method, path, document, token="", headers={"x-api-token": pipedrive.token})


def search(pipedrive: Pipedrive, term: str, query: str = "&fields=email&exact_match=true") -> list[dict[str, Any]]:
    items = ask(pipedrive, "GET", f"{PERSONS}/search?term={term}{query}").json()["data"]["items"]
    return [each["item"] for each in items]


def test_a_person_is_created_found_and_updated(pipedrive):
    created = ask(pipedrive, "POST", PERSONS, ADA)
    assert (created.status_code, created.json()["success"], created.json()["data"]["id"]) == (201, True, 1)
    (found,) = search(pipedrive, "ada%40acme.example")
    assert (found["id"], found["emails"], found["primary_email"]) == (1, ["Ada@acme.example"], "Ada@acme.example")
    updated = ask(pipedrive, "PATCH", f"{PERSONS}/1", {"phones": [{"value": "+1555"}]})
    assert updated.status_code == 200
    assert pipedrive.state.persons["1"] == {"id": 1, **ADA, "phones": [{"value": "+1555"}]}


def test_there_is_no_upsert(pipedrive):
    for _ in range(2):
        ask(pipedrive, "POST", PERSONS, ADA)
    assert len(search(pipedrive, "ada%40acme.example")) == 2


def test_an_exact_search_finds_no_part(pipedrive):
    ask(pipedrive, "POST", PERSONS, ADA)
    assert search(pipedrive, "acme.example") == []
    assert len(search(pipedrive, "acme.example", "&fields=email")) == 1
    assert len(search(pipedrive, "lovelace", "")) == 1


@pytest.mark.parametrize("query", ["", "?term=a", "?term=ada&fields=shoe_size"])
def test_a_wrong_search_is_refused(pipedrive, query):
    assert ask(pipedrive, "GET", f"{PERSONS}/search{query}").status_code == 400


@pytest.mark.parametrize(
    "document",
    [
        {"emails": []},
        {"name": "Ada", "email": [{"value": "ada@acme.example"}]},
        {"name": "Ada", "emails": ["ada@acme.example"]},
        {"name": "Ada", "phones": "+1555"},
    ],
)
def test_a_wrong_person_is_refused(pipedrive, document):
    answer = ask(pipedrive, "POST", PERSONS, document)
    assert (answer.status_code, answer.json()["success"]) == (400, False)
    assert pipedrive.state.persons == {}


def test_an_unknown_person_is_not_found(pipedrive):
    assert ask(pipedrive, "PATCH", f"{PERSONS}/9", {"name": "x"}).json()["error"] == "Person not found"


def test_whose_token_it_is(pipedrive):
    for path in ("/v1/users/me", "/api/v1/users/me"):
        data = ask(pipedrive, "GET", path).json()["data"]
        assert (data["company_id"], data["company_name"]) == (7_762_100, "Acme")
    granted = connect(pipedrive, "/oauth/authorize", "/oauth/token", login_hint="42")
    assert call(pipedrive, "GET", "/v1/users/me", token=granted["access_token"]).json()["data"]["company_id"] == 42
    assert call(pipedrive, "GET", "/v1/users/me", token="x").json()["error"] == "unauthorized access"


def test_the_limit_of_a_burst(pipedrive):
    pipedrive.limit(1, 60)
    first, second = (ask(pipedrive, "GET", "/v1/users/me") for _ in range(2))
    assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("1", "0")
    assert second.status_code == 429
    assert 1 <= int(second.headers["x-ratelimit-reset"]) <= 60
    pipedrive.no_limit()
    pipedrive.fail_next("BLOCKED")
    assert ask(pipedrive, "GET", "/v1/users/me").status_code == 403
