"""Without a place for a call to the vendor, an authorization is neither ended nor completed, and nothing is lost."""

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack

import pytest
from django.db import connections as databases

from connections import lifecycle, outbound, outside
from connections.lifecycle import connection_changed
from connections.models import Connection
from connections.oauth import grants
from connections.outbound import client as outbound_client
from connections.outbound import sessions
from tests.connections.oauth.making import authorized, expired
from tests.connections.oauth.test_authorize import come_back, make, start
from tests.connections.oauth.vendor import Reply
from tests.polling import eventually
from tests.workspaces.callers import caller, post

PATIENCE = 60.0
WEB_THREADS, PLACES = 16, 4


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["disconnect", "delete"])
def test_what_revokes_changes_nothing_without_a_place(vendor, way):
    connection, key = authorized(vendor), caller()
    path = f"/api/v1/connections/{connection.public_id}"

    def ask():
        return key.delete(path) if way == "delete" else post(key, f"{path}/disconnect", {})

    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(outside.place())
        answer = ask()
        assert (answer.status_code, int(answer["Retry-After"])) == (503, 5)
        connection.refresh_from_db()
        assert (connection.status, vendor.revoked) == (Connection.Status.ACTIVE, [])
    assert ask().status_code == (204 if way == "delete" else 200)
    assert len(vendor.revoked) == 1


@pytest.mark.django_db(transaction=True)
def test_an_authorization_that_comes_back_without_a_place_can_be_completed_later(client, vendor):
    connection = make()
    back = vendor.consent(start(caller(), connection, client))
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(outside.place())
        answer = come_back(back, client)
        assert answer.status_code == 503
        assert int(answer["Retry-After"]) >= 1
        assert b"reload this page" in answer.content
    assert come_back(back, client).status_code == 200
    connection.refresh_from_db()
    assert connection.status == Connection.Status.ACTIVE


def in_web_thread(ask):
    def asked():
        try:
            return ask()
        finally:
            databases.close_all()

    return asked


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["disconnect", "delete"])
def test_of_many_at_once_a_quarter_asks_and_the_others_change_nothing_and_wait_for_nobody(vendor, monkeypatch, way):
    connections, key = [authorized(vendor) for _ in range(WEB_THREADS)], caller()
    revoke, hung, calls = grants.revoke, threading.Event(), []

    def revoke_slowly(connection, *revoked):
        calls.append(connection.pk)
        assert hung.wait(PATIENCE)
        revoke(connection, *revoked)

    monkeypatch.setattr(grants, "revoke", revoke_slowly)

    def end(connection):
        path = f"/api/v1/connections/{connection.public_id}"
        return connection, key.delete(path) if way == "delete" else post(key, f"{path}/disconnect", {})

    with ThreadPoolExecutor(WEB_THREADS) as pool:
        running = [pool.submit(in_web_thread(lambda each=each: end(each))) for each in connections]
        try:
            ended = as_completed(running, PATIENCE)
            refused = [next(ended).result() for _ in range(WEB_THREADS - PLACES)]  # while the vendor hangs
            eventually(lambda: len(calls) == PLACES, PATIENCE)
        finally:
            hung.set()
        allowed = [each.result() for each in ended]
    assert [(answer.status_code, int(answer["Retry-After"])) for _, answer in refused] == [(503, 5)] * len(refused)
    assert {answer.status_code for _, answer in allowed} == {204 if way == "delete" else 200}
    assert len(vendor.revoked) == PLACES
    for connection, _ in refused:
        connection.refresh_from_db()
        assert (connection.status, "access_token" in connection.credential_hints) == (Connection.Status.ACTIVE, True)
        assert end(connection)[1].status_code in (200, 204)
    assert len(vendor.revoked) == WEB_THREADS


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("end", [lambda c: lifecycle.disconnect(c, actor="a test"), lifecycle.delete])
def test_whoever_ends_a_connection_needs_a_place_before_anything_changes(vendor, end):
    connection = authorized(vendor)
    with ExitStack() as stack:
        for _ in range(PLACES):
            stack.enter_context(outside.place())
        with pytest.raises(outside.OutsideBusyError):
            end(connection)
    connection.refresh_from_db()
    assert (connection.status, vendor.revoked) == (Connection.Status.ACTIVE, [])
    end(connection)
    assert len(vendor.revoked) == 1
    assert outside._places()._value == PLACES


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["disconnect", "delete"])
def test_a_revocation_that_fails_by_a_bug_is_no_500_and_stops_nothing_else(vendor, monkeypatch, caplog, way):
    connection, key, changed = authorized(vendor), caller(), []

    def revoke(*revoked):
        raise KeyError("a bug")

    def note(connection_id, **rest):
        changed.append(connection_id)

    monkeypatch.setattr(grants, "revoke", revoke)
    connection_changed.connect(note)
    try:
        path = f"/api/v1/connections/{connection.public_id}"
        answer = key.delete(path) if way == "delete" else post(key, f"{path}/disconnect", {})
    finally:
        connection_changed.disconnect(note)
    assert answer.status_code == (204 if way == "delete" else 200)
    assert changed == [connection.pk]
    assert any("revoke" in record.getMessage() and record.exc_info for record in caplog.records)
    assert outside._places()._value == PLACES


# --- every call to the outside that a web thread makes --------------------------------------------------------------


def ask_for_test(vendor, client):
    assert post(caller(), f"/api/v1/connections/{authorized(vendor).public_id}/test", {}).status_code == 200


def ask_for_test_with_a_new_token(vendor, client):
    assert post(caller(), f"/api/v1/connections/{expired(vendor).public_id}/test", {}).status_code == 200


def ask_for_options(vendor, client):
    path = f"/api/v1/connections/{authorized(vendor).public_id}/options/list_id"
    assert caller().get(path).status_code == 200


def come_back_from_the_vendor(vendor, client):
    back = vendor.consent(start(caller(), make(), client))
    assert come_back(back, client).status_code == 200


def disconnect(vendor, client):
    assert post(caller(), f"/api/v1/connections/{authorized(vendor).public_id}/disconnect", {}).status_code == 200


def disconnect_under_a_key(vendor, client):
    path = f"/api/v1/connections/{authorized(vendor).public_id}/disconnect"
    assert post(caller(), path, {}, headers={"Idempotency-Key": "once"}).status_code == 200


def delete(vendor, client):
    assert caller().delete(f"/api/v1/connections/{authorized(vendor).public_id}").status_code == 204


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "ask",
    [
        ask_for_test, ask_for_test_with_a_new_token, ask_for_options, come_back_from_the_vendor, disconnect,
        disconnect_under_a_key, delete,
    ],
)  # fmt: skip
def test_every_call_of_a_web_thread_has_a_place_from_its_beginning_to_its_end(vendor, client, monkeypatch, ask):
    free = []
    send = outbound_client.send

    def watched(request, **more):
        free.append(outside._places()._value)
        return send(request, **more)

    monkeypatch.setattr(sessions, "send", watched)
    monkeypatch.setattr(outbound, "send", watched)
    vendor.api = lambda asked: Reply(200, {"lists": []})
    ask(vendor, client)
    assert set(free) == {PLACES - 1}
    assert outside._places()._value == PLACES
