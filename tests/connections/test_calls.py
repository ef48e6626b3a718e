"""Tests of connections whose vendors' answers need judging, over real HTTP."""

import json

import pytest

from connections import calls, providers
from connections.models import Connection
from connections.providers.base import Unsendable
from tests.factories import make_connection, make_workspace
from tests.workspaces.callers import post

pytestmark = pytest.mark.django_db

TOKEN = "canary-9f3c_0123456789abcdef"
WEBHOOK = f"https://discord.com/api/webhooks/112233/{TOKEN}"


@pytest.fixture
def vendor(endpoint, monkeypatch):
    """`vendor(slug)`: the endpoint in the place of the vendor's hosts."""

    def stand_for(slug):
        monkeypatch.setattr(providers.get(slug), "override", endpoint.url.rpartition("/")[0])
        return endpoint

    return stand_for


def probed(type, secret, status="active"):
    connection = make_connection(make_workspace(), type=type, config={}, secret=secret, status=status)
    probe = calls.probe(connection, actor="test")
    connection.refresh_from_db()
    return probe, connection


def test_a_key_that_may_only_send_emails_passes_and_ends_the_hold(vendor):
    vendor("resend").answer(401, body=b'{"statusCode":401,"name":"restricted_api_key","message":"only send"}')
    probe, connection = probed("resend", {"api_key": "re_canary9f3c"}, status="needs_reauth")
    assert (probe.ok, probe.outcome) == (True, "delivered")
    assert connection.status == Connection.Status.ACTIVE


def test_a_wrong_key_passes_no_test_and_ends_nothing(vendor):
    vendor("resend").answer(403, body=b'{"statusCode":403,"name":"invalid_api_key","message":"API key is invalid"}')
    probe, connection = probed("resend", {"api_key": "re_canary9f3c"}, status="needs_reauth")
    assert (probe.ok, probe.error_class) == (False, "unauthorized")
    assert connection.status == Connection.Status.NEEDS_REAUTH


def test_slack_s_200_is_read_and_its_team_is_kept(vendor):
    here = vendor("slack")
    here.answer(200, body=b'{"ok":true,"team":"Engines","team_id":"T1"}')
    probe, connection = probed("slack", {"access_token": "xoxb-canary-9f3c"})
    assert (probe.ok, connection.account_id, connection.account_name) == (True, "T1", "Engines")
    assert [(got.method, got.path) for got in here.got] == [("POST", "/api/auth.test")]
    here.answer(200, body=b'{"ok":false,"error":"token_revoked"}')
    assert calls.probe(connection, actor="test").ok is False


def test_a_webhook_of_slack_s_has_no_test(vendor):
    here = vendor("slack")
    probe, _ = probed("slack", {"webhook_url": "https://hooks.slack.com/services/T1/B1/canary9f3c"})
    assert (probe.ok, probe.outcome) == (None, "no_test")
    assert here.got == []


def test_the_token_in_discord_s_answer_is_masked(vendor):
    here = vendor("discord")
    here.answer(200, body=json.dumps({"id": "112233", "name": "Leads", "token": TOKEN, "url": WEBHOOK}).encode())
    probe, connection = probed("discord", {"webhook_url": WEBHOOK})
    assert (probe.ok, connection.account_name) == (True, "Leads")
    assert here.got[0].path == f"/api/v10/webhooks/112233/{TOKEN}"
    assert TOKEN not in json.dumps([probe.request, probe.response])


def test_what_cannot_be_asked_is_told_without_the_secret(api, loopback, monkeypatch):
    """A provider that quotes the credential in its refusal."""
    token = "pat-na1-canary-quoted-4242"
    target = make_connection(make_workspace(), type="hubspot", config={}, secret={"access_token": token})

    def refuse(sending):
        raise Unsendable(f"No request can be made with {token}.")

    monkeypatch.setattr(providers.get("hubspot"), "build_test", refuse)
    answer = post(api, f"/api/v1/connections/{target.public_id}/test", {})
    assert answer.status_code == 200
    assert (answer.json()["ok"], answer.json()["error"]) == (False, "No request can be made with ••••.")
