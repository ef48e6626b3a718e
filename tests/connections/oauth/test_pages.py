"""Connect links, and the pages that a browser sees."""

import html
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from django.core import signing
from django.test import Client as Browser

from connections import lifecycle
from connections.models import Connection, OAuthState
from connections.oauth import pages as pages_module
from connections.oauth.pages import LINK_SALT, read_link
from tests.connections.oauth.making import authorized
from tests.connections.oauth.test_authorize import CALLBACK, come_back, make, person, start
from tests.workspaces.callers import bearer, caller, issue, post
from workspaces import limits
from workspaces.vault.models import AccessRecord

pytestmark = pytest.mark.django_db


def link_of(api, connection, **body) -> dict:
    answer = post(api, f"/api/v1/connections/{connection.public_id}/connect-link", body)
    assert answer.status_code == 200, answer.content
    made: dict = answer.json()
    return made


def path_of(link):
    return urlsplit(link["url"]).path


def proof_on(page):
    return re.search(r'name="proof" value="([0-9a-f]{64})"', page.content.decode())[1]


def follow(browser, path):
    """What a person does: open the link, and click."""
    return browser.post(path, {"proof": proof_on(browser.get(path))})


def vendor_url_on(page):
    return html.unescape(re.search(r'content="0; url=([^"]+)"', page.content.decode())[1])


# --- links ----------------------------------------------------------------------------------------------------------


def test_a_link_lives_for_seven_days(api, vendor):
    connection = make()
    link = link_of(api, connection)
    assert link["url"].startswith("http://testserver/connect/")
    ends = datetime.fromisoformat(link["expires_at"])
    assert timedelta(days=7) - timedelta(seconds=5) < ends - datetime.now(UTC) <= timedelta(days=7)
    read = read_link(path_of(link).removeprefix("/connect/"))
    assert read == (connection, ends)


@pytest.mark.parametrize(("seconds", "status"), [(60, 200), (2_592_000, 200), (59, 422), (2_592_001, 422), ("60", 422)])
def test_a_link_may_live_between_a_minute_and_thirty_days(api, vendor, seconds, status):
    path = f"/api/v1/connections/{make().public_id}/connect-link"
    assert post(api, path, {"expires_in": seconds}).status_code == status


def test_a_link_ends(api, vendor):
    connection = make()
    over = int(datetime.now(UTC).timestamp())
    assert read_link(signing.dumps([connection.pk.hex, 1, over + 60], salt=LINK_SALT)) is None  # no grant yet
    link_of(api, connection)
    assert read_link(signing.dumps([connection.pk.hex, 1, over + 60], salt=LINK_SALT))[0] == connection
    assert read_link(signing.dumps([connection.pk.hex, 1, over], salt=LINK_SALT)) is None


@pytest.mark.parametrize("change", [lambda token: token[:-1], lambda token: "x" + token, lambda token: token * 3])
def test_a_link_cannot_be_made_up(api, vendor, change):
    token = path_of(link_of(api, make())).removeprefix("/connect/")
    assert read_link(token) is not None
    assert read_link(change(token)) is None
    assert read_link(signing.dumps(signing.loads(token, salt=LINK_SALT), salt="another")) is None


def test_disconnecting_makes_links_void(api, vendor):
    connection = authorized(vendor)
    path = path_of(link_of(api, connection))
    lifecycle.disconnect(connection, actor="a test")
    answer = Browser().get(path)
    assert (answer.status_code, "no longer valid" in answer.content.decode()) == (404, True)
    assert Browser().get(path_of(link_of(api, connection))).status_code == 200


def test_a_success_makes_links_void(api, vendor):
    """All of the connection's, whatever way it was connected, and those of no other connection."""
    connection, other = make(), make()
    used, spare, apart = (path_of(link_of(api, each)) for each in (connection, connection, other))
    browser = Browser()
    leaving = follow(browser, used)
    assert browser.get(CALLBACK, vendor.consent(vendor_url_on(leaving)), follow=True).status_code == 200
    for path in (used, spare):
        answer = Browser().get(path)
        assert (answer.status_code, "It was used, has expired or was withdrawn" in answer.content.decode()) == (
            404,
            True,
        )
    assert Browser().get(apart).status_code == 200
    again = path_of(link_of(api, connection))
    assert Browser().get(again).status_code == 200
    assert come_back(vendor.consent(start(api, connection))).status_code == 200
    assert Browser().get(again).status_code == 404


def test_a_failure_leaves_links_as_they_are(api, vendor):
    connection = make()
    path = path_of(link_of(api, connection))
    browser = Browser()
    vendor.granted_scopes = "oauth"
    parameters = vendor.consent(vendor_url_on(follow(browser, path)))
    assert browser.get(CALLBACK, parameters, follow=True).status_code == 400
    assert browser.get(path).status_code == 200


def test_a_page_that_was_open_when_its_link_ended_begins_nothing(api, vendor):
    connection, browser = make(), Browser()
    path = path_of(link_of(api, connection))
    proof = proof_on(browser.get(path))
    assert come_back(vendor.consent(start(api, connection))).status_code == 200
    assert browser.post(path, {"proof": proof}).status_code == 404
    assert OAuthState.objects.filter(used_at=None).count() == 0


def test_links_that_are_made_and_used_are_recorded(vendor):
    key = issue()
    connection, browser = make(), Browser()
    path = path_of(link_of(bearer(key.key), connection))
    browser.get(path)
    browser.head(path)
    assert browser.post(path, {"proof": "x" * 64}).status_code == 403
    follow(browser, path)
    records = AccessRecord.objects.filter(owner_id=connection.pk, kind="action").order_by("number")
    assert [(row.workspace_id, row.owner_kind, row.purpose, row.actor) for row in records] == [
        (connection.workspace_id, "connection", "link_made", key.row.public_id),
        (connection.workspace_id, "connection", "link_used", "connect link"),
    ]


def test_a_link_that_is_clicked_all_the_time_is_slowed(api, vendor, monkeypatch):
    monkeypatch.setattr(limits, "AUTHORIZATIONS_A_MINUTE", 2)
    connection, browser = make(), Browser()
    path, apart = path_of(link_of(api, connection)), path_of(link_of(api, make()))
    for _ in range(2):
        assert follow(browser, path).status_code == 200
    answer = follow(browser, path)
    assert (answer.status_code, "Wait a little" in answer.content.decode()) == (429, True)
    assert int(answer["Retry-After"]) > 0
    assert AccessRecord.objects.filter(owner_id=connection.pk, purpose="link_used").count() == 2
    assert follow(browser, apart).status_code == 200


def test_deleting_makes_links_void(api, vendor):
    connection = make()
    path = path_of(link_of(api, connection))
    lifecycle.delete(connection)
    assert Browser().get(path).status_code == 404


def test_a_workspace_s_end_makes_links_void(api, vendor):
    connection = make()
    path = path_of(link_of(api, connection))
    type(connection.workspace).objects.filter(pk=connection.workspace_id).update(deleted_at=datetime.now(UTC))
    assert Browser().get(path).status_code == 404


def test_another_tenant_makes_no_links(vendor):
    stranger = caller("workspace", ["config"], make().workspace)
    connection = make()
    assert post(stranger, f"/api/v1/connections/{connection.public_id}/connect-link", {}).status_code == 404


# --- a person with a link -------------------------------------------------------------------------------------------


def test_a_link_says_what_it_connects(api, vendor):
    connection = make()
    page = Browser().get(path_of(link_of(api, connection))).content.decode()
    assert "<h1>Connect HubSpot</h1>" in page
    assert connection.workspace.name in page
    assert connection.name in page
    assert "crm.objects.contacts.write" in page
    assert "connected already" not in page


def test_a_link_says_what_it_replaces(api, vendor):
    connection = authorized(vendor, account_name="acme.example")
    page = Browser().get(path_of(link_of(api, connection))).content.decode()
    assert "It is connected to <strong>acme.example</strong> already" in page


def test_the_address_of_the_end_tells_nothing_and_may_be_opened_again(api, vendor):
    connection, browser = make(), Browser()
    parameters = vendor.consent(start(api, connection, browser))
    back = browser.get(CALLBACK, parameters)
    assert (back.status_code, back.content) == (303, b"")
    assert (back["Cache-Control"], back["Referrer-Policy"]) == ("no-store", "no-referrer")
    assert not any(parameters[name] in back["Location"] for name in ("code", "state"))
    for _ in range(2):
        page = browser.get(back["Location"])
        assert page.status_code == 200
        assert "HubSpot is connected" in page.content.decode()
    assert len(vendor.token_requests) == 1
    assert browser.get(back["Location"] + "x").status_code == 404


def test_the_end_is_not_told_for_ever(api, vendor, monkeypatch):
    back = person().get(CALLBACK, vendor.consent(start(api, make())))
    monkeypatch.setattr(pages_module, "OUTCOME_SECONDS", -1)
    assert Browser().get(back["Location"]).status_code == 404


def test_looking_ahead_uses_no_state_up(api, vendor):
    parameters = vendor.consent(start(api, make()))
    assert person().head(CALLBACK, parameters).status_code == 405
    assert come_back(parameters).status_code == 200


@pytest.mark.parametrize("status", ["paused", "disabled"])
def test_a_connection_that_stays_out_of_service_is_not_called_ready(api, vendor, status):
    connection = make()
    Connection.objects.filter(pk=connection.pk).update(status=status)
    page = come_back(vendor.consent(start(api, connection))).content.decode()
    assert "has to resume it" in page
    assert "Everything is set up" not in page


def test_a_person_without_an_account_here_connects(api, vendor):
    connection, browser = make(), Browser()
    leaving = follow(browser, path_of(link_of(api, connection)))
    assert leaving.status_code == 200
    assert OAuthState.objects.get().session.startswith("browser:")
    done = browser.get(CALLBACK, vendor.consent(vendor_url_on(leaving)), follow=True)
    assert (done.status_code, "<h1>HubSpot is connected</h1>" in done.content.decode()) == (200, True)
    connection.refresh_from_db()
    assert connection.status == "active"


def test_opening_a_link_starts_nothing(api, vendor):
    path = path_of(link_of(api, make()))
    assert Browser().get(path).status_code == 200
    assert Browser().head(path).status_code == 200
    assert OAuthState.objects.count() == 0


def test_a_click_needs_the_page_of_the_same_browser(api, vendor):
    path = path_of(link_of(api, make()))
    mine, other = Browser(), Browser()
    proof = proof_on(mine.get(path))
    other.get(path)
    for browser, form in ((Browser(), {"proof": proof}), (other, {"proof": proof}), (mine, {}), (mine, {"proof": "ü"})):
        assert browser.post(path, form).status_code == 403
    assert OAuthState.objects.count() == 0
    assert mine.post(path, {"proof": proof}).status_code == 200


def test_a_proof_is_for_one_link(api, vendor):
    first, second = path_of(link_of(api, make())), path_of(link_of(api, make()))
    browser = Browser()
    proof = proof_on(browser.get(first))
    browser.get(second)
    assert browser.post(second, {"proof": proof}).status_code == 403


def test_two_links_open_in_one_browser(api, vendor):
    """A second page does not take the first one's cookie away."""
    first, second = make(), make()
    browser = Browser()
    one = follow(browser, path_of(link_of(api, first)))
    two = follow(browser, path_of(link_of(api, second)))
    assert browser.get(CALLBACK, vendor.consent(vendor_url_on(one)), follow=True).status_code == 200
    assert browser.get(CALLBACK, vendor.consent(vendor_url_on(two)), follow=True).status_code == 200
    assert Connection.objects.filter(pk__in=[first.pk, second.pk], status="active").count() == 2


def test_a_link_ends_in_the_browser_that_clicked(api, vendor):
    leaving = follow(Browser(), path_of(link_of(api, make())))
    assert Browser().get(CALLBACK, vendor.consent(vendor_url_on(leaving)), follow=True).status_code == 400
    assert vendor.token_requests == []


def test_without_an_app_a_click_says_so(api, vendor, settings):
    path = path_of(link_of(api, make()))
    settings.MESHES_OAUTH_CLIENTS = {}
    answer = follow(Browser(), path)
    assert (answer.status_code, "No HubSpot app is set up" in answer.content.decode()) == (409, True)


def test_other_methods_are_refused(api, vendor):
    path = path_of(link_of(api, make()))
    assert Browser().put(path).status_code == 405


# --- every page -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pages(api, vendor):
    """One of each kind."""
    connection, browser = make(), Browser()
    path = path_of(link_of(api, connection))
    offer = browser.get(path)
    refused = Browser().post(path, {})
    leaving = browser.post(path, {"proof": proof_on(offer)})
    done = browser.get(CALLBACK, vendor.consent(vendor_url_on(leaving)), follow=True)
    failed = come_back(vendor.consent(start(api, connection)) | {"code": "x"})
    void = browser.get("/connect/made-up")
    return {200: [offer, leaving, done], 400: [failed], 404: [void], 403: [refused]}


def test_pages_have_strict_headers(pages):
    for status, shown in pages.items():
        for page in shown:
            assert page.status_code == status
            policy = page["Content-Security-Policy"]
            parts = policy.split("; ")
            assert parts[:3] == ["default-src 'none'", "style-src 'self'", "form-action 'self'"]
            assert parts[3:] == ["object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"]
            assert (page["Referrer-Policy"], page["Cache-Control"]) == ("no-referrer", "no-store")
            assert (page["X-Frame-Options"], page["X-Content-Type-Options"]) == ("DENY", "nosniff")


def test_pages_run_no_script_and_load_nothing_from_elsewhere(pages):
    for page in (page for shown in pages.values() for page in shown):
        text = page.content.decode()
        assert "<script" not in text
        assert " style=" not in text
        assert re.findall(r'<link[^>]+href="([^"]+)"', text) == ["/static/connections/oauth.css"]
        assert not re.search(r"<(img|iframe|object|embed)", text)


def test_pages_hold_no_secret(pages, vendor):
    for page in (page for shown in pages.values() for page in shown):
        assert "canary-" not in page.content.decode()


def test_the_cookie_says_nothing_and_is_kept_from_scripts(pages):
    cookie = pages[200][0].cookies["meshes_connect"]
    assert (cookie["httponly"], cookie["samesite"], cookie["max-age"]) == (True, "Lax", 3600)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", cookie.value)


def test_over_https_the_cookie_stays_there(api, vendor, settings):
    settings.SESSION_COOKIE_SECURE = True
    page = Browser().get(path_of(link_of(api, make())), secure=True)
    assert page.cookies["__Host-meshes_connect"]["secure"] is True


def test_names_are_shown_as_text(api, vendor):
    connection = make()
    Connection.objects.filter(pk=connection.pk).update(name="<script>alert(1)</script>")
    page = Browser().get(path_of(link_of(api, connection))).content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_vendor_s_url_is_all_that_the_page_leads_to(api, vendor):
    leaving = follow(Browser(), path_of(link_of(api, make())))
    url = vendor_url_on(leaving)
    assert url.startswith(f"{vendor.url}/oauth/authorize?")
    assert parse_qs(urlsplit(url).query)["redirect_uri"] == ["http://testserver/oauth/callback/hubspot"]
    assert html.unescape(re.search(r'<a href="([^"]+)"', leaving.content.decode())[1]) == url


def test_the_style_sheet_is_served():
    answer = Browser().get("/static/connections/oauth.css")
    assert (answer.status_code, b".card" in answer.getvalue()) == (200, True)
    answer.close()
