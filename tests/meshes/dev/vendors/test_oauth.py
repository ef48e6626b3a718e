"""OAuth of each vendor: how it begins, what the token endpoint gives and refuses, and how tokens end."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from meshes.dev.vendors.hubspot import HubSpot
from meshes.dev.vendors.messages import RefusedError
from meshes.dev.vendors.oauth import OAuthServer
from meshes.dev.vendors.registry import VENDORS
from meshes.dev.vendors.slack import Slack
from tests.meshes.dev.vendors.calling import BACK, authorize, basic, call, challenge, tokens

PAGES = {
    "hubspot": ("/oauth/authorize", "/oauth/2026-09/token"),
    "salesforce": ("/services/oauth2/authorize", "/services/oauth2/token"),
    "mailchimp": ("/oauth2/authorize", "/oauth2/token"),
    "intercom": ("/oauth", "/auth/eagle/token"),
    "slack": ("/oauth/v2/authorize", "/api/oauth.v2.access"),
    "pipedrive": ("/oauth/authorize", "/oauth/token"),
    "zoho": ("/oauth/v2/auth", "/oauth/v2/token"),
}
ASKED = {
    "hubspot": {"scope": "oauth crm.objects.contacts.write"},
    "salesforce": {"scope": "api refresh_token"},
    "slack": {"scope": "chat:write"},
    "zoho": {"scope": "ZohoCRM.modules.ALL,ZohoCRM.org.READ", "access_type": "offline"},
}
"""Parameters of the page that a vendor requires, or grants no more than."""


@pytest.fixture(params=list(PAGES))
def vendor(request) -> Iterator[OAuthServer[Any]]:
    with VENDORS[request.param]() as server:
        assert isinstance(server, OAuthServer)
        yield server


@pytest.fixture
def hubspot() -> Iterator[HubSpot]:
    with HubSpot() as server:
        yield server


@pytest.fixture
def slack() -> Iterator[Slack]:
    with Slack() as server:
        yield server


def agreed(server: OAuthServer[Any], **query: str) -> str:
    """The code of an agreement."""
    return authorize(server, PAGES[server.slug][0], **{**ASKED.get(server.slug, {}), **query})["code"]


def redeem(server: OAuthServer[Any], code: str, **fields: str) -> requests.Response:
    asked = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK, **fields}
    return tokens(server, PAGES[server.slug][1], **asked)


def refresh(server: OAuthServer[Any], token: str) -> requests.Response:
    return tokens(server, PAGES[server.slug][1], grant_type="refresh_token", refresh_token=token)


def connected(server: OAuthServer[Any], **query: str) -> dict[str, Any]:
    """The token endpoint's reply to a first agreement."""
    return dict(redeem(server, agreed(server, **query)).json())


def opens(server: OAuthServer[Any], token: str) -> bool:
    """Whether the API would let this token in."""
    try:
        return bool(server.account_of(token))
    except RefusedError:
        return False


def refused(answer: requests.Response) -> tuple[int, str]:
    """Status, and what the vendor calls the error."""
    return answer.status_code, answer.json()["error"]


# Of every vendor.


def test_a_code_is_good_once(vendor):
    code = agreed(vendor)
    assert "access_token" in redeem(vendor, code).json()
    again = redeem(vendor, code)
    assert "access_token" not in again.json()
    assert vendor.token_requests == 2
    assert len(vendor.installations) == 1


def test_the_app_s_secret_must_be_right(vendor):
    code = agreed(vendor)
    vendor.client_secret, right = "other", vendor.client_secret
    app = {"client_id": vendor.client_id, "client_secret": right}
    sent = requests.post(
        vendor.url + PAGES[vendor.slug][1],
        data={"grant_type": "authorization_code", "code": code, "redirect_uri": BACK, **app},
        headers=basic(vendor.client_id, right) if "body" not in vendor.client_auth else {},
        timeout=10,
    )
    assert "access_token" not in sent.json()
    assert vendor.installations == []


@pytest.mark.parametrize("query", [{"client_id": "nobody"}, {"redirect_uri": "/relative"}, {"redirect_uri": ""}])
def test_the_page_sends_nobody_to_an_unknown_place(vendor, query):
    asked = {"client_id": vendor.client_id, "redirect_uri": BACK, "response_type": "code", "scope": "any", **query}
    answer = requests.get(vendor.url + PAGES[vendor.slug][0], params=asked, allow_redirects=False, timeout=10)
    assert answer.status_code == 400
    assert vendor.codes == {}


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"scope": ""}, "invalid_request"),
        ({"scope": "oauth", "response_type": "token"}, "unsupported_response_type"),
        ({"scope": "oauth", "code_challenge": "x" * 43}, "invalid_request"),
        ({"scope": "oauth", "code_challenge": "x" * 43, "code_challenge_method": "plain"}, "invalid_request"),
        ({"scope": "oauth", "code_challenge": "x" * 42, "code_challenge_method": "S256"}, "invalid_request"),
        ({"scope": "oauth", "code_challenge_method": "S256"}, "invalid_request"),
    ],
)
def test_a_wrong_request_for_agreement_is_sent_back(hubspot, query, error):
    assert authorize(hubspot, "/oauth/authorize", **query) == {"error": error, "state": "s1"}


def test_pkce_is_proved_by_the_verifier(hubspot):
    verifier, asked = challenge()
    code = agreed(hubspot, **asked)
    assert refused(redeem(hubspot, code)) == (400, "invalid_grant")
    assert refused(redeem(hubspot, code, code_verifier=challenge()[0])) == (400, "invalid_grant")
    assert redeem(hubspot, code, code_verifier=verifier).status_code == 200


def test_the_redirect_uri_must_be_that_of_the_page(hubspot):
    answer = redeem(hubspot, agreed(hubspot), redirect_uri=BACK + "/")
    assert (answer.status_code, answer.json()["status"]) == (400, "MISMATCH_REDIRECT_URI_AUTH_CODE")


def test_a_code_grows_too_old(hubspot):
    code = agreed(hubspot)
    hubspot.clock = lambda: time.time() + 301
    assert refused(redeem(hubspot, code)) == (400, "invalid_grant")


def test_a_token_ends_after_its_time(hubspot):
    token = connected(hubspot)["access_token"]
    assert call(hubspot, "GET", "/account-info/v3/details", token=token).status_code == 200
    hubspot.clock = lambda: time.time() + 1801
    answer = call(hubspot, "GET", "/account-info/v3/details", token=token)
    assert (answer.status_code, answer.json()["category"]) == (401, "EXPIRED_AUTHENTICATION")


def test_slack_s_refresh_tokens_are_good_once_and_their_reuse_ends_the_installation(slack):
    first = connected(slack)
    second = refresh(slack, first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert opens(slack, second["access_token"])
    other = connected(slack)
    reused = refresh(slack, first["refresh_token"])
    assert (reused.status_code, reused.json()) == (200, {"ok": False, "error": "invalid_refresh_token"})
    assert not opens(slack, second["access_token"])
    assert refresh(slack, second["refresh_token"]).json()["error"] == "invalid_refresh_token"
    assert opens(slack, other["access_token"])
