"""What is deleted, what is cancelled, and what stays."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from connections.lifecycle import connection_changed
from connections.models import Connection, ConnectionHealth
from delivery.dispatch import deletion, hold, replays
from delivery.models import (
    Attempt,
    Delivery,
    Event,
    Payload,
    Replay,
    RoutingLedger,
    Rule,
    Unrouted,
)
from meshes.kit import ids
from tests.delivery.api import account, tenant
from tests.factories import make_connection, make_deliveries, make_event, make_rule, make_workspace
from workspaces.models import ApiKey, IdempotencyRecord, Workspace
from workspaces.vault.models import AccessRecord, SealedDocument

pytestmark = pytest.mark.django_db

TENANT_TABLES = (
    Event, Payload, Unrouted, RoutingLedger, Rule, Delivery, Attempt, Replay, Connection, ConnectionHealth,
)  # fmt: skip


def furnish(workspace):
    """A row in every table of a tenant's."""
    connection = make_connection(workspace)
    make_rule(connection)
    deliveries = make_deliveries(connection, 3)
    make_event(workspace)
    Attempt.objects.create(
        workspace=workspace, delivery=deliveries[0], number=1, started_at=datetime.now(UTC), outcome="retry"
    )
    Replay.objects.create(workspace=workspace, requested_by="key_1")
    ConnectionHealth.objects.create(connection=connection, workspace=workspace)
    return deliveries


def count_rows(workspace):
    return {model.__name__: model.objects.filter(workspace_id=workspace.pk).count() for model in TENANT_TABLES}


def purge():
    while deletion.purge_deleted_workspaces(datetime.now(UTC)):
        pass


def test_a_deleted_workspace_stops_at_once(api, django_capture_on_commit_callbacks):
    workspace = make_workspace()
    furnish(workspace)
    with django_capture_on_commit_callbacks(execute=True):
        assert api.delete(f"/workspaces/{workspace.public_id}").status_code == 204
    assert {row.status for row in Connection.objects.filter(workspace=workspace)} == {"deleted"}
    assert not Rule.objects.filter(workspace=workspace, enabled=True).exists()
    refused = api.post("/events", {"workspace": workspace.public_id, "event": "a.b", "payload": {}})
    assert refused.status_code == 422


def test_a_deleted_workspace_is_purged_and_leaves_its_tombstone(api, django_capture_on_commit_callbacks):
    workspace, other = make_workspace(), make_workspace()
    furnish(workspace)
    furnish(other)
    tenant(workspace).post(
        "/events", {"workspace": workspace.public_id, "event": "a.b", "payload": {}}, idempotency_key="k"
    )
    before = count_rows(other)
    with django_capture_on_commit_callbacks(execute=True):
        api.delete(f"/workspaces/{workspace.public_id}")
    purge()
    assert set(count_rows(workspace).values()) == {0}
    assert not SealedDocument.objects.filter(workspace=workspace).exists()
    assert not IdempotencyRecord.objects.filter(scope=workspace.pk).exists()
    assert not ApiKey.objects.filter(workspace=workspace, revoked_at=None).exists()
    tombstone = Workspace.objects.get(pk=workspace.pk)
    assert tombstone.purged_at is not None
    assert count_rows(other) == before
    assert SealedDocument.objects.filter(workspace=other).exists()
    assert deletion.purge_deleted_workspaces(datetime.now(UTC)) == 0


def test_open_deliveries_are_cancelled_before_the_purge(monkeypatch):
    workspace = make_workspace()
    deliveries = furnish(workspace)
    Workspace.objects.filter(pk=workspace.pk).update(deleted_at=datetime.now(UTC))
    monkeypatch.setattr(deletion, "STEPS", [deletion._cancel])
    monkeypatch.setattr(deletion, "_remove_configuration", lambda workspace_id: 0)
    purge()
    rows = Delivery.objects.filter(pk__in=[delivery.pk for delivery in deliveries])
    assert {(row.status, row.cause) for row in rows} == {("cancelled", "workspace_deleted")}


def test_the_purge_waits_for_what_is_in_flight():
    workspace = make_workspace()
    first, *_ = furnish(workspace)
    Delivery.objects.filter(pk=first.pk).update(lease_id=ids.uuid7(), lease_until=datetime.now(UTC))
    Workspace.objects.filter(pk=workspace.pk).update(deleted_at=datetime.now(UTC))
    purge()
    assert Delivery.objects.filter(workspace=workspace).count() == 3
    assert Workspace.objects.get(pk=workspace.pk).purged_at is None
    Delivery.objects.filter(pk=first.pk).update(lease_id=None, lease_until=None, status="succeeded")
    purge()
    assert Delivery.objects.filter(workspace=workspace).count() == 0
    assert Workspace.objects.get(pk=workspace.pk).purged_at is not None


def test_the_purge_goes_in_batches(monkeypatch):
    workspace = make_workspace()
    furnish(workspace)
    Workspace.objects.filter(pk=workspace.pk).update(deleted_at=datetime.now(UTC))
    monkeypatch.setattr(deletion, "BATCH", 1)
    monkeypatch.setattr(deletion, "BUDGET_SECONDS", 0)
    calls = 0
    while Workspace.objects.get(pk=workspace.pk).purged_at is None:
        deletion.purge_deleted_workspaces(datetime.now(UTC))
        calls += 1
    assert calls > 5
    assert set(count_rows(workspace).values()) == {0}


@pytest.mark.parametrize(("table", "looks"), [("unrouted", 2), ("deliveries", 4), ("events", 5)])
def test_a_table_that_is_empty_is_not_looked_at_again_with_each_batch_of_the_next(monkeypatch, table, looks):
    workspace = make_workspace()
    furnish(workspace)
    Workspace.objects.filter(pk=workspace.pk).update(deleted_at=datetime.now(UTC))
    monkeypatch.setattr(deletion, "BATCH", 1)
    with CaptureQueriesContext(connection) as queries:
        deletion.purge_deleted_workspaces(datetime.now(UTC))
    assert set(count_rows(workspace).values()) == {0}
    asked = [each["sql"] for each in queries.captured_queries]
    assert sum(sql.startswith(f'SELECT "{table}".') and sql.endswith("LIMIT 1") for sql in asked) == looks


@pytest.mark.parametrize("batch", [1, 500])
def test_deliveries_that_name_each_other_are_purged_too(monkeypatch, batch):
    workspace = make_workspace()
    deliveries = furnish(workspace)
    Delivery.objects.filter(workspace=workspace).update(status="dead", cause="rejected", next_attempt_at=None)
    assert len(replays.send_again([delivery.pk for delivery in deliveries]).made) == 3
    Workspace.objects.filter(pk=workspace.pk).update(deleted_at=datetime.now(UTC))
    monkeypatch.setattr(deletion, "BATCH", batch)
    purge()
    assert set(count_rows(workspace).values()) == {0}


def test_access_records_outlive_the_workspace():
    workspace = make_workspace()
    furnish(workspace)
    AccessRecord.objects.create(
        workspace=workspace, owner_kind="connection", owner_id=ids.uuid7(), kind="credentials", version=1,
        actor="worker", purpose="delivery",
    )  # fmt: skip
    Workspace.objects.filter(pk=workspace.pk).update(deleted_at=datetime.now(UTC))
    purge()
    told = AccessRecord.objects.filter(workspace_id=workspace.pk).order_by("number").values_list("purpose", flat=True)
    assert list(told) == ["created", "delivery", "deleted"]


# --- connections ----------------------------------------------------------------------------------------------------


def test_a_deleted_connection_cancels_what_is_open_and_keeps_its_history(api, django_capture_on_commit_callbacks):
    workspace = make_workspace()
    connection, other = make_connection(workspace), make_connection(workspace)
    rule, kept = make_rule(connection), make_rule(other)
    pending, held, dead, taken = make_deliveries(connection, 4)
    Delivery.objects.filter(pk=held.pk).update(status="held")
    Delivery.objects.filter(pk=dead.pk).update(status="dead")
    until = datetime.now(UTC) + timedelta(seconds=60)
    Delivery.objects.filter(pk=taken.pk).update(lease_id=ids.uuid7(), lease_until=until)
    with django_capture_on_commit_callbacks(execute=True):
        assert api.delete(f"/connections/{connection.public_id}").status_code == 204
    for row in (pending, held, dead, taken):
        row.refresh_from_db()
    assert [(row.status, row.cause) for row in (pending, held)] == [("cancelled", "connection_deleted")] * 2
    assert (dead.status, taken.status) == ("dead", "pending")
    rule.refresh_from_db()
    kept.refresh_from_db()
    assert (rule.enabled, rule.version, kept.enabled) == (False, 2, True)
    assert Delivery.objects.filter(connection=other, status="pending").count() == 4
    assert api.get(f"/deliveries/{dead.public_id}").status_code == 200


def test_a_sweep_cancels_what_deleted_connections_still_hold():
    connection = make_connection(make_workspace())
    deliveries = make_deliveries(connection, 2)
    living = make_deliveries(make_connection(make_workspace()), 1)
    Delivery.objects.update(status="held")
    Connection.objects.filter(pk=connection.pk).update(status="deleted")
    assert hold.cancel_held_of_deleted(datetime.now(UTC)) == 2
    assert hold.cancel_held_of_deleted(datetime.now(UTC)) == 0
    assert Delivery.objects.filter(pk__in=[row.pk for row in deliveries], status="cancelled").count() == 2
    assert Delivery.objects.get(pk=living[0].pk).status == "held"


def test_a_change_of_a_living_connection_cancels_nothing(redis_client):
    connection = make_connection(make_workspace())
    make_deliveries(connection, 1)
    connection_changed.send(sender=Connection, connection_id=connection.pk)
    assert Delivery.objects.get().status == "pending"


def test_account_keys_survive(api):
    workspace = make_workspace(deleted_at=datetime.now(UTC))
    caller = account()
    purge()
    assert Workspace.objects.get(pk=workspace.pk).purged_at is not None
    assert caller.get("/events").status_code == 200
