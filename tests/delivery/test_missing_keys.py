"""Documents whose key is not among `FERNET_KEYS`: nothing is sent, nothing is lost, and all returns by itself."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from connections import calls, lifecycle
from connections.credentials import KEY_MISSING_WORDS, REFUSED_WORDS
from connections.models import Connection
from delivery.dispatch import connection_health, hold, sweep
from tests.delivery.dispatch.test_dispatch import attempts_of, health_of, make_due
from tests.factories import deliver, make_connection, make_deliveries, make_workspace
from tests.workspaces.callers import caller, post
from workspaces.vault.models import AccessRecord, SealedDocument

pytestmark = pytest.mark.django_db


def end_pause(target):
    Connection.objects.filter(pk=target.pk).update(paused_until=None)


def test_deliveries_wait_and_go_on_when_the_key_is_back(endpoint, use_keys):
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


def test_a_test_of_the_connection_changes_no_status(endpoint, use_keys):
    use_keys("old")
    target = make_connection(make_workspace(), url=endpoint.url)
    use_keys("another")
    probe = calls.probe(target, actor="test")
    assert (probe.ok, probe.error_class, probe.words, probe.status) == (
        False,
        "key_missing",
        KEY_MISSING_WORDS,
        "active",
    )
    assert endpoint.got == []
    use_keys("old")
    assert calls.probe(target, actor="test").ok is True


def test_what_meshes_made_is_not_made_anew_over_a_document_that_waits_for_its_key(endpoint, use_keys):
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


# --- what is told of it ---------------------------------------------------------------------------------------------


def health_shown(target):
    target = Connection.objects.select_related("health").get(pk=target.pk)
    found = connection_health.examine(target, datetime.now(UTC))
    return found["status"], found["reason"], found["until"]


def test_health_says_credential_error_and_the_connection_stays_active(endpoint, use_keys):
    use_keys("old")
    target = make_connection(make_workspace(), url=endpoint.url)
    other = make_connection(make_workspace(), url=endpoint.url)
    (delivery,) = make_deliveries(target)
    use_keys("another")
    renewed = make_connection(make_workspace(), url=endpoint.url)
    assert health_shown(other) == ("credential_error", KEY_MISSING_WORDS, None)
    assert deliver(delivery) == 1
    target.refresh_from_db()
    assert (target.status, delivery.status) == ("active", "pending")
    assert health_shown(target) == ("credential_error", KEY_MISSING_WORDS, target.paused_until)
    assert health_shown(renewed)[0] == "ok"
    use_keys("old", "another")
    assert health_shown(other)[:2] == ("ok", "")
    # Here the key is back, and where the delivery is tried next it is not known yet.
    assert health_shown(target) == ("credential_error", KEY_MISSING_WORDS, target.paused_until)
    end_pause(target)
    make_due(delivery)
    assert deliver(delivery) == 1
    assert (delivery.status, health_shown(target)[:2]) == ("succeeded", ("ok", ""))


def test_a_hold_of_the_owners_is_told_rather_than_a_missing_key(endpoint, use_keys):
    use_keys("old")
    target = make_connection(make_workspace(), url=endpoint.url)
    Connection.objects.filter(pk=target.pk).update(status="paused", status_reason="Paused by its owner.")
    use_keys("another")
    assert health_shown(target)[:2] == ("paused", "Paused by its owner.")


# --- what earlier versions stopped ----------------------------------------------------------------------------------


def stopped_before(endpoint, words=lifecycle.EARLIER_WORDS[0]):
    """A connection with a held delivery, as an earlier version left it where its document did not open."""
    target = make_connection(make_workspace(), url=endpoint.url)
    (delivery,) = make_deliveries(target)
    Connection.objects.filter(pk=target.pk).update(status="credential_error", status_reason=words)
    assert hold.hold([target.pk]) == 1
    delivery.refresh_from_db()
    assert (delivery.status, delivery.cause) == ("held", "credential_error")
    return target, delivery


def recover(target):
    lifecycle.recover(datetime.now(UTC))
    target.refresh_from_db()
    return target.status, target.status_reason


@pytest.mark.parametrize("words", lifecycle.EARLIER_WORDS)
def test_what_an_earlier_version_stopped_goes_on_when_the_key_is_back(endpoint, use_keys, words):
    use_keys("old")
    target, delivery = stopped_before(endpoint, words)
    assert recover(target) == ("active", "")
    assert AccessRecord.objects.filter(owner_id=target.pk, purpose="recover", granted=True).count() == 1
    assert hold.release_held(datetime.now(UTC)) == 1
    assert deliver(delivery) == 1
    assert (delivery.status, len(endpoint.got)) == ("succeeded", 1)


def test_while_the_key_is_missing_it_rests_as_others_do(endpoint, use_keys):
    use_keys("old")
    target, delivery = stopped_before(endpoint)
    use_keys("another")
    assert health_shown(target) == ("credential_error", KEY_MISSING_WORDS, None)
    assert recover(target) == ("active", "")
    assert hold.release_held(datetime.now(UTC)) == 1
    assert deliver(delivery) == 1
    target.refresh_from_db()
    assert (target.status, delivery.status, delivery.cause) == ("active", "pending", "key_missing")
    assert endpoint.got == []
    use_keys("new", "old")
    end_pause(target)
    make_due(delivery)
    assert deliver(delivery) == 1
    assert delivery.status == "succeeded"


def test_what_somebody_changed_stays_stopped_and_is_looked_at_once(endpoint, use_keys):
    use_keys("old")
    target, _ = stopped_before(endpoint)
    other = make_connection(target.workspace, url=endpoint.url)
    own = SealedDocument.objects.get(connection=target).document
    stolen = SealedDocument.objects.get(connection=other).document
    SealedDocument.objects.filter(connection=target).update(document=stolen)
    for _ in range(2):
        assert recover(target) == ("credential_error", REFUSED_WORDS)
    assert AccessRecord.objects.filter(owner_id=target.pk, purpose="recover").count() == 1
    # Put back by whoever moved it: no key was ever missing, so only a person ends it.
    SealedDocument.objects.filter(connection=target).update(document=own)
    assert recover(target) == ("credential_error", REFUSED_WORDS)
    assert hold.release_held(datetime.now(UTC)) == 0


def test_what_this_version_stopped_is_never_restarted(endpoint, use_keys):
    use_keys("old")
    target, _ = stopped_before(endpoint, REFUSED_WORDS)
    assert recover(target) == ("credential_error", REFUSED_WORDS)


def test_deleted_workspaces_stay_as_they_are(endpoint, use_keys):
    use_keys("old")
    target, _ = stopped_before(endpoint)
    target.workspace.deleted_at = datetime.now(UTC)
    target.workspace.save(update_fields=["deleted_at"])
    assert recover(target) == ("credential_error", lifecycle.EARLIER_WORDS[0])


def test_the_sweeper_looks_for_them(endpoint, use_keys):
    use_keys("old")
    target, _ = stopped_before(endpoint)
    (each,) = (each for each in sweep.sweeps() if each.name == "recover")
    assert sweep.run_once(each) == 1
    target.refresh_from_db()
    assert target.status == "active"
