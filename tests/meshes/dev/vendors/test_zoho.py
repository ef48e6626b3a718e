from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.zoho import Zoho
from tests.meshes.dev.vendors.calling import authorize, call, connect, tokens

UPSERT = "/crm/v8/Leads/upsert"
ADA = {"Email": "ada@acme.example", "Last_Name": "Lovelace", "Company": "Engines"}
OFFLINE = {"scope": "ZohoCRM.modules.ALL,ZohoCRM.org.READ", "access_type": "offline"}


@pytest.fixture
def zoho() -> Iterator[Zoho]:
    with Zoho() as server:
        yield server


def ask(zoho: Zoho, method: str, path: str, document: Any = None, token: str = "") -> requests.Response:
    return call(zoho, method, path, document, headers={"authorization": f"Zoho-oauthtoken {token or zoho.token}"})


def upsert(zoho: Zoho, *rows: Any) -> tuple[int, list[tuple[str, str]]]:
    answer = ask(zoho, "POST", UPSERT, {"data": list(rows), "duplicate_check_fields": ["Email"]})
    return answer.status_code, [(row["code"], row.get("action", "")) for row in answer.json()["data"]]


def test_a_lead_is_inserted_and_then_updated(zoho):
    assert upsert(zoho, ADA) == (200, [("SUCCESS", "insert")])
    assert upsert(zoho, {**ADA, "Email": "ADA@acme.example", "Phone": "+1555"}) == (200, [("SUCCESS", "update")])
    (lead,) = zoho.state.records["Leads"].values()
    assert lead["Phone"] == "+1555"
    assert zoho.state.records["Contacts"] == {}


def test_each_record_is_judged_for_itself(zoho):
    rows = [{"Email": "a@b.co"}, {**ADA, "Email": "nowhere"}, {**ADA, "Phone": 7}, ADA]
    expected = [("MANDATORY_NOT_FOUND", ""), ("INVALID_DATA", ""), ("INVALID_DATA", ""), ("SUCCESS", "insert")]
    assert upsert(zoho, *rows) == (202, expected)
    assert len(zoho.state.records["Leads"]) == 1


@pytest.mark.parametrize("data", [[], [ADA] * 101, "x"])
def test_a_hundred_records_are_the_most(zoho, data):
    answer = ask(zoho, "POST", UPSERT, {"data": data})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_DATA")


def test_the_scheme_is_zoho_s_own(zoho):
    answer = call(zoho, "GET", "/crm/v8/org")
    assert (answer.status_code, answer.json()["code"]) == (401, "INVALID_TOKEN")
    assert ask(zoho, "GET", "/crm/v8/org").json()["org"][0]["id"] == zoho.account


def test_a_token_opens_what_its_scopes_say(zoho):
    asked = {**OFFLINE, "scope": "ZohoCRM.modules.ALL"}
    reply = connect(zoho, "/oauth/v2/auth", "/oauth/v2/token", **asked)
    assert ask(zoho, "POST", UPSERT, {"data": [ADA]}, reply["access_token"]).status_code == 200
    refused = ask(zoho, "GET", "/crm/v8/org", token=reply["access_token"])
    assert (refused.status_code, refused.json()["code"]) == (401, "OAUTH_SCOPE_MISMATCH")


def test_a_refresh_gives_no_new_refresh_token(zoho):
    first = connect(zoho, "/oauth/v2/auth", "/oauth/v2/token", **OFFLINE)
    assert (first["expires_in"], first["api_domain"]) == (3600, "https://www.zohoapis.eu")
    again = tokens(zoho, "/oauth/v2/token", grant_type="refresh_token", refresh_token=first["refresh_token"]).json()
    assert "refresh_token" not in again
    assert again["access_token"] != first["access_token"]


def test_whatever_the_token_endpoint_refuses_is_a_200(zoho):
    answer = tokens(zoho, "/oauth/v2/token", grant_type="refresh_token", refresh_token="1000.x.y")
    assert (answer.status_code, answer.json()) == (200, {"error": "invalid_code"})


def test_without_offline_access_the_page_refuses(zoho):
    assert authorize(zoho, "/oauth/v2/auth", scope=OFFLINE["scope"])["error"] == "invalid_request"


def test_a_person_keeps_twenty_refresh_tokens(zoho):
    replies = [connect(zoho, "/oauth/v2/auth", "/oauth/v2/token", **OFFLINE) for _ in range(21)]
    oldest, newest = (
        tokens(zoho, "/oauth/v2/token", grant_type="refresh_token", refresh_token=reply["refresh_token"]).json()
        for reply in (replies[0], replies[-1])
    )
    assert (oldest, "access_token" in newest) == ({"error": "invalid_code"}, True)


def test_a_revocation_ends_the_installation(zoho):
    reply = connect(zoho, "/oauth/v2/auth", "/oauth/v2/token", **OFFLINE)
    ended = requests.post(f"{zoho.url}/oauth/v2/token/revoke", data={"token": reply["refresh_token"]}, timeout=10)
    assert ended.json() == {"status": "success"}
    assert ask(zoho, "GET", "/crm/v8/org", token=reply["access_token"]).status_code == 401
