"""Seven vendors as their documentation has them: authorized, tested, refreshed, ended and revoked."""

import html
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from django.test import Client as Browser

from connections import calls, lifecycle, providers
from connections.models import OAuthGrant
from connections.oauth import tokens
from connections.oauth.tokens import Client
from meshes.dev.vendors.registry import VENDORS
from tests.connections.oauth.making import opened
from tests.connections.oauth.test_refresh import outcomes, storm
from tests.factories import create_connection, make_workspace
from tests.polling import patient
from tests.workspaces.callers import caller, post
from workspaces.vault.secret import Secret

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass(frozen=True)
class Expected:
    """What authorizing a connection comes to."""

    config: dict[str, Any] = field(default_factory=dict)
    """Added by the vendor's answer."""
    account: str = ""
    refreshes: bool = True
    ends: bool = True
    """Whether its access tokens have an end that the reply tells."""
    revokes: bool = True
    given: dict[str, Any] = field(default_factory=dict)
    """The config that it is made with."""


EXPECTED = {
    "hubspot": Expected(account="62515"),
    "salesforce": Expected({"instance_url": "https://acme.my.salesforce.com"}, "00D5e822B33AD87EAA", ends=False),
    "mailchimp": Expected({"dc": "us21"}, "", False, False, False, {"list_id": "a1b2c3d4e5"}),
    "intercom": Expected({"region": "us"}, "abc123", False, False, False),
    "slack": Expected(account="T0ACME"),
    "pipedrive": Expected({"api_domain": "https://acme.pipedrive.com"}),
    "zoho": Expected({"api_domain": "https://www.zohoapis.eu", "accounts_host": "accounts.zoho.eu"}),
}
REFRESHING = [slug for slug, expected in EXPECTED.items() if expected.refreshes]


@pytest.fixture
def server(request, loopback, settings, monkeypatch):
    with VENDORS[request.param]() as server:
        monkeypatch.setattr(providers.get(server.slug), "override", server.url)
        settings.MESHES_OAUTH_CLIENTS = {server.slug: Client(server.client_id, Secret(server.client_secret))}
        yield server


every_vendor = pytest.mark.parametrize("server", sorted(EXPECTED), indirect=True)
every_refreshing = pytest.mark.parametrize("server", sorted(REFRESHING), indirect=True)


def connect(server):
    """A connection that its owner has authorized at the vendor."""
    config = EXPECTED[server.slug].given
    connection = create_connection(make_workspace().pk, server.slug, "Theirs", config, {}).connection
    assert connection.status == "needs_reauth"
    answer = agree(connection)
    assert answer.status_code == 200, answer.content.decode()
    connection.refresh_from_db()
    return connection


def agree(connection):
    """What the owner's browser does."""
    url = post(caller(), f"/api/v1/connections/{connection.public_id}/authorize", {}).json()["url"]
    browser = Browser()
    page = requests.get(browser.get(urlsplit(url).path)["Location"], allow_redirects=False, timeout=patient(10))
    assert page.status_code == 302, page.text
    back = urlsplit(page.headers["location"])
    return browser.get(f"{back.path}?{back.query}", follow=True)


@every_vendor
def test_a_connection_is_authorized(server):
    expected = EXPECTED[server.slug]
    connection = connect(server)
    assert connection.status == "active"
    assert connection.account_id == expected.account
    assert {key: connection.config[key] for key in expected.config} == expected.config
    document = opened(connection).secret
    assert ("refresh_token" in document, "expires_at" in document) == (expected.refreshes, expected.ends)
    assert server.account_of(document["access_token"].reveal()) == server.account
    assert server.token_requests == 1


@every_vendor
def test_a_customer_s_browser_connects_by_a_link_over_sockets(server, live_server, settings):
    settings.MESHES_PUBLIC_URL = live_server.url
    config = EXPECTED[server.slug].given
    connection = create_connection(make_workspace().pk, server.slug, "Theirs", config, {}).connection
    link = post(caller(), f"/api/v1/connections/{connection.public_id}/connect-link", {}).json()["url"]
    with requests.Session() as browser:
        offer = browser.get(link, timeout=patient(10))
        leaving = browser.post(
            link, {"proof": re.search(r'value="([0-9a-f]{64})"', offer.text)[1]}, timeout=patient(10)
        )
        url = html.unescape(re.search(r'content="0; url=([^"]+)"', leaving.text)[1])
        assert requests.get(url, timeout=patient(10)).status_code == 400  # another browser, with the same state
        done = browser.get(url, timeout=patient(10))
    assert (done.status_code, "is connected" in done.text) == (200, True)
    assert [answer.status_code for answer in done.history] == [302, 303]
    assert not any(secret in done.url for secret in ("code", "state", *server.codes))
    connection.refresh_from_db()
    assert (connection.status, server.token_requests) == ("active", 1)


@every_vendor
def test_what_was_authorized_passes_its_test(server):
    connection = connect(server)
    found = calls.probe(connection, actor="a test")
    assert found.ok, found
    connection.refresh_from_db()
    assert connection.account_id == (EXPECTED[server.slug].account or connection.account_id) != ""


@every_vendor
def test_a_person_who_says_no_changes_nothing(server):
    config = EXPECTED[server.slug].given
    connection = create_connection(make_workspace().pk, server.slug, "Theirs", config, {}).connection
    server.deny_next()
    assert agree(connection).status_code == 400
    assert (server.token_requests, connection.status) == (0, "needs_reauth")


@every_refreshing
def test_a_token_that_has_ended_is_renewed_once(server):
    connection = connect(server)
    server.expire_access_tokens()
    assert calls.probe(connection, actor="a test").ok
    assert (server.token_requests, opened(connection).version) == (2, 3)
    assert calls.probe(connection, actor="a test").ok
    assert server.token_requests == 2


@every_vendor
def test_an_app_that_was_removed_at_the_vendor_ends_the_connection(server):
    connection = connect(server)
    server.uninstall(server.account)
    found = calls.probe(connection, actor="a test")
    assert (found.ok, found.outcome) == (False, "broken"), found
    ended = OAuthGrant.objects.filter(connection=connection, ended_at__isnull=False).exists()
    assert ended is EXPECTED[server.slug].refreshes
    assert agree(connection).status_code == 200
    connection.refresh_from_db()
    assert connection.status == "active"
    assert calls.probe(connection, actor="a test").ok


@every_refreshing
def test_a_failing_token_endpoint_ends_nothing(server):
    connection = connect(server)
    server.expire_access_tokens()
    server.fail_token(503)
    found = calls.probe(connection, actor="a test")
    assert (found.ok, found.outcome, found.status) == (False, "retry", "active")
    OAuthGrant.objects.update(not_before=None)
    assert calls.probe(connection, actor="a test").ok


@every_vendor
def test_a_disconnect_reaches_the_vendor(server):
    connection = connect(server)
    lifecycle.disconnect(connection, actor="a test")
    revocations = [call for call in server.requests if call.path.endswith("revoke")]
    assert len(revocations) == EXPECTED[server.slug].revokes
    if server.slug in ("salesforce", "pipedrive", "zoho"):
        assert server.installations == []
    found = calls.probe(connection, actor="a test")
    assert (found.ok, found.outcome) == ((None, "no_test") if server.slug == "slack" else (False, "broken"))


@pytest.mark.parametrize("server", ["slack"], indirect=True)
def test_a_disconnect_reaches_slack_when_the_token_has_ended(server):
    """Only a live token revokes itself there, and a connection may have been quiet for longer than it lives."""
    server.change_reply(expires_in=1)
    connection = connect(server)
    server.expire_access_tokens()
    lifecycle.disconnect(connection, actor="a test")
    assert (server.installations, server.token_requests) == ([], 2)
    assert opened(connection).secret == {}


@every_refreshing
def test_fifty_workers_use_a_refresh_token_once(server, monkeypatch):
    """Used twice, it would end the installation: Slack does so, any other that rotates may."""
    server.rotates = True
    monkeypatch.setattr(type(server), "detects_reuse", True)
    server.change_reply(expires_in=1)
    connection = connect(server)
    server.expire_access_tokens()
    server.change_reply(expires_in=43_200)
    got = outcomes(storm(connection, server, client=[server.client_id, server.client_secret]))
    token = opened(connection).secret["access_token"].reveal()
    assert (server.token_requests, got) == (2, {token: 50})
    assert server.account_of(token) == server.account


YEAR = 365 * 86_400
ASSUMED = {"hubspot": 1800, "pipedrive": 3600, "zoho": 3600}
"""Seconds that a token lives whose reply does not say; the others' live until they are refused."""


@every_vendor
@pytest.mark.parametrize(
    ("said", "meant"),
    [("1800", 1800), (900.5, 900.5), (10**12, YEAR), (0, None), ("0", None), (-1, None), (None, None), ("soon", None),
     (True, None), ([1800], None), ("1e999", YEAR), ("nan", None)],
)  # fmt: skip
def test_whatever_a_vendor_says_of_a_lifetime(server, said, meant):
    """What says nothing means what the vendor declares; the token works whatever was said."""
    server.change_reply(expires_in=said)
    connection = connect(server)
    document = opened(connection).secret
    issued_at, expires_at = (tokens.read_moment(document, key) for key in ("issued_at", "expires_at"))
    lifetime = meant or ASSUMED.get(server.slug)
    assert expires_at == (None if lifetime is None else issued_at + timedelta(seconds=lifetime))
    assert calls.probe(connection, actor="a test").ok
    assert server.token_requests == 1


@pytest.mark.parametrize("server", ["slack"], indirect=True)
def test_slack_s_names_of_an_end_stand_below_a_200(server):
    connection = connect(server)
    server.expire_access_tokens()
    server.fail_token("account_inactive")
    found = calls.probe(connection, actor="a test")
    assert (found.outcome, found.words) == (
        "broken",
        "Slack no longer accepts this connection's authorization (account_inactive). Authorize it again.",
    )
    assert OAuthGrant.objects.get(connection=connection).ended_at is not None


ADDRESSES = {"salesforce": ("instance_url", "salesforce.com"), "pipedrive": ("api_domain", "pipedrive.com")}
HOSTILE = [
    "https://evil.example",
    "https://evil.example/.{domain}",
    "https://evil.example?.{domain}",
    "https://evil.example#.{domain}",
    "https://evil.example\\.{domain}",
    "https://evil.example%2f.{domain}",
    "https://acme.{domain}.evil.example",
    "https://evil{domain}",
    "https://acme.{domain}@evil.example",
    "https://user@acme.{domain}",
    "https://acme.{domain}..",
    "https://\u0430cme.evil-{domain}",
    "https://acme\u3002{domain}\u3002evil.example",
    "http://acme.{domain}",
    "//acme.{domain}",
    "http://10.0.0.1",
    "https://169.254.169.254",
    "https://2130706433",
    "https://[::1]",
    "",
    None,
    7,
]


@pytest.mark.parametrize("server", [*sorted(ADDRESSES), "zoho"], indirect=True)
@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_address_is_not_kept(server, url):
    key, domain = ADDRESSES.get(server.slug, ("api_domain", "zohoapis.eu"))
    server.change_reply(**{key: url.format(domain=domain) if isinstance(url, str) else url})
    connection = create_connection(make_workspace().pk, server.slug, "Theirs", {}, {}).connection
    assert agree(connection).status_code == 400
    connection.refresh_from_db()
    assert (connection.status, key in connection.config) == ("needs_reauth", False)
    assert opened(connection).secret == {}


@pytest.mark.parametrize(
    "url",
    ["https://acme.{domain}.", "https://acme.{domain}:8443", "https://acme.{domain}/path", "https://acme.{domain}?a=b"],
)
@pytest.mark.parametrize("slug", sorted(ADDRESSES))
def test_an_address_is_the_vendor_s_root(slug, url):
    key, domain = ADDRESSES[slug]
    problems = providers.get(slug).check({key: url.format(domain=domain)}, {"access_token": "x"})
    assert [problem.pointer for problem in problems] == [f"/config/{key}"]


def test_pages_are_at_the_vendors_own_hosts():
    hosts = {
        provider.slug: sorted(
            urlsplit(url.format(login_host="login.salesforce.com", accounts_host="accounts.zoho.eu")).hostname
            for url in {provider.oauth.authorize_url, provider.oauth.token_url, provider.oauth.revoke_url} - {""}
        )
        for provider in providers.all()
        if provider.oauth is not None and provider.oauth.is_by_person
    }
    assert hosts == {
        "hubspot": ["api.hubapi.com", "api.hubapi.com", "app.hubspot.com"],
        "salesforce": ["login.salesforce.com"] * 3,
        "mailchimp": ["login.mailchimp.com"] * 2,
        "intercom": ["api.intercom.io", "app.intercom.com"],
        "slack": ["slack.com"] * 3,
        "pipedrive": ["oauth.pipedrive.com"] * 3,
        "zoho": ["accounts.zoho.eu"] * 3,
    }


@pytest.mark.parametrize("provider", providers.all(), ids=lambda provider: provider.slug)
def test_reading_an_answer_is_total(provider):
    odd = ({}, {"id": None}, {"team": []}, {"app": "x"}, {"instance_url": 3, "hub_id": True}, {"dc": {"a": 1}})
    for reply in odd:
        for details in odd:
            granted = provider.read_grant(reply, details)
            assert granted.account is None or granted.account.id
            assert all(isinstance(value, str) for value in granted.config.values())
