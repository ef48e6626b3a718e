"""`manage.py size`: what is on disk, and what it comes to."""

import re
import uuid
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from delivery.management.commands import size
from delivery.models import Event
from meshes.kit import clock, partitions
from tests.factories import make_workspace

pytestmark = pytest.mark.django_db


def shown(capsys, *arguments):
    call_command("size", *arguments)
    return capsys.readouterr().out


def make_events(number, hours_ago):
    """Events over the last so many hours, the first at their beginning."""
    now, workspace = clock.database_now(), make_workspace()
    step = timedelta(hours=hours_ago) / number
    moments = [now - step * index for index in range(1, number + 1)]
    partitions.ensure("events", partitions.week_of(moments[-1]))
    Event.objects.bulk_create(
        Event(
            id=uuid.UUID(int=int(moment.timestamp() * 1000) << 80),
            workspace=workspace,
            type="lead.created",
            payload_bytes=2,
            created_at=moment,
        )
        for moment in moments
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE events")


def test_every_table_is_in_it_and_the_whole(capsys):
    out = shown(capsys)
    for table in ("events", "payloads", "routing_ledgers", "deliveries", "attempts", "access_records", "all others"):
        assert re.search(rf"^{table} ", out, re.MULTILINE)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        whole = cursor.fetchone()[0]
    assert re.search(rf"^the database +{re.escape(size.readable(whole))}", out, re.MULTILINE)


def test_without_events_nothing_is_reckoned(capsys):
    assert "There is not an hour of events yet" in shown(capsys)


def test_it_reckons_with_the_present_rate_and_another(capsys, settings):
    settings.MESHES_RETENTION = settings.MESHES_RETENTION | {"events": timedelta(days=53)}
    make_events(600, 12)
    rate = re.search(r"At ([\d,]+) events a day \(lately ([\d,]+)\)", shown(capsys))
    assert rate is not None
    assert 1_100 < int(rate[1].replace(",", "")) <= 1_205
    out = shown(capsys, "--events-per-day", "1000000")
    found = re.search(r"events +([\d,.]+) (\w+) a day, kept  53 days and the rest of a week: ([\d,.]+) (\w+)", out)
    assert found is not None
    a_day, most = (bytes_of(found[1], found[2]), bytes_of(found[3], found[4]))
    assert most == pytest.approx(60 * a_day, rel=0.02)
    assert a_day > 100 * 1_000_000  # an event of nothing and its entries in indexes are more than 100 bytes


def bytes_of(number, unit):
    return float(number.replace(",", "")) * 1_000 ** ["B", "KB", "MB", "GB", "TB"].index(unit)


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(CommandError, match="1 or more"):
        call_command("size", "--events-per-day", "0")
