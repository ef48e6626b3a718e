"""Disconnecting and deleting: what is destroyed here, and what the vendor is told."""

from datetime import UTC, datetime

import pytest
from django.db import models, transaction

from connections import lifecycle, providers
from connections.credentials import ConflictError
from connections.models import Connection, OAuthGrant, OAuthState
from connections.oauth import grants, tokens
from delivery.dispatch import deletion
from tests.connections.oauth.making import authorized, expired, is_somebody_waiting, opened
from tests.connections.oauth.test_authorize import come_back, start
from tests.connections.oauth.test_refresh import in_thread, prepared
from tests.connections.oauth.vendor import Gate
from tests.factories import make_connection, make_workspace
from tests.polling import eventually
from tests.workspaces.callers import caller, post
from workspaces.vault.models import AccessRecord, SealedDocument

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def key(transactional_db):
    """A caller with all rights over all workspaces."""
    return caller()


def disconnect(key, connection):
    return post(key, f"/api/v1/connections/{connection.public_id}/disconnect", {})


def test_a_disconnect_destroys_the_tokens_and_revokes_them(key, vendor):
    connection = authorized(vendor)
    document = opened(connection).secret
    answer = disconnect(key, connection)
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["status"], shown["status_reason"]) == ("needs_reauth", lifecycle.DISCONNECTED_WORDS)
    assert shown["credentials"] == {}
    assert opened(connection).secret == {}
    (asked,) = vendor.revoked
    assert asked.form["token"] == document["refresh_token"].reveal()
    grant = OAuthGrant.objects.get(connection=connection)
    assert (grant.client_id, grant.expires_at, grant.refreshed_at, grant.link_generation) == ("", None, None, 2)
    assert AccessRecord.objects.filter(purpose="oauth revoke", granted=True).count() == 1
    assert AccessRecord.objects.filter(purpose="disconnected").count() == 1


def test_of_an_authorization_that_ended_every_column_is_as_in_a_new_row(key, vendor):
    """Whichever there are: a column that joins the model is emptied with the others."""
    connection, now = authorized(vendor), datetime.now(UTC)
    filled = {models.DateTimeField: now, models.TextField: "x", models.CharField: "x", models.IntegerField: 7}
    filled |= {models.BooleanField: True, models.UUIDField: connection.pk}
    columns = [each for each in OAuthGrant._meta.concrete_fields if each.name not in ("connection", "workspace")]
    OAuthGrant.objects.update(**{column.attname: filled[type(column)] for column in columns})
    disconnect(key, connection)
    grant = OAuthGrant.objects.get()
    left = {column.attname: getattr(grant, column.attname) for column in columns}
    assert left == {column.attname: column.get_default() for column in columns} | {"link_generation": 8}


def test_what_is_no_token_stays(key, vendor):
    connection = authorized(vendor)
    lifecycle.stored.seal(connection, {**opened(connection).secret, "other": "kept"})
    disconnect(key, connection)
    assert {name: value.reveal() for name, value in opened(connection).secret.items()} == {"other": "kept"}


def test_authorizations_that_are_open_end(key, vendor):
    connection = authorized(vendor)
    url = start(key, connection)
    disconnect(key, connection)
    assert not OAuthState.objects.exists()
    connection.refresh_from_db()
    assert come_back(vendor.consent(url)).status_code == 400


def test_a_vendor_that_does_not_answer_is_left_alone(key, vendor, monkeypatch, caplog):
    monkeypatch.setattr(tokens, "REVOKE_SECONDS", 0.3)
    vendor.revoke_gate = Gate()
    connection = authorized(vendor)
    assert disconnect(key, connection).status_code == 200
    vendor.revoke_gate.open()
    assert "access_token" not in opened(connection).secret
    assert [record.levelname for record in caplog.records if "did not revoke" in record.message] == ["WARNING"]


def test_disconnecting_twice_asks_once(key, vendor):
    connection = authorized(vendor)
    assert disconnect(key, connection).status_code == 200
    assert disconnect(key, connection).status_code == 200
    assert len(vendor.revoked) == 1


def test_a_typed_in_token_is_destroyed_and_not_revoked(key, vendor):
    connection = make_connection(
        make_workspace(), type="hubspot", secret={"access_token": "pat"}, credential_hints={"access_token": "••••"}
    )
    assert disconnect(key, connection).json()["credentials"] == {}
    assert opened(connection).secret == {}
    assert vendor.revoked == []


def test_a_document_that_does_not_open_is_no_hindrance(key, vendor, use_keys):
    connection = authorized(vendor)
    use_keys("another")
    assert disconnect(key, connection).status_code == 200
    assert opened(connection).secret == {}
    assert vendor.revoked == []


def test_an_edit_at_the_same_time_wins_or_loses(vendor, monkeypatch):
    connection = authorized(vendor)
    stale = Connection.objects.get(pk=connection.pk)
    lifecycle.edit(connection, actor="a test", name="Renamed")
    with pytest.raises(ConflictError):
        lifecycle.disconnect(stale, actor="a test")
    assert "access_token" in opened(connection).secret
    assert vendor.revoked == []


@pytest.mark.parametrize("end", [lambda c: lifecycle.disconnect(c, actor="a test"), lifecycle.delete])
def test_what_a_refresh_gets_at_that_moment_is_revoked_too(vendor, monkeypatch, end):
    """Whichever of the two is first: no token that the vendor still takes is left behind."""
    vendor.rotates, vendor.gate = True, Gate()
    connection = expired(vendor)
    thread, _ = in_thread(lambda: prepared(connection))
    assert vendor.gate.is_reached()
    connection.refresh_from_db()
    prepare = grants.prepare_revocation

    def prepare_and_let_the_refresh_go_on(*arguments):
        revocation = prepare(*arguments)
        vendor.gate.open()
        eventually(lambda: not thread.is_alive() or is_somebody_waiting())
        return revocation

    monkeypatch.setattr(grants, "prepare_revocation", prepare_and_let_the_refresh_go_on)
    end(connection)
    thread.join(10)
    assert vendor.refresh_tokens == set()
    assert "access_token" not in Connection.objects.get(pk=connection.pk).credential_hints


def test_a_deletion_revokes_what_was_authorized_after_it_was_read(vendor):
    stale = make_connection(make_workspace(), type="hubspot", config={}, secret={}, status="needs_reauth")
    new = tokens.read_tokens(vendor.grant(), providers.get("hubspot").oauth, datetime.now(UTC))
    lifecycle.authorize(stale, new, lifecycle.Granted(), client_id="app-1", actor="a test")
    lifecycle.delete(stale)
    assert [asked.form["token"] for asked in vendor.revoked] == [new.refresh.reveal()]


def test_a_deletion_revokes(key, vendor):
    connection = authorized(vendor)
    token = opened(connection).secret["refresh_token"].reveal()
    assert key.delete(f"/api/v1/connections/{connection.public_id}").status_code == 204
    assert [asked.form["token"] for asked in vendor.revoked] == [token]
    assert not SealedDocument.objects.filter(connection=connection).exists()


def test_a_deletion_that_is_rolled_back_revokes_nothing(vendor):
    connection = authorized(vendor)
    with transaction.atomic():
        lifecycle.delete(connection)
        transaction.set_rollback(True)
    assert vendor.revoked == []
    assert "access_token" in opened(connection).secret


def test_a_webhook_s_deletion_opens_nothing(vendor):
    connection = make_connection(make_workspace())
    lifecycle.delete(connection)
    assert {record.purpose for record in AccessRecord.objects.all()} == {"created", "deleted"}


@pytest.mark.parametrize(
    ("account", "other", "revoked"),
    [("T1", None, 1), ("T1", "T2", 1), ("T1", "T1", 0), ("", None, 0)],
    ids=["alone", "another account", "the same account", "an account that is not known"],
)
def test_a_token_that_connections_share_is_revoked_with_the_last(vendor, account, other, revoked):
    connection = authorized(vendor, "rotating", account_id=account)
    if other is not None:
        authorized(vendor, "rotating", account_id=other)
    lifecycle.delete(connection)
    assert len(vendor.revoked) == revoked


def test_a_workspace_s_end_revokes_and_removes_everything(key, vendor):
    workspace = make_workspace()
    first, second = (authorized(vendor, workspace=workspace) for _ in range(2))
    start(key, first)
    app = {"client_id": "theirs", "client_secret": "canary-theirs"}
    path = f"/api/v1/workspaces/{workspace.public_id}/oauth-apps/hubspot"
    assert key.put(path, app, content_type="application/json").status_code == 200
    tokens = {opened(each).secret["refresh_token"].reveal() for each in (first, second)}
    other = authorized(vendor)
    assert key.delete(f"/api/v1/workspaces/{workspace.public_id}").status_code == 204
    while deletion.purge_deleted_workspaces(workspace.created_at):
        pass
    assert {asked.form["token"] for asked in vendor.revoked} == tokens
    assert not Connection.objects.filter(pk__in=[first.pk, second.pk]).exists()
    assert list(OAuthGrant.objects.values_list("connection_id", flat=True)) == [other.pk]
    assert not OAuthState.objects.exists()
    left = SealedDocument.objects.exclude(kind="signing_secret").values_list("connection_id", flat=True)
    assert list(left) == [other.pk]
