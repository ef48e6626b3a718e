from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.klaviyo import Klaviyo
from tests.meshes.dev.vendors.calling import call

TYPE = "application/vnd.api+json"


@pytest.fixture
def klaviyo() -> Iterator[Klaviyo]:
    with Klaviyo() as server:
        yield server


def ask(klaviyo: Klaviyo, method: str, path: str, document: Any = None, **headers: str) -> requests.Response:
    own = {"authorization": f"Klaviyo-API-Key {klaviyo.token}", "revision": "2026-07-15", "content-type": TYPE}
    return call(klaviyo, method, path, document, headers={**own, **headers})


def resource(kind: str, attributes: Any, **more: Any) -> dict[str, Any]:
    return {"data": {"type": kind, "attributes": attributes, **more}}


def imported(klaviyo: Klaviyo, **attributes: Any) -> requests.Response:
    return ask(klaviyo, "POST", "/api/profile-import", resource("profile", attributes))


def error(answer: requests.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == TYPE
    return answer.status_code, answer.json()["errors"][0]["code"]


def test_a_profile_is_created_and_then_updated(klaviyo):
    first = imported(klaviyo, email="ada@acme.example", first_name="Ada", properties={"source": "web"})
    second = imported(klaviyo, email="ada@acme.example", first_name=None, properties={"plan": "pro"})
    assert (first.status_code, second.status_code) == (201, 200)
    key = first.json()["data"]["id"]
    assert second.json()["data"]["id"] == key
    assert klaviyo.state.profiles == {
        key: {"email": "ada@acme.example", "properties": {"source": "web", "plan": "pro"}}
    }


@pytest.mark.parametrize(
    ("attributes", "pointer"),
    [
        ({"first_name": "Ada"}, "/data/attributes"),
        ({"email": "no address"}, "/data/attributes/email"),
        ({"email": "ada@acme.example", "phone_number": "555-1234"}, "/data/attributes/phone_number"),
        ({"email": "ada@acme.example", "company": "Acme"}, "/data/attributes/company"),
        ({"email": "ada@acme.example", "properties": []}, "/data/attributes/properties"),
    ],
)
def test_a_wrong_profile_is_refused_with_a_pointer(klaviyo, attributes, pointer):
    answer = imported(klaviyo, **attributes)
    assert error(answer) == (400, "invalid")
    assert answer.json()["errors"][0]["source"]["pointer"] == pointer
    assert klaviyo.state.profiles == {}


@pytest.mark.parametrize("document", [{}, {"data": []}, resource("person", {}), resource("profile", "x")])
def test_a_body_that_is_no_such_resource_is_refused(klaviyo, document):
    assert error(ask(klaviyo, "POST", "/api/profile-import", document)) == (400, "invalid")


def test_an_id_with_somebody_else_s_email_is_a_misleading_404(klaviyo):
    ada = imported(klaviyo, email="ada@acme.example").json()["data"]["id"]
    imported(klaviyo, email="bob@acme.example")
    document = resource("profile", {"email": "bob@acme.example"}, id=ada)
    assert error(ask(klaviyo, "POST", "/api/profile-import", document)) == (404, "not_found")


def test_an_id_names_the_profile(klaviyo):
    ada = imported(klaviyo, email="ada@acme.example").json()["data"]["id"]
    answer = ask(klaviyo, "POST", "/api/profile-import", resource("profile", {"first_name": "Ada"}, id=ada))
    assert answer.status_code == 200
    assert klaviyo.state.profiles[ada]["first_name"] == "Ada"


def test_a_plain_creation_refuses_a_duplicate(klaviyo):
    document = resource("profile", {"email": "ada@acme.example"})
    assert ask(klaviyo, "POST", "/api/profiles", document).status_code == 201
    assert error(ask(klaviyo, "POST", "/api/profiles", document)) == (409, "duplicate_profile")


def event(**changes: Any) -> dict[str, Any]:
    attributes = {
        "properties": {"source": "web"},
        "time": "2026-11-01T00:00:00+00:00",
        "unique_id": "dlv-1",
        "metric": resource("metric", {"name": "lead.created"}),
        "profile": resource("profile", {"email": "ada@acme.example"}),
        **changes,
    }
    return resource("event", attributes)


def test_an_event_is_kept_once_for_each_unique_id_and_makes_its_profile(klaviyo):
    for _ in range(2):
        answer = ask(klaviyo, "POST", "/api/events", event())
        assert (answer.status_code, answer.content) == (202, b"")
    (profile,) = klaviyo.state.profiles
    (kept,) = klaviyo.state.events
    assert (kept["metric"], kept["profile"], kept["properties"]) == ("lead.created", profile, {"source": "web"})


@pytest.mark.parametrize(
    "changes",
    [
        {"metric": {"name": "lead.created"}},
        {"metric": resource("metric", {})},
        {"profile": None},
        {"properties": None},
        {"time": "yesterday"},
    ],
)
def test_a_wrong_event_is_refused(klaviyo, changes):
    assert error(ask(klaviyo, "POST", "/api/events", event(**changes))) == (400, "invalid")
    assert (klaviyo.state.events, klaviyo.state.profiles) == ([], {})


def test_headers_are_checked(klaviyo):
    document = resource("profile", {"email": "ada@acme.example"})
    refused = {
        (400, "invalid"): {"revision": ""},
        (410, "gone"): {"revision": "2023-02-22"},
        (415, "unsupported_media_type"): {"content-type": "application/json"},
        (401, "not_authenticated"): {"authorization": "Basic eA=="},
        (401, "authentication_failed"): {"authorization": "Klaviyo-API-Key pk_other"},
    }
    for expected, headers in refused.items():
        assert error(ask(klaviyo, "POST", "/api/profile-import", document, **headers)) == expected
    assert error(ask(klaviyo, "POST", "/api/profile-import", document, revision="2027-01-15")) == (400, "invalid")
    assert klaviyo.state.profiles == {}


def test_a_large_profile_is_refused(klaviyo):
    assert imported(klaviyo, email="ada@acme.example", properties={"a": "x" * 102_400}).status_code == 413


def test_the_account_shows_itself(klaviyo):
    (account,) = ask(klaviyo, "GET", "/api/accounts").json()["data"]
    assert (account["id"], account["attributes"]["contact_information"]["organization_name"]) == ("AbC123", "Acme")


def test_the_limit_has_headers_and_its_refusal_another(klaviyo):
    klaviyo.limit(1, 60)
    first, second = (ask(klaviyo, "GET", "/api/accounts") for _ in range(2))
    assert (first.headers["ratelimit-limit"], first.headers["ratelimit-remaining"]) == ("1", "0")
    assert error(second) == (429, "throttled")
    assert 1 <= int(second.headers["retry-after"]) <= 60
    assert "ratelimit-limit" not in second.headers
