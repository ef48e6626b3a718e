"""From POST …/authorize to the redirect back: what is kept, and what is refused with nothing changed."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connections as databases
from django.test import Client as Browser

from connections import lifecycle
from connections.credentials import ConflictError
from connections.models import Connection, OAuthGrant, OAuthState
from connections.oauth import authorize as authorizing
from connections.oauth.refresh import DIRECT, renew
from tests.connections.oauth.making import authorized, need_of, opened
from tests.connections.oauth.vendor import CLIENT_ID, Reply, challenge
from tests.factories import create_connection, make_connection, make_workspace
from tests.workspaces.callers import bearer, caller, issue, post
from workspaces import keys
from workspaces.vault.models import AccessRecord
from workspaces.vault.secret import Secret

pytestmark = pytest.mark.django_db

CALLBACK = "/oauth/callback/hubspot"
BACK = f"http://testserver{CALLBACK}"


def make(type="hubspot", **config) -> Connection:
    """A connection that waits to be authorized."""
    return create_connection(make_workspace().pk, type, "Their CRM", config, {}).connection


def person(cookie="p" * 43) -> Browser:
    """The browser of whoever may give access, with its cookie."""
    browser = Browser()
    browser.cookies["meshes_connect"] = cookie
    return browser


def address_of(api, connection):
    """The path of the address of ours at which an authorization begins."""
    answer = post(api, f"/api/v1/connections/{connection.public_id}/authorize", {})
    assert answer.status_code == 200, answer.content
    path = urlsplit(answer.json()["url"]).path
    return path[path.index("/oauth/start/") :]


def start(api, connection, browser=None):
    """The vendor's page, to which the person's browser is sent."""
    opened = (browser or person()).get(address_of(api, connection))
    assert opened.status_code == 303, opened.content
    return opened["Location"]


def come_back(parameters, browser=None, type="hubspot"):
    return (browser or person()).get(f"/oauth/callback/{type}", parameters, follow=True)


def authorize(api, vendor, connection):
    return come_back(vendor.consent(start(api, connection)), type=connection.type)


def unchanged(connection):
    """Nothing was kept, and what was there is there still."""
    before = (connection.config, connection.credential_hints, connection.status, connection.version)
    connection.refresh_from_db()
    assert (connection.config, connection.credential_hints, connection.status, connection.version) == before


# --- the way there --------------------------------------------------------------------------------------------------


def test_a_connection_without_credentials_waits_to_be_authorized(api, vendor):
    connection = make()
    assert (connection.status, connection.status_reason) == ("needs_reauth", lifecycle.TO_AUTHORIZE_WORDS)


def test_a_connection_with_a_token_of_its_own_does_not(api, vendor):
    made = create_connection(make_workspace().pk, "hubspot", "CRM", {}, {"access_token": "pat-1234567890"})
    assert made.connection.status == "active"


def test_the_browser_is_sent_to_the_vendor(api, vendor):
    connection = make()
    began = datetime.now(UTC)
    answer = post(api, f"/api/v1/connections/{connection.public_id}/authorize", {}).json()
    parts = urlsplit(Browser().get(urlsplit(answer["url"]).path)["Location"])
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{vendor.url}/oauth/authorize"
    query = {name: value for name, (value,) in parse_qs(parts.query, strict_parsing=True).items()}
    state = query.pop("state")
    assert query == {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": BACK,
        "scope": "oauth crm.objects.contacts.read crm.objects.contacts.write",
        "optional_scope": "crm.lists.read crm.lists.write",
        "code_challenge": challenge(authorizing.verifier_of(state)),
        "code_challenge_method": "S256",
    }
    kept = OAuthState.objects.get()
    assert (kept.connection_id, kept.workspace_id) == (connection.pk, connection.workspace_id)
    assert (kept.used_at, kept.session[:4], len(kept.state_hash)) == (None, "key:", 64)
    ends = datetime.fromisoformat(answer["expires_at"])
    assert timedelta(minutes=9, seconds=55) < ends - began < timedelta(minutes=10, seconds=5)


def test_neither_state_nor_verifier_is_kept(api, vendor):
    state = parse_qs(urlsplit(start(api, make())).query)["state"][0]
    row = OAuthState.objects.values().get()
    assert state not in str(row)
    assert authorizing.verifier_of(state) not in str(row)
    assert len(authorizing.verifier_of(state)) == 43


def test_vendors_differ(api, vendor):
    query = parse_qs(urlsplit(start(api, make("rotating"))).query)
    assert query["scope"] == ["chat:write,channels:read"]
    assert "code_challenge" not in query


def test_our_public_address_is_a_setting(api, vendor, settings):
    settings.MESHES_PUBLIC_URL = "https://meshes.example.com/"
    begun = post(api, f"/api/v1/connections/{make().public_id}/authorize", {}).json()["url"]
    assert begun.startswith("https://meshes.example.com/oauth/start/")
    query = parse_qs(urlsplit(start(api, make())).query)
    assert query["redirect_uri"] == ["https://meshes.example.com/oauth/callback/hubspot"]


def test_of_a_connection_ten_authorizations_are_open_at_most(api, vendor):
    connection, other = make(), make()
    start(api, other)
    urls = [start(api, connection) for _ in range(12)]
    assert OAuthState.objects.filter(connection=connection).count() == 10
    assert OAuthState.objects.filter(connection=other).count() == 1
    assert come_back(vendor.consent(urls[0])).status_code == 400
    assert come_back(vendor.consent(urls[-1])).status_code == 200


@pytest.mark.parametrize("type", ["webhook", "segment"])
def test_what_is_not_authorized_that_way_is_a_conflict(api, vendor, type):
    connection = make_connection(make_workspace(), type=type)
    for action in ("authorize", "connect-link", "disconnect"):
        assert post(api, f"/api/v1/connections/{connection.public_id}/{action}", {}).status_code == 409


def test_without_an_app_nothing_is_started(api, vendor, settings):
    settings.MESHES_OAUTH_CLIENTS = {}
    answer = post(api, f"/api/v1/connections/{make().public_id}/authorize", {})
    assert (answer.status_code, OAuthState.objects.count()) == (409, 0)
    assert answer.json()["detail"].startswith("No HubSpot app is set up")


# --- the way back ---------------------------------------------------------------------------------------------------


def test_an_authorization_keeps_tokens_and_ends_what_held_the_connection(api, vendor):
    vendor.extra |= {"hub_id": 62515, "hub_domain": "acme.example"}
    connection = make()
    answer = authorize(api, vendor, connection)
    assert answer.status_code == 200
    connection.refresh_from_db()
    assert (connection.status, connection.status_reason) == ("active", "")
    assert connection.credential_hints == {"access_token": "••••", "refresh_token": "••••"}
    assert (connection.account_id, connection.account_name) == ("62515", "acme.example")
    document = opened(connection).secret
    assert set(document) == {"access_token", "refresh_token", "token_type", "scope", "issued_at", "expires_at"}
    assert {document["access_token"].reveal()} == vendor.access_tokens
    assert {document["refresh_token"].reveal()} == vendor.refresh_tokens
    grant = OAuthGrant.objects.get(connection=connection)
    assert (grant.client_id, grant.workspace_id) == (CLIENT_ID, connection.workspace_id)
    assert grant.scope == "crm.objects.contacts.read crm.objects.contacts.write oauth"
    assert grant.expires_at.isoformat() == document["expires_at"].reveal()
    assert grant.expires_at - grant.refreshed_at == timedelta(seconds=1800)


def test_openings_and_changes_are_recorded_in_the_name_of_the_key(db, vendor):
    key = issue()
    connection = make()
    authorize(bearer(key.key), vendor, connection)
    records = AccessRecord.objects.filter(owner_id=connection.pk).exclude(purpose="created").order_by("number")
    assert [(record.purpose, record.actor, record.version) for record in records] == [
        ("oauth authorize", key.row.public_id, 1),
        ("authorized", key.row.public_id, 2),
    ]


def test_config_additions_and_details_are_kept(api, vendor):
    vendor.api = lambda asked: Reply(200, {"dc": "us21", "team_id": "T1", "team": "Acme"})
    connection = make("rotating")
    assert authorize(api, vendor, connection).status_code == 200
    connection.refresh_from_db()
    assert (connection.config, connection.account_id, connection.account_name) == ({"dc": "us21"}, "T1", "Acme")


def test_a_vendor_s_own_host_is_kept(api, vendor):
    vendor.extra = {"instance_url": f"{vendor.url}/acme", "id": "00D1"}
    connection = make("instanced")
    assert come_back(vendor.consent(start(api, connection), iss=vendor.url), type="instanced").status_code == 200
    connection.refresh_from_db()
    assert connection.config == {"login_host": "login.instanced.example", "instance_url": f"{vendor.url}/acme"}
    assert "expires_at" not in opened(connection).secret


def test_authorizing_again_replaces_what_was_there(api, vendor):
    connection = authorized(vendor, status="needs_reauth", status_reason="ended")
    OAuthGrant.objects.filter(connection=connection).update(ended_at=datetime.now(UTC), last_error="ended")
    before = opened(connection)
    assert authorize(api, vendor, connection).status_code == 200
    connection.refresh_from_db()
    after = opened(connection)
    assert (connection.status, after.version) == ("active", before.version + 1)
    assert after.secret["access_token"] != before.secret["access_token"]
    grant = OAuthGrant.objects.get(connection=connection)
    assert (grant.ended_at, grant.last_error, grant.lease_id) == (None, "", None)


def test_a_user_s_own_pause_stays(api, vendor):
    connection = authorized(vendor, status="paused")
    authorize(api, vendor, connection)
    connection.refresh_from_db()
    assert connection.status == "paused"


def test_a_document_that_does_not_open_is_no_hindrance(api, vendor, use_keys):
    use_keys("old")
    connection = make()
    use_keys("new")
    Connection.objects.filter(pk=connection.pk).update(status="credential_error")
    assert authorize(api, vendor, connection).status_code == 200
    connection.refresh_from_db()
    assert connection.status == "active"
    assert opened(connection).secret["access_token"].reveal() in vendor.access_tokens


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_state_is_good_once(api, vendor):
    connection = make()
    parameters = vendor.consent(start(api, connection))
    assert come_back(parameters).status_code == 200
    connection.refresh_from_db()
    again = come_back(parameters)
    assert again.status_code == 400
    assert authorizing.OVER_TITLE in again.content.decode()
    assert len(vendor.token_requests) == 1
    unchanged(connection)


def test_a_state_ends(api, vendor):
    connection = make()
    parameters = vendor.consent(start(api, connection))
    OAuthState.objects.update(expires_at=datetime.now(UTC))
    assert come_back(parameters).status_code == 400
    assert vendor.token_requests == []
    unchanged(connection)


@pytest.mark.parametrize("state", [None, "", "made-up", "x" * 5000, "\x00", "ü"])
def test_a_state_is_one_of_ours(api, vendor, state):
    connection = make()
    parameters = vendor.consent(start(api, connection))
    del parameters["state"]
    assert come_back(parameters | ({} if state is None else {"state": state})).status_code == 400
    assert vendor.token_requests == []
    unchanged(connection)


def test_a_state_belongs_to_the_browser_that_began(api, vendor):
    connection = make()
    mine, foreign = "m" * 43, "f" * 43
    parameters = vendor.consent(authorizing.begin(connection, mine, BACK))
    for stranger in (Browser(), person(foreign)):
        refused = come_back(parameters, stranger)
        assert (refused.status_code, "belongs to another browser" in refused.content.decode()) == (400, True)
    assert vendor.token_requests == []
    unchanged(connection)
    assert come_back(parameters, person(mine)).status_code == 200  # a stranger's try uses nothing up


def test_a_state_of_another_workspace_reaches_its_own_connection_only(api, vendor):
    mine, theirs = make(), make()
    parameters = vendor.consent(start(api, theirs))
    come_back(parameters)
    unchanged(mine)
    theirs.refresh_from_db()
    assert theirs.status == "active"


def test_a_key_that_was_revoked_meanwhile_ends_what_it_began(db, vendor):
    key = issue()
    connection = make()
    parameters = vendor.consent(start(bearer(key.key), connection))
    keys.revoke_key(key.row.pk, datetime.now(UTC))
    refused = come_back(parameters)
    assert (refused.status_code, "Its API key has been revoked" in refused.content.decode()) == (400, True)
    assert vendor.token_requests == []
    unchanged(connection)


def test_a_person_may_say_no(api, vendor):
    connection = make()
    state = parse_qs(urlsplit(start(api, connection)).query)["state"][0]
    answer = come_back({"error": "access_denied", "error_description": "<b>no</b>", "state": state})
    assert answer.status_code == 400
    assert "HubSpot was told not to connect" in answer.content.decode()
    assert "<b>no" not in answer.content.decode()
    assert vendor.token_requests == []
    unchanged(connection)


@pytest.mark.parametrize("parameters", [{"error": "server_error"}, {}, {"code": ""}])
def test_a_vendor_may_have_a_problem(api, vendor, parameters):
    connection = make()
    state = parse_qs(urlsplit(start(api, connection)).query)["state"][0]
    answer = come_back({"state": state, **parameters})
    assert "HubSpot did not complete it" in answer.content.decode()
    assert (answer.status_code, vendor.token_requests) == (400, [])
    unchanged(connection)


def test_permissions_that_are_missing_are_named(api, vendor):
    vendor.granted_scopes = "oauth crm.objects.contacts.read"
    connection = make()
    answer = authorize(api, vendor, connection)
    assert answer.status_code == 400
    assert "Missing: crm.objects.contacts.write." in answer.content.decode()
    unchanged(connection)
    assert "access_token" not in opened(connection).secret


def test_a_connection_that_works_goes_on_when_permissions_are_missing(api, vendor):
    connection = authorized(vendor)
    before = opened(connection).secret["access_token"]
    vendor.granted_scopes = "oauth"
    assert authorize(api, vendor, connection).status_code == 400
    unchanged(connection)
    assert opened(connection).secret["access_token"] == before


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example",
        "https://instanced.example.evil.example",
        "https://evilinstanced.example",
        "http://acme.instanced.example",
        "https://10.0.0.1",
        "https://user@acme.instanced.example",
        "http://127.0.0.1:1",
        "",
    ],
)
def test_a_host_that_is_not_the_vendor_s_is_not_kept(api, vendor, url, monkeypatch):
    vendor.extra = {"instance_url": url, "id": "00D1"}
    connection = make("instanced")
    answer = come_back(vendor.consent(start(api, connection), iss=vendor.url), type="instanced")
    assert answer.status_code == 400
    assert "not accepted" in answer.content.decode()
    unchanged(connection)
    assert opened(connection).secret == {}


def test_a_region_that_is_none_is_not_kept(api, vendor):
    vendor.api = lambda asked: Reply(200, {"dc": "us21.evil.example#"})
    connection = make("rotating")
    assert authorize(api, vendor, connection).status_code == 400
    unchanged(connection)


@pytest.mark.parametrize("issuer", [None, "https://evil.example", "https://login.instanced.example", ""])
def test_an_answer_says_whom_it_is_from_where_the_vendor_does(api, vendor, issuer):
    connection = make("instanced")
    more = {} if issuer is None else {"iss": issuer}
    answer = come_back(vendor.consent(start(api, connection), **more), type="instanced")
    assert answer.status_code == 400
    assert vendor.token_requests == []
    unchanged(connection)


@pytest.mark.parametrize(
    ("issuer", "status"), [("https://evil.example", 400), ("not a url", 400), ("http://127.0.0.1", 200)]
)
def test_an_issuer_that_is_not_expected_is_the_vendor_s_or_refused(api, vendor, issuer, status):
    assert come_back(vendor.consent(start(api, make()), iss=issuer)).status_code == status


def test_a_code_that_the_vendor_refuses(api, vendor):
    connection = make()
    parameters = vendor.consent(start(api, connection)) | {"code": "canary-made-up"}
    answer = come_back(parameters)
    assert answer.status_code == 400
    assert "canary" not in answer.content.decode()
    unchanged(connection)


def test_a_verifier_that_somebody_exchanged_is_refused_by_the_vendor(api, vendor, monkeypatch):
    connection = make()
    parameters = vendor.consent(start(api, connection))
    monkeypatch.setattr(authorizing, "verifier_of", lambda state: "w" * 43)
    assert come_back(parameters).status_code == 400
    unchanged(connection)


@pytest.mark.parametrize("reply", [Reply(500, {}), Reply(200, b"<html>"), Reply(401, {"error": "invalid_client"})])
def test_a_vendor_that_fails_changes_nothing(api, vendor, reply):
    connection = make()
    parameters = vendor.consent(start(api, connection))
    vendor.before_reply = lambda asked: reply
    assert come_back(parameters).status_code == 400
    unchanged(connection)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lifecycle.delete, lifecycle.DELETED_WORDS),
        (lambda connection: lifecycle.disconnect(connection, actor="a test"), lifecycle.ENDED_WORDS),
    ],
)
def test_a_connection_that_is_ended_meanwhile_gets_nothing(vendor, end, words):
    connection = make()
    parameters = vendor.consent(start(caller(), connection))

    def end_it(asked):
        end(connection)
        databases.close_all()

    vendor.before_reply = end_it
    answer = come_back(parameters)
    assert (answer.status_code, len(vendor.token_requests)) == (400, 1)
    assert words in answer.content.decode()
    assert Connection.objects.get(pk=connection.pk).credential_hints == {}
    assert (len(vendor.revoked), vendor.refresh_tokens) == (1, set())


def test_an_app_that_is_exchanged_meanwhile_asks_for_nothing(api, vendor, settings):
    connection = make()
    parameters = vendor.consent(start(api, connection))
    settings.MESHES_OAUTH_CLIENTS = {}
    assert come_back(parameters).status_code == 400
    assert vendor.token_requests == []


def test_only_get_is_a_way_back(client):
    assert client.post("/oauth/callback").status_code == 405


# --- credentials that are typed in ----------------------------------------------------------------------------------


def test_a_typed_in_token_ends_the_authorization_here(api, vendor):
    connection = authorized(vendor)
    change = lifecycle.edit(connection, actor="a test", credentials={"access_token": "pat-na1-1234567890"})
    assert change.connection.credential_hints == {"access_token": "••••7890"}
    assert opened(connection).secret == {"access_token": Secret("pat-na1-1234567890")}
    grant = OAuthGrant.objects.get(connection=connection)
    assert (grant.expires_at, grant.refreshed_at, grant.scope) == (None, None, "")


def test_a_form_may_send_the_masks_back(api, vendor):
    connection = authorized(vendor)
    before = opened(connection)
    masks = dict(connection.credential_hints)
    lifecycle.edit(connection, actor="a test", name="Renamed", credentials=masks)
    assert opened(connection) == before


def test_an_edit_does_not_put_back_what_a_refresh_has_replaced(api, vendor, monkeypatch):
    """Two change the document at once: the one that read an older version is told to read again."""
    connection = authorized(vendor)
    replace = lifecycle.stored.replace

    def slowly(*arguments):
        replacement = replace(*arguments)
        renew(need_of(connection), DIRECT, until=float("inf"))
        return replacement

    monkeypatch.setattr(lifecycle.stored, "replace", slowly)
    with pytest.raises(ConflictError):
        lifecycle.edit(connection, actor="a test", credentials={"access_token": "pat-na1-1234567890"})
    assert opened(connection).secret["access_token"].reveal() in vendor.access_tokens
