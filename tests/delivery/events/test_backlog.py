"""Limits on what comes in."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from delivery.events import intake
from delivery.models import Event
from meshes.kit import ids
from tests.factories import make_connection, make_deliveries, make_event, make_workspace

pytestmark = pytest.mark.django_db


def body(workspace, /, **values):
    return {"workspace": workspace.external_id, "event": "lead.created", "payload": {}} | values


def test_a_full_backlog_is_answered_429_and_others_go_on(api, redis_client):
    full, other = make_workspace(backlog_limit=3), make_workspace()
    assert [api.post("/events", body(full)).status_code for _ in range(4)] == [202, 202, 202, 429]
    refused = api.post("/events", body(full))
    assert refused["retry-after"] == "30"
    assert refused.json()["type"] == "urn:meshes:problem:rate-limited"
    assert api.post("/events", body(other)).status_code == 202
    assert Event.objects.filter(workspace=full).count() == 3


def test_open_deliveries_and_unrouted_events_fill_a_backlog():
    workspace = make_workspace()
    make_deliveries(make_connection(workspace), 2)
    make_event(workspace)
    intake._counts.clear()
    assert intake.take_room(workspace.pk, 1, 4)
    assert not intake.take_room(workspace.pk, 1, 4)


def test_nothing_is_counted_per_request():
    workspace = make_workspace()
    intake.take_room(workspace.pk, 1, 1_000_000)
    with CaptureQueriesContext(connection) as queries:
        for _ in range(20):
            intake.take_room(workspace.pk, 1, 1_000_000)
    assert len(queries) == 0


def test_a_mixed_bulk_request_is_refused_where_the_backlog_is_full(api, redis_client):
    full, other = make_workspace(backlog_limit=1), make_workspace()
    api.post("/events", body(full))
    answer = api.post("/events/bulk", {"events": [body(full), body(other), body(full)]})
    assert answer.status_code == 207
    assert [result["status"] for result in answer.json()["results"]] == [429, 202, 429]
    only_full = api.post("/events/bulk", {"events": [body(full)]})
    assert only_full.status_code == 429
    assert only_full["retry-after"] == "30"


def test_a_repeated_request_is_answered_though_the_backlog_has_filled(api, redis_client):
    workspace = make_workspace(backlog_limit=1)
    first = api.post("/events", body(workspace), idempotency_key="k")
    assert api.post("/events", body(workspace)).status_code == 429
    assert api.post("/events", body(workspace), idempotency_key="k").content == first.content


def test_a_rate_is_kept_and_the_answer_says_when_to_come_back(api, redis_client):
    slow = make_workspace(ingest_rate=0.5)
    statuses = [api.post("/events", body(slow)).status_code for _ in range(12)]
    assert statuses == [202] * 10 + [429] * 2
    refused = api.post("/events", body(slow))
    assert 1 <= int(refused["retry-after"]) <= 2
    assert Event.objects.filter(workspace=slow).count() == 10


def test_counting_one_unknown_workspace_is_nothing():
    assert intake.take_room(ids.uuid7(), 1, 1)
