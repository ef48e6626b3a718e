"""`manage.py lanes`."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection

from delivery.management.commands import lanes as command
from tests.factories import make_connection, make_workspace, own_lanes

pytestmark = pytest.mark.usefixtures("redis_client")


def run(*arguments):
    out = StringIO()
    call_command("lanes", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def busy():
    lanes = own_lanes()
    lanes.put([("conn.a", "m1", "{}"), ("conn.a", "m2", "{}"), ("conn.b", "m1", "{}")])
    lanes.pause("conn.b", 7200)
    lanes.limit("conn.a", 3, rate=2.5)


def test_it_shows_lanes_in_tables(busy):
    out = run()
    assert "2 lanes with waiting messages, 1 ready, 1 paused" in out
    assert [title for title in ("Busiest", "Paused", "Oldest") if title in out] == ["Busiest", "Paused", "Oldest"]
    assert "paused for 2.0 h more" in out
    assert "2.5" in out


@pytest.mark.django_db
def test_it_says_whose_a_lane_is_by_ids_that_the_api_and_the_admin_take():
    target = make_connection(make_workspace(name="Northwind"), name="CRM [red]\x1b[2J")
    owner, stranger = target.workspace, uuid.uuid4()
    lanes = own_lanes()
    lanes.put([(f"conn.{target.pk}", "m1", "{}"), (f"conn.{stranger}", "m1", "{}"), ("conn.a", "m1", "{}")])
    lanes.put([(f"fanout.{owner.pk}", "m1", "{}")])
    out = run()
    lines = [line.split("│")[0].strip() for line in out.splitlines()]
    place = lines.index(f"conn.{target.pk}")
    assert lines[place + 1 : place + 3] == [f"{target.public_id} CRM [red]\ufffd[2J", f"{owner.public_id} Northwind"]
    assert lines[lines.index(f"fanout.{owner.pk}") + 1] == f"{owner.public_id} Northwind"
    assert f"conn.{stranger}" in lines
    deliver, fanout = json.loads(run("--json"))["rings"]
    found = {lane.pop("lane"): lane for lane in [*deliver["busiest"], *fanout["busiest"]]}
    names = ("connection_id", "connection_name", "workspace_id", "workspace_name")
    whose = {lane: tuple(values[name] for name in names) for lane, values in found.items()}
    assert whose == {
        f"conn.{target.pk}": (target.public_id, target.name, owner.public_id, "Northwind"),
        f"fanout.{owner.pk}": (None, None, owner.public_id, "Northwind"),
        f"conn.{stranger}": (None,) * 4,
        "conn.a": (None,) * 4,
    }


@pytest.mark.django_db
def test_columns_stay_in_line_beside_a_long_name():
    target = make_connection(make_workspace(), name="C" * 200)
    own_lanes().put([(f"conn.{target.pk}", "m1", "{}"), ("conn.a", "m1", "{}")])
    out = run()
    table = [line for line in out.splitlines() if "│" in line]
    assert {line.index("│") for line in table} == {77}
    (named,) = {line.split(" │")[0] for line in table if "CCC" in line}
    assert named == f"{target.public_id} {'C' * (75 - len(target.public_id) - 1)}…"


@pytest.mark.django_db
def test_without_the_database_it_shows_the_lanes_alone(monkeypatch, capsys):
    lane = f"conn.{uuid.uuid4()}"
    own_lanes().put([(lane, "m1", "{}")])

    def fail(*args, **kwargs):
        raise OperationalError("could not connect to db.internal")

    monkeypatch.setattr(connection, "cursor", fail)
    assert lane in run()
    assert capsys.readouterr().err == "The database does not tell whose the lanes are: OperationalError\n"


def test_it_writes_json(busy):
    deliver, fanout = json.loads(run("--json", "--most", "1"))["rings"]
    assert (deliver["ring"], fanout["ring"]) == ("deliver", "fanout")
    assert deliver["stats"]["busy"] == 2
    assert [(lane["lane"], lane["waiting"], lane["rate"]) for lane in deliver["busiest"]] == [("conn.a", 2, 2.5)]
    assert [lane["lane"] for lane in deliver["paused"]] == ["conn.b"]
    assert fanout["busiest"] == []


def test_it_shows_no_password():
    assert command.address("rediss://user:secret@broker:6379/1") == "rediss://broker:6379/1"
    assert command.address("unix:///run/valkey?password=secret") == "unix:///run/valkey"


def test_it_says_when_a_broker_does_not_answer(settings):
    settings.MESHES_REDIS_SHARDS = ["redis://127.0.0.1:1/0"]
    with pytest.raises(CommandError, match="does not answer"):
        run()


def test_it_shows_a_few_lanes_only():
    with pytest.raises(CommandError, match="from 1 to 1000"):
        run("--most", "0")


@pytest.mark.parametrize(("seconds", "words"), [(0.25, "0.2 s"), (90, "1.5 min"), (5400, "1.5 h"), (129600, "1.5 d")])
def test_spans_are_told_in_their_largest_unit(seconds, words):
    now = datetime.now(UTC)
    assert command.age(now, now + timedelta(seconds=seconds)) == words
