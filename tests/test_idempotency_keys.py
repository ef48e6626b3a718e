"""Every POST that acts or creates takes an `Idempotency-Key`: twice asked, once done, twice answered."""

import dataclasses
import hashlib
import json
import threading
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from cryptography.fernet import Fernet
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.models.functions import Now

from connections.models import Connection
from delivery.models import Replay
from tests.access_routes import ROUTES, Route
from tests.access_world import Things, World, snapshot
from tests.delivery.api import Caller, account, mistakes, tenant
from tests.factories import make_connection, make_deliveries, make_rule, make_workspace
from tests.receivers import receiver
from workspaces import idempotency
from workspaces.models import IdempotencyRecord, Workspace

TAKES_NONE = {"/api/v1/rules/{id}/test": "It sends and stores nothing."}
"""POSTs without an `Idempotency-Key`, and why."""
POSTS = [route for route in ROUTES if route.verb == "POST" and route.name != "POST /rules/{rule}/test"]
SHOWS = {"key", "signing_secret", "url"}
"""Secrets of answers: the authorization's and the connect link's URL are good for whoever has them."""


@pytest.fixture(scope="module")
def world(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), transaction.atomic():
        yield World()
        transaction.set_rollback(True)


@pytest.fixture
def api(db) -> Caller:
    return account()


def send(caller: Caller, route: Route, things: Things, key: str, more: str = "") -> Any:
    path = route.path.removeprefix("/api/v1").format(**dataclasses.asdict(things))
    return caller.post(path, json.dumps(route.body(things) if route.body else {}) + more, idempotency_key=key)


def without_secrets(document: dict[str, Any]) -> dict[str, Any]:
    return {name: None if name in SHOWS else value for name, value in document.items() if name != "secret_shown"}


# --- every route ----------------------------------------------------------------------------------------------------


def test_the_document_offers_it_for_every_post(client):
    paths = client.get("/api/schema").json()["paths"]
    posts = {path: verbs["post"] for path, verbs in paths.items() if "post" in verbs}
    assert len(posts) > 15
    taking = {path for path, operation in posts.items() if takes_key(operation)}
    assert posts.keys() - taking == TAKES_NONE.keys()
    assert not [path for path, verbs in paths.items() for verb in verbs if verb != "post" and takes_key(verbs[verb])]


def takes_key(operation: dict[str, Any]) -> bool:
    return "Idempotency-Key" in {parameter["name"] for parameter in operation.get("parameters", [])}


@pytest.mark.django_db
@pytest.mark.parametrize("route", POSTS, ids=lambda route: route.name)
def test_the_same_request_again_changes_nothing_and_is_answered_the_same(world, route):
    caller, things = account(), world.things["own"]
    first = send(caller, route, things, "once")
    assert first.status_code == route.answers, first.content
    done = snapshot()
    again = send(caller, route, things, "once")
    assert again.status_code == first.status_code
    assert without_secrets(again.json()) == without_secrets(first.json())
    if shown := SHOWS & first.json().keys():
        assert again.json()["secret_shown"] is True
        assert {again.json()[name] for name in shown} == {None}
        assert all(first.json()[name] for name in shown)
    else:
        assert again.content == first.content
    other = send(caller, route, things, "once", more=" ")
    assert other.status_code == 422
    assert other.json()["type"] == "urn:meshes:problem:idempotency-key-reused"
    assert mistakes(other) == {"Idempotency-Key": "reused"}
    assert send(caller, route, things, "a b").status_code == 400
    assert snapshot() == done


@pytest.mark.django_db
@pytest.mark.parametrize("route", POSTS, ids=lambda route: route.name)
def test_an_act_that_could_not_be_remembered_was_not_done(world, route):
    """As by a crash between the two. What calls the outside or commits in steps only leaves its key free."""
    caller, things = account(), world.things["own"]
    before = snapshot()
    comes_in = route.name in {"POST /events", "POST /events/bulk"}
    where = "delivery.events.intake.insert_events" if comes_in else "workspaces.idempotency.fulfil"
    with patch(where, side_effect=RuntimeError("lost")):
        assert send(caller, route, things, "once").status_code == 500
    changed = {table for table, digest in snapshot().items() if digest != before[table]}
    assert changed <= {"access_records"}  # that a secret was opened stays on record
    assert send(caller, route, things, "once").status_code == route.answers


@pytest.mark.django_db
@pytest.mark.parametrize("route", [route for route in POSTS if route.body], ids=lambda route: route.name)
def test_a_refused_request_may_be_sent_again_under_its_key(world, route):
    caller, things = account(), world.things["own"]
    path = route.path.removeprefix("/api/v1").format(**dataclasses.asdict(things))
    refused = caller.post(path, {"unknown": 1}, idempotency_key="once")
    assert refused.status_code == 422, refused.content
    assert not IdempotencyRecord.objects.filter(key="once").exists()
    assert send(caller, route, things, "once").status_code == route.answers


# --- whose a key is -------------------------------------------------------------------------------------------------


def test_keys_of_one_workspace_share_what_they_did(api):
    workspace = make_workspace()
    body = {
        "workspace": workspace.external_id,
        "type": "webhook",
        "name": "A",
        "config": {"url": "https://example.com"},
    }
    first, second = (caller.post("/connections", body, idempotency_key="k") for caller in (api, tenant(workspace)))
    assert first.json()["id"] == second.json()["id"]
    assert Connection.objects.filter(workspace=workspace).count() == 1


def test_a_key_is_another_in_another_workspace_and_on_another_path(api):
    before = Replay.objects.count()
    for workspace in (make_workspace(), make_workspace()):
        body = {"workspace": workspace.public_id, "filter": {}}
        assert api.post("/replays", body, idempotency_key="k").status_code == 202
    for target in (make_connection(make_workspace()), make_connection(make_workspace())):
        assert api.post(f"/connections/{target.public_id}/pause", idempotency_key="k").status_code == 200
    assert Replay.objects.count() == before + 2
    assert Connection.objects.filter(status="paused").count() == 2


def test_what_is_about_no_workspace_belongs_to_the_caller(api):
    body = {"name": "Acme"}
    ids = {caller.post("/workspaces", body, idempotency_key="k").json()["id"] for caller in (api, api, account())}
    assert len(ids) == 2


def test_a_workspace_is_the_same_by_either_of_its_names(api):
    workspace, body = make_workspace(external_id="e" * 128), {"match": {"payload.email": "nobody@example.com"}}
    for name in (workspace.external_id, workspace.public_id):
        assert api.post(f"/workspaces/{name}/erasures", body, idempotency_key="k").status_code == 200
    assert IdempotencyRecord.objects.get().path == f"/workspaces/{workspace.public_id}/erasures"


def test_the_answer_stands_also_where_the_request_would_be_refused_by_now(api):
    target = make_connection(make_workspace())
    body = {"workspace": target.workspace.public_id, "connection": target.public_id, "event": "*"}
    first = api.post("/rules", body, idempotency_key="k")
    api.delete(f"/connections/{target.public_id}")
    assert api.post("/rules", body, idempotency_key="k").content == first.content


# --- secrets --------------------------------------------------------------------------------------------------------

CREDENTIALS = {"username": "ada", "password": "correct horse"}


def connection_body(workspace: Workspace) -> str:
    config = {"url": "https://example.com/hook"}
    body = {"workspace": workspace.public_id, "type": "webhook", "name": "A", "config": config}
    return json.dumps(body | {"credentials": CREDENTIALS})


def test_nothing_that_is_kept_tells_a_credential(api):
    document = connection_body(make_workspace())
    first = api.post("/connections", document, idempotency_key="k")
    record = IdempotencyRecord.objects.get()
    kept = json.loads(record.answer)
    assert kept["signing_secret"] is None
    assert kept["id"] == first.json()["id"]
    assert first.json()["signing_secret"].removeprefix("whsec_") not in record.answer
    assert CREDENTIALS["password"] not in record.answer
    assert bytes(record.body_hash) != hashlib.sha256(document.encode()).digest()


def test_a_body_with_credentials_is_known_while_either_key_of_a_rotation_is(api, settings):
    workspace, old, new = make_workspace(), settings.FERNET_KEYS[0], Fernet.generate_key().decode()
    document = connection_body(workspace)
    first = api.post("/connections", document, idempotency_key="k")
    settings.FERNET_KEYS = [new, old]
    assert api.post("/connections", document, idempotency_key="k").json()["id"] == first.json()["id"]
    settings.FERNET_KEYS = [new]
    assert api.post("/connections", document, idempotency_key="k").status_code == 422
    assert Connection.objects.filter(workspace=workspace).count() == 1


def test_a_dry_run_is_not_remembered(api):
    workspace = make_workspace()
    dry = api.post("/replays", {"workspace": workspace.public_id, "filter": {}, "dry_run": True}, idempotency_key="k")
    assert dry.json()["dry_run"] is True
    assert not IdempotencyRecord.objects.exists()


# --- what calls the outside -----------------------------------------------------------------------------------------


def reserve(target: Connection, age: timedelta) -> str:
    path = f"/connections/{target.public_id}/test"
    idempotency.claim(idempotency.stamp(target.workspace_id, path, "k", b"{}"))
    IdempotencyRecord.objects.update(created_at=Now() - age)
    return path


def test_a_test_whose_process_was_lost_is_made_again_after_two_minutes(api, loopback):
    with receiver() as endpoint:
        target = make_connection(make_workspace(), url=endpoint.url)
        path = reserve(target, timedelta(minutes=2, seconds=1))
        assert api.post(path, "{}", idempotency_key="k").json()["ok"] is True
        assert api.post(path, "{}", idempotency_key="k").json()["ok"] is True
        assert len(endpoint.got) == 1


def test_before_that_its_repetition_is_told_to_wait(api, loopback, monkeypatch):
    monkeypatch.setattr(idempotency, "TWIN_SECONDS", 0.0)
    with receiver() as endpoint:
        path = reserve(make_connection(make_workspace(), url=endpoint.url), timedelta(minutes=1))
        answer = api.post(path, "{}", idempotency_key="k")
        assert answer.status_code == 409
        assert answer.json()["type"] == "urn:meshes:problem:idempotency-key-in-use"
        assert answer["Retry-After"] == "5"
        assert endpoint.got == []


def test_no_more_than_two_twins_wait_in_a_process(api, monkeypatch):
    path = reserve(make_connection(make_workspace()), timedelta(0))
    monkeypatch.setattr(idempotency, "_waiting", threading.BoundedSemaphore(1))
    with idempotency._waiting:
        assert api.post(path, "{}", idempotency_key="k").status_code == 409


def test_a_test_that_is_refused_leaves_its_key_free(api):
    target = make_connection(make_workspace())
    path = f"/connections/{target.public_id}/test"
    assert api.post(path, {"more": 1}, idempotency_key="k").status_code == 422
    assert not IdempotencyRecord.objects.exists()


# --- erasure --------------------------------------------------------------------------------------------------------


def test_erasure_empties_what_was_answered_about_a_delivery(api):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    make_rule(delivery.connection)
    path = f"/deliveries/{delivery.public_id}/cancel"
    first = api.post(path, idempotency_key="k").json()
    record = IdempotencyRecord.objects.get()
    record.answer = json.dumps(first | {"attempts": [{"response_body": {"content": "ada@example.com"}}]})
    record.save()
    event = first["event"]
    api.post(f"/workspaces/{delivery.workspace.public_id}/erasures", {"events": [event]})
    assert api.post(path, idempotency_key="k").json() == first | {"attempts": []}


# --- where it lives -------------------------------------------------------------------------------------------------


def test_the_table_moved_without_a_statement(db):
    loader = MigrationLoader(connection)
    for app, name in (("workspaces", "0002_idempotency_records"), ("delivery", "0008_idempotency_records_moved")):
        told = loader.collect_sql([(loader.get_migration(app, name), False)])
        assert not [line for line in told if line and not line.startswith(("--", "BEGIN", "COMMIT"))]
    assert IdempotencyRecord._meta.db_table == "idempotency_records"
