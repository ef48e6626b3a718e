"""The access log is only added to, and sealed as it was."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.db import IntegrityError, connection, connections, transaction

from delivery.dispatch import retention
from meshes.environment import PROJECT
from meshes.kit import ids, partitions
from tests.connections.records import TABLE, id_at, make_record
from tests.factories import make_connection, make_workspace
from tests.polling import eventually
from workspaces.vault import access_log, vault, verifying
from workspaces.vault.models import AccessLogSeal, AccessRecord

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 22, 3, 25, 1, 250, tzinfo=UTC)


def refused(statement, *parameters):
    """Whether the database refuses a statement, and says why."""
    with pytest.raises(IntegrityError) as caught, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, parameters)
    return "refused" in str(caught.value)


def seals():
    return list(AccessLogSeal.objects.order_by("segment"))


# --- only added to --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["UPDATE {} SET actor = 'me'", "DELETE FROM {}", "TRUNCATE {}"])
@pytest.mark.parametrize("place", ["access_records", "this week's partition", "a new partition"])
def test_records_are_neither_changed_nor_deleted(place, statement):
    at = datetime.now(UTC) + (timedelta(weeks=20) if place == "a new partition" else timedelta())
    record = make_record(at=at)
    table = TABLE if place == TABLE else partitions.Partition(TABLE, partitions.week_of(at)).name
    assert refused(statement.format(table))
    assert AccessRecord.objects.get().actor == record.actor


def test_retention_still_drops_whole_weeks():
    long_ago = datetime.now(UTC) - timedelta(days=400)
    make_record(at=long_ago)
    access_log.seal(NOW)
    assert retention.expire(datetime.now(UTC)) == [partitions.Partition(TABLE, partitions.week_of(long_ago)).name]
    assert not AccessRecord.objects.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE access_log_seals SET head = previous",
        "UPDATE access_log_seals SET marks = '1'",
        "UPDATE access_log_seals SET marks = NULL, count = 0",
        "DELETE FROM access_log_seals",
        "TRUNCATE access_log_seals",
    ],
)
def test_seals_are_neither_changed_nor_deleted(statement):
    make_record()
    access_log.seal(NOW)
    assert refused(statement)
    assert access_log.head_of(seals()[0]) == seals()[0].head


# --- changes are records too ----------------------------------------------------------------------------------------


def told(**condition):
    rows = AccessRecord.objects.filter(**condition).order_by("number")
    return [(row.purpose, row.version, row.actor, row.granted) for row in rows]


def test_a_document_s_life_is_recorded_with_who_changed_it():
    target = make_connection(make_workspace())
    owner = {"workspace_id": target.workspace_id, "owner_kind": "connection", "owner_id": target.pk}
    vault.seal({"token": "2"}, **owner, kind=vault.CREDENTIALS, actor="key_1")
    vault.seal({"token": "3"}, **owner, kind=vault.CREDENTIALS, actor="key_2", purpose="rotated")
    vault.seal({"token": "4"}, **owner, kind="other")
    assert vault.destroy(**owner, actor="key_3") == 2
    process = vault.this_process()
    assert told(owner_id=target.pk) == [
        ("created", 1, process, True),
        ("replaced", 2, "key_1", True),
        ("rotated", 3, "key_2", True),
        ("created", 1, process, True),
        ("deleted", 3, "key_3", True),
        ("deleted", 1, "key_3", True),
    ]


def test_a_change_that_is_rolled_back_leaves_no_record():
    target = make_connection(make_workspace())
    owner = {"workspace_id": target.workspace_id, "owner_kind": "connection", "owner_id": target.pk}
    with transaction.atomic():
        vault.seal({"token": "2"}, **owner, kind=vault.CREDENTIALS, actor="key_1")
        vault.destroy(**owner, actor="key_1")
        transaction.set_rollback(True)
    assert told(actor="key_1") == []


# --- sealing --------------------------------------------------------------------------------------------------------


def test_what_is_sealed_is_what_the_page_in_docs_says():
    workspace_id, delivery_id = ids.uuid7(), ids.uuid7()
    record = make_record(workspace_id=workspace_id, delivery_id=delivery_id, attempt_number=3, actor="wörker “7”")
    assert access_log.seal(NOW) == 1
    line = json.dumps(
        [
            *(record.number, str(record.pk), str(workspace_id), "connection", str(record.owner_id), "credentials", 1),
            *("wörker “7”", "testing", True, str(delivery_id), 3),
            record.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        ],
        ensure_ascii=False,
        separators=(",", ":"),
    )
    content = hashlib.sha256(hashlib.sha256(line.encode()).digest()).hexdigest()
    (sealed,) = seals()
    week = partitions.week_of(record.created_at)
    parts = ["meshes access log 1", 1, str(week), 0, record.number, 1, content, "0" * 64, "2026-11-22T03:25:01.000250Z"]
    assert (sealed.after, sealed.last, sealed.count, sealed.content) == (0, record.number, 1, content)
    assert sealed.head == hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def test_each_segment_carries_the_head_of_the_one_before_and_logs_its_own(caplog):
    caplog.set_level(logging.INFO)
    for count in (2, 3):
        numbers = [make_record().number for _ in range(count)]
        assert access_log.seal(NOW) == count
    first, second = seals()
    assert (first.segment, second.segment, second.previous) == (1, 2, first.head)
    assert (second.after, second.last, second.count) == (first.last, numbers[-1], 3)
    lines = [line for line in caplog.messages if line.startswith("access log sealed: segment ")]
    assert [line.endswith(f" head {seal.head}") for line, seal in zip(lines, seals(), strict=True)] == [True, True]


@pytest.mark.django_db(transaction=True)
def test_heads_are_logged_whatever_the_log_level_is():
    make_record()
    server = urlsplit(os.environ["DATABASE_URL"])
    url = urlunsplit(server._replace(path=f"/{connection.settings_dict['NAME']}"))
    environment = {**os.environ, "DATABASE_URL": url, "MESHES_LOG_LEVEL": "ERROR"}
    command = [sys.executable, "manage.py", "sweep", "--once"]
    swept = subprocess.run(command, check=True, env=environment, cwd=PROJECT, capture_output=True, text=True)
    (sealed,) = seals()
    assert verifying.read_heads([swept.stderr.splitlines()])[0] == {1: {sealed.head}}


def test_nothing_new_makes_no_segment():
    make_record()
    access_log.seal(NOW)
    assert access_log.seal(NOW) == 0
    with transaction.atomic():
        make_record()
        transaction.set_rollback(True)  # its number is drawn for good
    assert access_log.seal(NOW) == 0
    assert len(seals()) == 1


def test_a_long_log_is_sealed_in_segments(monkeypatch):
    monkeypatch.setattr(access_log, "MOST_RECORDS", 3)
    numbers = [make_record().number for _ in range(8)]
    assert access_log.seal(NOW) == 8
    assert [(seal.after, seal.last, seal.count) for seal in seals()] == [
        (0, numbers[2], 3),
        (numbers[2], numbers[5], 3),
        (numbers[5], numbers[7], 2),
    ]


def test_a_call_that_takes_long_leaves_the_rest_to_the_next(monkeypatch):
    monkeypatch.setattr(access_log, "MOST_RECORDS", 3)
    monkeypatch.setattr(access_log, "BUDGET_SECONDS", 0.0)
    for _ in range(5):
        make_record()
    assert [access_log.seal(NOW) for _ in range(3)] == [3, 2, 0]


def test_a_clock_that_is_wrong_puts_a_record_into_a_segment_of_its_own_week():
    now = datetime.now(UTC)
    early, today, late = (make_record(at=now + timedelta(weeks=weeks)) for weeks in (-2, 0, 2))
    assert access_log.seal(NOW) == 3
    assert [(seal.week, seal.count) for seal in seals()] == [
        (partitions.week_of(now + timedelta(weeks=weeks)), 1) for weeks in (-2, 0, 2)
    ]
    assert {(seal.after, seal.last) for seal in seals()} == {(0, late.number)}
    assert early.number < today.number < late.number


INSERT = (
    "INSERT INTO access_records (id, owner_kind, owner_id, kind, version, actor, purpose, granted, created_at)"
    " VALUES (%s, 'connection', %s, 'credentials', 1, 'late', 'testing', true, now()) RETURNING number"
)


@pytest.fixture
def writer():
    """A transaction that has written a record, and its number; not committed yet."""
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(INSERT, [id_at(datetime.now(UTC)), ids.uuid7()])
        yield cursor, cursor.fetchone()[0]
    other.close()


def somebody_waits():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%virtualtransaction = ANY%'"
            " AND datname = current_database() AND pid <> pg_backend_pid())"
        )
        return cursor.fetchone()[0]


def seal_apart():
    try:
        return access_log.seal(NOW)
    finally:
        connections.close_all()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_who_is_still_writing_is_waited_for(writer, ending):
    cursor, number = writer
    after = make_record()
    assert after.number > number
    with ThreadPoolExecutor(1) as pool:
        sealing = pool.submit(seal_apart)
        eventually(somebody_waits)
        newest = make_record()  # nobody waits for the sealing
        assert not sealing.done()
        cursor.execute(ending)
        assert sealing.result(10) == (2 if ending == "COMMIT" else 1)
    assert seals()[0].last == after.number < newest.number


@pytest.mark.django_db(transaction=True)
def test_a_writer_that_does_not_end_holds_the_sealing_up_and_is_told(writer, monkeypatch, caplog):
    monkeypatch.setattr(access_log, "WAIT_SECONDS", 0.1)
    make_record()
    assert access_log.seal(NOW) == 0
    assert seals() == []
    assert "the access log is not sealed" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_who_writes_elsewhere_or_only_reads_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(access_log, "WAIT_SECONDS", 0.0)
    make_record()
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("BEGIN; SELECT pg_current_xact_id(); SELECT count(*) FROM access_records")
        assert access_log.seal(NOW) == 1
    other.close()


@pytest.mark.django_db(transaction=True)
def test_under_many_writers_every_record_is_sealed_once():
    stopping = threading.Event()

    def write():
        made = 0
        while not stopping.is_set():
            with transaction.atomic():
                make_record()
                make_record()
                transaction.set_rollback(made % 3 == 0)
            made += 1
        connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write) for _ in range(4)]
        eventually(lambda: seal_apart() and len(seals()) >= 20, 60)
        stopping.set()
        for each in writing:
            each.result()
    access_log.seal(NOW)
    assert sum(seal.count for seal in seals()) == AccessRecord.objects.count()
    for seal in seals():
        rows = access_log.read_week(seal.week, seal.after, seal.last)
        assert access_log.content_of([access_log.digest(row) for row in rows]) == seal.content


# --- what goes with retention ---------------------------------------------------------------------------------------


def test_a_week_is_not_dropped_before_all_of_it_is_sealed(caplog):
    long_ago = datetime.now(UTC) - timedelta(days=400)
    name = partitions.Partition(TABLE, partitions.week_of(long_ago)).name
    make_record(at=long_ago)
    access_log.seal(NOW)
    late = make_record(at=long_ago)
    assert retention.expire(datetime.now(UTC)) == []
    assert AccessRecord.objects.filter(pk=late.pk).exists()
    assert f"{name} is not dropped: some of its records are not sealed" in caplog.text
    access_log.seal(NOW)
    assert retention.expire(datetime.now(UTC)) == [name]
    assert [seal.count for seal in seals()] == [1, 1]


def test_marks_go_with_their_week_and_seals_stay():
    make_record(at=datetime.now(UTC) - timedelta(days=400))
    make_record()
    access_log.seal(NOW)
    before = [(seal.segment, seal.head) for seal in seals()]
    assert access_log.forget_marks() == 0
    retention.expire(datetime.now(UTC))
    assert [seal.marks is None for seal in seals()] == [True, False]
    assert [(seal.segment, access_log.head_of(seal)) for seal in seals()] == before
