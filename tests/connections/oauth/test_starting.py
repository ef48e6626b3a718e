"""An authorization that a key began: the address of ours that leads to the vendor, and the one browser that has it."""

import html
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connections as databases
from django.test import Client as Browser

from connections import lifecycle
from connections.models import Connection, OAuthState
from connections.oauth import authorize, pages
from tests.connections.oauth.making import authorized, opened
from tests.connections.oauth.test_authorize import (
    BACK,
    CALLBACK,
    address_of,
    come_back,
    make,
    person,
    start,
    unchanged,
)
from tests.workspaces.callers import bearer, caller, issue, post
from workspaces import keys

pytestmark = pytest.mark.django_db


def words_of(answer) -> str:
    return " ".join(answer.content.decode().split())


def is_refused(answer, title, status=404) -> bool:
    return answer.status_code == status and f"<h1>{title}</h1>" in html.unescape(answer.content.decode())


# --- the way to the vendor ------------------------------------------------------------------------------------------


def test_the_address_leads_to_the_vendor_and_names_the_browser(api, vendor):
    browser = Browser()
    answer = browser.get(address_of(api, make()))
    assert (answer.status_code, answer.content) == (303, b"")
    assert answer["Location"].startswith(f"{vendor.url}/oauth/authorize?")
    assert (answer["Cache-Control"], answer["Referrer-Policy"]) == ("no-store", "no-referrer")
    cookie = answer.cookies["meshes_connect"]
    assert (cookie["httponly"], cookie["samesite"], cookie["max-age"], cookie["path"]) == (True, "Lax", 3600, "/")
    assert OAuthState.objects.get().opened_in == authorize.browser_session(cookie.value)


def test_the_browser_that_opened_it_ends_it(api, vendor):
    connection, browser = make(), Browser()
    parameters = vendor.consent(start(api, connection, browser))
    assert come_back(parameters, browser).status_code == 200
    connection.refresh_from_db()
    assert connection.status == "active"


def test_another_browser_does_not_end_it(api, vendor):
    connection, browser = make(), Browser()
    parameters = vendor.consent(start(api, connection, browser))
    for other in (Browser(), person("o" * 43)):
        assert is_refused(come_back(parameters, other), "This authorization belongs to another browser", 400)
    assert vendor.token_requests == []
    unchanged(connection)
    assert come_back(parameters, browser).status_code == 200  # whoever tries uses nothing up


def test_what_nobody_has_opened_cannot_be_ended(api, vendor):
    """Whoever has the address can work the state out, and could send a browser past it."""
    connection = make()
    ticket = address_of(api, connection).rpartition("/")[2]
    for browser in (Browser(), person()):
        answer = come_back({"code": "canary-code", "state": authorize.state_of(ticket)}, browser)
        assert is_refused(answer, "This authorization belongs to another browser", 400)
    assert vendor.token_requests == []
    unchanged(connection)


def test_a_state_that_was_kept_before_addresses_were_ours_is_bound_to_nobody_and_refused(api, vendor):
    connection = make()
    key = issue()
    state = authorize.make_state()
    authorize.keep_state(state, connection, f"key:{key.row.pk}", "app-1", BACK)
    assert come_back({"code": "canary-code", "state": state}).status_code == 400
    assert vendor.token_requests == []


def test_the_first_browser_has_the_address_as_often_as_it_likes(api, vendor):
    path, first, second = address_of(api, make()), Browser(), Browser()
    there = first.get(path)["Location"]
    refused = second.get(path)
    assert is_refused(refused, authorize.OPENED_TITLE)
    assert "meshes_connect" not in refused.cookies
    assert first.get(path)["Location"] == there
    assert come_back(vendor.consent(there), first).status_code == 200
    assert is_refused(first.get(path), authorize.OVER_TITLE)


@pytest.mark.django_db(transaction=True)
def test_of_browsers_at_the_same_moment_one_has_the_address(vendor):
    path, together = address_of(caller(), make()), Barrier(8)

    def open_it(browser):
        try:
            together.wait(60)
            return browser.get(path).status_code
        finally:
            databases.close_all()

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(open_it, [Browser() for _ in range(8)]))
    assert sorted(answers) == [303] + [404] * 7


def test_a_program_that_looks_at_links_takes_the_address_and_gets_nowhere(api, vendor):
    """A link preview is a browser without a cookie: the address is gone, nothing else has happened."""
    connection = make()
    path = address_of(api, connection)
    preview, browser = Browser(headers={"user-agent": "Slackbot-LinkExpanding 1.0"}), Browser()
    assert preview.get(path).status_code == 303
    assert "programs that look at links count too" in words_of(browser.get(path))
    unchanged(connection)


def test_head_opens_nothing(api, vendor):
    path = address_of(api, make())
    assert (Browser().head(path).status_code, OAuthState.objects.get().opened_in) == (405, "")
    assert Browser().post(path).status_code == 405
    assert Browser().get(path).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-purpose": "prefetch"},
        {"sec-purpose": "prefetch;prerender"},
        {"purpose": "prefetch"},
        {"x-moz": "prefetch"},
        {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
        {"sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
        {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ],
)
def test_a_browser_that_looks_ahead_or_loads_it_into_a_page_opens_nothing(api, vendor, headers):
    path = address_of(api, make())
    refused = Browser(headers=headers).get(path)
    assert is_refused(refused, pages.OTHER_WINDOW[0], 403)
    assert ("meshes_connect" in refused.cookies, OAuthState.objects.get().opened_in) == (False, "")
    opening = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document", "sec-fetch-site": "cross-site"}
    assert Browser(headers=opening).get(path).status_code == 303


@pytest.mark.parametrize("ticket", ["x", "x" * 43, "x" * 5000, "%00", "%C3%BC"])
def test_an_address_cannot_be_made_up(vendor, ticket):
    assert is_refused(Browser().get(f"/oauth/start/{ticket}"), authorize.OVER_TITLE)


def test_a_state_is_no_ticket(api, vendor):
    state = parse_qs(urlsplit(start(api, make())).query)["state"][0]
    assert is_refused(person().get(f"/oauth/start/{state}"), authorize.OVER_TITLE)


def test_the_address_ends(api, vendor):
    path = address_of(api, make())
    OAuthState.objects.update(expires_at=datetime.now(UTC))
    assert is_refused(Browser().get(path), authorize.OVER_TITLE)


@pytest.mark.parametrize(
    "end",
    [
        lifecycle.delete,
        lambda connection: lifecycle.disconnect(connection, actor="a test"),
        lambda connection: type(connection.workspace).objects.update(deleted_at=datetime.now(UTC)),
    ],
)
def test_the_address_ends_with_what_it_would_connect(api, vendor, end):
    connection = authorized(vendor)
    path = address_of(api, connection)
    end(connection)
    assert Browser().get(path).status_code == 404
    assert OAuthState.objects.filter(used_at=None).exclude(opened_in="").count() <= 1


def test_a_key_that_was_revoked_leads_nowhere(vendor):
    key = issue()
    path = address_of(bearer(key.key), make())
    keys.revoke_key(key.row.pk, datetime.now(UTC))
    assert "API key has been revoked or has expired" in words_of(Browser().get(path))


def test_without_an_app_the_address_says_so(api, vendor, monkeypatch):
    """It has been taken away since the key began."""
    connection = make("instanced")
    path = address_of(api, connection)
    Connection.objects.filter(pk=connection.pk).update(config={"login_host": "evil.example"})
    answer = Browser().get(path)
    assert (answer.status_code, "is not Instanced" in answer.content.decode()) == (409, True)


# --- nobody is sent elsewhere ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["return_url", "redirect_uri", "next"])
def test_no_address_leads_where_a_caller_says(api, vendor, name):
    elsewhere = "https://evil.example/"
    connection = make()
    asked = post(api, f"/api/v1/connections/{connection.public_id}/authorize", {name: elsewhere})
    assert asked.status_code == 422
    browser = Browser()
    opened = browser.get(address_of(api, connection), {name: elsewhere})
    assert opened["Location"].startswith(f"{vendor.url}/")
    assert "evil" not in opened["Location"]
    back = browser.get(CALLBACK, vendor.consent(opened["Location"], **{name: elsewhere}))
    assert re.fullmatch(r"/oauth/outcome/[^/?]+", back["Location"])


def test_an_existing_cookie_is_kept_and_a_strange_one_replaced(api, vendor):
    first, second = make(), make()
    browser = Browser()
    one = start(api, first, browser)
    two = start(api, second, browser)
    assert come_back(vendor.consent(one), browser).status_code == 200
    assert come_back(vendor.consent(two), browser).status_code == 200
    strange = person("not one of ours")
    assert strange.get(address_of(api, make())).cookies["meshes_connect"].value != "not one of ours"


def test_over_https_no_other_host_can_set_the_cookie(api, vendor, settings):
    settings.SESSION_COOKIE_SECURE = True
    connection = make()
    path = address_of(api, connection)
    tossed = person("a" * 43)
    opened = tossed.get(path, secure=True)
    cookie = opened.cookies["__Host-meshes_connect"]
    assert (cookie["secure"], cookie["path"], cookie["domain"]) == (True, "/", "")
    assert OAuthState.objects.get().opened_in == authorize.browser_session(cookie.value)
    assert cookie.value != "a" * 43


# --- the way back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/oauth/callback/rotating", "/oauth/callback", "/oauth/callback/x"])
def test_an_answer_is_taken_at_its_own_vendor_s_address_alone(api, vendor, path):
    connection = make()
    parameters = vendor.consent(start(api, connection))
    answer = person().get(path, parameters, follow=True)
    assert is_refused(answer, "The answer came to another vendor's address", 400)
    assert vendor.token_requests == []
    unchanged(connection)
    assert come_back(parameters).status_code == 200


@pytest.mark.parametrize("name", ["state", "code", "iss"])
def test_a_parameter_that_is_given_twice_counts_as_none(api, vendor, name):
    """RFC 6749, section 3.1: they must not be repeated."""
    connection = make("instanced")
    parameters = vendor.consent(start(api, connection), iss=vendor.url)
    twice = [parameters[name], parameters[name]]
    answer = come_back(parameters | {name: twice}, type="instanced")
    assert answer.status_code == 400
    assert vendor.token_requests == []
    unchanged(connection)


# --- the first success ends the others ------------------------------------------------------------------------------


def test_a_success_ends_the_other_authorizations_of_the_connection(api, vendor):
    connection, other = make(), make()
    apart = vendor.consent(start(api, other))
    mine, theirs = Browser(), Browser()
    late = vendor.consent(start(api, connection, theirs))
    waiting = address_of(api, connection)
    assert come_back(vendor.consent(start(api, connection, mine)), mine).status_code == 200
    connection.refresh_from_db()
    assert is_refused(come_back(late, theirs), authorize.OVER_TITLE, 400)
    assert is_refused(Browser().get(waiting), authorize.OVER_TITLE)
    unchanged(connection)
    assert come_back(apart).status_code == 200


def test_a_failure_ends_nothing_else(api, vendor):
    connection, mine, theirs = make(), Browser(), Browser()
    other = vendor.consent(start(api, connection, theirs))
    assert come_back(vendor.consent(start(api, connection, mine)) | {"code": "canary-x"}, mine).status_code == 400
    assert come_back(other, theirs).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_of_two_whose_codes_are_exchanged_at_once_the_first_to_end_stays(vendor):
    """The other's tokens are not kept, and revoked."""
    api, connection = caller(), make()
    slow, quick = Browser(), Browser()
    late, early = (vendor.consent(start(api, connection, browser)) for browser in (slow, quick))

    def overtake(asked):
        vendor.before_reply = lambda asked: None
        assert come_back(early, quick).status_code == 200
        databases.close_all()

    vendor.before_reply = overtake
    answer = come_back(late, slow)
    assert (answer.status_code, lifecycle.ENDED_WORDS in answer.content.decode()) == (400, True)
    connection.refresh_from_db()
    kept = opened(connection).secret["refresh_token"].reveal()
    assert (connection.status, vendor.refresh_tokens) == ("active", {kept})
    assert len(vendor.revoked) == 1
