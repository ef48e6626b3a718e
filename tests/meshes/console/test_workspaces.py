"""Workspaces and API keys in the admin."""

from datetime import UTC, datetime

import pytest
from django.contrib.admin.models import LogEntry

from tests.factories import make_workspace
from tests.operators import operator, said, superuser, words
from workspaces import keys
from workspaces.models import ApiKey, Workspace

pytestmark = pytest.mark.django_db

FORM = {"name": "Renamed", "external_id": "renamed", "ingest_rate": "5", "backlog_limit": "100"}


def make_key(**values):
    return keys.create_key(**{"name": "Backend", "kind": "account", "scopes": ["config"]} | values)


def save(person, workspace, **changes):
    return person.client.post(f"/admin/workspaces/workspace/{workspace.pk}/change/", FORM | changes)


@pytest.mark.parametrize("search", ["external_id", "public_id", "a part"])
def test_a_workspace_is_found(search):
    workspace = make_workspace(name="Northwind Traders", external_id="northwind")
    make_workspace(name="Another")
    term = {"external_id": "northwind", "public_id": workspace.public_id, "a part": "wind tra"}[search]
    text = words(superuser().list("workspaces_workspace", q=term))
    assert "Northwind Traders" in text
    assert "Another" not in text


def test_deleted_workspaces_are_shown_when_asked_for():
    make_workspace(name="Gone Ltd", deleted_at=datetime.now(UTC))
    root = superuser()
    assert "Gone Ltd" not in words(root.list("workspaces_workspace"))
    assert "Gone Ltd" in words(root.list("workspaces_workspace", state="deleted"))


def test_name_and_limits_are_edited_and_logged():
    workspace, root = make_workspace(), superuser()
    assert save(root, workspace).status_code == 302
    workspace.refresh_from_db()
    assert (workspace.name, workspace.external_id, workspace.ingest_rate, workspace.backlog_limit) == (
        "Renamed",
        "renamed",
        5.0,
        100,
    )
    assert LogEntry.objects.get().object_id == str(workspace.pk)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("external_id", "ws_01h455vb4pex5vsknk084sn02q", "must not look like an id of Meshes"),
        ("external_id", "with space", "Constraint"),
        ("ingest_rate", "-1", "greater than or equal to 0"),
        ("backlog_limit", "-1", "greater than or equal to 0"),
        ("name", "", "This field is required"),
    ],
)
def test_what_a_workspace_may_not_be_is_refused(field, value, complaint):
    workspace = make_workspace(name="Before")
    answer = save(superuser(), workspace, **{field: value})
    assert complaint in words(answer)
    assert Workspace.objects.get().name == "Before"


def test_a_taken_external_id_is_refused():
    make_workspace(external_id="renamed")
    workspace = make_workspace(name="Before")
    assert "Another live workspace has this external id" in words(save(superuser(), workspace))
    workspace.refresh_from_db()
    assert workspace.name == "Before"


def test_a_viewer_edits_nothing():
    workspace = make_workspace(name="Before")
    viewer = operator("workspaces.view_workspace")
    assert viewer.page("workspaces_workspace", workspace.pk).status_code == 200
    assert save(viewer, workspace).status_code == 403
    workspace.refresh_from_db()
    assert workspace.name == "Before"


def test_nothing_is_added_or_deleted_here():
    workspace, root = make_workspace(), superuser()
    assert root.client.get("/admin/workspaces/workspace/add/").status_code == 403
    assert root.client.post(f"/admin/workspaces/workspace/{workspace.pk}/delete/", {"post": "yes"}).status_code == 403
    assert Workspace.objects.filter(pk=workspace.pk).exists()


def test_pages_are_found_by_public_ids():
    workspace = make_workspace(name="Northwind")
    assert "Northwind" in superuser().text("workspaces_workspace", workspace.public_id)


def test_keys_show_neither_secret_nor_hash():
    issued, root = make_key(), superuser()
    pages = root.list("workspaces_apikey").content + root.page("workspaces_apikey", issued.row.pk).content
    assert b"Backend" in pages
    digest = keys.digest(issued.key)
    for secret in (issued.key, issued.signing_secret, digest.hex(), repr(digest), issued.key.split("_")[3]):
        assert secret.encode() not in pages


def test_keys_are_found_by_id_workspace_and_state():
    workspace = make_workspace(external_id="northwind")
    ours, other = make_key(name="Ours", kind="workspace", workspace=workspace), make_key(name="Other")
    root = superuser()
    for query in ({"q": ours.row.public_id}, {"q": "northwind"}, {"workspace": "northwind"}, {"kind": "workspace"}):
        text = words(root.list("workspaces_apikey", **query))
        assert "Ours" in text
        assert "Other" not in text
    keys.revoke_key(other.row.pk, datetime.now(UTC))
    assert "Other" not in words(root.list("workspaces_apikey", state="live"))
    assert "Ours" not in words(root.list("workspaces_apikey", state="revoked"))


def test_revoking_asks_first_then_ends_the_key_and_is_logged():
    issued, root = make_key(), superuser()
    asked = root.run("workspaces_apikey", "revoke", issued.row.pk, confirm=None)
    assert "End these keys" in words(asked)
    assert keys.verify(issued.key) is not None
    done = root.run("workspaces_apikey", "revoke", issued.row.pk)
    assert said(done) == ["1 revoked."]
    assert ApiKey.objects.get().revoked_at is not None
    assert LogEntry.objects.get().change_message == "Revoked."


def test_revoking_twice_says_so():
    issued, root = make_key(), superuser()
    root.run("workspaces_apikey", "revoke", issued.row.pk)
    again = root.press("workspaces_apikey", "revoke", issued.row.pk, confirm="yes")
    assert said(again)[-1] == "1 left as they were: Already revoked."
    assert LogEntry.objects.count() == 1


def test_a_viewer_revokes_nothing():
    issued, viewer = make_key(), operator("workspaces.view_apikey")
    assert b"/do/revoke/" not in viewer.page("workspaces_apikey", issued.row.pk).content
    assert viewer.press("workspaces_apikey", "revoke", issued.row.pk, confirm="yes").status_code == 403
    viewer.run("workspaces_apikey", "revoke", issued.row.pk)
    assert ApiKey.objects.get().revoked_at is None


def test_a_button_is_pressed_by_post_only():
    issued, root = make_key(), superuser()
    assert root.client.get(f"/admin/workspaces/apikey/{issued.row.pk}/do/revoke/").status_code == 405
    assert ApiKey.objects.get().revoked_at is None


def test_strangers_see_a_login():
    workspace = make_workspace()
    stranger = operator()
    assert stranger.page("workspaces_workspace", workspace.pk).status_code == 403
    stranger.client.logout()
    assert stranger.page("workspaces_workspace", workspace.pk).url.startswith("/admin/login/")
