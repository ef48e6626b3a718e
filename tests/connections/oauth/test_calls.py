"""What a person asks of a vendor beside deliveries, a test or live choices, has a good token too."""

import itertools
from types import SimpleNamespace

import pytest

from connections import calls, conversation, lifecycle, outbound
from meshes.api.problems import Problem
from tests.connections.oauth.making import access_token, authorized, expired
from tests.connections.oauth.vendor import CANARY, Reply

pytestmark = pytest.mark.django_db


def test_a_test_renews_an_expired_token(vendor):
    connection = expired(vendor)
    vendor.api = lambda asked: Reply(200, {"portalId": 62515, "uiDomain": "app.hubspot.com"})
    found = calls.probe(connection, actor="a test")
    assert (found.ok, found.account.id, len(vendor.refreshes)) == (True, "62515", 1)
    assert vendor.api_requests[0].bearer == access_token(connection)
    assert CANARY not in f"{found.request}{found.response}{found.words}"


def test_a_test_renews_a_refused_token(vendor):
    connection = authorized(vendor)
    vendor.expire_access()
    found = calls.probe(connection, actor="a test")
    assert (found.ok, len(vendor.refreshes), len(vendor.api_requests)) == (True, 1, 2)


def test_a_test_that_is_made_again_has_its_whole_time(vendor, monkeypatch):
    """Also where the first call took long before its token was refused: here each look at the clock takes a second."""
    deadlines, send, seconds = [], outbound.send, itertools.count()
    monkeypatch.setattr(conversation, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    monkeypatch.setattr(
        outbound, "send", lambda *given, **more: (deadlines.append(more["deadline_seconds"]), send(*given, **more))[1]
    )
    connection = authorized(vendor, timeout_seconds=30)
    vendor.expire_access()
    monkeypatch.setattr(conversation, "TOKEN_SECONDS", float("inf"))
    assert calls.probe(connection, actor="a test").ok
    assert deadlines == [29.0, 29.0]


def test_a_test_says_that_the_authorization_has_ended(vendor):
    connection = expired(vendor)
    vendor.refresh_tokens.clear()
    found = calls.probe(connection, actor="a test")
    assert (found.ok, found.outcome, found.status) == (False, "broken", "needs_reauth")
    assert (found.error_class, vendor.api_requests) == ("authorization_ended", [])


def test_a_test_says_that_the_vendor_fails(vendor):
    vendor.before_reply = lambda asked: Reply(503, {})
    found = calls.probe(expired(vendor), actor="a test")
    assert (found.ok, found.outcome, found.error_class) == (False, "retry", "token_unavailable")
    assert (found.words, found.status) == ("HubSpot gives no token (503).", "active")


def test_a_paused_connection_may_be_tested(vendor):
    connection = expired(vendor, status="paused")
    assert calls.probe(connection, actor="a test").ok
    connection.refresh_from_db()
    assert connection.status == "paused"


def test_a_test_without_an_authorization_says_so(vendor):
    connection = authorized(vendor)
    lifecycle.disconnect(connection, actor="a test")
    found = calls.probe(connection, actor="a test")
    assert (found.ok, found.outcome) == (False, "broken")
    assert "authorize it" in found.words


def test_choices_are_asked_with_a_good_token(vendor):
    connection = expired(vendor)
    vendor.api = lambda asked: Reply(200, {"lists": [{"listId": "42", "name": "Leads"}]})
    (choice,) = calls.choices(connection, "list_id", actor="a test")
    assert (choice.value, choice.label, len(vendor.refreshes)) == ("42", "Leads", 1)


def test_choices_that_cannot_be_had_say_why(vendor):
    connection = expired(vendor)
    vendor.refresh_tokens.clear()
    with pytest.raises(Problem) as refused:
        calls.choices(connection, "list_id", actor="a test")
    assert refused.value.status == 502
    assert "no longer accepts this connection's authorization" in refused.value.detail
