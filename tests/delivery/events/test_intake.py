"""Events come in."""

import json
from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from delivery.events.intake import NewEvent, insert_events
from delivery.models import Event, Payload, Unrouted
from meshes.kit import ids, partitions
from tests.delivery.api import mistakes, tenant
from tests.factories import make_workspace

pytestmark = pytest.mark.django_db


def body(workspace, /, **values):
    return {"workspace": workspace.external_id, "event": "lead.created", "payload": {"email": "a@b.c"}} | values


def test_an_event_is_stored_and_answered_202(api):
    workspace = make_workspace()
    answer = api.post("/events", body(workspace))
    assert answer.status_code == 202
    document = answer.json()
    assert list(document) == ["id", "workspace", "event", "status", "created_at"]
    event = Event.objects.get()
    assert event.public_id == document["id"]
    assert event.workspace == workspace
    assert event.type == "lead.created"
    assert event.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z") == document["created_at"]
    assert (document["workspace"], document["event"], document["status"]) == (
        workspace.external_id,
        "lead.created",
        "accepted",
    )
    assert Unrouted.objects.filter(pk=event.pk).exists()


def test_the_payload_is_kept_byte_for_byte(api):
    workspace = make_workspace()
    text = '{"z": 1.10,  "a":\t[1e2, "\\u00e9é"], "m": {}}'
    answer = api.post("/events", f'{{ "event":"a.b", "payload" : {text} , "workspace":"{workspace.public_id}"}}')
    assert answer.status_code == 202
    event_id = answer.json()["id"]
    assert Payload.objects.get().body == text
    got = api.get(f"/events/{event_id}/payload")
    assert got.content.decode() == text
    assert got["content-type"] == "application/json"
    assert Event.objects.get().payload_bytes == len(text.encode())


@pytest.mark.parametrize(
    ("change", "pointer", "rule"),
    [
        ({"event": "lead created"}, "/event", "event_type"),
        ({"event": ""}, "/event", "event_type"),
        ({"event": "x" * 129}, "/event", "event_type"),
        ({"event": "lead.created\n"}, "/event", "event_type"),
        ({"event": 5}, "/event", "event_type"),
        ({"payload": []}, "/payload", "type"),
        ({"payload": None}, "/payload", "type"),
        ({"payload": "text"}, "/payload", "type"),
        ({"workspace": 5}, "/workspace", "type"),
        ({"workspace": "nobody"}, "/workspace", "unknown"),
        ({"workspace": ""}, "/workspace", "unknown"),
        ({"workspace": "a b"}, "/workspace", "unknown"),
        ({"id": "evt_1"}, "/id", "unknown_field"),
    ],
)
def test_a_bad_event_is_refused_by_name_and_nothing_is_stored(api, change, pointer, rule):
    answer = api.post("/events", body(make_workspace()) | change)
    assert answer.status_code == 422
    assert mistakes(answer) == {pointer: rule}
    assert not Event.objects.exists()


def test_every_missing_field_is_named(api):
    answer = api.post("/events", {})
    assert answer.status_code == 422
    assert mistakes(answer) == {"/workspace": "required", "/event": "required", "/payload": "required"}


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"[]", 422),
        (b"null", 422),
        (b'{"payload":{"a":NaN}}', 400),
        (b'{"payload":{"a":1e400}}', 400),
        (b'{"payload":{"a":"\\u0000"}}', 400),
        (b'{"payload":{"a":"\\ud800"}}', 400),
        (b'{"payload":{"a":1,"a":2}}', 400),
        (b'{"payload":' + b"[" * 200 + b"]" * 200 + b"}", 400),
        (b'{"payload":{"a":' + b"9" * 4000 + b"}}", 400),
        (b'{"payload":{"a":"\xff"}}', 400),
        ('{"payload":{}}'.encode("utf-16"), 400),
        (json.dumps({"payload": {str(n): n for n in range(1001)}}).encode(), 400),
        (b'{"payload":{"a":"' + b"x" * 262_144 + b'"}}', 413),
    ],
)
def test_hostile_bodies_are_refused(api, raw, status):
    answer = api.post("/events", raw)
    assert answer.status_code == status
    assert answer["content-type"] == "application/problem+json"
    assert not Event.objects.exists()


def test_a_foreign_workspace_is_an_unknown_one():
    own, foreign = make_workspace(), make_workspace()
    caller = tenant(own)
    refused = caller.post("/events", body(foreign))
    unknown = caller.post("/events", body(foreign, workspace="nobody"))
    assert (refused.status_code, refused.json()) == (unknown.status_code, unknown.json())
    assert not Event.objects.exists()
    assert caller.post("/events", body(own)).status_code == 202


def test_a_publishable_key_posts_single_events_only():
    workspace = make_workspace()
    caller = tenant(workspace, "events:write", kind="publishable")
    assert caller.post("/events", body(workspace)).status_code == 202
    assert caller.post("/events/bulk", {"events": [body(workspace)]}).status_code == 403
    assert caller.get("/events").status_code == 403
    assert Event.objects.count() == 1


def test_a_deleted_workspace_refuses_events(api):
    workspace = make_workspace(deleted_at="2026-01-01T00:00:00Z")
    answer = api.post("/events", body(workspace, workspace=workspace.public_id))
    assert answer.status_code == 422
    assert mistakes(answer) == {"/workspace": "unknown"}


def test_any_number_of_events_is_one_statement():
    workspace = make_workspace()
    events = [NewEvent(workspace.pk, "a.b", f'{{"n":{number}}}') for number in range(300)]
    with CaptureQueriesContext(connection) as queries:
        insert_events(events)
    assert len(queries) == 1
    assert Event.objects.count() == Payload.objects.count() == Unrouted.objects.count() == 300
    assert Payload.objects.get(pk=events[7].id).body == '{"n":7}'


def drop_partition(table):
    partition = partitions.Partition(table, partitions.week_of(datetime.now(UTC)))
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} DETACH PARTITION {partition.name}")
        cursor.execute(f"DROP TABLE {partition.name}")


@pytest.mark.parametrize("table", ["events", "payloads"])
@pytest.mark.parametrize("path", ["/events", "/events/bulk"])
def test_without_a_partition_an_event_is_to_be_sent_again(api, path, table):
    workspace = make_workspace()
    drop_partition(table)
    sent = body(workspace) if path == "/events" else {"events": [body(workspace)]}
    answer = api.post(path, sent)
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert answer.json()["type"] == "urn:meshes:problem:unavailable"
    assert not Event.objects.exists()
    assert not Unrouted.objects.exists()


def test_once_there_is_a_partition_the_same_event_is_accepted(api):
    workspace = make_workspace()
    drop_partition("payloads")
    assert api.post("/events", body(workspace)).status_code == 503
    assert not Event.objects.exists()
    partitions.ensure_ahead("payloads", datetime.now(UTC))
    assert api.post("/events", body(workspace)).status_code == 202
    assert Event.objects.count() == Payload.objects.count() == Unrouted.objects.count() == 1


# --- bulk -----------------------------------------------------------------------------------------------------------


def test_bulk_accepts_events_of_several_workspaces(api):
    first, second = make_workspace(), make_workspace()
    answer = api.post("/events/bulk", {"events": [body(first), body(second, event="deal.won")]})
    assert answer.status_code == 202
    document = answer.json()
    assert (document["accepted"], document["refused"]) == (2, 0)
    assert [(result["index"], result["status"], result["event"]["workspace"]) for result in document["results"]] == [
        (0, 202, first.external_id),
        (1, 202, second.external_id),
    ]
    assert {event.workspace_id for event in Event.objects.all()} == {first.pk, second.pk}


def test_bulk_stores_the_good_and_names_the_bad(api):
    workspace = make_workspace()
    events = [
        body(workspace),
        body(workspace, event="no good"),
        7,
        body(workspace, workspace="nobody"),
        body(workspace),
    ]
    answer = api.post("/events/bulk", {"events": events})
    assert answer.status_code == 207
    document = answer.json()
    assert [result["status"] for result in document["results"]] == [202, 422, 422, 422, 202]
    pointers = [result["problem"]["errors"][0]["pointer"] for result in document["results"] if "problem" in result]
    assert pointers == ["/events/1/event", "/events/2", "/events/3/workspace"]
    stored = {ids.encode(ids.EVENT, event.pk) for event in Event.objects.all()}
    assert stored == {document["results"][0]["event"]["id"], document["results"][4]["event"]["id"]}


def test_bulk_of_bad_events_only_is_refused(api):
    answer = api.post("/events/bulk", {"events": [body(make_workspace(), event="no good")]})
    assert answer.status_code == 422
    assert mistakes(answer) == {"/events/0/event": "event_type"}


@pytest.mark.parametrize(
    ("document", "pointer", "rule"),
    [
        ({}, "/events", "required"),
        ({"events": {}}, "/events", "type"),
        ({"events": []}, "/events", "length"),
        ({"events": [{}] * 501}, "/events", "length"),
        ({"events": [{}], "more": 1}, "/more", "unknown_field"),
    ],
)
def test_what_is_no_bulk_body_is_refused(api, document, pointer, rule):
    answer = api.post("/events/bulk", document)
    assert answer.status_code == 422
    assert mistakes(answer) == {pointer: rule}


def test_each_payload_of_a_bulk_body_has_the_limits_of_one(api):
    workspace = make_workspace()
    large = body(workspace, payload={"text": "x" * 262_144})
    many = body(workspace, payload={str(number): 1 for number in range(1001)})
    answer = api.post("/events/bulk", {"events": [large, many, body(workspace)]})
    assert answer.status_code == 207
    problems = [result["problem"]["errors"][0] for result in answer.json()["results"][:2]]
    assert [(mistake["pointer"], mistake["rule"]) for mistake in problems] == [
        ("/events/0/payload", "too_large"),
        ("/events/1/payload", "too_many_keys"),
    ]
    assert Event.objects.count() == 1


def test_500_events_are_accepted_at_once(api):
    workspace = make_workspace(ingest_rate=1000)
    answer = api.post("/events/bulk", {"events": [body(workspace)] * 500})
    assert answer.status_code == 202
    assert Event.objects.count() == 500
    assert len({result["event"]["id"] for result in answer.json()["results"]}) == 500
