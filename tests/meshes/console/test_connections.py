"""Connections in the admin: what holds them, the way to end it, and nothing of their secrets."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext

from connections.models import Connection, ConnectionHealth, OAuthGrant, OAuthState
from connections.oauth import grants
from delivery.lanes import brokers
from meshes.console import display
from meshes.console.connections import is_mask
from meshes.kit import ids
from tests.factories import create_connection, make_connection, make_event, make_workspace, own_lanes
from tests.operators import operator, said, superuser, words
from workspaces import keys
from workspaces.vault import access_log
from workspaces.vault.models import AccessRecord, SealedDocument
from workspaces.vault.secret import Secret

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

TOKEN = "tok_live_51H8abcdefghijklmnop"
CONFIG = {
    "url": "https://203.0.113.7/hook?key=in-the-query",
    "headers": {"X-Env": "production", "X-Api-Key": "in-a-header"},
}


@pytest.fixture
def secretive(loopback):
    """A connection with secrets wherever a tenant could put one, and those secrets."""
    config = CONFIG | {"url": "http://127.0.0.1:9/hook?key=in-the-query"}
    change = create_connection(make_workspace().pk, "webhook", "Secretive", config, {"token": TOKEN})
    return change.connection, [TOKEN, "in-the-query", "in-a-header", *change.made.values()]


def record_access(target, **values):
    return AccessRecord.objects.create(
        **{
            "workspace_id": target.workspace_id,
            "owner_kind": "connection",
            "owner_id": target.pk,
            "kind": "credentials",
            "version": 1,
            "actor": "worker-7",
            "purpose": "delivery",
        }
        | values
    )


def status_of(target):
    return Connection.objects.values_list("status", "status_reason").get(pk=target.pk)


def test_the_page_tells_what_holds_a_connection():
    reason = "The destination answered 401."
    target = make_connection(make_workspace(), status="needs_reauth", status_reason=reason)
    ConnectionHealth.objects.create(
        connection=target, workspace=target.workspace, breaker="open", consecutive_failures=7, opened_times=2
    )
    text = superuser().text("connections_connection", target.public_id)
    for shown in ("needs reauth", reason, "open", "opened 2× in a row", "default schedule", target.workspace.name):
        assert shown in text


def test_the_page_tells_the_vendor_s_account_and_its_authorization():
    target = make_connection(make_workspace(), type="hubspot", config={}, account_id="62515", account_name="Engines")
    root = superuser()
    assert "Authorized" not in root.text("connections_connection", target.public_id)
    ends_at = datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=UTC)
    OAuthGrant.objects.create(connection=target, workspace=target.workspace, expires_at=ends_at)
    text = root.text("connections_connection", target.public_id)
    for shown in ("Account Engines 62515", "Authorized until 2026-03-04 05:06:07"):
        assert shown in text


def test_no_page_shows_a_secret(secretive):
    target, secrets = secretive
    root = superuser()
    sealed = SealedDocument.objects.get(connection=target)
    with CaptureQueriesContext(connection) as queries:
        pages = [root.page("connections_connection", target.pk), root.list("connections_connection")]
    read = [query["sql"] for query in queries if "sealed_documents" in query["sql"]]
    assert read
    assert not [sql for sql in read if '"sealed_documents"."document"' in sql]
    text = b"".join(page.content for page in pages).decode()
    assert "X-Env: production" in text
    assert sealed.key_id in text
    for secret in secrets:
        assert secret not in text
    assert "gAAAA" not in text  # how every Fernet token begins


def test_hints_that_are_no_masks_are_masked():
    target = make_connection(make_workspace(), credential_hints={"token": "••••mnop", "other": "not a mask"})
    text = superuser().text("connections_connection", target.pk)
    assert "••••mnop" in text
    assert "not a mask" not in text


@pytest.mark.parametrize(
    ("hint", "is_one"), [("••••", True), ("••••1234", True), ("••••12345", False), ("1234", False), (None, False)]
)
def test_masks_are_known(hint, is_one):
    assert is_mask(hint) is is_one


def test_pausing_holds_tells_the_lane_and_is_logged(django_capture_on_commit_callbacks):
    target, root = make_connection(make_workspace()), superuser()
    with django_capture_on_commit_callbacks(execute=True):
        answer = root.press("connections_connection", "pause", target.pk)
    assert said(answer) == ["1 paused; their deliveries are held."]
    assert status_of(target) == ("paused", "Paused by an operator.")
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.change_message, entry.user) == (str(target.pk), "Paused by an operator.", root.user)


@pytest.mark.parametrize("status", ["paused", "disabled", "needs_reauth", "credential_error"])
def test_resuming_ends_whatever_holds(status):
    target, root = make_connection(make_workspace(), status=status, status_reason="Because."), superuser()
    answer = root.press("connections_connection", "resume", target.pk)
    assert said(answer) == ["1 resumed; held deliveries go out in order."]
    assert status_of(target) == ("active", "")


def test_resuming_ends_a_pause_of_the_lane(django_capture_on_commit_callbacks):
    until = datetime.now(UTC) + timedelta(minutes=5)
    target, root = make_connection(make_workspace(), paused_until=until), superuser()
    brokers.pause(target.workspace_id, target.pk, 300)
    with django_capture_on_commit_callbacks(execute=True):
        root.press("connections_connection", "resume", target.pk)
    assert Connection.objects.get().paused_until is None
    assert own_lanes().stats(brokers.lane_of(target.pk)).paused_until is None


def test_each_result_of_a_selection_is_counted():
    workspace, root = make_workspace(), superuser()
    active = [make_connection(workspace) for _ in range(2)]
    held, gone = make_connection(workspace, status="disabled"), make_connection(workspace, status="deleted")
    answer = root.run("connections_connection", "pause", *(row.pk for row in [*active, held, gone]))
    assert said(answer) == [
        "2 paused; their deliveries are held.",
        "2 left as they were: The connection is not active.",
    ]
    assert (status_of(held)[0], status_of(gone)[0]) == ("disabled", "deleted")
    assert LogEntry.objects.count() == 2


def test_a_deleted_connection_stays_deleted():
    target, root = make_connection(make_workspace(), status="deleted"), superuser()
    answer = root.press("connections_connection", "resume", target.pk)
    assert said(answer) == ["1 left as they were: The connection has been deleted."]
    assert status_of(target)[0] == "deleted"
    assert LogEntry.objects.count() == 0


def test_a_viewer_changes_nothing():
    target, viewer = make_connection(make_workspace()), operator("connections.view_connection")
    page = viewer.page("connections_connection", target.pk)
    assert page.status_code == 200
    assert b"/do/" not in page.content
    assert viewer.press("connections_connection", "pause", target.pk).status_code == 403
    viewer.run("connections_connection", "pause", target.pk)
    assert status_of(target)[0] == "active"


def test_nothing_of_a_connection_is_edited_here():
    target, root = make_connection(make_workspace(), name="Before"), superuser()
    answer = root.client.post(f"/admin/connections/connection/{target.pk}/change/", {"name": "After"})
    assert answer.status_code == 403
    assert Connection.objects.get().name == "Before"


def test_connections_are_found():
    workspace = make_workspace(external_id="northwind")
    ours, _ = make_connection(workspace, name="Ours", status="paused"), make_connection(make_workspace(), name="Other")
    root = superuser()
    for query in (
        {"q": ours.public_id},
        {"q": "northwind"},
        {"q": str(ours.pk)},
        {"workspace": workspace.public_id},
        {"status": "paused"},
    ):
        text = words(root.list("connections_connection", **query))
        assert "Ours" in text, query
        assert "Other" not in text, query


def test_access_records_tell_who_opened_what_for_which_delivery():
    target, delivery_id = make_connection(make_workspace()), ids.uuid7()
    record = record_access(target, delivery_id=delivery_id, attempt_number=3)
    text = superuser().text("connections_accessrecord", record.pk)
    for shown in (target.public_id, ids.encode(ids.DELIVERY, delivery_id), "worker-7", "granted"):
        assert shown in text


def test_the_list_of_access_records_shows_attempts_refusals_and_who_acted():
    target, delivery_id = make_connection(make_workspace()), ids.uuid7()
    key = keys.create_key(name="Backend", kind="account", scopes=["config"]).row
    root = superuser()
    record_access(target, delivery_id=delivery_id, attempt_number=3, purpose="delivery", granted=False)
    text = words(root.list("connections_accessrecord", answer="refused"))
    assert f"delivery refused credentials v1 worker-7 {ids.encode(ids.DELIVERY, delivery_id)} attempt 3" in text
    record_access(target, purpose="test", actor=key.public_id)
    page = root.list("connections_accessrecord", purpose="test").content.decode()
    assert f"/admin/workspaces/apikey/{key.pk}/change/" in page


@pytest.mark.parametrize("kind", access_log.PREFIXES)
def test_actions_are_listed_whatever_they_were_done_to(kind):
    owner_id, workspace = ids.uuid7(), make_workspace()
    access_log.record_action(
        workspace_id=workspace.pk, owner_kind=kind, owner_id=owner_id, actor="operator ada", purpose="viewed"
    )
    text = words(superuser().list("connections_accessrecord", purpose="viewed"))
    assert f"viewed action operator ada {display.NOTHING}" in text
    assert ids.encode(access_log.PREFIXES[kind], owner_id) in text


def test_actions_are_found_by_the_event_that_they_were_done_to():
    events = [make_event(make_workspace()) for _ in range(2)]
    for event, actor in zip(events, ("ours", "other"), strict=True):
        access_log.record_action(
            workspace_id=event.workspace_id, owner_kind="event", owner_id=event.pk, actor=actor, purpose="viewed"
        )
    text = words(superuser().list("connections_accessrecord", q=events[0].public_id))
    assert {actor for actor in ("ours", "other") if f" {actor} " in text} == {"ours"}


# --- authorizations -------------------------------------------------------------------------------------------------


def test_a_workspace_s_app_is_found_by_its_id_and_its_records_lead_to_it():
    names = ("app-mine", "app-other")
    app, other = (grants.put_app(make_workspace().pk, "hubspot", name, Secret(name)) for name in names)
    root = superuser()
    assert "app-mine" in words(root.list("connections_oauthapp", q=app.public_id))
    assert "app-other" not in words(root.list("connections_oauthapp", q=app.public_id))
    assert root.client.get("/admin/find/", {"id": app.public_id}).url == f"/admin/connections/oauthapp/{app.pk}/change/"
    page = root.list("connections_accessrecord", q=app.public_id).content.decode()
    assert f"/admin/connections/oauthapp/{app.pk}/change/" in page
    assert other.public_id not in page


def test_who_looks_at_a_workspace_s_app_is_recorded():
    app, root = grants.put_app(make_workspace().pk, "hubspot", "app-mine", Secret("s")), superuser()
    root.list("connections_oauthapp")
    root.page("connections_oauthapp", app.pk)
    assert views() == [("operator root", app.workspace_id, "client", app.pk, 1)] * 2


def test_authorizations_are_found_by_how_they_stand():
    now = datetime.now(UTC)
    standings: dict[str, dict[str, object]] = {
        "live": {"refreshed_at": now},
        "failing": {"refreshed_at": now, "refresh_failures": 2},
        "ended": {"refreshed_at": now, "refresh_failures": 2, "ended_at": now},
        "none": {},
    }
    for name, values in standings.items():
        target = make_connection(make_workspace(), name=f"is-{name}")
        OAuthGrant.objects.create(connection=target, workspace=target.workspace, **values)
    root = superuser()
    for name in standings:
        text = words(root.list("connections_oauthgrant", standing=name))
        assert [each for each in standings if f"is-{each}" in text] == [name]
        assert f" {name} " in text.partition(f"is-{name}")[2]


def test_an_authorization_names_the_redirect_uri_by_which_it_was_given():
    root = superuser()
    for name, values in {"old": {"shared_callback": True}, "new": {}}.items():
        target = make_connection(make_workspace(), type="hubspot", name=f"is-{name}", config={})
        OAuthGrant.objects.create(connection=target, workspace=target.workspace, client_id="app-1", **values)
        page = words(root.page("connections_oauthgrant", target.pk))
        assert (" /oauth/callback/hubspot " in f"{page} ") == (name == "new")
        assert " /oauth/callback" in page
    listed = words(root.list("connections_oauthgrant", callback="shared"))
    assert ("is-old" in listed, "is-new" in listed) == (True, False)


def test_a_started_authorization_says_whether_a_browser_has_opened_it():
    target = make_connection(make_workspace())
    key = keys.create_key(name="Backend", kind="account", scopes=["config"]).row
    for state, opened_in in {"a": "", "b": "browser:5d41402abc"}.items():
        OAuthState.objects.create(
            connection=target, workspace=target.workspace, state_hash=state, session=f"key:{key.pk}",
            opened_in=opened_in, expires_at=datetime.now(UTC) + timedelta(minutes=5),
        )  # fmt: skip
    text = superuser().text("connections_connection", target.pk)
    assert (text.count(" not opened "), len(re.findall("(?<!not) open ", text))) == (1, 1)


def test_a_started_authorization_says_who_started_it():
    target = make_connection(make_workspace())
    key = keys.create_key(name="Backend", kind="account", scopes=["config"]).row
    for session in (f"key:{key.pk}", "browser:5d41402abc"):
        OAuthState.objects.create(
            connection=target, workspace=target.workspace, state_hash=session, session=session,
            expires_at=datetime.now(UTC),
        )  # fmt: skip
    text = superuser().text("connections_connection", target.pk)
    assert key.public_id in text
    assert "connect link" in text
    assert "5d41402abc" not in text


def test_access_records_are_found_by_owner_and_answer():
    ours, other = (make_connection(make_workspace()) for _ in range(2))
    record_access(ours, actor="ours", granted=False)
    record_access(other, actor="other")
    key = keys.create_key(name="Backend", kind="account", scopes=["config"]).row
    record_access(ours, workspace_id=None, owner_kind="api_key", owner_id=key.pk, actor="key")
    root = superuser()
    for query, found in (
        ({"q": ours.public_id}, "ours"),
        ({"q": key.public_id}, "key"),
        ({"q": other.workspace.external_id}, "other"),
        ({"answer": "refused"}, "ours"),
    ):
        text = words(root.list("connections_accessrecord", **query))
        assert {actor for actor in ("ours", "other", "key") if f" {actor} " in text} == {found}, query


def test_connections_are_found_by_their_breakers():
    target = make_connection(make_workspace(), name="Flaky")
    ConnectionHealth.objects.create(connection=target, workspace=target.workspace, breaker="half_open")
    root = superuser()
    assert "Flaky" in words(root.list("connections_connection", health__breaker="half_open"))
    assert "Flaky" not in words(root.list("connections_connection", health__breaker="open"))
    assert "half open" in root.text("connections_connection", target.pk)


# --- who looks is recorded ------------------------------------------------------------------------------------------


def views():
    """What the admin recorded of its users' looks, in order."""
    rows = AccessRecord.objects.filter(purpose="viewed in the admin").order_by("number")
    return [(row.actor, row.workspace_id, row.kind, row.owner_id, row.version) for row in rows]


def test_who_looks_at_records_is_recorded_once_for_each_tenant_shown():
    ours, other = make_connection(make_workspace()), make_connection(make_workspace())
    root = superuser()
    root.list("connections_accessrecord", q=ours.public_id)
    assert views() == [("operator root", ours.workspace_id, "access_log", ours.workspace_id, 0)]
    root.list("connections_accessrecord")
    assert sorted(view[1] for view in views()[1:]) == sorted([ours.workspace_id, other.workspace_id])
    assert "the access log" in words(root.list("connections_accessrecord", purpose="viewed in the admin"))


def test_who_opens_a_record_s_page_is_recorded():
    target = make_connection(make_workspace())
    record, root = record_access(target), superuser()
    root.page("connections_accessrecord", record.pk)
    assert views() == [("operator root", target.workspace_id, "access_log", target.workspace_id, 0)]


def test_who_looks_at_a_connection_s_masks_is_recorded():
    target, root = make_connection(make_workspace()), superuser()
    root.list("connections_connection")
    assert views() == []
    root.page("connections_connection", target.pk)
    assert views() == [("operator root", target.workspace_id, "credentials", target.pk, 1)]


def test_who_may_not_look_leaves_nothing():
    target = make_connection(make_workspace())
    record, stranger = record_access(target), operator("connections.view_oauthgrant")
    assert stranger.list("connections_accessrecord").status_code == 403
    assert stranger.page("connections_accessrecord", record.pk).status_code == 403
    assert stranger.page("connections_connection", target.pk).status_code == 403
    assert views() == []


def test_records_are_found_by_purpose_and_actor():
    target = make_connection(make_workspace())
    record_access(target, actor="ours", purpose="delivery")
    record_access(target, actor="other", purpose="test")
    root = superuser()
    for query in ({"purpose": "delivery"}, {"actor": "ours"}):
        text = words(root.list("connections_accessrecord", **query))
        assert {actor for actor in ("ours", "other") if f" {actor} " in text} == {"ours"}, query


def test_a_key_that_an_operator_revokes_is_recorded_in_his_name():
    key = keys.create_key(name="Backend", kind="account", scopes=["config"]).row
    superuser().run("workspaces_apikey", "revoke", key.pk)
    record = AccessRecord.objects.get(owner_id=key.pk, purpose="deleted")
    assert (record.actor, record.kind, record.version) == ("operator root", "signing_secret", 1)
