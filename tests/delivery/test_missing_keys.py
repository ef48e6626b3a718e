"""Documents whose key is not among `FERNET_KEYS`: nothing is sent, nothing is lost, and all returns by itself."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from connections import probing
from connections.credentials import KEY_MISSING_WORDS
from connections.models import AccessRecord, Connection
from tests.connections.conftest import use_keys  # noqa: F401
from tests.delivery.test_dispatch import attempts_of, deliver, health_of, make_due
from tests.factories import make_connection, make_deliveries, make_workspace
from tests.workspaces.callers import caller, post

pytestmark = pytest.mark.django_db


def end_pause(target):
    Connection.objects.filter(pk=target.pk).update(paused_until=None)


def test_deliveries_wait_and_go_on_when_the_key_is_back(endpoint, use_keys):  # noqa: F811
    use_keys("old")
    target = make_connection(make_workspace(), url=endpoint.url, retry_schedule=[0])
    (delivery,) = make_deliveries(target)
    use_keys("another")
    for number in range(1, 8):  # more than a breaker, a schedule or a poison would bear
        make_due(delivery)
        end_pause(target)
        assert deliver(delivery) == 1
        target.refresh_from_db()
        assert (target.status, delivery.status, delivery.attempt_number) == ("active", "pending", number)
        assert timedelta(seconds=50) < target.paused_until - datetime.now(UTC) <= timedelta(seconds=60)
    assert (delivery.budget_used, delivery.losses, delivery.cause) == (0, 0, "key_missing")
    assert health_of(target).consecutive_failures == 0
    last = attempts_of(delivery)[-1]
    assert (last.outcome, last.error_class, last.error) == ("retry", "key_missing", KEY_MISSING_WORDS)
    assert AccessRecord.objects.filter(owner_id=target.pk, granted=False, attempt_number=7).count() == 1
    assert endpoint.got == []
    use_keys("new", "old")
    make_due(delivery)
    end_pause(target)
    assert deliver(delivery) == 1
    assert (delivery.status, len(endpoint.got)) == ("succeeded", 1)
    target.refresh_from_db()
    assert (target.status, target.paused_until, health_of(target).breaker) == ("active", None, "closed")


def test_a_test_of_the_connection_changes_no_status(endpoint, use_keys):  # noqa: F811
    use_keys("old")
    target = make_connection(make_workspace(), url=endpoint.url)
    use_keys("another")
    probe = probing.probe(target, actor="test")
    assert (probe.ok, probe.error_class, probe.words, probe.status) == (
        False,
        "key_missing",
        KEY_MISSING_WORDS,
        "active",
    )
    assert endpoint.got == []
    use_keys("old")
    assert probing.probe(target, actor="test").ok is True


def test_what_meshes_made_is_not_made_anew_over_a_document_that_waits_for_its_key(endpoint, use_keys):  # noqa: F811
    use_keys("old")
    workspace = make_workspace()
    target = make_connection(workspace, url=endpoint.url)
    api = caller("workspace", workspace=workspace)
    use_keys("another")
    for change in ({"credentials": {"token": "new"}},):
        answer = api.patch(
            f"/api/v1/connections/{target.public_id}", json.dumps(change), content_type="application/json"
        )
        assert (answer.status_code, answer.json()["detail"]) == (409, KEY_MISSING_WORDS)
    answer = post(api, f"/api/v1/connections/{target.public_id}/rotate-secret")
    assert (answer.status_code, answer.json()["detail"]) == (409, KEY_MISSING_WORDS)
    use_keys("old")
    (delivery,) = make_deliveries(target)
    assert deliver(delivery) == 1
    assert delivery.status == "succeeded"
