"""`manage.py after_restore`: everything is held, what a journal tells of is done again, and the rest is listed."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from connections import lifecycle as connections
from connections.models import Connection, OAuthGrant
from delivery.dispatch import claims
from delivery.events import erasure
from delivery.models import Attempt, Delivery, Payload
from meshes.console.signin.models import OperatorSession
from meshes.kit import clock, ids
from tests.factories import make_connection, make_deliveries, make_workspace
from workspaces import installation, keys
from workspaces import lifecycle as workspaces
from workspaces.models import ApiKey, Installation, Workspace
from workspaces.vault.models import SealedDocument

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_client")]


@pytest.fixture
def file(tmp_path, settings):
    path = tmp_path / "journal"
    settings.MESHES_JOURNAL = str(path)
    return path


def after_restore(*options):
    out = StringIO()
    call_command("after_restore", *options, stdout=out)
    return out.getvalue()


class Dump:
    """Rows as they are now, to be put back: what a restore does."""

    tables = ("workspaces", "connections", "sealed_documents", "api_keys", "payloads", "deliveries", "oauth_grants")

    def __init__(self):
        self.run("CREATE TEMP TABLE {table}_dump AS SELECT * FROM {table}")

    def restore(self):
        self.run("SET session_replication_role = replica")
        self.run("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {table}_dump")
        self.run("SET session_replication_role = origin")
        self.run("DROP TABLE {table}_dump")

    def run(self, statement):
        with connection.cursor() as cursor:
            for table in self.tables if "{table}" in statement else ("",):
                cursor.execute(statement.format(table=table))


def test_what_a_journal_tells_of_is_done_again(file):
    kept, gone = make_workspace(), make_workspace()
    target, deleted = make_connection(kept), make_connection(kept)
    erased, other = make_deliveries(target, 2)
    make_deliveries(make_connection(gone))
    make_deliveries(deleted)
    revoked, rotated, live = (keys.create_key(name=name, kind="account", scopes=keys.SCOPES).row for name in "abc")
    dump = Dump()
    now = clock.database_now()
    erasure.erase_events(kept, [erased.event_id], now)
    workspaces.delete_workspace(gone, now)
    connections.delete(deleted)
    keys.revoke_key(revoked.pk, now)
    keys.rotate_key(rotated.pk, 3600, now)
    dump.restore()
    assert Payload.objects.get(pk=erased.event_id).body != ""
    assert Workspace.objects.get(pk=gone.pk).deleted_at is None

    said = after_restore()

    assert Payload.objects.get(pk=erased.event_id).body == ""
    assert Payload.objects.get(pk=other.event_id).body != ""
    statuses = dict(Delivery.objects.filter(pk__in=[erased.pk, other.pk]).values_list("pk", "status"))
    assert statuses == {erased.pk: "cancelled", other.pk: "pending"}
    assert Workspace.objects.get(pk=gone.pk).deleted_at is not None
    assert set(Connection.objects.filter(workspace=gone).values_list("status", flat=True)) == {"deleted"}
    assert Connection.objects.get(pk=deleted.pk).status == "deleted"
    assert not SealedDocument.objects.filter(connection=deleted).exists()
    assert ApiKey.objects.get(pk=revoked.pk).revoked_at is not None
    assert ApiKey.objects.get(pk=rotated.pk).expires_at == now + timedelta(hours=1)
    assert (ApiKey.objects.get(pk=live.pk).revoked_at, ApiKey.objects.get(pk=live.pk).expires_at) == (None, None)
    for words in ("1  events erased", "1  workspaces deleted", "1  connections deleted", "1  API keys revoked"):
        assert words in said
    assert "0  events erased" in after_restore()


def test_a_disconnection_is_done_again_unless_it_was_authorized_since(file):
    workspace = make_workspace()
    hints = {"access_token": "••••"}
    secret = {"access_token": "t", "refresh_token": "r"}
    before, since = (
        make_connection(workspace, type="hubspot", config={}, secret=dict(secret), credential_hints=hints)
        for _ in range(2)
    )
    dump = Dump()
    connections.disconnect(before, actor="key_x", asks_vendor=False)
    dump.restore()
    connections.disconnect(since, actor="key_x", asks_vendor=False)
    Connection.objects.filter(pk=since.pk).update(version=5, status="active")
    after_restore()
    assert Connection.objects.get(pk=before.pk).status == "needs_reauth"
    assert Connection.objects.get(pk=since.pk).status == "active"


def test_journals_of_several_hosts_are_applied(file, tmp_path, settings):
    one, other = make_workspace(), make_workspace()
    dump = Dump()
    workspaces.delete_workspace(one, clock.database_now())
    settings.MESHES_JOURNAL = str(tmp_path / "other")
    workspaces.delete_workspace(other, clock.database_now())
    dump.restore()
    after_restore("--journal", str(file))
    assert not Workspace.objects.filter(deleted_at=None).exists()


def test_it_lists_what_nobody_can_know(file):
    target = make_connection(make_workspace(), name="CRM")
    make_deliveries(target, 2)
    authorized = make_connection(
        target.workspace, type="hubspot", config={}, name="Hub", credential_hints={"access_token": "••••"}
    )
    OAuthGrant.objects.create(
        connection=authorized, workspace=authorized.workspace, expires_at=clock.database_now() - timedelta(hours=1)
    )
    key = keys.create_key(name="CI", kind="account", scopes=keys.SCOPES).row
    said = after_restore()
    assert f"{target.public_id} CRM (webhook, active) of {target.workspace.public_id}: 2 pending, 0 held" in said
    assert f"{authorized.public_id} Hub (hubspot, active)" in said
    assert "its token has expired" in said
    assert f"{key.public_id} CI" in said


def test_a_journal_that_is_not_there_is_told(file):
    assert f"{file} is not there" in after_restore()


def test_without_a_journal_it_says_what_has_to_be_done_by_hand():
    assert "No journal (MESHES_JOURNAL, --journal)" in after_restore()


def test_what_ran_at_the_dump_counts_as_lost_and_is_open_again(file):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    with connection.cursor() as cursor:
        session = ids.uuid7()
        cursor.execute("INSERT INTO worker_sessions (id, lock_key, worker) VALUES (%s, 4242, 'gone:1')", [session])
    claims.claim([delivery.pk], "gone:1")
    Delivery.objects.filter(pk=delivery.pk).update(lease_session=session)
    assert "count as lost: 1" in after_restore()
    delivery.refresh_from_db()
    assert (delivery.status, delivery.lease_id, delivery.losses) == ("pending", None, 1)
    assert Attempt.objects.get().error_class == "worker_lost"


def test_operators_have_to_log_in_again(file):
    OperatorSession.objects.create(pk="s" * 40, session_data="")
    after_restore()
    assert not OperatorSession.objects.exists()


def test_an_event_that_a_worker_has_is_named_and_nothing_is_released(file):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    erasure.erase_events(delivery.workspace, [delivery.event_id], clock.database_now())
    Payload.objects.update(body="{}", erased_at=None)
    Delivery.objects.update(status="pending", next_attempt_at=clock.database_now())
    claims.claim([delivery.pk], "alive")  # without a session, as of a worker behind a pooling proxy
    with pytest.raises(CommandError, match=ids.encode(ids.EVENT, delivery.event_id)):
        after_restore()
    with pytest.raises(CommandError, match="without --release first"):
        after_restore("--release")
    assert installation.is_held()


def test_it_is_released_by_a_word_and_only_once(file):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    after_restore()
    assert claims.claim([delivery.pk], "worker") == [None]
    assert "Released" in after_restore("--release")
    assert Installation.objects.get().held_at is None
    assert claims.claim([delivery.pk], "worker") != [None]
    with pytest.raises(CommandError, match="Nothing is held"):
        after_restore("--release")


def test_a_journal_that_cannot_be_read_keeps_everything_held(file):
    with pytest.raises(CommandError, match="No such file or directory"):
        after_restore("--journal", str(file.parent / "nowhere"))
    assert installation.is_held()
    with pytest.raises(CommandError):
        after_restore("--release")
