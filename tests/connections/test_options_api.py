"""`GET /connections/{id}/options/{field}` and what a test learns of the account."""

import json

import pytest
from django.core.cache import cache

from connections import providers
from connections.models import AccessRecord
from tests.factories import make_connection, make_workspace
from tests.receivers import Answer
from tests.workspaces.callers import caller, post

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
