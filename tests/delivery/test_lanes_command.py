"""`manage.py lanes`."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from delivery import steering
from delivery.management.commands import lanes as command

pytestmark = pytest.mark.usefixtures("redis_client")


def run(*arguments):
    out = StringIO()
    call_command("lanes", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def busy():
    lanes = steering.lanes()
    lanes.put([("conn.a", "m1", "{}"), ("conn.a", "m2", "{}"), ("conn.b", "m1", "{}")])
    lanes.pause("conn.b", 7200)
    lanes.limit("conn.a", 3, rate=2.5)


def test_it_shows_lanes_in_tables(busy):
    out = run()
    assert "2 lanes with waiting messages, 1 ready, 1 paused" in out
    assert [title for title in ("Busiest", "Paused", "Oldest") if title in out] == ["Busiest", "Paused", "Oldest"]
    assert "paused for 2.0 h more" in out
    assert "2.5" in out


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
