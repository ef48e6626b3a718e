"""`GET /connections/{id}/options/{field}` and what a test learns of the account."""

import json
import re

import pytest
from django.core.cache import cache

from connections import providers
from connections.calls import MOST_PAGES
from meshes.dev.vendors.registry import VENDORS
from tests.factories import make_connection, make_workspace
from tests.receivers import Answer
from tests.workspaces.callers import caller, post
from workspaces.vault.models import AccessRecord

TOKEN = "pat-na1-canary-0123456789"
LISTS = {"lists": [{"listId": "7", "name": "Newsletter"}, {"listId": "9", "name": "Trial"}]}


@pytest.fixture(autouse=True)
def forget():
    cache.clear()


@pytest.fixture
def hubspot(endpoint, monkeypatch):
    monkeypatch.setattr(providers.get("hubspot"), "override", endpoint.url.rpartition("/")[0])
    endpoint.answer(200, body=json.dumps(LISTS).encode())
    return endpoint


@pytest.fixture
def target(db):
    return make_connection(make_workspace(), type="hubspot", config={}, secret={"access_token": TOKEN})


def options(api, target, field="list_id"):
    return api.get(f"/api/v1/connections/{target.public_id}/options/{field}")


def test_the_choices_come_from_the_vendor(api, hubspot, target):
    answer = options(api, target)
    assert answer.status_code == 200, answer.content
    assert answer.json() == {
        "data": [{"value": "7", "label": "Newsletter"}, {"value": "9", "label": "Trial"}],
        "next": None,
        "previous": None,
    }
    (got,) = hubspot.got
    assert (got.method, got.path) == ("POST", "/crm/v3/lists/search")
    assert AccessRecord.objects.filter(owner_id=target.pk, purpose="options").count() == 1


def test_they_are_kept_and_asked_anew_after_an_edit(api, hubspot, target):
    options(api, target)
    assert options(api, target).json()["data"][0]["value"] == "7"
    assert len(hubspot.got) == 1
    api.patch(
        f"/api/v1/connections/{target.public_id}", json.dumps({"name": "Renamed"}), content_type="application/json"
    )
    options(api, target)
    assert len(hubspot.got) == 2


def test_a_field_without_choices_is_not_found(api, hubspot, target):
    assert options(api, target, "email").status_code == 404
    assert hubspot.got == []


def test_a_vendor_that_refuses_is_told_in_words_without_the_secret(api, hubspot, target):
    hubspot.answer(403, body=json.dumps({"category": "MISSING_SCOPES", "message": f"for {TOKEN}"}).encode())
    answer = options(api, target)
    assert answer.status_code == 502
    assert "permission" in answer.json()["detail"]
    assert TOKEN not in answer.content.decode()
    hubspot.answer(200, body=json.dumps(LISTS).encode())
    assert options(api, target).status_code == 200


def test_a_connection_that_is_not_authorized_yet_is_not_asked_with(api, hubspot):
    answer = options(api, make_connection(make_workspace(), type="hubspot", config={}))
    assert (answer.status_code, hubspot.got) == (409, [])
    assert answer.json()["detail"] == "The connection has no access_token yet: authorize it, or set the credential."


AT_VENDORS = {
    "hubspot": ("list_id", {}),
    "salesforce": ("external_id_field", {}),
    "mailchimp": ("tags", {"list_id": "a1b2c3d4e5"}),
    "intercom": ("tag_id", {}),
    "slack": ("channel", {}),
}
"""A field with choices, and the config that lists them."""


@pytest.fixture(params=sorted(AT_VENDORS))
def at_vendor(request, db, loopback, monkeypatch):
    """A vendor's server, and a connection to its account."""
    field, config = AT_VENDORS[request.param]
    with VENDORS[request.param]() as server:
        monkeypatch.setattr(providers.get(server.slug), "override", server.url)
        secret = {"api_key" if server.slug == "mailchimp" else "access_token": server.token}
        yield server, make_connection(make_workspace(), type=server.slug, config=config, secret=secret), field


@pytest.mark.parametrize("at_vendor", ["slack", "hubspot"], indirect=True)
def test_choices_that_come_in_pages_are_all_listed(api, at_vendor):
    vendor, target, field = at_vendor
    if vendor.slug == "slack":
        more = {f"C{n:04}": {"name": f"c{n}", "is_archived": False, "is_member": True} for n in range(995)}
        vendor.state.channels |= more
    else:
        more = {str(n): {"name": f"l{n}", "processingType": "MANUAL", "members": []} for n in range(100, 600)}
        vendor.state.lists |= more
    listed = [choice["value"] for choice in options(api, target, field).json()["data"]]
    assert len(listed) == len(set(listed))
    assert set(more) <= set(listed)
    assert len(vendor.requests) == (1 if vendor.slug == "slack" else 3)


@pytest.mark.parametrize("at_vendor", ["slack"], indirect=True)
def test_a_page_that_holds_less_than_was_asked_for_is_not_the_last(api, at_vendor):
    vendor, target, field = at_vendor
    page = {"ok": True, "channels": [], "response_metadata": {"next_cursor": "0"}}
    vendor.fail_next(200, page)
    assert len(options(api, target, field).json()["data"]) == 3
    vendor.fail_next(200, page, times=99)
    cache.clear()
    assert options(api, target, field).json()["data"] == []
    assert len(vendor.requests) == 2 + MOST_PAGES


def why_not(api, at_vendor):
    _, target, field = at_vendor
    answer = options(api, target, field)
    assert answer.status_code == 502, answer.content
    return answer.json()["detail"]


def test_a_token_that_is_not_taken_any_more_is_to_be_replaced(api, at_vendor):
    at_vendor[0].revoke(at_vendor[0].token)
    assert re.search("replace|Authorize", why_not(api, at_vendor), re.IGNORECASE)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_vendor_that_is_busy_or_down_is_to_be_asked_again(api, at_vendor, status):
    at_vendor[0].fail_next(status, {"message": "Sorry"}, {"retry-after": "7"})
    words = why_not(api, at_vendor)
    assert f"does not list the choices just now ({status}). Ask again in " in words
    assert not re.search("take|message a second|mapping|contact|record", words)


@pytest.mark.parametrize("at_vendor", ["slack", "hubspot"], indirect=True)
def test_a_permission_that_is_missing_is_named(api, at_vendor):
    vendor, _, _ = at_vendor
    missing = {
        "slack": (200, {"ok": False, "error": "missing_scope", "needed": "channels:read", "provided": "chat:write"}),
        "hubspot": (403, {"category": "MISSING_SCOPES", "errors": [
            {"context": {"requiredGranularScopes": ["crm.lists.read"]}}]}),
    }  # fmt: skip
    status, document = missing[vendor.slug]
    vendor.fail_next(status, document)
    assert f"needs {'channels:read' if vendor.slug == 'slack' else 'crm.lists.read'}" in why_not(api, at_vendor)


@pytest.mark.parametrize("at_vendor", ["mailchimp"], indirect=True)
def test_an_audience_that_is_not_there_is_to_be_checked(api, at_vendor):
    vendor, target, _ = at_vendor
    del vendor.state.audiences[target.config["list_id"]]
    assert "Check list_id" in why_not(api, at_vendor)


def test_another_tenant_s_connection_is_not_found(hubspot, target):
    assert options(caller("workspace", workspace=make_workspace()), target).status_code == 404
    assert hubspot.got == []


def test_a_test_learns_whose_account_it_is(api, hubspot, target):
    hubspot.answers = lambda got: Answer(200, body=b'{"portalId":62515,"uiDomain":"app.hubspot.com"}')
    answer = post(api, f"/api/v1/connections/{target.public_id}/test", {})
    assert answer.json()["account"] == {"id": "62515", "name": "app.hubspot.com"}
    target.refresh_from_db()
    assert (target.account_id, target.account_name) == ("62515", "app.hubspot.com")
    shown = api.get(f"/api/v1/connections/{target.public_id}").json()
    assert shown["account"] == {"id": "62515", "name": "app.hubspot.com"}


def test_an_account_s_name_that_no_database_takes_is_kept_without_what_it_does_not(api, hubspot, target):
    hubspot.answer(200, body=b'{"portalId":62515,"uiDomain":"a\\u0000b\\ud800"}')
    answer = post(api, f"/api/v1/connections/{target.public_id}/test", {})
    assert answer.json()["account"] == {"id": "62515", "name": "a\ufffdb\ufffd"}


def test_a_test_without_credentials_says_what_to_do(api, hubspot):
    bare = make_connection(make_workspace(), type="hubspot", config={}, secret={"nothing": "here"})
    answer = post(api, f"/api/v1/connections/{bare.public_id}/test", {}).json()
    assert (answer["ok"], answer["outcome"]) == (False, "broken")
    assert "authorize" in answer["error"]
    assert hubspot.got == []
