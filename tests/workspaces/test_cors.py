"""A publishable key works from the pages that it lists, and from no other; nothing else speaks CORS."""

from datetime import UTC, datetime

import pytest
from django.test import Client

from tests.factories import make_workspace
from tests.workspaces.callers import bearer, issue, post
from workspaces import authentication, keys

EVENTS = "/api/v1/events"
PAGE = "https://app.example.com"
ALLOWED = "Access-Control-Allow-Origin"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def forget():
    authentication.any_key_lists.cache_clear()


@pytest.fixture
def published():
    return issue("publishable", workspace=make_workspace(external_id="acme"), allowed_origins=[PAGE])


def preflight(origin, path=EVENTS, method="POST"):
    asked = {"origin": origin, "access-control-request-method": method}
    return Client(headers=asked).options(path)


def test_a_preflight_passes_for_a_listed_page(published):
    answer = preflight(PAGE)
    assert answer.status_code == 200
    assert answer[ALLOWED] == PAGE
    assert answer["Access-Control-Allow-Methods"] == "POST"
    assert set(answer["Access-Control-Allow-Headers"].split(", ")) == {
        "authorization",
        "content-type",
        "idempotency-key",
    }
    assert "Access-Control-Allow-Credentials" not in answer


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://app.example.com.evil.example", "\x00", "*"]
)
def test_a_preflight_fails_for_other_pages(published, origin):
    assert ALLOWED not in preflight(origin)


@pytest.mark.parametrize("path", ["/api/v1/events/bulk", "/api/v1/workspaces", "/api/v1/api-keys", "/admin/"])
def test_a_preflight_fails_for_other_routes(published, path):
    assert ALLOWED not in preflight(PAGE, path)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_preflight_fails_for_other_methods(published, method):
    assert ALLOWED not in preflight(PAGE, method=method)


def test_a_preflight_fails_when_the_key_is_revoked(published):
    keys.revoke_key(published.row.pk, datetime.now(UTC))
    assert ALLOWED not in preflight(PAGE)


def test_what_a_page_may_ask_is_remembered_for_a_while(published, django_assert_num_queries):
    preflight(PAGE)
    with django_assert_num_queries(0):
        assert preflight(PAGE)[ALLOWED] == PAGE


def test_a_listed_page_reads_the_answer(published):
    answer = post(bearer(published.key), EVENTS, {}, headers={"origin": PAGE})
    assert answer.status_code == 422
    assert answer[ALLOWED] == PAGE


def test_another_page_is_refused(published):
    answer = post(bearer(published.key), EVENTS, {}, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert ALLOWED not in answer


def test_a_page_of_another_key_is_refused(published):
    other = issue("publishable", workspace=make_workspace(), allowed_origins=["https://other.example"])
    answer = post(bearer(other.key), EVENTS, {}, headers={"origin": PAGE})
    assert answer.status_code == 403
    assert ALLOWED not in answer


def test_other_kinds_of_keys_do_not_speak_cors(published):
    answer = post(bearer(issue().key), EVENTS, {}, headers={"origin": PAGE})
    assert answer.status_code == 422
    assert ALLOWED not in answer


def test_a_publishable_key_works_without_a_browser(published):
    assert post(bearer(published.key), EVENTS, {}).status_code == 422
