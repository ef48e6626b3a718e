"""The same request twice is carried out once and answered twice."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections

from delivery.models import Event, Payload, Unrouted
from tests.delivery.api import Caller, account, mistakes, tenant
from tests.factories import make_workspace
from workspaces import idempotency
from workspaces.models import IdempotencyRecord

pytestmark = pytest.mark.django_db


def body(workspace, /, **values):
    return {"workspace": workspace.external_id, "event": "lead.created", "payload": {"n": 1}} | values


def test_the_same_key_and_body_get_the_same_answer(api):
    document = body(make_workspace())
    first = api.post("/events", document, idempotency_key="order-1")
    again = api.post("/events", document, idempotency_key="order-1")
    assert first.status_code == again.status_code == 202
    assert first.content == again.content
    assert Event.objects.count() == Unrouted.objects.count() == 1


def test_another_body_under_the_same_key_is_refused(api):
    workspace = make_workspace()
    api.post("/events", body(workspace), idempotency_key="order-1")
    refused = api.post("/events", body(workspace, payload={"n": 2}), idempotency_key="order-1")
    assert refused.status_code == 422
    assert refused.json()["type"] == "urn:meshes:problem:idempotency-key-reused"
    assert mistakes(refused) == {"Idempotency-Key": "reused"}
    assert Event.objects.count() == 1


def test_a_key_belongs_to_its_workspace_and_path(api):
    first, second = make_workspace(), make_workspace()
    for workspace in (first, second):
        assert api.post("/events", body(workspace), idempotency_key="k").status_code == 202
    assert api.post("/events/bulk", {"events": [body(first)]}, idempotency_key="k").status_code == 202
    assert Event.objects.count() == 3


def test_bulk_answers_are_repeated_with_what_was_refused(api):
    document = {"events": [body(make_workspace()), {"event": "x"}]}
    first = api.post("/events/bulk", document, idempotency_key="b")
    again = api.post("/events/bulk", document, idempotency_key="b")
    assert first.status_code == again.status_code == 207
    assert first.content == again.content
    assert Event.objects.count() == 1


def test_bulk_keys_of_two_account_keys_are_apart(db):
    document = {"events": [body(make_workspace())]}
    answers = {caller.post("/events/bulk", document, idempotency_key="b").content for caller in (account(), account())}
    assert len(answers) == 2
    assert Event.objects.count() == 2


def test_bulk_keys_of_one_workspace_are_shared_by_its_keys():
    workspace = make_workspace()
    document = {"events": [body(workspace)]}
    callers = (tenant(workspace), tenant(workspace))
    assert len({caller.post("/events/bulk", document, idempotency_key="b").content for caller in callers}) == 1


def test_a_refused_request_may_be_mended_under_its_key(api):
    workspace = make_workspace()
    assert api.post("/events", body(workspace, event="no good"), idempotency_key="k").status_code == 422
    assert not IdempotencyRecord.objects.exists()
    assert api.post("/events", body(workspace), idempotency_key="k").status_code == 202


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "tab\there"])
def test_a_malformed_key_is_refused(api, key):
    refused = api.post("/events", body(make_workspace()), idempotency_key=key)
    assert refused.status_code == 400
    assert mistakes(refused) == {"Idempotency-Key": "pattern"}
    assert not Event.objects.exists()


@pytest.mark.parametrize("key", ["!", "x" * 255])
def test_every_visible_character_and_255_of_them_make_a_key(api, key):
    assert api.post("/events", body(make_workspace()), idempotency_key=key).status_code == 202


def test_a_key_is_free_again_after_24_hours(api):
    workspace = make_workspace()
    api.post("/events", body(workspace), idempotency_key="k")
    IdempotencyRecord.objects.update(created_at=datetime.now(UTC) - timedelta(hours=24, seconds=1))
    answer = api.post("/events", body(workspace, payload={"n": 2}), idempotency_key="k")
    assert answer.status_code == 202
    assert Event.objects.count() == 2
    assert IdempotencyRecord.objects.count() == 1
    assert api.post("/events", body(workspace), idempotency_key="k").status_code == 422


def test_old_records_are_removed_in_batches(api):
    workspace = make_workspace()
    for number in range(4):
        api.post("/events", body(workspace), idempotency_key=f"k{number}")
    now = datetime.now(UTC)
    IdempotencyRecord.objects.exclude(key="k3").update(created_at=now - timedelta(hours=25))
    assert idempotency.expire(now, most=2) == 2
    assert idempotency.expire(now, most=2) == 1
    assert idempotency.expire(now, most=2) == 0
    assert IdempotencyRecord.objects.get().key == "k3"


def _post(key: str, document: str, header: str) -> tuple[int, bytes]:
    try:
        answer = Caller(key).post("/events", document, idempotency_key=header)
        return answer.status_code, answer.content
    finally:
        connections.close_all()


@pytest.mark.django_db(transaction=True)
def test_50_requests_at_once_make_one_event():
    caller = account()
    document = json.dumps(body(make_workspace()))
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: _post(caller.key, document, "order-1"), range(50)))
    assert len(set(answers)) == 1
    assert answers[0][0] == 202
    assert Event.objects.count() == Payload.objects.count() == Unrouted.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_two_bodies_at_once_one_wins_and_the_other_is_told():
    caller, workspace = account(), make_workspace()
    documents = [json.dumps(body(workspace, payload={"n": number % 2})) for number in range(20)]
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda document: _post(caller.key, document, "order-1"), documents))
    assert sorted(status for status, _ in answers) == [202] * 10 + [422] * 10
    assert Event.objects.count() == 1
