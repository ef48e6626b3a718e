"""The lease on a connection's token: who gets it, what is kept, and what is not."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, transaction

from connections import lifecycle
from connections.models import Connection, OAuthGrant, OAuthState
from connections.oauth import grants, refresh
from connections.oauth.refresh import Lease, Lost, Need, Renewed
from connections.oauth.tokens import Tokens, ended, unavailable
from connections.providers.base import Verdict
from connections.providers.verdicts import disabled
from meshes.kit import ids
from tests.connections.oauth.making import authorized, need_of, opened
from tests.connections.oauth.vendor import CLIENT_ID
from tests.factories import make_connection, make_workspace
from workspaces import installation
from workspaces.vault import sealing, vault
from workspaces.vault.models import AccessRecord, SealedDocument
from workspaces.vault.secret import Secret

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
NEW = Tokens(Secret("canary-new"), Secret("canary-next"), "bearer", frozenset({"a"}), NOW, NOW + timedelta(minutes=30))


@pytest.fixture
def connection(vendor) -> Connection:
    return authorized(vendor)


def begin(connection, version=1):
    (begun,) = refresh.begin_refresh([need_of(connection, version)])
    return begun


def finish(lease, result=NEW):
    (kept,) = refresh.finish_refresh([(lease, result)])
    return kept


def grant_of(connection) -> OAuthGrant:
    return OAuthGrant.objects.get(connection=connection)


def lapse(connection):
    """Let the lease end, as if its holder had been lost a while ago."""
    OAuthGrant.objects.filter(connection=connection).update(lease_until=datetime.now(UTC) - timedelta(seconds=1))


# --- without the key of the document --------------------------------------------------------------------------------


def test_a_token_is_not_renewed_and_the_connection_keeps_its_status(vendor, use_keys):
    use_keys("old")
    connection = authorized(vendor)
    use_keys("another")
    begun = begin(connection)
    assert isinstance(begun, Verdict)
    assert (begun.outcome, begun.error_class, begun.hold, begun.is_counted) == ("retry", "key_missing", None, False)
    connection.refresh_from_db()
    assert connection.status == "active"
    use_keys("new", "old")
    assert isinstance(begin(connection), Lease)


def test_while_the_apps_own_document_waits_for_its_key_the_connection_rests(vendor, use_keys, caplog):
    use_keys("old")
    workspace = make_workspace()
    grants.put_app(workspace.pk, "hubspot", CLIENT_ID, Secret("their-secret"))
    use_keys("another")
    connection = authorized(vendor, workspace=workspace)
    begun = begin(connection)
    assert isinstance(begun, Verdict)
    assert (begun.outcome, begun.error_class, begun.hold, begun.is_counted) == ("retry", "key_missing", None, False)
    assert "is not configured" not in caplog.text
    use_keys("another", "old")
    assert isinstance(begin(connection), Lease)


# --- who gets it ----------------------------------------------------------------------------------------------------


def test_the_first_gets_the_lease_and_what_it_needs(connection, vendor):
    began = datetime.now(UTC)
    lease = begin(connection)
    assert isinstance(lease, Lease)
    assert (lease.version, lease.failures, lease.client.id, lease.provider.slug) == (1, 0, "app-1", "hubspot")
    assert lease.credentials["refresh_token"].reveal() in vendor.refresh_tokens
    grant = grant_of(connection)
    assert grant.lease_id == lease.need.lease_id
    assert timedelta(seconds=29) < grant.lease_until - began < timedelta(seconds=31)


def test_an_opening_is_recorded_with_its_delivery(connection):
    delivery_id = ids.uuid7()
    need = Need(connection.workspace_id, connection.pk, 1, "worker-7", delivery_id, 3)
    refresh.begin_refresh([need])
    record = AccessRecord.objects.get(purpose="oauth refresh")
    assert (record.owner_kind, record.owner_id, record.kind) == ("connection", connection.pk, "credentials")
    assert (record.purpose, record.actor, record.version) == ("oauth refresh", "worker-7", 1)
    assert (record.delivery_id, record.attempt_number, record.granted) == (delivery_id, 3, True)


def test_of_many_one_gets_it(connection, vendor):
    other = authorized(vendor)
    begun = refresh.begin_refresh([need_of(connection) for _ in range(5)] + [need_of(other)])
    kinds = [type(each).__name__ for each in begun]
    assert sorted(kinds[:5]) == ["Lease", "NoneType", "NoneType", "NoneType", "NoneType"]
    assert kinds[5] == "Lease"
    assert AccessRecord.objects.filter(purpose="oauth refresh").count() == 2
    assert begin(connection) is None


def test_asking_again_with_the_same_lease_is_the_same(connection):
    need = need_of(connection)
    (first,), (second,) = refresh.begin_refresh([need]), refresh.begin_refresh([need])
    assert isinstance(first, Lease)
    assert replace(first, clock=second.clock) == second


def test_a_lapsed_lease_goes_to_the_next(connection):
    begin(connection)
    lapse(connection)
    assert isinstance(begin(connection), Lease)


def test_who_has_an_older_document_gets_the_newer(connection):
    finish(begin(connection))
    renewed = begin(connection, version=1)
    assert (type(renewed), renewed.version) == (Renewed, 2)
    assert renewed.credentials["access_token"] == Secret("canary-new")
    records = AccessRecord.objects.order_by("number")
    assert [(record.purpose, record.version) for record in records] == [
        ("created", 1),
        ("oauth refresh", 1),
        ("refreshed", 2),
        ("oauth refresh", 2),
    ]
    assert grant_of(connection).lease_id is None


def test_a_foreign_workspace_gets_nothing(connection):
    need = Need(make_workspace().pk, connection.pk, 1, "a test")
    (begun,) = refresh.begin_refresh([need])
    assert isinstance(begun, Verdict)
    assert grant_of(connection).lease_id is None
    assert not AccessRecord.objects.exclude(purpose="created").exists()


def test_a_deleted_connection_gets_nothing(connection):
    lifecycle.delete(connection)
    assert begin(connection).hold == "needs_reauth"


def test_a_document_that_does_not_open_is_a_refusal(connection, use_keys):
    use_keys("another")
    SealedDocument.objects.update(key_id=sealing.newest_key_id())  # as if its key were there
    verdict = begin(connection)
    assert (verdict.error_class, verdict.hold) == ("credential_refused", "credential_error")
    assert grant_of(connection).lease_id is None
    assert not AccessRecord.objects.get(purpose="oauth refresh").granted


def test_without_a_refresh_token_there_is_nothing_to_lease(vendor):
    connection = make_connection(make_workspace(), type="hubspot", secret={"access_token": "pat-1"})
    assert begin(connection).hold == "needs_reauth"
    assert grant_of(connection).lease_id is None


def test_a_client_of_the_customer_s_own_needs_no_authorization(vendor):
    connection = make_connection(
        make_workspace(),
        type="webhook",
        config={"url": "https://example.com", "oauth_token_url": f"{vendor.url}/token"},
        secret={"signing_secret": "whsec_x", "oauth_client_id": "own", "oauth_client_secret": "canary-s"},
    )
    lease = begin(connection)
    assert (lease.client.id, lease.client.secret.reveal()) == ("own", "canary-s")
    kept = finish(lease)
    assert set(kept.credentials) >= {"signing_secret", "oauth_client_id", "access_token", "expires_at"}
    connection.refresh_from_db()
    assert connection.credential_hints["access_token"] == "••••"


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_new_tokens_are_kept_before_they_are_used(connection):
    kept = finish(begin(connection))
    assert (type(kept), kept.version) == (Renewed, 2)
    document = opened(connection)
    assert (document.version, dict(document.secret)) == (2, dict(kept.credentials))
    assert document.secret["refresh_token"] == Secret("canary-next")
    grant = grant_of(connection)
    assert (grant.lease_id, grant.lease_until, grant.refresh_failures) == (None, None, 0)
    assert (grant.expires_at, grant.refreshed_at, grant.scope) == (NEW.expires_at, NOW, "a")


def test_a_refresh_changes_nothing_that_the_owner_sees(connection):
    before = Connection.objects.values().get(pk=connection.pk)
    finish(begin(connection))
    assert Connection.objects.values().get(pk=connection.pk) == before


def test_without_the_lease_nothing_is_kept(connection):
    stale = begin(connection)
    lapse(connection)
    current = begin(connection)
    assert finish(stale) is Lost.OVERTAKEN
    assert opened(connection).version == 1
    assert grant_of(connection).lease_id == current.need.lease_id
    assert finish(current).version == 2
    assert finish(current) is Lost.OVERTAKEN  # run twice


@pytest.mark.parametrize("end", [lambda c: lifecycle.disconnect(c, actor="a test"), lifecycle.delete])
def test_what_was_ended_meanwhile_does_not_come_back(connection, end):
    lease = begin(connection)
    end(connection)
    assert finish(lease) is Lost.GONE
    connection.refresh_from_db()
    assert "access_token" not in connection.credential_hints
    if connection.status != "deleted":
        assert "access_token" not in opened(connection).secret


def test_what_was_authorized_anew_meanwhile_stays(connection, vendor):
    lease = begin(connection)
    fresh = Tokens(Secret("canary-fresh"), Secret("canary-fresh-r"), "bearer", None, NOW, None)
    lifecycle.authorize(connection, fresh, lifecycle.Granted(), client_id="app-1", actor="a test")
    assert finish(lease) is Lost.OVERTAKEN
    assert opened(connection).secret["access_token"] == Secret("canary-fresh")


def test_the_lease_alone_is_not_enough(connection):
    """Another document was sealed although the lease was never taken away."""
    lease = begin(connection)
    values = {"workspace_id": connection.workspace_id, "owner_kind": "connection", "owner_id": connection.pk}
    vault.seal({"access_token": "canary-other"}, **values, kind=vault.CREDENTIALS)
    assert finish(lease) is Lost.OVERTAKEN
    assert opened(connection).secret == {"access_token": Secret("canary-other")}
    assert grant_of(connection).lease_id is None


def test_other_credentials_that_changed_meanwhile_stay(connection):
    lease = begin(connection)
    values = {"workspace_id": connection.workspace_id, "owner_kind": "connection", "owner_id": connection.pk}
    vault.seal({**lease.credentials, "other": "changed"}, **values, kind=vault.CREDENTIALS)
    kept = finish(lease)
    assert kept.version == 3
    document = opened(connection).secret
    assert (document["other"], document["access_token"]) == (Secret("changed"), Secret("canary-new"))


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_failure_of_theirs_cools_the_grant_down(connection):
    lease = begin(connection)
    finish(lease, unavailable("HubSpot gives no token (503).", 40.0))
    grant = grant_of(connection)
    assert (grant.lease_id, grant.refresh_failures, grant.ended_at) == (None, 1, None)
    assert grant.last_error == "HubSpot gives no token (503)."
    verdict = begin(connection)
    assert (verdict.words, verdict.hold, verdict.throttled) == ("HubSpot gives no token (503).", None, True)
    assert 38 < verdict.retry_after_seconds <= 40
    connection.refresh_from_db()
    assert connection.status == "active"


def test_after_the_rest_the_next_one_asks(connection):
    finish(begin(connection), unavailable("503", 40.0))
    OAuthGrant.objects.update(not_before=datetime.now(UTC))
    lease = begin(connection)
    assert lease.failures == 1
    finish(lease)
    grant = grant_of(connection)
    assert (grant.refresh_failures, grant.not_before, grant.last_error) == (0, None, "")


def test_an_end_holds_the_connection_and_is_told_once(connection, caplog):
    lease = begin(connection)
    over = ended("HubSpot", "invalid_grant")
    finish(lease, over)
    finish(lease, over)
    connection.refresh_from_db()
    assert (connection.status, connection.status_reason) == ("needs_reauth", over.words)
    assert grant_of(connection).ended_at is not None
    told = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.getMessage() for record in told] == [
        f"connection {connection.public_id} gets no more tokens: {over.words}"
    ]
    for _ in range(3):
        assert begin(connection).words == over.words
    assert not [record for record in caplog.records if record.levelname == "ERROR"][1:]


def test_an_address_that_is_refused_is_no_end_of_the_authorization(connection, caplog):
    finish(begin(connection), disabled("The token endpoint cannot be asked: This address is not allowed."))
    connection.refresh_from_db()
    assert (connection.status, grant_of(connection).ended_at) == ("disabled", None)
    lifecycle.resume(connection)
    assert isinstance(begin(connection), Lease)


def test_resuming_alone_gets_no_more_tokens(connection):
    finish(begin(connection), ended("HubSpot"))
    lifecycle.resume(connection)
    assert begin(connection).hold == "needs_reauth"


def test_an_end_that_comes_too_late_holds_nothing(connection):
    lease = begin(connection)
    fresh = Tokens(Secret("canary-fresh"), Secret("canary-fresh-r"), "bearer", None, NOW, None)
    lifecycle.authorize(connection, fresh, lifecycle.Granted(), client_id="app-1", actor="a test")
    finish(lease, ended("HubSpot"))
    connection.refresh_from_db()
    assert (connection.status, grant_of(connection).ended_at) == ("active", None)


# --- the database ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [OAuthGrant, OAuthState])
def test_rows_of_another_workspace_are_refused_by_the_database(connection, model):
    foreign = make_workspace()
    values = {"connection": connection, "workspace": foreign}
    if model is OAuthState:
        values |= {"state_hash": "x", "session": "key:", "client_id": "", "redirect_uri": "", "expires_at": NOW}
    else:
        OAuthGrant.objects.all().delete()
    with pytest.raises(IntegrityError), transaction.atomic():
        model.objects.create(**values)


# --- in a restored database -----------------------------------------------------------------------------------------


def test_no_token_is_asked_for_while_the_installation_is_held(connection):
    """The refresh token may have been spent since the dump; the connection keeps its status, and waits."""
    installation.hold()
    begun = begin(connection)
    assert isinstance(begun, Verdict)
    assert (begun.outcome, begun.hold, begun.is_counted, begun.words) == ("retry", None, False, refresh.HELD_MESSAGE)
    assert grant_of(connection).lease_id is None
    installation.note_check()
    assert installation.release()
    assert isinstance(begin(connection), Lease)
