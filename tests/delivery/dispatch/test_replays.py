"""Replays over a filter: in order, paced, through crashes, until they are done or cancelled."""

from datetime import UTC, datetime, timedelta

import pytest

from delivery.dispatch import replays
from delivery.dispatch.replays import ROOM_IN_LANE, advance_replays, paced
from delivery.models import Delivery, Payload, Replay
from meshes.kit import ids
from tests.delivery.api import mistakes, tenant
from tests.factories import make_connection, make_deliveries, make_rule, make_workspace

pytestmark = pytest.mark.django_db


def dead_letters(connection, number=1, **values):
    made = make_deliveries(connection, number)
    rows = Delivery.objects.filter(pk__in=[delivery.pk for delivery in made])
    rows.update(status="dead", cause="exhausted", budget_used=8, next_attempt_at=None, **values)
    return made


def begin(api, workspace, document=None, **values):
    body = {"workspace": workspace.external_id, "filter": document or {}} | values
    return api.post("/replays", body)


def later(seconds):
    return datetime.now(UTC) + timedelta(seconds=seconds)


# --- pace, pure -----------------------------------------------------------------------------------------------------


def candidates(*connections_and_rates):
    return [(ids.uuid7(), connection, rate) for connection, rate in connections_and_rates]


def test_half_of_a_connections_rate_is_taken():
    connection = ids.uuid7()
    row = candidates(*[(connection, 20.0)] * 30)
    batch, seconds = paced(row, {connection: ROOM_IN_LANE})
    assert batch == row[:10]
    assert seconds == pytest.approx(1.0)


def test_a_slow_connection_gets_one_at_a_time():
    connection = ids.uuid7()
    batch, seconds = paced(candidates((connection, 0.5), (connection, 0.5)), {connection: ROOM_IN_LANE})
    assert len(batch) == 1
    assert seconds == pytest.approx(4.0)


def test_without_a_rate_100_a_second_are_reopened_over_several_connections():
    connections = [ids.uuid7(), ids.uuid7()]
    row = candidates(*[(connections[number % 2], None) for number in range(100)])
    batch, seconds = paced(row, dict.fromkeys(connections, ROOM_IN_LANE))
    assert len(batch) == 100
    assert seconds == pytest.approx(1.0)


def test_a_full_lane_is_left_alone():
    connection = ids.uuid7()
    assert paced(candidates((connection, None)), {connection: 0}) == ([], replays.PAUSE_SECONDS)
    batch, _ = paced(candidates(*[(connection, None)] * 9), {connection: 4})
    assert len(batch) == 4


def test_order_is_kept():
    slow, fast = ids.uuid7(), ids.uuid7()
    row = candidates((slow, 2.0), (slow, 2.0), (fast, None))
    batch, _ = paced(row, dict.fromkeys((slow, fast), ROOM_IN_LANE))
    assert batch == row[:1]


# --- replays --------------------------------------------------------------------------------------------------------


def test_a_replay_reopens_what_its_filter_names_and_counts(api):
    workspace = make_workspace()
    connection = make_connection(workspace)
    made = dead_letters(connection, 3)
    (alive,) = make_deliveries(connection)
    answer = begin(api, workspace)
    assert answer.status_code == 202
    document = answer.json()
    assert (document["status"], document["total"], document["total_is_exact"]) == ("running", 3, True)
    assert advance_replays(later(0)) == 3
    running = api.get(f"/replays/{document['id']}").json()
    assert (running["reopened"], running["skipped"]) == (3, 0)
    assert running["deliveries"] == {
        "pending": 3, "succeeded": 0, "held": 0, "dead": 0, "cancelled": 0, "in_flight": 0,
    }  # fmt: skip
    assert advance_replays(later(2)) == 0
    finished = api.get(f"/replays/{document['id']}").json()
    assert (finished["status"], finished["total"]) == ("completed", 3)
    assert finished["finished_at"] is not None
    rows = Delivery.objects.filter(pk__in=[delivery.pk for delivery in made])
    assert {(row.status, row.budget_used, row.cause) for row in rows} == {("pending", 0, "")}
    assert {row.replay_id for row in rows} == {Replay.objects.get().pk}
    alive.refresh_from_db()
    assert alive.replay_id is None


def test_a_replay_goes_at_its_pace_in_the_order_of_events(api):
    workspace = make_workspace()
    connection = make_connection(workspace, rate=4.0)
    made = dead_letters(connection, 5)
    begin(api, workspace)
    assert advance_replays(later(0)) == 2
    reopened = Delivery.objects.filter(status="pending").order_by("pk").values_list("pk", flat=True)
    assert list(reopened) == [delivery.pk for delivery in made[:2]]
    assert advance_replays(later(0.5)) == 0
    assert advance_replays(later(1.5)) == 2
    assert advance_replays(later(3)) == 1
    assert advance_replays(later(5)) == 0
    assert Replay.objects.get().status == "completed"


def test_a_replay_waits_while_its_lane_is_full(api):
    workspace = make_workspace()
    connection = make_connection(workspace)
    dead_letters(connection, 1)
    make_deliveries(connection, ROOM_IN_LANE)
    begin(api, workspace)
    assert advance_replays(later(5)) == 0
    assert Replay.objects.get().status == "running"
    Delivery.objects.filter(status="pending").update(status="succeeded", next_attempt_at=None)
    assert advance_replays(later(10)) == 1


def test_what_dies_again_is_not_replayed_twice(api):
    workspace = make_workspace()
    dead_letters(make_connection(workspace), 2)
    begin(api, workspace)
    advance_replays(later(0))
    Delivery.objects.update(status="dead", next_attempt_at=None)
    assert advance_replays(later(5)) == 0
    assert Replay.objects.get().status == "completed"


def test_what_comes_after_the_replay_is_not_part_of_it(api):
    workspace = make_workspace()
    connection = make_connection(workspace)
    begin(api, workspace)
    dead_letters(connection, 1)
    assert advance_replays(later(0)) == 0
    assert Replay.objects.get().status == "completed"


def test_what_cannot_be_reopened_is_skipped(api):
    workspace = make_workspace()
    gone, kept = dead_letters(make_connection(workspace), 2)
    Payload.objects.filter(pk=gone.event_id).update(body="", erased_at=later(0))
    begin(api, workspace)
    assert advance_replays(later(0)) == 1
    advance_replays(later(5))
    done = Replay.objects.get()
    assert (done.status, done.reopened, done.skipped, done.total) == ("completed", 1, 1, 2)
    kept.refresh_from_db()
    assert kept.status == "pending"


def test_failed_mappings_are_shaped_anew(api):
    workspace = make_workspace()
    connection = make_connection(workspace)
    rule = make_rule(connection, mapping=[{"to": "phone", "from": "payload.phone", "on_error": "fail"}])
    (delivery,) = make_deliveries(connection)
    rule.mapping = [{"to": "mail", "from": "payload.email"}]
    rule.version += 1
    rule.save()
    begin(api, workspace, {"cause": "mapping_failed"})
    assert advance_replays(later(0)) == 1
    delivery.refresh_from_db()
    assert delivery.body == '{"mail":"ada@example.com"}'


def test_a_failure_between_batches_neither_skips_nor_repeats_nor_stops_others(api, monkeypatch, caplog):
    workspace, other = make_workspace(), make_workspace()
    dead_letters(make_connection(workspace, rate=2.0), 3)
    begin(api, workspace)
    assert advance_replays(later(0)) == 1
    dead_letters(make_connection(other), 1)
    begin(api, other)
    failing, move = Replay.objects.get(workspace=workspace), replays._move

    def fail_once(found, *args, **kwargs):
        if found.pk == failing.pk:
            raise ValueError("this replay cannot be read")
        move(found, *args, **kwargs)

    monkeypatch.setattr(replays, "_move", fail_once)
    assert advance_replays(later(5)) == 1
    monkeypatch.undo()
    assert "this replay cannot be read" in caplog.text
    mine = Delivery.objects.filter(workspace=workspace, status="pending")
    assert mine.count() == 1
    assert advance_replays(later(30)) == 0
    assert [advance_replays(later(66 + 5 * step)) for step in range(3)] == [1, 1, 0]
    assert mine.count() == 3


def test_a_cancelled_replay_stops(api):
    workspace = make_workspace()
    dead_letters(make_connection(workspace, rate=2.0), 3)
    public_id = begin(api, workspace).json()["id"]
    advance_replays(later(0))
    answer = api.post(f"/replays/{public_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert advance_replays(later(60)) == 0
    assert Delivery.objects.filter(status="pending").count() == 1
    assert api.post(f"/replays/{public_id}/cancel").status_code == 409


def test_filters_narrow_a_replay(api):
    workspace = make_workspace()
    first, second = make_connection(workspace), make_connection(workspace)
    (one,) = dead_letters(first)
    succeeded = make_deliveries(second)[0]
    Delivery.objects.filter(pk=succeeded.pk).update(status="succeeded", next_attempt_at=None)

    def count(**document):
        return begin(api, workspace, document, dry_run=True).json()["count"]

    assert count() == 1
    assert count(connection=first.public_id) == 1
    assert count(connection=second.public_id) == 0
    assert count(status="succeeded") == 1
    assert count(cause="exhausted", event="lead.created") == 1
    assert count(cause="rejected") == 0
    assert count(event=ids.encode(ids.EVENT, one.event_id)) == 1
    assert count(**{"from": "2020-01-01", "to": "2020-02-01"}) == 0


def test_a_dry_run_counts_and_shows_three_requests_and_changes_nothing(api):
    workspace = make_workspace()
    made = dead_letters(make_connection(workspace), 5, attempt_number=8)
    answer = begin(api, workspace, dry_run=True)
    assert answer.status_code == 200
    document = answer.json()
    assert (document["count"], document["count_is_exact"]) == (5, True)
    assert [sample["delivery"] for sample in document["samples"]] == [delivery.public_id for delivery in made[:3]]
    request = document["samples"][0]["request"]
    headers = dict(map(tuple, request["headers"]))
    assert headers["webhook-id"] == made[0].public_id
    assert headers["webhook-signature"] == "••••"
    assert "ada@example.com" in request["body"]
    assert not Replay.objects.exists()
    assert not Delivery.objects.exclude(status="dead").exists()


def test_a_dry_run_says_what_could_not_be_sent(api):
    workspace = make_workspace()
    dead_letters(make_connection(workspace))
    Payload.objects.update(body="", erased_at=later(0))
    (sample,) = begin(api, workspace, dry_run=True).json()["samples"]
    assert (sample["request"], sample["error"]) == (None, replays.NOT_KEPT)


@pytest.mark.parametrize(
    ("change", "pointer", "rule"),
    [
        ({"filter": {"status": "pending"}}, "/filter/status", "invalid_choice"),
        ({"filter": {"outcome": "retry"}}, "/filter/outcome", "unknown_field"),
        ({"filter": {"connection": "conn_1"}}, "/filter/connection", "public_id"),
        ({"filter": {"from": 5}}, "/filter/from", "type"),
        ({"filter": 5}, "/filter", "invalid"),
        ({"dry_run": "yes"}, "/dry_run", "type"),
        ({"workspace": "nobody"}, "/workspace", "unknown"),
    ],
)
def test_a_bad_replay_is_refused(api, change, pointer, rule):
    answer = api.post("/replays", {"workspace": make_workspace().external_id, "filter": {}} | change)
    assert answer.status_code == 422
    assert mistakes(answer) == {pointer: rule}
    assert not Replay.objects.exists()


def test_a_replay_touches_its_own_workspace_only(api):
    own, foreign = make_workspace(), make_workspace()
    dead_letters(make_connection(own))
    (other,) = dead_letters(make_connection(foreign))
    begin(api, own)
    assert advance_replays(later(0)) == 1
    other.refresh_from_db()
    assert other.status == "dead"


def test_a_foreign_replay_is_an_unknown_one(api):
    workspace = make_workspace()
    public_id = begin(api, workspace).json()["id"]
    caller = tenant(make_workspace())
    unknown = ids.encode(ids.REPLAY, ids.uuid7())
    assert caller.get(f"/replays/{public_id}").content == caller.get(f"/replays/{unknown}").content
    assert caller.post(f"/replays/{public_id}/cancel").status_code == 404
    assert mistakes(begin(caller, workspace)) == {"/workspace": "unknown"}
    assert caller.get("/replays").json()["data"] == []
    assert Replay.objects.get().status == "running"


@pytest.mark.parametrize(
    ("wanted", "pointer", "words"),
    [
        ({"cause": "rejectd"}, "/filter/cause", "Did you mean rejected?"),
        ({"cause": "paused"}, "/filter/cause", '"paused" is none of exhausted, rejected,'),
        ({"event": "evt_01k000"}, "/filter/event", '"evt_01k000" is no whole id'),
        ({"event": "rule_01k000"}, "/filter/event", '"rule_01k000" is no whole id'),
    ],
)
def test_a_misspelt_filter_makes_no_replay(api, wanted, pointer, words):
    refused = api.post("/replays", {"workspace": make_workspace().public_id, "filter": wanted})
    (error,) = refused.json()["errors"]
    assert (refused.status_code, error["pointer"]) == (422, pointer)
    assert words in error["detail"]
    assert not Replay.objects.exists()


def test_a_replay_whose_filter_was_accepted_before_ends(api):
    workspace = make_workspace()
    (delivery,) = dead_letters(make_connection(workspace))
    begin(api, workspace)
    Replay.objects.update(filter={"cause": "rejectd", "event": "evt_01k000"})
    assert advance_replays(later(0)) == 0
    shown = api.get(f"/replays/{Replay.objects.get().public_id}").json()
    assert (shown["status"], shown["reopened"]) == ("completed", 0)
    assert Delivery.objects.get(pk=delivery.pk).status == "dead"
