"""Which redirect URI an authorization names: each vendor's own, or the one that all shared."""

import uuid
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client as Browser

from connections import lifecycle
from connections.models import OAuthGrant, OAuthState
from connections.oauth import authorize
from connections.oauth.refresh import DIRECT, renew
from tests.connections.oauth.making import authorized, expired, need_of
from tests.connections.oauth.test_authorize import come_back, make, person, start
from tests.delivery.test_upgrading import database, migrate

__all__ = ["database"]

pytestmark = pytest.mark.django_db

SHARED = "http://testserver/oauth/callback"
OWN = f"{SHARED}/hubspot"


def redirect_uri_on(url):
    return parse_qs(urlsplit(url).query)["redirect_uri"][0]


def authorized_before(vendor):
    """As authorizations stand that were given while all vendors shared one redirect URI."""
    connection = authorized(vendor)
    OAuthGrant.objects.filter(connection=connection).update(shared_callback=True)
    return connection


def test_a_new_installation_names_each_vendor_s_own(api, vendor):
    connection = make()
    url = start(api, connection)
    assert redirect_uri_on(url) == OWN
    assert come_back(vendor.consent(url)).status_code == 200
    assert OAuthGrant.objects.get(connection=connection).shared_callback is False
    assert redirect_uri_on(start(api, make("rotating"))) == f"{SHARED}/rotating"


def test_where_authorizations_exist_the_shared_one_stays(api, vendor):
    before = authorized_before(vendor)
    connection = make()
    url = start(api, connection)
    assert redirect_uri_on(url) == SHARED
    parameters = vendor.consent(url)
    assert come_back(parameters).status_code == 400  # at its vendor's own address
    assert person().get("/oauth/callback", parameters, follow=True).status_code == 200
    assert OAuthGrant.objects.get(connection=connection).shared_callback is True
    for each in (before, connection):
        each.refresh_from_db()
        lifecycle.disconnect(each, actor="a test")
    assert redirect_uri_on(start(api, make())) == OWN  # nobody is authorized by it any more


@pytest.mark.parametrize(("setting", "expected"), [("auto", SHARED), ("shared", SHARED), ("vendor", OWN)])
def test_a_setting_ends_the_shared_one(api, vendor, settings, setting, expected):
    authorized_before(vendor)
    settings.MESHES_OAUTH_CALLBACK = setting
    assert redirect_uri_on(start(api, make())) == expected


def test_a_setting_keeps_the_shared_one_where_apps_have_registered_it(api, vendor, settings):
    settings.MESHES_OAUTH_CALLBACK = "shared"
    connection = make()
    parameters = vendor.consent(start(api, connection))
    assert person().get("/oauth/callback", parameters, follow=True).status_code == 200


def test_what_began_by_the_shared_one_ends_by_it_whatever_is_set_meanwhile(api, vendor, settings):
    """Also what a browser that clicked on a connect link began before an upgrade."""
    connection, cookie = make(), "c" * 43
    parameters = vendor.consent(authorize.begin(connection, cookie, SHARED))
    settings.MESHES_OAUTH_CALLBACK = "vendor"
    assert person(cookie).get("/oauth/callback", parameters, follow=True).status_code == 200
    (asked,) = vendor.token_requests
    assert asked.form["redirect_uri"] == SHARED


def test_tokens_are_renewed_whatever_the_redirect_uri_was(vendor, settings):
    connection = expired(vendor)
    OAuthGrant.objects.update(shared_callback=True)
    settings.MESHES_OAUTH_CALLBACK = "vendor"
    renew(need_of(connection), DIRECT, float("inf"))
    assert len(vendor.refreshes) == 1
    assert OAuthGrant.objects.get().shared_callback is True


def test_a_workspace_s_own_app_is_told_which_to_register(api, vendor, settings):
    path = f"/api/v1/workspaces/{make().workspace.public_id}/oauth-apps/hubspot"
    app = {"client_id": "app-1", "client_secret": "canary-secret"}
    assert api.put(path, app, content_type="application/json").json()["redirect_uri"] == OWN
    settings.MESHES_OAUTH_CALLBACK = "shared"
    assert api.get(path).json()["redirect_uri"] == SHARED


def test_below_a_path_of_a_proxy_each_vendor_has_its_own_too(api, vendor, settings):
    settings.MESHES_PUBLIC_URL = "https://example.com/meshes"
    url = start(api, make())
    assert redirect_uri_on(url) == "https://example.com/meshes/oauth/callback/hubspot"
    parameters = vendor.consent(url)
    assert come_back(parameters, type="rotating").status_code == 400
    assert come_back(parameters).status_code == 200


def test_which_one_is_in_use_is_asked_of_an_index_that_is_nearly_empty(vendor, django_assert_num_queries):
    authorized(vendor)
    with django_assert_num_queries(1):
        assert authorize.callback_in_use() == authorize.VENDOR


def test_a_database_that_was_filled_before_goes_on_with_the_shared_one(database):
    migrate("connections", "0006_sealed_at")
    rows = "SELECT client_id, scope, link_generation FROM oauth_grants ORDER BY client_id"
    with database() as session, session.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # so that the rows need no connections
        for client_id in ("", "app-1"):
            cursor.execute(
                "INSERT INTO oauth_grants (connection_id, workspace_id, client_id, scope, refresh_failures, last_error,"
                " link_generation) VALUES (%s, %s, %s, 'oauth', 0, '', 3)",
                [str(uuid.uuid4()), str(uuid.uuid4()), client_id],
            )
        cursor.execute(rows)
        before = cursor.fetchall()
    session.close()
    migrate()
    with database() as session, session.cursor() as cursor:
        cursor.execute(rows)
        assert cursor.fetchall() == before
        cursor.execute("SELECT client_id, shared_callback FROM oauth_grants ORDER BY client_id")
        assert cursor.fetchall() == [("", False), ("app-1", True)]
    session.close()


def test_a_browser_without_anything_is_told_so(vendor):
    answer = Browser().get("/oauth/callback/hubspot", follow=True)
    assert (answer.status_code, OAuthState.objects.count()) == (400, 0)
    assert authorize.OVER_TITLE in answer.content.decode()
