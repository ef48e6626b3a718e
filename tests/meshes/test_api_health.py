"""`/healthz` needs nothing; `/readyz` says what is missing."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError, connection
from django.test import Client

from delivery.dispatch import retention, sweep
from delivery.models import Attempt, Delivery, Event, Payload, RoutingLedger, SweepRun, Unrouted
from meshes.kit import partitions
from tests.factories import make_connection, make_event, make_workspace
from workspaces import installation
from workspaces.models import JournalEntry
from workspaces.vault import sealing, stored_keys
from workspaces.vault.models import AccessRecord


def ready():
    answer = Client().get("/readyz")
    return answer.status_code, answer.json()


def test_alive_without_a_database():
    answer = Client().get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.fixture
def swept():
    """A database in which every sweep has just succeeded."""
    for each in sweep.sweeps():
        sweep.note_success(each.name)


@pytest.mark.django_db
def test_ready(swept):
    status, answer = ready()
    names = ("database", "migrations", "partitions", "keys", "redis", "set_aside", "journal", "restore", "sweeps")
    assert (status, answer["status"], answer["checks"]) == (200, "ok", dict.fromkeys(names, "ok"))
    assert list(answer["sweeps"]) == [each.name for each in sweep.sweeps()]
    moments = [datetime.fromisoformat(moment) for moment in answer["sweeps"].values()]
    assert all(abs(datetime.now(UTC) - moment) < timedelta(minutes=1) for moment in moments)


@pytest.mark.django_db
def test_a_sweep_that_has_stopped_is_told_and_it_is_ready(swept):
    SweepRun.objects.filter(name="due").update(succeeded_at=datetime.now(UTC) - timedelta(seconds=45))
    SweepRun.objects.filter(name="partitions").update(succeeded_at=datetime.now(UTC) - timedelta(seconds=590))
    SweepRun.objects.filter(name="release").delete()
    status, answer = ready()
    assert (status, answer["status"]) == (200, "degraded")
    words = re.fullmatch(
        r"last success: due (\d+) s ago, release never; is the sweeper running\?", answer["checks"]["sweeps"]
    )
    assert words is not None
    assert 45 <= int(words[1]) < 60
    assert answer["sweeps"]["release"] is None


@pytest.mark.django_db
def test_while_stored_documents_need_a_key_that_is_not_at_hand_it_is_not_ready(use_keys):
    use_keys("old")
    needed = sealing.newest_key_id()
    make_connection(make_workspace())
    use_keys("another")
    make_connection(make_workspace())
    before = AccessRecord.objects.count()
    status, answer = ready()
    words = f"sealed documents need keys that are not among FERNET_KEYS: {needed}"
    assert (status, answer["status"], answer["checks"]["keys"]) == (503, "unavailable", words)
    use_keys("another", "old")
    status, answer = ready()
    assert (status, answer["checks"]["keys"]) == (200, "ok")
    assert AccessRecord.objects.count() == before


@pytest.mark.django_db
def test_the_look_for_missing_keys_reads_no_document(use_keys):
    for name in ("a", "b", "c"):
        use_keys(name)
        make_connection(make_workspace())
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")  # of three rows
        cursor.execute("EXPLAIN ANALYZE " + stored_keys.KEYS_IN_USE)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert plan.count("Only Scan using sealed_documents_by_key") == 2, plan
    assert "Sort" not in plan
    assert len(stored_keys.find_missing()) == 2


@pytest.mark.django_db
def test_without_redis_it_is_degraded_and_ready(swept, settings):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    status, answer = ready()
    words = "unreachable: events are accepted and kept, and nothing goes out until it answers"
    assert (status, answer["status"], answer["checks"]["redis"]) == (200, "degraded", words)


@pytest.mark.django_db
def test_a_held_installation_is_told_and_it_is_ready(swept):
    installation.hold()
    status, answer = ready()
    assert (status, answer["status"], answer["checks"]["restore"]) == (200, "degraded", installation.HELD_WORDS)


@pytest.mark.django_db
def test_a_journal_that_cannot_be_written_is_told_and_it_is_ready(swept):
    JournalEntry.objects.create(entry={})
    status, answer = ready()
    words = "1 entries wait until MESHES_JOURNAL can be written"
    assert (status, answer["status"], answer["checks"]["journal"]) == (200, "degraded", words)


@pytest.mark.django_db
def test_events_that_are_set_aside_are_told_by_cause_and_it_is_ready():
    events = [make_event(make_workspace()) for _ in range(4)]
    for event, cause in zip(events, ("refused", "workers_lost", "refused", ""), strict=True):
        Unrouted.objects.filter(event=event).update(cause=cause, poisoned_at=datetime.now(UTC))
    make_event(make_workspace())
    words = (
        "4 events are set aside (1 not_recorded, 2 refused, 1 workers_lost): POST /api/v1/events/route sends them on"
    )
    status, answer = ready()
    assert (status, answer["status"], answer["checks"]["set_aside"]) == (200, "degraded", words)


@pytest.mark.django_db
def test_without_the_database_it_is_not_ready(monkeypatch):
    def fail(*args, **kwargs):
        raise OperationalError("could not connect to db.internal")

    monkeypatch.setattr(connection, "cursor", fail)
    status, answer = ready()
    assert (status, answer["status"], answer["checks"]["database"]) == (503, "unavailable", "unreachable")
    assert "internal" not in str(answer)


@pytest.mark.django_db
def test_with_a_migration_waiting_it_is_not_ready():
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'delivery'")
    status, answer = ready()
    assert status == 503
    assert answer["checks"]["migrations"].endswith("migrations are not applied")


def detach(table, weeks):
    partition = partitions.Partition(table, partitions.week_of(datetime.now(UTC)) + timedelta(weeks=weeks))
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} DETACH PARTITION {partition.name}")
    return partition


@pytest.mark.django_db
@pytest.mark.parametrize("table", retention.TABLES)
def test_with_too_few_partitions_ahead_it_is_not_ready(table):
    detach(table, 2)
    assert ready()[0] == 200
    detach(table, 3)
    status, answer = ready()
    assert status == 503
    assert answer["checks"]["partitions"] == f"{table} has 1 partitions ahead; is the sweeper running?"


@pytest.mark.django_db
@pytest.mark.parametrize("weeks", [0, 1])
@pytest.mark.parametrize("table", retention.TABLES)
def test_without_the_partition_of_this_week_or_the_next_it_is_not_ready(table, weeks):
    gone = detach(table, weeks)
    status, answer = ready()
    assert (status, answer["status"]) == (503, "unavailable")
    words = f"{table} has no partition for the week from {gone.start}; is the sweeper running?"
    assert answer["checks"]["partitions"] == words


@pytest.mark.django_db
def test_every_partitioned_table_is_watched():
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relkind = 'p' ORDER BY relname")
        tables = {row[0] for row in cursor.fetchall()}
    assert tables == set(retention.TABLES)
    models = (Event, Payload, RoutingLedger, Delivery, Attempt, AccessRecord)
    assert tables == {model._meta.db_table for model in models}
