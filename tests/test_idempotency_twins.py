"""Twins: the same request twice at the same time, under one `Idempotency-Key`, is carried out once."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections

from connections.models import Connection
from delivery.models import Delivery
from tests.delivery.api import Caller, account
from tests.factories import make_connection, make_deliveries, make_workspace
from tests.polling import eventually
from tests.receivers import Answer, receiver
from tests.test_idempotency_keys import connection_body, without_secrets
from workspaces.models import ApiKey, IdempotencyRecord, Workspace
from workspaces.vault.models import AccessRecord

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(key: str, path: str, document: str, threads: int = 8) -> list[tuple[int, dict[str, Any]]]:
    def post(_: int) -> tuple[int, dict[str, Any]]:
        try:
            answer = Caller(key).post(path, document, idempotency_key="k")
            return answer.status_code, answer.json()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(post, range(threads)))


def agreed(answers: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    first = without_secrets(answers[0][1])
    assert [(status, without_secrets(document)) for status, document in answers] == [(answers[0][0], first)] * len(
        answers
    )
    return first


def test_twins_make_one_of_each():
    caller, workspace = account(), make_workspace()
    target = make_connection(workspace)
    agreed(at_once(caller.key, "/workspaces", '{"name": "Acme", "external_id": "acme"}'))
    made = agreed(at_once(caller.key, "/connections", connection_body(workspace)))
    rule = {"workspace": workspace.public_id, "connection": target.public_id, "event": "*"}
    agreed(at_once(caller.key, "/rules", json.dumps(rule)))
    issued = {"name": "K", "kind": "workspace", "workspace": workspace.public_id, "scopes": ["config"]}
    answers = at_once(caller.key, "/api-keys", json.dumps(issued))
    agreed(answers)
    assert len([document for _, document in answers if document["key"]]) == 1
    assert Workspace.objects.filter(external_id="acme").count() == 1
    assert Connection.objects.filter(name="A").count() == 1
    assert ApiKey.objects.filter(name="K").count() == 1
    rotated = agreed(at_once(caller.key, f"/connections/{made['id']}/rotate-secret", "{}"))
    assert rotated["version"] == made["version"] + 1


def test_twins_send_a_dead_letter_again_once():
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    Delivery.objects.update(status="dead", cause="exhausted", attempt_number=3, budget_used=3)
    answers = at_once(account().key, f"/deliveries/{delivery.public_id}/replay", "{}")
    assert agreed(answers)["status"] == "pending"
    assert {status for status, _ in answers} == {202}


@pytest.mark.usefixtures("loopback")
def test_a_twin_of_a_test_waits_for_it_and_sends_nothing():
    waiting = threading.Event()
    with receiver() as endpoint:
        endpoint.answers = lambda got: [Answer(), waiting.wait(30)][0]
        target, key = make_connection(make_workspace(), url=endpoint.url), account().key
        path = f"/connections/{target.public_id}/test"
        with ThreadPoolExecutor(1) as pool:
            twins = pool.submit(at_once, key, path, "{}", 2)
            eventually(lambda: endpoint.got, 30)
            assert IdempotencyRecord.objects.get().status_code == 0
            waiting.set()
            answers = twins.result()
        assert agreed(answers)["ok"] is True
        assert len(endpoint.got) == 1
    assert AccessRecord.objects.filter(purpose="test").count() == 1
