"""OAuth of each vendor: how it begins, what the token endpoint gives and refuses, and how tokens end."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from meshes.dev.vendors.hubspot import HubSpot
from meshes.dev.vendors.intercom import Intercom
from meshes.dev.vendors.mailchimp import Mailchimp
from meshes.dev.vendors.messages import BadToken
from meshes.dev.vendors.oauth import OAuthServer
from meshes.dev.vendors.pipedrive import Pipedrive
from meshes.dev.vendors.salesforce import Salesforce
from meshes.dev.vendors.slack import Slack
from meshes.dev.vendors.zoho import Zoho
from tests.meshes.dev.vendors.calling import BACK, authorize, basic, call, challenge, tokens
from tests.polling import eventually

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


@pytest.fixture(params=[HubSpot, Salesforce, Mailchimp, Intercom, Slack, Pipedrive, Zoho], ids=list(PAGES))
def vendor(request) -> Iterator[OAuthServer[Any]]:
    with request.param() as server:
        yield server


@pytest.fixture(params=[HubSpot, Salesforce, Slack, Pipedrive], ids=["hubspot", "salesforce", "slack", "pipedrive"])
def refreshing(request) -> Iterator[OAuthServer[Any]]:
    with request.param() as server:
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
    except BadToken:
        return False


def refused(answer: requests.Response) -> tuple[int, str]:
    """Status, and what the vendor calls the error."""
    return answer.status_code, answer.json()["error"]


# Of every vendor.


def test_the_page_sends_back_a_code_and_the_state(vendor):
    asked = {"scope": "any", **ASKED.get(vendor.slug, {})}
    back = authorize(vendor, PAGES[vendor.slug][0], **asked, state="a b&c")
    place = {"accounts-server": "https://accounts.zoho.eu", "location": "eu"} if vendor.slug == "zoho" else {}
    assert back == {"code": back["code"], "state": "a b&c"} | place
    assert vendor.codes[back["code"]].account == vendor.account


def test_a_code_gives_a_token_that_opens_the_account(vendor):
    reply = connected(vendor)
    assert vendor.tokens[reply["access_token"]] == vendor.account
    assert vendor.token_requests == 1


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


def test_the_token_endpoint_fails_on_demand_and_the_api_does_not(vendor):
    vendor.fail_token(503, times=2)
    code = agreed(vendor)
    assert [redeem(vendor, code).status_code for _ in range(2)] == [503, 503]
    assert "access_token" in redeem(vendor, code).json()


def test_a_fault_of_the_api_leaves_the_token_endpoint_alone(vendor):
    vendor.fail_next(500)
    assert "access_token" in connected(vendor)


def test_a_refresh_token_gives_another_access_token(refreshing):
    first = connected(refreshing)
    second = refresh(refreshing, first["refresh_token"]).json()
    assert second["access_token"] != first["access_token"]
    assert refreshing.tokens[second["access_token"]] == refreshing.account


def test_an_unknown_refresh_token_is_refused(refreshing):
    answer = refresh(refreshing, "made-up")
    error = "invalid_refresh_token" if refreshing.slug == "slack" else "invalid_grant"
    assert answer.json()["error"] == error
    assert answer.status_code == (200 if refreshing.slug == "slack" else 400)


def test_expired_access_tokens_open_nothing_and_refresh_tokens_live_on(refreshing):
    first = connected(refreshing)
    refreshing.expire_access_tokens()
    assert not opens(refreshing, first["access_token"])
    second = refresh(refreshing, first["refresh_token"]).json()
    assert opens(refreshing, second["access_token"])


def test_an_uninstalled_app_has_no_tokens(refreshing):
    first = connected(refreshing)
    refreshing.uninstall(refreshing.account)
    assert not opens(refreshing, first["access_token"])
    assert "access_token" not in refresh(refreshing, first["refresh_token"]).json()


# The page and the code, shown on HubSpot.


def test_who_is_signed_in_agrees_unless_a_hint_names_another(hubspot):
    hubspot.sign_in("777")
    assert connected(hubspot)["hub_id"] == 777
    assert connected(hubspot, login_hint="888")["hub_id"] == 888


def test_optional_scopes_are_granted_too(hubspot):
    assert connected(hubspot, scope="oauth", optional_scope="crm.lists.read")["scopes"] == ["oauth", "crm.lists.read"]


def test_a_person_can_refuse(hubspot):
    hubspot.deny_next()
    back = authorize(hubspot, "/oauth/authorize", scope="oauth")
    assert back == {"error": "access_denied", "state": "s1"}
    assert "code" in authorize(hubspot, "/oauth/authorize", scope="oauth")


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


def test_only_registered_places_are_sent_back_to(hubspot):
    hubspot.redirect_uris = {"https://other.example/callback"}
    asked = {"client_id": hubspot.client_id, "redirect_uri": BACK, "scope": "oauth"}
    assert requests.get(hubspot.url + "/oauth/authorize", params=asked, timeout=10).status_code == 400


def test_the_place_s_own_query_is_kept(hubspot):
    asked = {"client_id": hubspot.client_id, "redirect_uri": BACK + "?tenant=a%20b", "scope": "oauth"}
    answer = requests.get(hubspot.url + "/oauth/authorize", params=asked, allow_redirects=False, timeout=10)
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    assert (query["tenant"], list(query)) == (["a b"], ["tenant", "code"])


def test_pkce_is_proved_by_the_verifier(hubspot):
    verifier, asked = challenge()
    code = agreed(hubspot, **asked)
    assert refused(redeem(hubspot, code)) == (400, "invalid_grant")
    assert refused(redeem(hubspot, code, code_verifier=challenge()[0])) == (400, "invalid_grant")
    assert redeem(hubspot, code, code_verifier=verifier).status_code == 200


def test_a_verifier_without_a_challenge_is_refused(hubspot):
    assert refused(redeem(hubspot, agreed(hubspot), code_verifier=challenge()[0])) == (400, "invalid_grant")


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


@pytest.mark.parametrize("seconds", ["1800", 0, -1, 10**12, 1.5])
def test_what_a_reply_says_can_be_changed(hubspot, seconds):
    hubspot.change_reply(expires_in=seconds)
    assert connected(hubspot)["expires_in"] == seconds


def test_a_field_can_be_left_out_of_replies(hubspot):
    hubspot.change_reply(expires_in=None)
    assert sorted(connected(hubspot)) == ["access_token", "hub_id", "refresh_token", "scopes", "token_type", "user_id"]


def test_a_hanging_token_endpoint_is_counted_and_gives_nothing(hubspot):
    code = agreed(hubspot)
    hubspot.fail_token("HANG")
    with pytest.raises(requests.Timeout):
        requests.post(hubspot.url + "/oauth/2026-09/token", data={"code": code}, timeout=0.2)
    assert eventually(lambda: hubspot.token_requests) == 1
    assert hubspot.installations == []


# What each vendor's reply looks like, and how its tokens end.


def test_hubspot_s_reply(hubspot):
    reply = connected(hubspot)
    assert len(reply.pop("access_token")) >= 300
    refresh_token = reply.pop("refresh_token")
    assert reply == {
        "expires_in": 1800,
        "token_type": "bearer",
        "hub_id": 62515,
        "scopes": ["oauth", "crm.objects.contacts.write"],
        "user_id": 901,
    }
    assert refresh(hubspot, refresh_token).json()["refresh_token"] == refresh_token


def test_hubspot_names_a_bad_refresh_token(hubspot):
    answer = refresh(hubspot, "made-up")
    assert (answer.status_code, answer.json()["status"]) == (400, "BAD_REFRESH_TOKEN")


@pytest.mark.parametrize("path", ["/oauth/2026-09/token", "/oauth/2026-03/token", "/oauth/v3/token"])
def test_hubspot_s_token_endpoint_has_several_paths(hubspot, path):
    code = agreed(hubspot)
    assert tokens(hubspot, path, grant_type="authorization_code", code=code, redirect_uri=BACK).status_code == 200
    assert hubspot.token_requests == 1


def test_hubspot_s_revoked_refresh_token_leaves_access_tokens_alive(hubspot):
    reply = connected(hubspot)
    assert tokens(hubspot, "/oauth/2026-09/token/revoke", token=reply["refresh_token"]).status_code == 204
    assert refused(refresh(hubspot, reply["refresh_token"])) == (400, "invalid_grant")
    assert opens(hubspot, reply["access_token"])


def test_salesforce_s_reply_has_no_expires_in():
    with Salesforce() as salesforce:
        salesforce.clock = lambda: 1_790_000_000.25
        reply = connected(salesforce)
        assert sorted(reply) == [
            "access_token", "id", "instance_url", "issued_at", "refresh_token", "scope", "signature", "token_type",
        ]  # fmt: skip
        assert reply["instance_url"] == "https://acme.my.salesforce.com"
        assert reply["issued_at"] == "1790000000250"
        assert reply["id"].startswith("https://login.salesforce.com/id/00D5e")


def test_salesforce_gives_a_refresh_token_once_and_only_for_its_scope():
    with Salesforce() as salesforce:
        assert "refresh_token" not in connected(salesforce, scope="api")
        first = connected(salesforce)
        assert "refresh_token" not in refresh(salesforce, first["refresh_token"]).json()


def test_salesforce_rotates_refresh_tokens_where_the_app_says_so():
    with Salesforce() as salesforce:
        salesforce.rotates = True
        first = connected(salesforce)
        second = refresh(salesforce, first["refresh_token"]).json()
        assert second["refresh_token"] != first["refresh_token"]
        assert refused(refresh(salesforce, first["refresh_token"])) == (400, "invalid_grant")
        assert opens(salesforce, second["access_token"])


def test_salesforce_keeps_five_agreements():
    with Salesforce() as salesforce:
        replies = [connected(salesforce) for _ in range(6)]
        assert [opens(salesforce, reply["access_token"]) for reply in replies] == [False] + [True] * 5


def test_salesforce_s_revoked_refresh_token_takes_its_access_tokens_along():
    with Salesforce() as salesforce:
        reply = connected(salesforce)
        path = salesforce.url + "/services/oauth2/revoke"
        assert requests.post(path, data={"token": reply["refresh_token"]}, timeout=10).status_code == 200
        assert not opens(salesforce, reply["access_token"])
        again = requests.post(path, data={"token": reply["refresh_token"]}, timeout=10)
        assert refused(again) == (400, "invalid_token")


def test_salesforce_s_client_credentials_need_a_user_to_run_as():
    with Salesforce() as salesforce:
        asked = {
            "data": {"grant_type": "client_credentials"},
            "headers": basic(salesforce.client_id, salesforce.client_secret),
        }
        reply = requests.post(salesforce.url + "/services/oauth2/token", **asked, timeout=10).json()
        assert opens(salesforce, reply["access_token"])
        assert ("refresh_token" in reply, reply["api_instance_url"]) == (False, "https://api.salesforce.com")
        salesforce.has_run_as_user = False
        answer = requests.post(salesforce.url + "/services/oauth2/token", **asked, timeout=10)
        assert answer.json()["error_description"] == "no client credentials user enabled"


def test_mailchimp_s_token_never_ends_and_its_account_is_in_the_metadata():
    with Mailchimp() as mailchimp:
        reply = connected(mailchimp)
        assert reply == {"access_token": reply["access_token"], "expires_in": 0, "scope": None}
        headers = {"authorization": f"OAuth {reply['access_token']}"}
        about = requests.get(mailchimp.url + "/oauth2/metadata", headers=headers, timeout=10).json()
        assert (about["dc"], about["api_endpoint"]) == ("us21", "https://us21.api.mailchimp.com")
        answer = requests.get(mailchimp.url + "/oauth2/metadata", headers={"authorization": "OAuth no"}, timeout=10)
        assert refused(answer) == (401, "invalid_token")
        assert refused(refresh(mailchimp, "any")) == (400, "unsupported_grant_type")


def test_intercom_wants_no_grant_type_and_gives_no_refresh_token():
    with Intercom() as intercom:
        app = {"client_id": intercom.client_id, "client_secret": intercom.client_secret}
        asked = {**app, "code": agreed(intercom)}
        reply = requests.post(intercom.url + "/auth/eagle/token", json=asked, timeout=10).json()
        assert reply == {"token_type": "Bearer", "token": reply["access_token"], "access_token": reply["access_token"]}
        assert opens(intercom, reply["access_token"])


def test_slack_s_reply(slack):
    reply = connected(slack, scope="chat:write,incoming-webhook")
    assert reply.pop("access_token").startswith("xoxe.xoxb-1-")
    assert reply.pop("refresh_token").startswith("xoxe-1-")
    webhook = reply.pop("incoming_webhook")
    assert (webhook["channel"], webhook["channel_id"]) == ("#leads", "C0LEADS")
    assert reply == {
        "ok": True,
        "app_id": "A0MESHES",
        "authed_user": {"id": "U0OWNER"},
        "team": {"id": "T0ACME", "name": "Acme"},
        "scope": "chat:write,incoming-webhook",
        "token_type": "bot",
        "bot_user_id": "U0BOT",
        "expires_in": 43_200,
    }
    path = urlsplit(webhook["url"]).path
    assert requests.post(slack.url + path, json={"text": "hello"}, timeout=10).text == "ok"


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


def test_a_lost_answer_costs_slack_s_refresh_token(slack):
    first = connected(slack)
    slack.fail_token("LOSE_ANSWER")
    with pytest.raises(requests.ConnectionError):
        refresh(slack, first["refresh_token"])
    assert refresh(slack, first["refresh_token"]).json()["error"] == "invalid_refresh_token"


def test_slack_without_rotation(slack):
    slack.stop_rotating()
    reply = connected(slack)
    assert reply["access_token"].startswith("xoxb-")
    assert {"refresh_token", "expires_in"} & reply.keys() == set()
    slack.clock = lambda: time.time() + 10**9
    assert call(slack, "POST", "/api/auth.test", token=reply["access_token"]).json()["ok"] is True


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"code": "made-up", "redirect_uri": BACK}, "invalid_code"),
        ({"grant_type": "password"}, "invalid_grant_type"),
        ({"client_id": "x"}, "invalid_client_id"),
        ({"client_secret": "x"}, "bad_client_secret"),
    ],
)
def test_slack_s_own_names_of_errors(slack, fields, error):
    answer = tokens(slack, "/api/oauth.v2.access", **fields)
    assert (answer.status_code, answer.json()) == (200, {"ok": False, "error": error})


def test_slack_s_revoked_bot_is_not_installed_any_more(slack):
    reply = connected(slack)
    assert call(slack, "POST", "/api/auth.revoke", token=reply["access_token"]).json() == {"ok": True, "revoked": True}
    assert call(slack, "POST", "/api/auth.test", token=reply["access_token"]).json()["error"] == "token_revoked"
    assert refresh(slack, reply["refresh_token"]).json()["error"] == "invalid_refresh_token"


def test_pipedrive_s_reply():
    with Pipedrive() as pipedrive:
        reply = connected(pipedrive)
        assert opens(pipedrive, reply.pop("access_token"))
        assert reply.pop("refresh_token")
        assert reply == {
            "token_type": "Bearer",
            "scope": "base contacts:full",
            "expires_in": 3599,
            "api_domain": "https://acme.pipedrive.com",
        }


def test_pipedrive_takes_the_secret_as_basic_authentication_only():
    with Pipedrive() as pipedrive:
        app = {"client_id": pipedrive.client_id, "client_secret": pipedrive.client_secret}
        asked = {"grant_type": "authorization_code", "code": agreed(pipedrive), "redirect_uri": BACK, **app}
        assert refused(requests.post(pipedrive.url + "/oauth/token", data=asked, timeout=10)) == (401, "invalid_client")


def test_pipedrive_s_refresh_token_dies_unused():
    with Pipedrive() as pipedrive:
        reply = connected(pipedrive)
        pipedrive.clock = lambda: time.time() + 61 * 24 * 3600
        assert refused(refresh(pipedrive, reply["refresh_token"])) == (400, "invalid_grant")


def test_pipedrive_s_revoked_refresh_token_takes_everything_along():
    with Pipedrive() as pipedrive:
        reply = connected(pipedrive)
        assert tokens(pipedrive, "/oauth/revoke", token=reply["refresh_token"]).status_code == 200
        assert not opens(pipedrive, reply["access_token"])
