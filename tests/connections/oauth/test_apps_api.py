"""Apps that a workspace brings itself."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import IntegrityError, transaction
from rest_framework import serializers

from connections.models import OAuthApp, OAuthGrant
from connections.oauth import grants
from connections.oauth.refresh import DIRECT, renew
from connections.oauth.tokens import NoTokenError
from connections.serializers import OAuthAppIn
from tests.connections.oauth.making import authorized, is_somebody_waiting, need_of
from tests.connections.oauth.test_authorize import authorize, make, start
from tests.connections.oauth.test_refresh import in_thread
from tests.factories import make_workspace
from tests.polling import eventually
from tests.workspaces.callers import caller
from workspaces.vault import stored_keys, vault
from workspaces.vault.models import AccessRecord, SealedDocument
from workspaces.vault.secret import Secret

pytestmark = pytest.mark.django_db

SECRET = "canary-their-secret-4242"
BODY = {"client_id": "their-app", "client_secret": SECRET}


@pytest.fixture
def workspace(db):
    return make_workspace()


def path_of(workspace, type="hubspot") -> str:
    return f"/api/v1/workspaces/{workspace.external_id}/oauth-apps/{type}"


def put(api, workspace, body=BODY, type="hubspot"):
    return api.put(path_of(workspace, type), json.dumps(body), content_type="application/json")


def test_an_app_is_kept_and_its_secret_never_shown(api, workspace):
    answer = put(api, workspace)
    assert answer.status_code == 200
    shown = answer.json()
    assert shown == api.get(path_of(workspace)).json()
    log = api.get(f"/api/v1/workspaces/{workspace.external_id}/access-log").json()["data"]
    assert [(row["purpose"], row["kind"], row["oauth_app"], row["connection"]) for row in log] == [
        ("created", "client", shown["id"], None)
    ]
    assert {key: shown[key] for key in ("workspace", "type", "client_id", "client_secret", "redirect_uri")} == {
        "workspace": workspace.public_id,
        "type": "hubspot",
        "client_id": "their-app",
        "client_secret": "••••4242",
        "redirect_uri": "http://testserver/oauth/callback/hubspot",
    }
    assert SECRET not in answer.content.decode()
    assert SECRET not in str(OAuthApp.objects.values().get())
    client = grants.client_for(workspace.pk, "hubspot", actor="a test", purpose="testing")
    assert (client.id, client.secret.reveal()) == ("their-app", SECRET)


def test_a_column_joins_the_apps_by_one_line_of_the_body(api, workspace, monkeypatch):
    column = serializers.DateTimeField(required=False, source="created_at")
    monkeypatch.setitem(OAuthAppIn._declared_fields, "registered_at", column)
    put(api, workspace)
    answer = put(api, workspace, BODY | {"registered_at": "2026-01-01T00:00:00Z"}).json()
    assert answer["registered_at"] == "2026-01-01T00:00:00Z"
    assert api.get(path_of(workspace)).json() == answer
    assert OAuthApp.objects.get().created_at.isoformat() == "2026-01-01T00:00:00+00:00"


def test_an_app_is_replaced(api, workspace):
    put(api, workspace)
    assert put(api, workspace, {"client_id": "other", "client_secret": "s"}).json()["client_secret"] == "••••"
    assert (OAuthApp.objects.count(), SealedDocument.objects.get(kind=grants.APP_KIND).version) == (1, 2)


@pytest.mark.django_db(transaction=True)
def test_of_two_replacements_at_once_one_stays_whole(workspace):
    grants.put_app(workspace.pk, "hubspot", "first", Secret("first-secret"))
    with transaction.atomic():
        grants.put_app(workspace.pk, "hubspot", "second", Secret("second-secret"))
        thread, done = in_thread(lambda: grants.put_app(workspace.pk, "hubspot", "third", Secret("third-secret")))
        eventually(is_somebody_waiting)
    thread.join(10)
    assert done[0].client_id == "third"
    client = grants.client_for(workspace.pk, "hubspot", actor="a test", purpose="testing")
    assert (client.id, client.secret.reveal()) == ("third", "third-secret")
    assert SealedDocument.objects.get(kind=grants.APP_KIND).version == 3


@pytest.mark.django_db(transaction=True)
def test_an_app_is_replaced_while_somebody_forgets_it(workspace):
    """One waits for the other; neither is thrown out by the database."""
    grants.put_app(workspace.pk, "hubspot", "their-app", Secret(SECRET))
    with transaction.atomic():
        OAuthApp.objects.select_for_update().get()
        thread, done = in_thread(lambda: grants.remove_apps(workspace.pk, "hubspot"))
        eventually(is_somebody_waiting)
        grants.put_app(workspace.pk, "hubspot", "other", Secret(SECRET))
    thread.join(10)
    assert done == [1]
    assert (OAuthApp.objects.count(), SealedDocument.objects.filter(kind=grants.APP_KIND).count()) == (0, 0)


def test_an_app_is_forgotten(api, workspace, integrations):
    put(api, workspace)
    put(api, workspace, type="rotating")
    assert api.delete(path_of(workspace)).status_code == 204
    assert [app.type for app in OAuthApp.objects.all()] == ["rotating"]
    assert SealedDocument.objects.filter(kind=grants.APP_KIND).count() == 1
    assert api.get(path_of(workspace)).status_code == 404
    assert api.delete(path_of(workspace)).status_code == 404


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"client_id": "a"}, "/client_secret"),
        ({"client_id": "", "client_secret": "s"}, "/client_id"),
        ({"client_id": "a b", "client_secret": "s"}, "/client_id"),
        ({"client_id": "a", "client_secret": "s\n"}, "/client_secret"),
        ({"client_id": "a", "client_secret": "s", "more": 1}, "/more"),
        ({"client_id": "a", "client_secret": 1}, "/client_secret"),
    ],
)
def test_a_body_that_is_not_right_is_refused(api, workspace, body, pointer):
    answer = put(api, workspace, body)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert not OAuthApp.objects.exists()


@pytest.mark.parametrize("type", ["webhook", "nothing"])
def test_only_what_authorizes_has_apps(api, workspace, integrations, type):
    assert put(api, workspace, type=type).status_code == 404


def test_another_tenant_finds_nothing(api, workspace):
    put(api, workspace)
    stranger = caller("workspace", ["config"], make_workspace())
    assert stranger.get(path_of(workspace)).status_code == 404
    assert put(stranger, workspace).status_code == 404
    assert stranger.delete(path_of(workspace)).status_code == 404
    assert OAuthApp.objects.count() == 1


# --- which app asks -------------------------------------------------------------------------------------------------


def test_a_workspace_s_own_app_comes_first(api, vendor):
    connection, other = make(), make()
    vendor.clients["their-app"] = SECRET
    put(api, connection.workspace)
    assert client_id_of(start(api, connection)) == "their-app"
    assert client_id_of(start(api, other)) == "app-1"
    assert authorize(api, vendor, connection).status_code == 200
    assert vendor.token_requests[0].form["client_secret"] == SECRET
    assert OAuthGrant.objects.get(connection=connection).client_id == "their-app"
    record = AccessRecord.objects.get(owner_kind="oauth_app", purpose="oauth authorize")
    assert (record.kind, record.purpose, record.granted) == ("client", "oauth authorize", True)
    assert record.workspace_id == connection.workspace_id


def client_id_of(url):
    return parse_qs(urlsplit(url).query)["client_id"][0]


def test_a_token_is_renewed_with_the_app_that_it_was_given_to(api, vendor):
    connection = authorized(vendor)
    put(api, connection.workspace)
    renew(need_of(connection), DIRECT, until=float("inf"))
    assert vendor.token_requests[-1].form["client_id"] == "app-1"


def test_an_app_that_is_gone_ends_no_authorization(api, vendor, settings, caplog):
    connection = authorized(vendor)
    settings.MESHES_OAUTH_CLIENTS = {}
    with pytest.raises(NoTokenError) as caught:
        renew(need_of(connection), DIRECT, until=float("inf"))
    assert (caught.value.is_final, vendor.token_requests) == (False, [])
    assert "is not set up any more" in str(caught.value)
    connection.refresh_from_db()
    grant = OAuthGrant.objects.get(connection=connection)
    assert (connection.status, grant.lease_id, grant.ended_at) == ("active", None, None)
    assert [record.levelname for record in caplog.records if "OAuth client" in record.message] == ["ERROR"]


# --- in the vault ---------------------------------------------------------------------------------------------------


def test_an_app_s_secret_opens_for_its_own_workspace_only(workspace, integrations):
    mine = grants.put_app(workspace.pk, "hubspot", "mine", Secret(SECRET))
    theirs = grants.put_app(make_workspace().pk, "hubspot", "theirs", Secret("theirs"))
    SealedDocument.objects.filter(oauth_app=mine).delete()
    sealed = SealedDocument.objects.get(oauth_app=theirs)
    with pytest.raises(IntegrityError), transaction.atomic():  # the database refuses an owner of another workspace
        SealedDocument.objects.filter(pk=sealed.pk).update(oauth_app=mine)
    SealedDocument.objects.filter(pk=sealed.pk).update(oauth_app=mine, workspace=workspace)
    assert grants.client_for(workspace.pk, "hubspot", actor="a test", purpose="testing") is None
    assert not AccessRecord.objects.get(purpose="testing").granted


def test_an_app_s_secret_is_sealed_anew_under_a_new_key(workspace, use_keys):
    use_keys("old")
    grants.put_app(workspace.pk, "hubspot", "mine", Secret(SECRET))
    use_keys("new", "old")
    assert stored_keys.reseal_batch(None, 10, actor="a test")[1] == 1
    use_keys("new")
    assert grants.client_for(workspace.pk, "hubspot", actor="a test", purpose="testing").secret == Secret(SECRET)
    record = AccessRecord.objects.get(purpose="key rotation")
    assert (record.owner_kind, record.owner_id) == ("oauth_app", OAuthApp.objects.get().pk)


def test_a_document_has_one_owner(workspace, vendor):
    app = grants.put_app(workspace.pk, "hubspot", "mine", Secret(SECRET))
    connection = authorized(vendor, workspace=workspace)
    with pytest.raises(IntegrityError), transaction.atomic():
        SealedDocument.objects.filter(connection=connection).update(oauth_app=app, kind=vault.CREDENTIALS)
