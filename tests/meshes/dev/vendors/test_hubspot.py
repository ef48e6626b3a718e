from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.hubspot import HubSpot
from tests.meshes.dev.vendors.calling import call

UPSERT = "/crm/objects/2026-09/contacts/batch/upsert"


@pytest.fixture
def hubspot() -> Iterator[HubSpot]:
    with HubSpot() as server:
        yield server


def row(email: str = "ada@acme.example", **properties: Any) -> dict[str, Any]:
    return {"id": email, "idProperty": "email", "objectWriteTraceId": f"trace {email}", "properties": properties}


def upsert(hubspot: HubSpot, *rows: Any, path: str = UPSERT) -> requests.Response:
    return call(hubspot, "POST", path, {"inputs": list(rows)})


def category(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["category"]


@pytest.mark.parametrize(
    "path", [UPSERT, "/crm/objects/2026-03/contacts/batch/upsert", "/crm/v3/objects/contacts/batch/upsert"]
)
def test_an_upsert_creates_and_then_updates(hubspot, path):
    first = upsert(hubspot, row(firstname="Ada"), path=path)
    second = upsert(hubspot, row("ADA@acme.example", lastname="Lovelace"), path=path)
    assert (first.status_code, first.json()["status"]) == (200, "COMPLETE")
    created, updated = first.json()["results"][0], second.json()["results"][0]
    assert (created["id"], created["new"], created["objectWriteTraceId"]) == ("101", True, "trace ada@acme.example")
    assert (updated["id"], updated["new"]) == ("101", False)
    assert hubspot.state.contacts == {
        "101": {"email": "ada@acme.example", "firstname": "Ada", "lastname": "Lovelace"},
    }


def test_a_bad_row_leaves_the_others_written(hubspot):
    answer = upsert(hubspot, row(firstname="Ada"), row("bob@acme.example", nickname="Bob"), row("no address"))
    document = answer.json()
    assert (answer.status_code, document["numErrors"], len(document["results"])) == (207, 2, 1)
    assert [error["context"]["objectWriteTraceId"] for error in document["errors"]] == [
        ["trace bob@acme.example"], ["trace no address"],
    ]  # fmt: skip
    assert [error["errors"][0]["code"] for error in document["errors"]] == ["PROPERTY_DOESNT_EXIST", "INVALID_EMAIL"]
    assert document["errors"][0]["category"] == "VALIDATION_ERROR"
    assert len(hubspot.state.contacts) == 1


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(f"a{n}@acme.example") for n in range(101)],
        [row(), row()],
        [row(firstname=5)],
        [row(firstname=None)],
        [{"idProperty": "email", "properties": {}}],
        [{"id": "Ada", "idProperty": "firstname", "properties": {}}],
        [{"id": "ada@acme.example", "properties": {}}],
        ["ada@acme.example"],
    ],
)
def test_a_batch_of_the_wrong_form_writes_nothing(hubspot, rows):
    assert category(upsert(hubspot, *rows)) == (400, "VALIDATION_ERROR")
    assert hubspot.state.contacts == {}


def test_a_unique_property_of_the_account_identifies_too(hubspot):
    by_key = {"id": "K-1", "idProperty": "lead_key", "properties": {"email": "ada@acme.example"}}
    assert upsert(hubspot, by_key).json()["results"][0]["new"] is True
    assert upsert(hubspot, by_key).json()["results"][0]["new"] is False
    assert hubspot.state.contacts == {"101": {"lead_key": "K-1", "email": "ada@acme.example"}}


def test_a_unique_value_of_another_contact_is_a_conflict_that_names_it(hubspot):
    upsert(hubspot, row(firstname="Ada"))
    by_key = {"id": "K-1", "idProperty": "lead_key", "properties": {"email": "ada@acme.example", "firstname": "A"}}
    answer = upsert(hubspot, by_key)
    assert category(answer) == (409, "CONFLICT")
    assert answer.json()["message"] == "Contact already exists. Existing ID: 101"
    upsert(hubspot, {**by_key, "properties": {}})
    update = call(hubspot, "PATCH", "/crm/v3/objects/contacts/101", {"properties": {"lead_key": "K-1"}})
    assert category(update) == (409, "CONFLICT")
    assert hubspot.state.contacts == {
        "101": {"email": "ada@acme.example", "firstname": "Ada"},
        "102": {"lead_key": "K-1"},
    }


def test_a_lifecycle_stage_only_moves_forward(hubspot):
    for stage in ("lead", "customer", "subscriber"):
        assert upsert(hubspot, row(lifecyclestage=stage)).status_code == 200
    assert hubspot.state.contacts["101"]["lifecyclestage"] == "customer"


def test_a_contact_is_created_once(hubspot):
    path = "/crm/v3/objects/contacts"
    assert call(hubspot, "POST", path, {"properties": {"email": "ada@acme.example"}}).status_code == 201
    again = call(hubspot, "POST", path, {"properties": {"email": "Ada@acme.example"}})
    assert category(again) == (409, "CONFLICT")
    assert again.json()["message"] == "Contact already exists. Existing ID: 101"
    assert category(call(hubspot, "POST", path, {"properties": {"phone": "1"}})) == (400, "VALIDATION_ERROR")
    assert len(hubspot.state.contacts) == 1


def test_a_contact_is_updated_by_id_or_email(hubspot):
    upsert(hubspot, row())
    by_email = "/crm/v3/objects/contacts/ada%40acme.example?idProperty=email"
    assert call(hubspot, "PATCH", by_email, {"properties": {"firstname": "Ada"}}).status_code == 200
    assert call(hubspot, "PATCH", "/crm/v3/objects/contacts/101", {"properties": {"phone": "1"}}).status_code == 200
    assert hubspot.state.contacts["101"] == {"email": "ada@acme.example", "firstname": "Ada", "phone": "1"}
    missing = call(hubspot, "PATCH", "/crm/v3/objects/contacts/102", {"properties": {}})
    assert category(missing) == (404, "OBJECT_NOT_FOUND")


@pytest.mark.parametrize("path", ["/crm/v3/objects/contacts", "/crm/v3/objects/ships", "/crm/v3/objects/ships/1"])
def test_wrong_values_and_unknown_kinds_are_refused(hubspot, path):
    method = "PATCH" if path.endswith("/1") else "POST"
    answer = call(hubspot, method, path, {"properties": {"firstname": "Ada", "lifecyclestage": "retired"}})
    assert category(answer) == (400, "VALIDATION_ERROR")
    assert hubspot.state.contacts == {}


def note(contact: str, kind: int = 202, **properties: str) -> dict[str, Any]:
    types = [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": kind}]
    return {"properties": properties, "associations": [{"to": {"id": contact}, "types": types}]}


def test_a_note_belongs_to_a_contact(hubspot):
    upsert(hubspot, row())
    written = {"hs_timestamp": "2026-11-01T00:00:00Z", "hs_note_body": "called"}
    answer = call(hubspot, "POST", "/crm/objects/2026-09/notes", note("101", **written))
    assert (answer.status_code, answer.json()["id"]) == (201, "102")
    assert (hubspot.state.notes, hubspot.state.associations) == ({"102": written}, {"102": ["101"]})


@pytest.mark.parametrize(
    "document",
    [
        note("101", hs_note_body="no moment"),
        note("999", hs_timestamp="2026-11-01T00:00:00Z"),
        note("101", 1, hs_timestamp="2026-11-01T00:00:00Z"),
        {"properties": {"hs_timestamp": "2026-11-01T00:00:00Z"}, "associations": ["101"]},
    ],
)
def test_a_wrong_note_is_refused(hubspot, document):
    upsert(hubspot, row())
    answer = call(hubspot, "POST", "/crm/objects/2026-09/notes", document)
    assert category(answer) == (400, "VALIDATION_ERROR")
    assert hubspot.state.notes == {}


def test_contacts_are_added_to_manual_lists(hubspot):
    upsert(hubspot, row())
    for added in (["101"], []):
        answer = call(hubspot, "PUT", "/crm/v3/lists/11/memberships/add", ["101", "999"])
        expected = {"recordsIdsAdded": added, "recordIdsMissing": ["999"], "recordIdsRemoved": []}
        assert (answer.status_code, answer.json()) == (200, expected)
    assert hubspot.state.lists["11"]["members"] == ["101"]
    assert category(call(hubspot, "PUT", "/crm/v3/lists/12/memberships/add", ["101"])) == (400, "VALIDATION_ERROR")
    assert category(call(hubspot, "PUT", "/crm/v3/lists/13/memberships/add", ["101"])) == (404, "OBJECT_NOT_FOUND")
    assert category(call(hubspot, "PUT", "/crm/v3/lists/11/memberships/add", [101])) == (400, "VALIDATION_ERROR")


def test_lists_and_properties_can_be_listed(hubspot):
    asked = {"processingTypes": ["MANUAL"], "count": 250}
    lists = call(hubspot, "POST", "/crm/v3/lists/search", asked).json()["lists"]
    assert [(each["listId"], each["name"]) for each in lists] == [("11", "Leads")]
    properties = call(hubspot, "GET", "/crm/properties/2026-09/contacts").json()["results"]
    assert [each["name"] for each in properties if each["hasUniqueValue"]] == ["email", "lead_key"]


@pytest.mark.parametrize("version", ["2026-09", "v3"])
def test_the_account_shows_itself(hubspot, version):
    document = call(hubspot, "GET", f"/account-info/{version}/details").json()
    assert (document["portalId"], document["uiDomain"]) == (62515, "app.hubspot.com")


def test_wrong_credentials_and_content_are_refused(hubspot):
    assert category(call(hubspot, "POST", UPSERT, {}, token="")) == (401, "INVALID_AUTHENTICATION")
    assert category(call(hubspot, "POST", UPSERT, {}, token="wrong")) == (401, "INVALID_AUTHENTICATION")
    assert call(hubspot, "POST", UPSERT, data=b"{}", headers={"content-type": "text/plain"}).status_code == 415


def test_the_limit_of_ten_seconds(hubspot):
    hubspot.limit(1, 10)
    first, second = (upsert(hubspot, row()) for _ in range(2))
    assert (first.headers["x-hubspot-ratelimit-max"], first.headers["x-hubspot-ratelimit-remaining"]) == ("1", "0")
    assert first.headers["x-hubspot-ratelimit-interval-milliseconds"] == "10000"
    assert first.headers["x-hubspot-ratelimit-daily"] == "250000"
    assert (second.status_code, second.json()["policyName"]) == (429, "TEN_SECONDLY_ROLLING")
    assert "retry-after" not in second.headers


@pytest.mark.parametrize(
    ("fault", "status", "key", "value"),
    [
        ("DAILY", 429, "policyName", "DAILY"),
        ("LOCKED", 423, "status", "error"),
        ("MIGRATION", 477, "status", "error"),
        ("MISSING_SCOPES", 403, "category", "MISSING_SCOPES"),
    ],
)
def test_troubles(hubspot, fault, status, key, value):
    hubspot.fail_next(fault)
    answer = upsert(hubspot, row())
    assert (answer.status_code, answer.json()[key]) == (status, value)
    assert hubspot.state.contacts == {}
