import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.intercom import Intercom
from tests.meshes.dev.vendors.calling import call

OWN = {"Intercom-Version": "2.16", "Accept": "application/json"}
ADA = {"email": "ada@acme.example", "name": "Ada"}


@pytest.fixture
def intercom() -> Iterator[Intercom]:
    with Intercom() as server:
        yield server


def ask(intercom: Intercom, method: str, path: str, document: Any = None, **headers: str) -> requests.Response:
    return call(intercom, method, path, document, headers={**OWN, **headers})


def create(intercom: Intercom, **given: Any) -> dict[str, Any]:
    answer = ask(intercom, "POST", "/contacts", {**ADA, **given})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def search(intercom: Intercom, value: str, by: str = "email") -> list[str]:
    query = {"query": {"field": by, "operator": "=", "value": value}}
    return [each["id"] for each in ask(intercom, "POST", "/contacts/search", query).json()["data"]]


def code(answer: requests.Response) -> tuple[int, str]:
    assert answer.json()["type"] == "error.list"
    return answer.status_code, answer.json()["errors"][0]["code"]


def test_a_contact_is_created_with_200(intercom):
    contact = create(intercom, custom_attributes={"source": "web"})
    assert (contact["email"], contact["role"], contact["custom_attributes"]) == (
        ADA["email"],
        "user",
        {"source": "web"},
    )
    assert intercom.state.contacts[contact["id"]]["name"] == "Ada"


def test_who_exists_is_named_in_the_text_only(intercom):
    contact = create(intercom)
    answer = ask(intercom, "POST", "/contacts", {"email": "ADA@acme.example"})
    assert code(answer) == (409, "conflict")
    expected = f"A contact matching those details already exists with id={contact['id']}"
    assert answer.json()["errors"] == [{"code": "conflict", "message": expected}]
    intercom.state.contacts[contact["id"]]["archived"] = True
    archived = ask(intercom, "POST", "/contacts", ADA)
    assert archived.json()["errors"][0]["message"] == f"An archived {expected[2:]}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"name": "Nobody"}, "parameter_not_found"),
        ({"email": "no address"}, "parameter_invalid"),
        ({**ADA, "role": "boss"}, "parameter_invalid"),
        ({**ADA, "company": "Acme"}, "parameter_invalid"),
        ({**ADA, "custom_attributes": {"undefined": 1}}, "parameter_invalid"),
        ({**ADA, "custom_attributes": "x"}, "parameter_invalid"),
    ],
)
def test_a_wrong_contact_is_refused(intercom, given, expected):
    assert code(ask(intercom, "POST", "/contacts", given)) == (400, expected)
    assert intercom.state.contacts == {}


def test_a_contact_is_updated_and_its_attributes_are_merged(intercom):
    key = create(intercom, custom_attributes={"source": "web"})["id"]
    answer = ask(intercom, "PUT", f"/contacts/{key}", {"name": "Countess", "custom_attributes": {"plan": "pro"}})
    assert answer.status_code == 200
    contact = ask(intercom, "GET", f"/contacts/{key}").json()
    assert (contact["name"], contact["custom_attributes"]) == ("Countess", {"source": "web", "plan": "pro"})
    assert code(ask(intercom, "PUT", "/contacts/nobody", {"name": "x"})) == (404, "not_found")


def test_an_update_cannot_take_another_s_address(intercom):
    create(intercom)
    key = create(intercom, email="bob@acme.example")["id"]
    assert code(ask(intercom, "PUT", f"/contacts/{key}", {"email": ADA["email"]})) == (409, "conflict")


def test_a_new_contact_is_searchable_only_when_the_search_has_caught_up(intercom):
    key = create(intercom)["id"]
    assert search(intercom, "Ada@acme.example") == []
    intercom.index()
    assert search(intercom, "Ada@acme.example") == [key]
    intercom.indexes_at_once = True
    other = create(intercom, email="bob@acme.example", external_id="u-2")["id"]
    assert search(intercom, "u-2", "external_id") == [other]


@pytest.mark.parametrize("query", [None, {}, {"field": "email", "operator": "~", "value": "a"}])
def test_a_wrong_search_is_refused(intercom, query):
    assert ask(intercom, "POST", "/contacts/search", {"query": query}).status_code == 400


def test_users_are_found_by_external_id_and_leads_are_not(intercom):
    key = create(intercom, external_id="u-1")["id"]
    create(intercom, email="bob@acme.example", external_id="u-2", role="lead")
    assert ask(intercom, "GET", "/contacts/find_by_external_id/u-1").json()["id"] == key
    assert code(ask(intercom, "GET", "/contacts/find_by_external_id/u-2")) == (404, "not_found")


def test_a_merged_contact_is_gone_and_says_where(intercom):
    gone, into = create(intercom)["id"], create(intercom, email="countess@acme.example")["id"]
    intercom.state.merge(gone, into)
    for method, document in (("GET", None), ("PUT", {"name": "x"})):
        answer = ask(intercom, method, f"/contacts/{gone}", document)
        assert code(answer) == (410, "contact_merged")
        assert answer.headers["link"] == f'</contacts/{into}>; rel="canonical"'
    old = ask(intercom, "GET", f"/contacts/{gone}", **{"Intercom-Version": "2.15"})
    assert code(old) == (404, "not_found")


def event(**given: Any) -> dict[str, Any]:
    return {"event_name": "lead.created", "created_at": 1_790_000_000, "email": ADA["email"], **given}


def test_an_event_is_kept_once_for_each_contact_name_and_second(intercom):
    key = create(intercom)["id"]
    for document in (event(metadata={"a": 1}), event(metadata={"b": 2}), event(created_at=1_790_000_001)):
        answer = ask(intercom, "POST", "/events", document)
        assert (answer.status_code, answer.content) == (202, b"")
    assert [(each["contact"], each["metadata"]) for each in intercom.state.events] == [(key, {"a": 1}), (key, {})]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (event(event_name=""), (400, "parameter_invalid")),
        (event(created_at="2026-11-01"), (400, "parameter_invalid")),
        (event(created_at=1.5), (400, "parameter_invalid")),
        (event(metadata={"a": {}}), (400, "parameter_invalid")),
        (event(metadata={str(n): n for n in range(11)}), (400, "parameter_invalid")),
        (event(email=None), (400, "parameter_not_found")),
        (event(email="nobody@acme.example"), (404, "not_found")),
    ],
)
def test_a_wrong_event_is_refused(intercom, document, expected):
    create(intercom)
    assert code(ask(intercom, "POST", "/events", document)) == expected
    assert intercom.state.events == []


def test_a_lead_s_event_needs_its_id(intercom):
    key = create(intercom, role="lead")["id"]
    assert code(ask(intercom, "POST", "/events", event())) == (404, "not_found")
    assert ask(intercom, "POST", "/events", event(email=None, id=key)).status_code == 202


def test_tags_are_listed_and_put_on_contacts(intercom):
    key = create(intercom)["id"]
    tags = ask(intercom, "GET", "/tags").json()["data"]
    assert [(tag["id"], tag["name"]) for tag in tags] == [("7522907", "Lead"), ("7522908", "Customer")]
    for _ in range(2):
        assert ask(intercom, "POST", f"/contacts/{key}/tags", {"id": "7522907"}).json()["name"] == "Lead"
    assert intercom.state.tagged == {key: ["7522907"]}
    assert code(ask(intercom, "POST", f"/contacts/{key}/tags", {"id": "1"})) == (404, "not_found")
    assert code(ask(intercom, "POST", "/contacts/nobody/tags", {"id": "7522907"})) == (404, "not_found")


def test_the_version_and_the_media_types_are_checked(intercom):
    assert call(intercom, "GET", "/me", headers={"Accept": "application/json"}).status_code == 404
    assert code(ask(intercom, "GET", "/me", **{"Intercom-Version": "9.9"})) == (400, "intercom_version_invalid")
    assert code(ask(intercom, "GET", "/me", Accept="text/html")) == (406, "media_type_not_acceptable")
    answer = call(intercom, "POST", "/contacts", data=b"{}", headers={**OWN, "content-type": "text/plain"})
    assert answer.status_code == 415


def test_who_am_i(intercom):
    document = ask(intercom, "GET", "/me").json()
    assert document["app"] == {"type": "app", "id_code": "abc123", "name": "Acme", "region": "US"}
    assert code(call(intercom, "GET", "/me", token="x", headers=OWN)) == (401, "unauthorized")
    intercom.revoke(intercom.token)
    assert code(ask(intercom, "GET", "/me")) == (401, "token_revoked")


def test_the_limit_tells_when_it_ends(intercom):
    intercom.limit(1, 10)
    first, second = (ask(intercom, "GET", "/me") for _ in range(2))
    assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("1", "0")
    assert 0 < int(second.headers["x-ratelimit-reset"]) - time.time() <= 11
    assert code(second) == (429, "rate_limit_exceeded")
