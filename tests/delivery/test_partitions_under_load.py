"""Partitions are made, detached and dropped while events come in and are routed, and nobody waits for that."""

import statistics
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, connections

from delivery.dispatch import claims, retention
from delivery.events.intake import NewEvent, insert_events
from delivery.models import Delivery
from meshes.kit import partitions
from meshes.kit.partitions import Partition
from tests.factories import fan_out, make_connection, make_rule, make_workspace
from tests.polling import eventually

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = "500ms"
"""For one lock; a writer that had to wait longer would fail."""
WEEKS = [partitions.week_of(datetime.now(UTC)) + number * partitions.WEEK for number in (-8, -7, 6, 7)]


class Writers:
    """Threads that take events all the way to their claims, over and over."""

    def __init__(self, workspace_id) -> None:
        self.errors: list[Exception] = []
        self.rounds: list[float] = []
        self._workspace_id = workspace_id
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]

    def __enter__(self) -> "Writers":
        for thread in self._threads:
            thread.start()
        eventually(lambda: self.rounds or self.errors)
        return self

    def wait(self, rounds):
        """Until so many more are done."""
        until = len(self.rounds) + rounds
        eventually(lambda: len(self.rounds) >= until or self.errors, seconds=60)

    def __exit__(self, *_) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = '{PATIENCE}'")
            while not self._stopping.is_set():
                began = time.monotonic()
                self._write()
                self.rounds.append(time.monotonic() - began)
        except Exception as error:  # noqa: BLE001  (asserted on)
            self.errors.append(error)
        finally:
            connections.close_all()

    def _write(self) -> None:
        events = [NewEvent(self._workspace_id, "lead.created", "{}") for _ in range(5)]
        insert_events(events)
        hints = fan_out([event.id for event in events])
        claims.claim([delivery_id for _, _, delivery_id in hints], "writer")


def change(step, tries=50):
    """Repeat a step until it says that it is done; how many tries that took."""
    for number in range(1, tries + 1):
        if step():
            return number
    raise AssertionError(f"not done after {tries} tries")


def exist(week):
    return [table for table in retention.TABLES if Partition(table, week) in partitions.existing(table)]


def make(week):
    """As the sweep makes them: with little patience for locks."""
    retention.ensure_partitions(datetime.combine(week, datetime.min.time(), tzinfo=UTC) - timedelta(weeks=3))
    return len(exist(week)) == len(retention.TABLES)


def drop(week):
    for table in ("attempts", "access_records", "payloads", "routing_ledgers", "deliveries", "events"):
        if table in exist(week) and not retention._drop(Partition(table, week)):
            return False
    return True


def test_writers_wait_for_no_partition_that_is_made_or_dropped():
    workspace = make_workspace()
    make_rule(make_connection(workspace))
    before = {table: partitions.existing(table) for table in retention.TABLES}
    with Writers(workspace.pk) as writers:
        writers.wait(1000)
        alone = len(writers.rounds)
        made = [change(lambda week=week: make(week)) for week in WEEKS]
        new = {part.start for table in before for part in partitions.existing(table) if part not in before[table]}
        dropped = [change(lambda week=week: drop(week)) for week in sorted(new)]
    assert writers.errors == []
    assert {table: partitions.existing(table) for table in retention.TABLES} == before
    assert Delivery.objects.filter(workspace=workspace).count() == 5 * len(writers.rounds)
    quiet, beside = writers.rounds[:alone], writers.rounds[alone:]
    print(f"rounds: {told(quiet)}; beside changes: {told(beside)}; tries {made} and {dropped}")


def told(rounds):
    return f"{len(rounds)}, median {statistics.median(rounds) * 1000:.0f} ms, longest {max(rounds) * 1000:.0f} ms"
