"""Stored credentials do not follow a URL that is moved: whoever may edit the config cannot have them sent elsewhere."""

import json
from datetime import UTC, datetime

import pytest

from connections import calls, lifecycle
from connections import credentials as stored
from connections.credentials import ConflictError
from connections.models import Connection
from connections.oauth import refresh
from connections.oauth import tokens as token_documents
from connections.oauth.refresh import Authorization
from connections.providers.base import Granted, OAuth
from tests.connections.oauth.conftest import integrations, vendor  # noqa: F401  (fixtures)
from tests.connections.oauth.making import authorized, opened
from tests.connections.oauth.vendor import CLIENT_ID
from tests.factories import create_connection, make_workspace
from tests.receivers import receiver
from tests.workspaces.callers import caller, post
from workspaces.vault.models import AccessRecord

pytestmark = pytest.mark.django_db

TOKEN = "canary-token-4242"
ELSEWHERE = "https://8.8.4.4/hook"
CLIENT = {"oauth_client_id": "canary-client", "oauth_client_secret": "canary-client-secret"}


@pytest.fixture
def other(loopback):
    """The host of whoever moves the connection."""
    with receiver() as here:
        yield here


@pytest.fixture
def editor(db):
    """A workspace and a key of it that may change connections, and no more."""
    workspace = make_workspace()
    return workspace, caller("workspace", scopes=["config"], workspace=workspace)


def create(workspace, config, credentials, type="webhook"):
    return create_connection(workspace.pk, type, "Hook", config, credentials).connection


def patch(client, connection, **values):
    path = f"/api/v1/connections/{connection.public_id}"
    return client.patch(path, json.dumps(values), content_type="application/json")


def try_out(client, connection):
    return post(client, f"/api/v1/connections/{connection.public_id}/test", {})


def refused(answer):
    """The credentials that the refusal asks for."""
    assert answer.status_code == 422, answer.content
    problem = answer.json()
    assert problem["type"] == "urn:meshes:problem:credentials_required"
    assert {error["rule"] for error in problem["errors"]} == {"credentials_required"}
    return [error["pointer"] for error in problem["errors"]]


def moves(connection):
    rows = AccessRecord.objects.filter(kind="action", purpose="moved", owner_id=connection.pk).order_by("number")
    return [row.actor for row in rows]


# --- the attack -----------------------------------------------------------------------------------------------------


def test_a_token_does_not_follow_a_moved_url(editor, endpoint, other):
    workspace, client = editor
    made = create(workspace, {"url": endpoint.url}, {"token": TOKEN})
    assert refused(patch(client, made, config={"url": other.url})) == ["/credentials/token"]
    try_out(client, made)
    assert [got.headers["authorization"] for got in endpoint.got] == [f"Bearer {TOKEN}"]
    assert (other.got, moves(made)) == ([], [])
    made.refresh_from_db()
    assert (made.config["url"], made.version) == (endpoint.url, 1)


def test_a_user_name_and_password_are_asked_for_each(editor):
    workspace, client = editor
    made = create(workspace, {"url": ELSEWHERE}, {"username": "ada", "password": "canary"})
    both = ["/credentials/username", "/credentials/password"]
    there = {"url": "https://8.8.8.8/hook"}
    assert refused(patch(client, made, config=there)) == both
    assert refused(patch(client, made, config=there, credentials={"username": "bob"})) == both[1:]
    masks = made.credential_hints
    given = {key: masks[key] for key in ("username", "password")}
    assert refused(patch(client, made, config=there, credentials=given)) == both
    assert patch(client, made, config=there, credentials={"username": "b", "password": "c"}).status_code == 200


def test_a_client_s_secret_does_not_follow_a_moved_token_url(editor, endpoint, other):
    workspace, client = editor
    made = create(workspace, {"url": endpoint.url, "oauth_token_url": endpoint.url}, CLIENT)
    both = ["/credentials/oauth_client_id", "/credentials/oauth_client_secret"]
    assert refused(patch(client, made, config={"oauth_token_url": other.url})) == both
    try_out(client, made)
    assert other.got == []


def test_a_token_that_is_had_with_a_client_s_secret_does_not_follow_a_moved_url(editor, endpoint, other):
    """The secret itself would stay with the token URL; what it is good for would not."""
    workspace, client = editor
    made = create(workspace, {"url": endpoint.url, "oauth_token_url": endpoint.url}, CLIENT)
    both = ["/credentials/oauth_client_id", "/credentials/oauth_client_secret"]
    assert refused(patch(client, made, config={"url": other.url})) == both
    try_out(client, made)
    assert other.got == []


@pytest.mark.parametrize(
    "url",
    [
        "http://8.8.4.4/hook", "https://8.8.4.4:8443/hook", "https://8.8.4.5/hook", "https://example.com/hook",
    ],
)  # fmt: skip
def test_another_scheme_port_or_host_is_a_move(editor, url, settings):
    settings.MESHES_OUTBOUND_ALLOW_HTTP, settings.MESHES_OUTBOUND_PORTS = True, "*"
    workspace, client = editor
    made = create(workspace, {"url": ELSEWHERE}, {"token": TOKEN})
    assert refused(patch(client, made, config={"url": url})) == ["/credentials/token"]


def test_what_else_is_wrong_is_told_first(editor):
    workspace, client = editor
    made = create(workspace, {"url": ELSEWHERE}, {"token": TOKEN})
    answer = patch(client, made, config={"url": "https://ada:secret@example.com/"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/config/url")


def test_a_test_takes_no_config_of_its_own(editor, endpoint, other):
    workspace, client = editor
    made = create(workspace, {"url": endpoint.url}, {"token": TOKEN})
    answer = post(client, f"/api/v1/connections/{made.public_id}/test", {"config": {"url": other.url}})
    assert (answer.status_code, answer.json()["errors"][0]["rule"]) == (422, "unknown_field")
    query = client.get(f"/api/v1/connections/{made.public_id}/options/list_id", {"url": other.url})
    assert query.status_code in (404, 422)
    assert (endpoint.got, other.got) == ([], [])


def test_a_type_is_not_changed(editor):
    workspace, client = editor
    made = create(workspace, {"url": ELSEWHERE}, {"token": TOKEN})
    assert patch(client, made, type="hubspot", config={"url": "https://8.8.8.8/"}).status_code == 422


def test_a_redirect_carries_nothing_elsewhere(editor, endpoint, other):
    """Neither from the receiver nor from the authorization server."""
    workspace, client = editor
    endpoint.answer(307, {"location": other.url})
    try_out(client, create(workspace, {"url": endpoint.url}, {"token": TOKEN}))
    try_out(client, create(workspace, {"url": endpoint.url, "oauth_token_url": endpoint.url}, CLIENT))
    assert (len(endpoint.got), other.got) == (2, [])


# --- what may move --------------------------------------------------------------------------------------------------


def test_a_move_that_brings_the_credentials_is_recorded(editor, endpoint, other):
    workspace, client = editor
    made = create(workspace, {"url": endpoint.url}, {"token": TOKEN})
    assert patch(client, made, config={"url": other.url}, credentials={"token": "new-token"}).status_code == 200
    try_out(client, made)
    assert [got.headers["authorization"] for got in other.got] == ["Bearer new-token"]
    (record,) = AccessRecord.objects.filter(kind="action")
    assert (record.workspace_id, record.owner_kind, record.version) == (workspace.pk, "connection", 0)
    assert record.actor.startswith("key_")


def test_a_credential_that_is_removed_in_the_same_edit_need_not_be_brought(editor, endpoint, other):
    workspace, client = editor
    made = create(workspace, {"url": endpoint.url}, {"token": TOKEN})
    assert patch(client, made, config={"url": other.url}, credentials={"token": None}).status_code == 200
    try_out(client, made)
    (got,) = other.got
    assert "authorization" not in got.headers
    assert len(moves(made)) == 1


def test_a_webhook_without_credentials_of_its_own_moves_freely_and_is_recorded(editor, endpoint, other):
    workspace, client = editor
    made = create(workspace, {"url": endpoint.url}, {})
    assert patch(client, made, config={"url": other.url}).status_code == 200
    made.refresh_from_db()
    assert (len(moves(made)), made.version) == (1, 2)
    assert opened(made).version == 1  # the signing secret stays as it was


def test_another_path_or_spelling_of_the_same_host_is_free_and_no_move(editor):
    workspace, client = editor
    made = create(workspace, {"url": "https://example.com/hook"}, {"token": TOKEN})
    for url in ("https://example.com/other?x=1", "https://EXAMPLE.com:443/hook", "https://example.com./hook"):
        assert patch(client, made, config={"url": url}).status_code == 200, url
    assert patch(client, made, name="Renamed", config={"method": "PUT"}).status_code == 200
    assert moves(made) == []


def test_an_edit_that_loses_against_another_leaves_no_record(editor, endpoint, other):
    workspace, _ = editor
    made = create(workspace, {"url": endpoint.url}, {"token": TOKEN})
    stale = Connection.objects.get(pk=made.pk)
    lifecycle.edit(made, actor="first", name="Renamed")
    with pytest.raises(ConflictError):
        lifecycle.edit(stale, actor="second", config={"url": other.url}, credentials={"token": "mine"})
    assert moves(made) == []
    assert opened(made).secret["token"].reveal() == TOKEN


# --- every other integration ----------------------------------------------------------------------------------------

VENDORS = [
    ("amplitude", {}, {"api_key": "0123456789abcdef0123456789abcdef"}, {"region": "eu"}),
    ("customerio", {}, {"site_id": "site", "api_key": "key"}, {"region": "eu"}),
    ("intercom", {}, {"access_token": "t"}, {"region": "eu"}),
    ("posthog", {}, {"api_key": "phc_0123456789"}, {"region": "eu"}),
    ("segment", {}, {"write_key": "key"}, {"region": "eu"}),
    ("pipedrive", {}, {"api_token": "t"}, {"api_domain": "https://evil.pipedrive.com"}),
    (
        "salesforce", {"instance_url": "https://acme.my.salesforce.com"}, {"access_token": "t"},
        {"instance_url": "https://evil.my.salesforce.com"},
    ),
    (
        "salesforce", {"instance_url": "https://acme.my.salesforce.com"}, {"access_token": "t"},
        {"login_host": "test.salesforce.com"},
    ),
    (
        "zoho", {"api_domain": "https://www.zohoapis.com"}, {"access_token": "t"},
        {"api_domain": "https://www.zohoapis.eu"},
    ),
    ("mailchimp", {"list_id": "a1"}, {"api_key": f"{'0' * 32}-us21"}, {"dc": "us9"}),
]  # fmt: skip


@pytest.mark.parametrize(("type", "config", "secrets", "move"), VENDORS)
def test_a_region_data_centre_or_domain_of_a_vendor_moves_with_its_credentials_alone(
    editor, type, config, secrets, move
):
    workspace, client = editor
    made = create(workspace, config, secrets, type)
    assert sorted(refused(patch(client, made, config=move))) == sorted(f"/credentials/{key}" for key in secrets)
    assert patch(client, made, config=move, credentials=secrets).status_code == 200
    assert len(moves(made)) == 1


def test_tokens_of_an_authorization_do_not_follow_either(vendor, editor):  # noqa: F811
    workspace, client = editor
    made = authorized(vendor, "instanced", workspace=workspace, config={"login_host": "login.instanced.example"})
    move = {"login_host": "other.instanced.example"}
    assert refused(patch(client, made, config=move)) == ["/credentials/access_token"]
    assert opened(made).version == 1
    assert patch(client, made, config=move, credentials={"access_token": None}).status_code == 200
    assert not {"access_token", "refresh_token"} & opened(made).secret.keys()


# --- what happens at the same moment --------------------------------------------------------------------------------


def test_a_test_that_has_begun_does_not_take_new_credentials_to_the_old_host(editor, endpoint, other, monkeypatch):
    """The owner moves the connection from another's host to his own while that other one tests it."""
    workspace, _ = editor
    made = create(workspace, {"url": other.url}, {"token": "old-token"})
    plain, begun = stored.open_document, []

    def move_before_the_opening(connection, actor, purpose):
        if not begun:
            begun.append(True)
            current = Connection.objects.get(pk=made.pk)
            lifecycle.edit(current, actor="owner", config={"url": endpoint.url}, credentials={"token": TOKEN})
        return plain(connection, actor, purpose)

    monkeypatch.setattr(stored, "open_document", move_before_the_opening)
    calls.probe(Connection.objects.get(pk=made.pk), actor="a test")
    assert other.got == []
    assert [got.headers["authorization"] for got in endpoint.got] == [f"Bearer {TOKEN}"]


def test_a_test_that_has_begun_does_not_take_old_credentials_to_the_new_host(editor, endpoint, other, monkeypatch):
    workspace, _ = editor
    made = create(workspace, {"url": endpoint.url}, {"token": TOKEN})
    plain, begun = stored.open_document, []

    def move_after_the_opening(connection, actor, purpose):
        found = plain(connection, actor, purpose)
        if purpose == "test" and not begun:
            begun.append(True)
            current = Connection.objects.get(pk=made.pk)
            lifecycle.edit(current, actor="x", config={"url": other.url}, credentials={"token": None})
        return found

    monkeypatch.setattr(stored, "open_document", move_after_the_opening)
    calls.probe(Connection.objects.get(pk=made.pk), actor="a test")
    assert endpoint.got == []
    assert ["authorization" in got.headers for got in other.got] == [False]


def test_a_host_that_refuses_a_token_is_not_told_the_one_of_the_host_after_it(
    editor,
    endpoint,
    other,
    vendor,  # noqa: F811
    monkeypatch,
):
    """It answers 401 once the owner has moved the connection: what is found then was given for the new host."""
    workspace, _ = editor
    vendor.clients |= {"old": "canary-old", "new": "canary-new"}
    old, new = ({"oauth_client_id": name, "oauth_client_secret": f"canary-{name}"} for name in ("old", "new"))
    made = create(workspace, {"url": other.url, "oauth_token_url": f"{vendor.url}/token"}, old)
    other.answer(401)
    plain, begun = Authorization.renew_after, []

    def move_before(authorization, response, until):
        if not begun:
            begun.append(True)
            current = Connection.objects.get(pk=made.pk)
            lifecycle.edit(current, actor="owner", config={"url": endpoint.url}, credentials=new)
            assert calls.probe(Connection.objects.get(pk=made.pk), actor="owner").ok
        return plain(authorization, response, until)

    monkeypatch.setattr(Authorization, "renew_after", move_before)
    probed = calls.probe(Connection.objects.get(pk=made.pk), actor="a test")
    assert (probed.ok, probed.words) == (False, refresh.MOVED_MESSAGE)
    given = [got.headers["authorization"] for got in endpoint.got]
    assert len(given) == len(other.got) == 1
    assert other.got[0].headers["authorization"] != given[0]


def test_an_authorization_that_the_connection_was_moved_under_keeps_nothing(vendor, editor):  # noqa: F811
    workspace, client = editor
    made = create(workspace, {}, {}, "instanced")
    read = Connection.objects.get(pk=made.pk)
    assert patch(client, made, config={"login_host": "other.instanced.example"}).status_code == 200
    with pytest.raises(ConflictError, match="moved while it was authorized"):
        lifecycle.authorize(read, new_tokens(vendor), Granted(), client_id=CLIENT_ID, actor="connect link")
    assert "access_token" not in opened(made).secret


def test_what_was_typed_in_does_not_follow_an_authorization_that_leads_elsewhere(vendor, editor):  # noqa: F811
    workspace, _ = editor
    for domain, kept in (("https://acme.pipedrive.com", {"api_token"}), ("https://evil.pipedrive.com", set())):
        made = create(workspace, {"api_domain": "https://acme.pipedrive.com"}, {"api_token": TOKEN}, "pipedrive")
        granted = Granted({"api_domain": domain})
        lifecycle.authorize(made, new_tokens(vendor), granted, client_id=CLIENT_ID, actor="connect link")
        assert opened(made).secret.keys() & {"api_token", "access_token"} == kept | {"access_token"}
        assert moves(made) == ([] if kept else ["connect link"])


def new_tokens(vendor):  # noqa: F811
    return token_documents.read_tokens(vendor.grant(), OAuth(), datetime.now(UTC))
