"""The demo reads and directs a server from another process."""

from collections.abc import Iterator

import pytest
import requests

from meshes.dev.vendors.hubspot import HubSpot
from tests.meshes.dev.vendors.calling import call

UPSERT = "/crm/objects/2026-09/contacts/batch/upsert"
ROW = {"id": "ada@acme.example", "idProperty": "email", "properties": {"firstname": "Ada"}}


@pytest.fixture
def hubspot() -> Iterator[HubSpot]:
    with HubSpot() as server:
        yield server


def control(hubspot: HubSpot, name: str, **keywords: object) -> requests.Response:
    return requests.post(f"{hubspot.url}/_vendor/{name}", json=keywords, timeout=10)


def test_requests_and_state_are_shown_and_reading_them_is_not_recorded(hubspot):
    call(hubspot, "POST", UPSERT, {"inputs": [ROW]})
    (got,) = requests.get(hubspot.url + "/_vendor/requests", timeout=10).json()
    assert (got["method"], got["path"], got["account"]) == ("POST", UPSERT, "")
    assert "ada@acme.example" in got["body"]
    state = requests.get(hubspot.url + "/_vendor/state", timeout=10).json()
    assert state["62515"]["objects"]["contacts"] == {"101": {"email": "ada@acme.example", "firstname": "Ada"}}
    assert len(hubspot.requests) == 1


def test_methods_are_called_by_name(hubspot):
    assert control(hubspot, "fail_next", what="DAILY").status_code == 204
    assert call(hubspot, "POST", UPSERT, {"inputs": [ROW]}).json()["policyName"] == "DAILY"
    assert control(hubspot, "sign_in", account="777").status_code == 204
    assert hubspot.signed_in == "777"
    assert control(hubspot, "revoke", token=hubspot.token).status_code == 204
    assert call(hubspot, "GET", "/account-info/v3/details").status_code == 401


@pytest.mark.parametrize(
    ("name", "keywords", "status"),
    [("stop", {}, 404), ("fail_next", {"what": "NOTHING"}, 400), ("limit", {"requests": 1}, 400)],
)
def test_what_may_not_or_cannot_be_called_is_refused(hubspot, name, keywords, status):
    assert control(hubspot, name, **keywords).status_code == status
