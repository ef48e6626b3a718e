"""Requests to token endpoints, byte for byte, and what their answers mean."""

import base64
import json
from datetime import UTC, datetime

import pytest

from connections import providers
from connections.messages import Response
from connections.oauth import tokens
from connections.oauth.tokens import Client, NoTokenError, with_cool_down
from connections.providers.base import Outcome
from tests.connections.oauth.vendor import CANARY, Gate, Reply
from tests.connections.providers.shipments import as_secrets
from tests.receivers import Answer
from workspaces.vault.secret import Secret

CLIENT = Client("app-1", Secret("canary-client-secret"))
KEPT = as_secrets({"refresh_token": "canary-refresh-1", "issued_at": "2026-03-04T05:06:07+00:00"})
BACK = "https://meshes.example.com/oauth/callback"


def renew(slug="hubspot", config=None, kept=KEPT, seconds=10.0):
    return tokens.renew(providers.get(slug), config or {}, kept, CLIENT, seconds, asked_at=datetime.now(UTC))


def test_a_refresh_with_the_client_in_the_body(vendor):
    vendor.refresh_tokens.add("canary-refresh-1")
    got = renew()
    (asked,) = vendor.token_requests
    assert asked.path == "/oauth/2026-09/token"
    assert asked.form == {
        "grant_type": "refresh_token", "refresh_token": "canary-refresh-1", "client_id": "app-1",
        "client_secret": "canary-client-secret",
    }  # fmt: skip
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert asked.headers["accept"] == "application/json"
    assert "authorization" not in asked.headers
    assert got.access.reveal() in vendor.access_tokens
    assert got.refresh is None


def test_a_refresh_with_the_client_in_a_header(vendor):
    vendor.refresh_tokens.add("canary-refresh-1")
    renew("rotating")
    (asked,) = vendor.token_requests
    assert asked.form == {"grant_type": "refresh_token", "refresh_token": "canary-refresh-1"}
    pair = base64.b64encode(b"app-1:canary-client-secret").decode()
    assert asked.headers["authorization"] == f"Basic {pair}"


def test_a_basic_header_encodes_what_the_standard_says(vendor):
    vendor.before_reply = lambda asked: Reply(503, {})
    with pytest.raises(NoTokenError):
        tokens.renew(
            providers.get("rotating"), {}, KEPT, Client("a:b c", Secret("ü/%")), 10, asked_at=datetime.now(UTC)
        )
    pair = base64.b64decode(vendor.token_requests[0].bearer)
    assert pair == b"a%3Ab+c:%C3%BC%2F%25"  # RFC 6749, section 2.3.1


def test_client_credentials_go_to_the_customer_s_own_server(vendor):
    kept = as_secrets({"oauth_client_id": "app-1", "oauth_client_secret": "canary-client-secret"})
    config = {"oauth_token_url": f"{vendor.url}/own/token", "oauth_scope": "hooks:write"}
    renew("webhook", config, kept)
    (asked,) = vendor.token_requests
    assert (asked.path, asked.form) == (
        "/own/token",
        {"grant_type": "client_credentials", "scope": "hooks:write"},
    )
    assert asked.headers["authorization"].startswith("Basic ")


def test_a_code_goes_with_its_verifier_and_redirect_uri(vendor):
    vendor.before_reply = lambda asked: Reply(200, {"access_token": "canary-x", "hub_id": 62515})
    new, reply = tokens.by_code(
        providers.get("hubspot"), {}, CLIENT, "canary-code", BACK, "v" * 43, asked_at=datetime.now(UTC)
    )
    assert vendor.token_requests[0].form == {
        "grant_type": "authorization_code", "code": "canary-code", "redirect_uri": BACK, "code_verifier": "v" * 43,
        "client_id": "app-1", "client_secret": "canary-client-secret",
    }  # fmt: skip
    assert (new.access.reveal(), reply["hub_id"]) == ("canary-x", 62515)


def test_without_pkce_no_verifier_goes(vendor):
    vendor.before_reply = lambda asked: Reply(200, {"access_token": "canary-x"})
    tokens.by_code(providers.get("rotating"), {}, CLIENT, "canary-code", BACK, "v" * 43, asked_at=datetime.now(UTC))
    assert "code_verifier" not in vendor.token_requests[0].form


# --- what answers mean ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slug", "reply"),
    [
        ("hubspot", Reply(400, {"error": "invalid_grant", "status": "BAD_REFRESH_TOKEN"})),
        ("hubspot", Reply(400, {"status": "BAD_REFRESH_TOKEN", "message": "missing or invalid refresh token"})),
        ("instanced", Reply(400, {"error": "invalid_grant", "error_description": "expired access/refresh token"})),
        ("rotating", Reply(200, {"ok": False, "error": "invalid_refresh_token"})),
        ("rotating", Reply(200, {"ok": False, "error": "token_revoked"})),
        ("webhook", Reply(401, {"error": "invalid_client"})),
        ("webhook", Reply(400, {"error": "invalid_scope"})),
    ],
)
def test_what_only_the_owner_can_fix(vendor, slug, reply):
    vendor.before_reply = lambda asked: reply
    verdict = fail(vendor, slug)
    assert (verdict.outcome, verdict.hold) == (Outcome.BROKEN, "needs_reauth")
    fix = "Check its id, its secret and the scope." if slug == "webhook" else "Authorize it again."
    assert verdict.words.endswith(fix)


def fail(vendor, slug="hubspot", seconds=10.0):
    """What comes of a refresh that fails."""
    config, kept = {}, KEPT
    if slug == "instanced":
        config = {"login_host": "login.instanced.example"}
    if slug == "webhook":
        config = {"oauth_token_url": f"{vendor.url}/token"}
        kept = as_secrets({"oauth_client_id": "app-1", "oauth_client_secret": "x"})
    with pytest.raises(NoTokenError) as caught:
        renew(slug, config, kept, seconds)
    return caught.value.verdict


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(500, {"error": "invalid_grant"}), "HubSpot gives no token (500 invalid_grant)."),
        (Reply(502, b"<html>bad gateway"), "HubSpot gives no token (502)."),
        (Reply(200, b"<html>maintenance"), "HubSpot gives no token: there is no usable access token in the answer."),
        (Reply(200, []), "HubSpot gives no token: there is no usable access token in the answer."),
        (
            Reply(200, {"access_token": "a\nb"}),
            "HubSpot gives no token: there is no usable access token in the answer.",
        ),
        (Reply(400, {"error": "invalid_client"}), "HubSpot gives no token (400 invalid_client)."),
        (Reply(401, {"error": "canary-0123"}), "HubSpot gives no token (401)."),
        (Reply(302, {}, {"location": "https://example.com"}), "HubSpot gives no token (302)."),
        (Reply(200, {"error": {"nested": 1}, "access_token": "x"}), "HubSpot gives no token (200)."),
    ],
)
def test_nothing_else_ends_an_authorization(vendor, reply, words):
    vendor.before_reply = lambda asked: reply
    verdict = fail(vendor)
    assert (verdict.outcome, verdict.hold, verdict.throttled) == (Outcome.RETRY, None, True)
    assert verdict.words == words


def test_a_vendor_may_say_for_how_long(vendor):
    vendor.before_reply = lambda asked: Reply(429, {}, {"retry-after": "77"})
    assert fail(vendor).retry_after_seconds == 77


@pytest.mark.parametrize(
    ("failures", "asked", "rest"), [(0, None, 5), (1, None, 10), (3, 7, 40), (3, 77, 77), (60, None, 300)]
)
def test_each_failure_rests_twice_as_long(vendor, failures, asked, rest):
    vendor.before_reply = lambda _: Reply(503, {}, {} if asked is None else {"retry-after": str(asked)})
    assert with_cool_down(fail(vendor), failures).retry_after_seconds == rest


def test_a_vendor_that_does_not_answer_in_time(vendor):
    vendor.gate = Gate()
    verdict = fail(vendor, seconds=0.2)
    vendor.gate.open()
    assert (verdict.outcome, verdict.hold) == (Outcome.RETRY, None)
    assert verdict.words.startswith("HubSpot gave no token: ")


def test_an_address_that_is_not_allowed(vendor, settings):
    settings.MESHES_OUTBOUND_ALLOW_NETS = []
    verdict = fail(vendor)
    assert (verdict.outcome, verdict.hold) == (Outcome.BROKEN, "disabled")
    assert vendor.token_requests == []


def test_nothing_that_was_sent_or_answered_is_shown(vendor, clean_log):
    vendor.before_reply = lambda asked: Reply(
        400, {"error": f"{CANARY}e1", "error_description": json.dumps(asked.form)}
    )
    verdict = fail(vendor)
    assert CANARY not in f"{verdict!r}"


# --- where requests go ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("https://acme.my.instanced.example", True),
        ("https://instanced.example/path", True),
        ("http://acme.instanced.example", False),
        ("https://evilinstanced.example", False),
        ("https://instanced.example.evil.example", False),
        ("https://evil.example/?.instanced.example", False),
        ("https://evil.example#.instanced.example", False),
        ("https://evil.example\\.instanced.example", False),
        ("https://acme.instanced.example@evil.example", False),
        ("https://127.0.0.1", False),
        ("javascript:alert(1)//.instanced.example", False),
        ("", False),
    ],
)
def test_a_url_is_the_vendor_s_by_its_host(integrations, url, ours):
    assert tokens.is_vendor_url(providers.get("instanced"), url) is ours


def test_a_vendor_that_was_moved_is_where_it_was_moved_to(vendor):
    instanced = providers.get("instanced")
    assert tokens.is_vendor_url(instanced, f"{vendor.url}/somewhere")
    assert not tokens.is_vendor_url(instanced, "http://127.0.0.1:1/somewhere")


@pytest.mark.parametrize("host", ["evil.example", "evil.example/", "x@evil.example", "evil.example#", "", "127.0.0.1"])
def test_a_config_does_not_lead_the_client_s_secret_away(vendor, host):
    with pytest.raises(NoTokenError) as caught:
        renew("instanced", {"login_host": host})
    assert caught.value.verdict.hold == "disabled"
    assert vendor.token_requests == []


# --- details and revocation -----------------------------------------------------------------------------------------


def test_details_are_asked_with_the_vendor_s_scheme(vendor):
    vendor.access_tokens.add("canary-a")
    vendor.api = lambda asked: Reply(200, {"dc": "us21"})
    assert tokens.read_details(providers.get("rotating"), {}, Secret("canary-a")) == {"dc": "us21"}
    assert vendor.api_requests[0].headers["authorization"] == "OAuth canary-a"


@pytest.mark.parametrize("reply", [Reply(500, {}), Reply(200, b"no json"), Reply(200, {})])
def test_details_that_do_not_come(vendor, reply):
    vendor.access_tokens.add("canary-a")
    vendor.api = lambda asked: reply
    with pytest.raises(NoTokenError) as caught:
        tokens.read_details(providers.get("rotating"), {}, Secret("canary-a"))
    assert caught.value.verdict.hold is None


def test_no_details_are_asked_where_none_are_declared(vendor):
    assert tokens.read_details(providers.get("hubspot"), {}, Secret("canary-a")) == {}
    assert vendor.api_requests == []


def test_a_refresh_token_is_revoked_by_a_form(vendor):
    kept = as_secrets({"access_token": "canary-a", "refresh_token": "canary-r"})
    assert tokens.revoke(providers.get("hubspot"), {}, kept, CLIENT)
    (asked,) = vendor.revoked
    assert (asked.path, asked.form) == (
        "/oauth/2026-09/token/revoke",
        {
            "token": "canary-r", "token_type_hint": "refresh_token", "client_id": "app-1",
            "client_secret": "canary-client-secret",
        },
    )  # fmt: skip


def test_an_access_token_is_revoked_by_itself(vendor):
    assert tokens.revoke(providers.get("rotating"), {}, as_secrets({"access_token": "canary-a"}), CLIENT)
    (asked,) = vendor.revoked
    assert (asked.bearer, asked.form) == ("canary-a", {})


def test_a_revocation_that_fails_raises_nothing(endpoint, integrations, monkeypatch):
    monkeypatch.setattr(providers.get("hubspot"), "override", endpoint.url.removesuffix("/hook"))
    kept = as_secrets({"access_token": "canary-a"})
    for answer in (Answer(500), Answer(400), Answer(200, body=b'{"ok": false}')):
        endpoint.answers = lambda got, answer=answer: answer
        assert not tokens.revoke(providers.get("hubspot"), {}, kept, CLIENT)
    assert len(endpoint.got) == 3


def test_a_request_that_is_not_answered_revokes_nothing(integrations, loopback, monkeypatch):
    monkeypatch.setattr(providers.get("hubspot"), "override", "http://127.0.0.1:1")
    assert not tokens.revoke(providers.get("hubspot"), {}, as_secrets({"access_token": "canary-a"}), CLIENT)


def test_a_provider_says_when_a_token_is_no_longer_taken(integrations):
    assert providers.get("hubspot").is_unauthorized(Response(401, (), b"", False, 1))
    assert not providers.get("hubspot").is_unauthorized(Response(403, (), b"", False, 1))
    assert providers.get("rotating").is_unauthorized(Response(200, (), b'{"error": "token_expired"}', False, 1))


@pytest.mark.parametrize(
    ("region", "pages", "api"),
    [
        ("us", "app.intercom.com", "api.intercom.io"),
        ("eu", "app.eu.intercom.com", "api.eu.intercom.io"),
        ("au", "app.au.intercom.com", "api.au.intercom.io"),
        (None, "app.intercom.com", "api.intercom.io"),
    ],
)
def test_a_region_has_hosts_of_its_own_for_its_authorizations(region, pages, api):
    provider, config = providers.get("intercom"), {"region": region} if region else {}
    assert tokens.url_of(provider, provider.oauth.authorize_url, config) == f"https://{pages}/oauth"
    assert tokens.url_of(provider, provider.oauth.token_url, config) == f"https://{api}/auth/eagle/token"
    assert tokens.url_of(provider, provider.oauth.details_url, config) == f"https://{api}/me"


def test_a_code_of_zoho_is_redeemed_at_the_data_centre_that_the_redirect_names():
    provider = providers.get("zoho")
    config = {"accounts_host": "accounts.zoho.com"} | provider.read_redirect(
        {"accounts-server": "https://accounts.zoho.in"}
    )
    assert tokens.url_of(provider, provider.oauth.token_url, config) == "https://accounts.zoho.in/oauth/v2/token"
    stolen = provider.read_redirect({"accounts-server": "https://accounts.zoho.com.evil.example"})
    with pytest.raises(NoTokenError):
        tokens.url_of(provider, provider.oauth.token_url, stolen)
