"""`GET /workspaces/{id}/access-log`: a tenant sees who opened or changed which of its own credentials."""

import json
import time
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from django.db import transaction

from connections.models import Connection
from delivery.dispatch import attempts, claims, settling
from meshes.kit import ids
from tests.connections.records import make_record
from tests.factories import make_connection, make_deliveries, make_workspace
from tests.workspaces.callers import bearer, caller, issue, post
from workspaces.vault import access_log, vault
from workspaces.vault.models import AccessRecord

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def workspace(db):
    return make_workspace()


def read(client, workspace, **query):
    answer = client.get(f"/api/v1/workspaces/{workspace.external_id}/access-log", query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def purposes(client, workspace, **query):
    return [(row["purpose"], row["version"]) for row in read(client, workspace, **query)["data"]]


def mistakes(client, workspace, **query):
    answer = client.get(f"/api/v1/workspaces/{workspace.public_id}/access-log", query)
    assert answer.status_code == 422, answer.content
    return {each["parameter"]: each["rule"] for each in answer.json()["errors"]}


# --- what is in it --------------------------------------------------------------------------------------------------


def test_the_use_of_a_key_is_recorded_once_a_minute(api, workspace):
    issued = issue("workspace", workspace=workspace)
    client = bearer(issued.key)
    for _ in range(3):
        client.get("/api/v1/connections")
    (row,) = read(api, workspace, purpose="used")["data"]
    key = ids.encode(ids.KEY, issued.row.pk)
    assert (row["actor"], row["api_key"], row["kind"], row["version"], row["granted"]) == (key, key, "key", 1, True)
    assert read(api, make_workspace(), purpose="used")["data"] == []


def test_a_delivery_s_opening_says_who_when_why_and_for_what(api, workspace, endpoint):
    target = make_connection(workspace, url=endpoint.url)
    (delivery,) = make_deliveries(target)
    settling.settle([attempts.attempt(job) for job in claims.claim([delivery.pk], "worker") if job], "worker")
    (row,) = read(api, workspace, purpose="delivery")["data"]
    record = AccessRecord.objects.get(purpose="delivery")
    assert row == {
        "id": ids.encode(ids.ACCESS, record.pk),
        "workspace": workspace.public_id,
        "workspace_external_id": workspace.external_id,
        "workspace_name": workspace.name,
        "connection_name": delivery.connection.name,
        "at": record.created_at.isoformat().replace("+00:00", "Z"),
        "actor": "worker",
        "purpose": "delivery",
        "granted": True,
        "connection": target.public_id,
        "api_key": None,
        "oauth_app": None,
        "owner": target.public_id,
        "kind": "credentials",
        "version": 1,
        "delivery": delivery.public_id,
        "attempt": 1,
    }


def test_a_connection_s_life_is_told_with_the_keys_that_changed_it(workspace, endpoint):
    issued = issue("workspace", workspace=workspace)
    client = bearer(issued.key)
    body = {"workspace": workspace.public_id, "type": "webhook", "name": "Hook", "config": {"url": endpoint.url}}
    made = post(client, "/api/v1/connections", body | {"credentials": {"token": "a-first-token"}}).json()
    path = f"/api/v1/connections/{made['id']}"
    client.patch(path, json.dumps({"credentials": {"token": "a-second-token"}}), content_type="application/json")
    client.patch(path, json.dumps({"name": "Renamed"}), content_type="application/json")
    post(client, f"{path}/test", {})
    post(client, f"{path}/rotate-secret", {})
    client.delete(path)
    rows = read(client, workspace, connection=made["id"])["data"]
    assert [(row["purpose"], row["version"]) for row in reversed(rows)] == [
        ("created", 1),
        ("replace credentials", 1),
        ("replaced", 2),
        ("test", 2),
        ("rotate secret", 2),
        ("rotated", 3),
        ("deleted", 3),
    ]
    assert {row["actor"] for row in rows} == {issued.row.public_id}
    assert {row["granted"] for row in rows} == {True}


def test_a_key_s_signing_secret_is_told_too(workspace):
    manager = issue("workspace", workspace=workspace)
    client = bearer(manager.key)
    body = {"name": "K", "kind": "workspace", "workspace": workspace.public_id, "scopes": ["config"]}
    made = post(client, "/api/v1/api-keys", body).json()
    claims = {"iat": int(time.time()), "exp": int(time.time()) + 50, "aud": "meshes-api"}
    token = jwt.encode(claims, made["signing_secret"], algorithm="HS256", headers={"kid": made["id"]})
    assert bearer(token).get("/api/v1/connections").status_code == 200
    post(client, f"/api/v1/api-keys/{made['id']}/rotate", {})
    client.delete(f"/api/v1/api-keys/{made['id']}")
    rows = [row for row in read(client, workspace)["data"] if row["api_key"] == made["id"]]
    process, key = vault.this_process(), manager.row.public_id
    assert [(row["purpose"], row["actor"], row["version"]) for row in reversed(rows)] == [
        ("created", key, 1),
        ("verify a machine token", process, 1),
        ("used", made["id"], 1),
        ("rotate the key", process, 1),
        ("rotated", key, 2),
        ("deleted", key, 2),
    ]
    assert {(row["kind"], row["connection"]) for row in rows} == {("signing_secret", None), ("key", None)}


def test_a_refusal_is_told(api, workspace):
    target = make_connection(workspace)
    vault.destroy(workspace_id=workspace.pk, owner_kind="connection", owner_id=target.pk)
    post(api, f"/api/v1/connections/{target.public_id}/test", {})
    (row,) = read(api, workspace, granted="false")["data"]
    assert (row["purpose"], row["connection"], row["version"]) == ("test", target.public_id, 0)
    assert Connection.objects.get().status == "credential_error"


@pytest.mark.parametrize("kind", access_log.PREFIXES)
def test_an_action_names_what_it_was_done_to(api, workspace, kind):
    owner_id = ids.uuid7()
    access_log.record_action(
        workspace_id=workspace.pk, owner_kind=kind, owner_id=owner_id, actor="operator ada", purpose="viewed"
    )
    (row,) = read(api, workspace, kind="action")["data"]
    public_id = ids.encode(access_log.PREFIXES[kind], owner_id)
    shown = {"connection": None, "api_key": None, "oauth_app": None} | {kind: public_id}
    assert {name: row[name] for name in ("connection", "api_key", "oauth_app")} == {
        name: shown[name] for name in ("connection", "api_key", "oauth_app")
    }
    assert (row["owner"], row["kind"], row["actor"], row["purpose"]) == (public_id, "action", "operator ada", "viewed")
    assert (row["version"], row["granted"], row["delivery"], row["attempt"]) == (0, True, None, None)


def test_an_action_goes_with_the_transaction_that_it_tells_of(workspace):
    with transaction.atomic():
        access_log.record_action(
            workspace_id=workspace.pk, owner_kind="workspace", owner_id=workspace.pk, actor="x", purpose="moved"
        )
        transaction.set_rollback(True)
    assert not AccessRecord.objects.filter(kind="action").exists()


def test_reading_it_adds_nothing(api, workspace):
    make_record(workspace=workspace)
    assert [len(read(api, workspace)["data"]) for _ in range(2)] == [1, 1]


# --- whose it is ----------------------------------------------------------------------------------------------------


def test_it_is_the_workspace_s_own(workspace):
    other = make_workspace()
    ours, theirs = make_record(workspace=workspace), make_record(workspace=other)
    make_record()  # of no workspace: an account key's
    client = caller("workspace", workspace=workspace)
    found = {row["id"] for row in read(client, workspace)["data"]}
    assert ids.encode(ids.ACCESS, ours.pk) in found
    assert not {ids.encode(ids.ACCESS, theirs.pk)} & found
    assert {row["workspace"] for row in read(client, workspace)["data"]} == {workspace.public_id}
    assert client.get(f"/api/v1/workspaces/{other.public_id}/access-log").status_code == 404


def test_a_filter_by_a_foreign_connection_finds_nothing(api, workspace):
    foreign = make_connection(make_workspace())
    assert read(api, workspace, connection=foreign.public_id)["data"] == []


def test_it_outlives_its_workspace(api):
    workspace = make_workspace(deleted_at=NOW)
    make_record(workspace=workspace)
    answer = api.get(f"/api/v1/workspaces/{workspace.public_id}/access-log")
    assert len(answer.json()["data"]) == 1


def test_only_the_scope_admin_reads_it(workspace):
    client = caller(scopes=["config", "events:read", "events:write"])
    assert client.get(f"/api/v1/workspaces/{workspace.public_id}/access-log").status_code == 403


# --- filters and pages ----------------------------------------------------------------------------------------------


def test_filters_narrow(api, workspace):
    first, second = make_connection(workspace), make_connection(workspace)
    make_record(workspace=workspace, owner_id=first.pk, actor="ada", purpose="delivery", version=5)
    make_record(workspace=workspace, owner_id=second.pk, actor="bob", purpose="test", version=6, granted=False)
    make_record(workspace=workspace, owner_kind="api_key", owner_id=first.pk, actor="ada", purpose="delivery")
    assert purposes(api, workspace, connection=first.public_id) == [("delivery", 5), ("created", 1)]
    assert purposes(api, workspace, actor="ada") == [("delivery", 1), ("delivery", 5)]
    assert purposes(api, workspace, purpose="test") == [("test", 6)]
    assert purposes(api, workspace, granted="false") == [("test", 6)]
    assert purposes(api, workspace, granted="true", actor="bob") == []
    assert purposes(api, workspace, actor="ada", connection=second.public_id) == []


def test_from_is_included_and_to_is_not(api, workspace):
    at = NOW.replace(microsecond=0) - 10 * MINUTE
    for minutes in range(3):
        make_record(workspace=workspace, at=at + minutes * MINUTE, version=minutes)

    def versions(**period):
        query = {name: moment.isoformat() for name, moment in period.items()}
        return [version for _, version in purposes(api, workspace, **query)]

    assert versions() == [2, 1, 0]
    assert versions(**{"from": at + MINUTE}) == [2, 1]
    assert versions(to=at + MINUTE) == [0]
    assert versions(**{"from": at + MINUTE, "to": at + 2 * MINUTE}) == [1]


def test_pages_go_on_by_their_cursors(api, workspace):
    made = [make_record(workspace=workspace, version=version).version for version in range(5)]
    seen, cursor = [], {}
    while True:
        page = read(api, workspace, limit=2, **cursor)
        seen += [row["version"] for row in page["data"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen == made[::-1]


def test_what_is_asked_wrongly_is_named(api, workspace):
    assert mistakes(api, workspace, connection="conn_1") == {"connection": "public_id"}
    assert mistakes(api, workspace, granted="yes") == {"granted": "invalid_choice"}
    assert mistakes(api, workspace, kind="actions") == {"kind": "invalid_choice"}
    assert mistakes(api, workspace, actor="x" * 201) == {"actor": "max_length"}
    assert mistakes(api, workspace, **{"from": "yesterday"}) == {"from": "date_time"}
    assert mistakes(api, workspace, **{"from": "2026-02-01", "to": "2026-01-01"}) == {"to": "order"}
    assert mistakes(api, workspace, who="me") == {"who": "unknown_parameter"}


@pytest.mark.parametrize(("purpose", "meant"), [("delivry", "delivery"), ("key_rotation", "key rotation")])
def test_a_misspelt_purpose_is_refused_with_the_nearest(api, purpose, meant):
    refused = api.get(f"/api/v1/workspaces/{make_workspace().public_id}/access-log", {"purpose": purpose})
    (error,) = refused.json()["errors"]
    assert (refused.status_code, error["parameter"], error["rule"]) == (422, "purpose", "invalid_choice")
    assert error["detail"].endswith(f" Did you mean {meant}?")
