"""`/api/v1/workspaces`."""

import pytest

from meshes.kit import ids
from tests.factories import make_workspace
from tests.workspaces.callers import caller, post
from workspaces.lifecycle import workspace_deleted
from workspaces.models import Workspace

PATH = "/api/v1/workspaces"

pytestmark = pytest.mark.django_db


def patch(client, path, document):
    return client.patch(path, document, content_type="application/json")


def test_a_workspace_is_made_and_shown():
    answer = post(caller(), PATH, {"name": "Acme", "external_id": "ws_tenant_abc"})
    assert answer.status_code == 201
    made = answer.json()
    row = Workspace.objects.get()
    assert made == {
        "id": row.public_id,
        "name": "Acme",
        "external_id": "ws_tenant_abc",
        "ingest_rate": None,
        "backlog_limit": None,
        "created_at": made["created_at"],
        "updated_at": made["updated_at"],
        "deleted_at": None,
    }
    assert caller().get(f"{PATH}/{row.public_id}").json() == made
    assert caller().get(f"{PATH}/ws_tenant_abc").json() == made


@pytest.mark.parametrize("external_id", ["a", "A.b-c_d", "x" * 128])
def test_external_ids_may_have_full_stops(external_id):
    assert post(caller(), PATH, {"name": "Acme", "external_id": external_id}).status_code == 201
    assert caller().get(f"{PATH}/{external_id}").status_code == 200


@pytest.mark.parametrize(
    ("document", "pointer", "rule"),
    [
        ({}, "/name", "required"),
        ({"name": ""}, "/name", "blank"),
        ({"name": None}, "/name", "null"),
        ({"name": 7}, "/name", "type"),
        ({"name": ["x"]}, "/name", "type"),
        ({"name": "x" * 201}, "/name", "max_length"),
        ({"name": "x", "external_id": ""}, "/external_id", "blank"),
        ({"name": "x", "external_id": "a b"}, "/external_id", "invalid"),
        ({"name": "x", "external_id": "a\n"}, "/external_id", "invalid"),
        ({"name": "x", "external_id": "x" * 129}, "/external_id", "invalid"),
        ({"name": "x", "external_id": "ws_01m7zyf5wteqcva9befdm6my7k"}, "/external_id", "type_id"),
        ({"name": "x", "external_id": "evt_01m7zyf5wteqcva9befdm6my7k"}, "/external_id", "type_id"),
        ({"name": "x", "ingest_rate": 0}, "/ingest_rate", "min_value"),
        ({"name": "x", "ingest_rate": "5"}, "/ingest_rate", "type"),
        ({"name": "x", "ingest_rate": True}, "/ingest_rate", "type"),
        ({"name": "x", "backlog_limit": 1.5}, "/backlog_limit", "type"),
        ({"name": "x", "backlog_limit": 10**300}, "/backlog_limit", "max_value"),
        ({"name": "x", "deleted_at": None}, "/deleted_at", "unknown_field"),
        ({"name": "x", "a/b~c": 1}, "/a~1b~0c", "unknown_field"),
    ],
    ids=str,
)
def test_bad_fields_are_named(document, pointer, rule):
    answer = post(caller(), PATH, document)
    assert answer.status_code == 422
    assert answer["Content-Type"] == "application/problem+json"
    assert [(error["pointer"], error["rule"]) for error in answer.json()["errors"]] == [(pointer, rule)]
    assert not Workspace.objects.exists()


def test_an_external_id_is_used_once():
    make_workspace(external_id="acme")
    answer = post(caller(), PATH, {"name": "Other", "external_id": "acme"})
    assert answer.status_code == 409
    assert answer.json()["errors"][0]["pointer"] == "/external_id"
    assert Workspace.objects.count() == 1


def test_an_external_id_is_free_again_after_deletion():
    first = make_workspace(external_id="acme")
    client = caller()
    assert client.delete(f"{PATH}/acme").status_code == 204
    made = post(client, PATH, {"name": "Again", "external_id": "acme"})
    assert made.status_code == 201
    assert client.get(f"{PATH}/acme").json()["id"] == made.json()["id"]
    assert client.get(f"{PATH}/{first.public_id}").json()["name"] == first.name


def test_a_change_keeps_what_is_left_out():
    workspace = make_workspace(external_id="acme", ingest_rate=5)
    answer = patch(caller(), f"{PATH}/acme", {"name": "Renamed", "external_id": "acme-2"})
    assert answer.status_code == 200
    workspace.refresh_from_db()
    assert (workspace.name, workspace.external_id, workspace.ingest_rate) == ("Renamed", "acme-2", 5)


def test_a_change_to_a_taken_external_id_changes_nothing():
    make_workspace(external_id="taken")
    workspace = make_workspace(external_id="acme")
    assert patch(caller(), f"{PATH}/acme", {"name": "New", "external_id": "taken"}).status_code == 409
    before = workspace.name
    workspace.refresh_from_db()
    assert (workspace.name, workspace.external_id) == (before, "acme")


def test_deletion_is_told_once_and_the_row_stays(django_capture_on_commit_callbacks):
    workspace, told = make_workspace(), []

    def listen(sender, workspace_id, **_):
        told.append(workspace_id)

    workspace_deleted.connect(listen)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            assert caller().delete(f"{PATH}/{workspace.public_id}").status_code == 204
            assert caller().delete(f"{PATH}/{workspace.public_id}").status_code == 204
    finally:
        workspace_deleted.disconnect(listen)
    assert told == [workspace.pk]
    answer = caller().get(f"{PATH}/{workspace.public_id}").json()
    assert answer["deleted_at"] is not None


def test_a_deleted_workspace_is_not_listed_nor_changed():
    kept, gone = make_workspace(), make_workspace()
    client = caller()
    client.delete(f"{PATH}/{gone.public_id}")
    assert [row["id"] for row in client.get(PATH).json()["data"]] == [kept.public_id]
    assert patch(client, f"{PATH}/{gone.public_id}", {"name": "x"}).status_code == 404


def test_a_tenants_key_sees_its_own_workspace_only():
    own, foreign = make_workspace(), make_workspace()
    client = caller("workspace", ["config"], own)
    assert [row["id"] for row in client.get(PATH).json()["data"]] == [own.public_id]
    assert client.get(f"{PATH}/{own.external_id}").status_code == 200
    strangers = [foreign.public_id, foreign.external_id, ids.encode(ids.WORKSPACE, ids.uuid7()), "nobody"]
    answers = [client.get(f"{PATH}/{reference}") for reference in strangers]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize("reference", ["%00", "a%00b", "a%0A", "%ff", "'", "..", "a" * 5000, "ws_", "%F0%9F%98%80"])
def test_odd_references_are_not_found(reference):
    assert caller().get(f"{PATH}/{reference}").status_code == 404


def test_a_tenants_admin_key_may_not_manage_workspaces():
    own = make_workspace()
    client = caller("workspace", ["admin", "config"], own)
    assert post(client, PATH, {"name": "x"}).status_code == 403
    assert patch(client, f"{PATH}/{own.public_id}", {"ingest_rate": 10}).status_code == 403
    assert client.delete(f"{PATH}/{own.public_id}").status_code == 403
    assert Workspace.objects.get().deleted_at is None
