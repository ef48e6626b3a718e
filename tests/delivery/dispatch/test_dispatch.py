"""Claims, attempts and what they come to, against a real endpoint."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks
from django.db import connection, connections

from connections import lifecycle
from connections.models import ConnectionHealth
from connections.providers.webhook import new_signing_secret
from delivery.dispatch import attempts, claims, replays, settling
from delivery.lanes import brokers
from delivery.models import Attempt, Delivery, Replay
from tests.factories import deliver, lapse_lease, make_connection, make_deliveries, make_workspace, own_lanes
from workspaces.vault import vault
from workspaces.vault.models import AccessRecord, SealedDocument

pytestmark = pytest.mark.django_db


def make_due(delivery):
    Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=datetime.now(UTC))


def attempts_of(delivery):
    return list(Attempt.objects.filter(delivery=delivery).order_by("number"))


def health_of(connection):
    return ConnectionHealth.objects.get(connection=connection)


def test_a_delivery_arrives_signed(endpoint):
    secret = new_signing_secret()
    workspace = make_workspace()
    target = make_connection(workspace, url=endpoint.url, secret={"signing_secret": secret, "previous": []})
    (delivery,) = make_deliveries(target)
    assert deliver(delivery) == 1
    assert (delivery.status, delivery.outcome, delivery.attempt_number) == ("succeeded", "delivered", 1)
    (got,) = endpoint.got
    event = standardwebhooks.Webhook(secret).verify(got.body, got.headers)
    assert (event["type"], event["data"]) == ("lead.created", {"email": "ada@example.com"})
    assert got.headers["webhook-id"] == delivery.public_id
    (attempt,) = attempts_of(delivery)
    assert (attempt.number, attempt.outcome, attempt.status_code) == (1, "delivered", 200)
    assert (bytes(attempt.response_body), attempt.credential_version) == (b"ok", 1)


def test_claiming_leaves_an_access_record(endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    (delivery,) = make_deliveries(target)
    deliver(delivery)
    record = AccessRecord.objects.get(owner_id=target.pk, purpose="delivery")
    assert (record.delivery_id, record.attempt_number) == (delivery.pk, 1)
    assert (record.actor, record.granted, record.workspace_id) == ("worker", True, target.workspace_id)


def test_retries_keep_id_and_bytes_and_use_up_the_schedule(endpoint):
    endpoint.answer(503)
    target = make_connection(make_workspace(), url=endpoint.url, retry_schedule=[0, 0.01, 0.01])
    (delivery,) = make_deliveries(target)
    for round_number in range(1, 4):
        make_due(delivery)
        assert deliver(delivery) == 1
        assert delivery.budget_used == round_number
    assert (delivery.status, delivery.cause, delivery.outcome) == ("dead", "exhausted", "retry")
    assert [attempt.number for attempt in attempts_of(delivery)] == [1, 2, 3]
    assert len({(got.headers["webhook-id"], got.body) for got in endpoint.got}) == 1


def replay_headers(endpoint):
    return [(got.headers["meshes-attempt"], got.headers.get("meshes-replay")) for got in endpoint.got]


def test_a_receiver_can_tell_attempts_and_replays(endpoint):
    endpoint.answer(503)
    target = make_connection(make_workspace(), url=endpoint.url, retry_schedule=[0, 0.01])
    (delivery,) = make_deliveries(target)
    for _ in range(2):
        make_due(delivery)
        deliver(delivery)
    assert delivery.cause == "exhausted"
    assert replays.send_again([delivery.pk]).made == {delivery.pk: delivery.pk}
    for _ in range(2):
        ConnectionHealth.objects.update(breaker="closed", consecutive_failures=0)
        make_due(delivery)
        deliver(delivery)
    assert replay_headers(endpoint) == [
        ("1", None), ("2", None), ("3", delivery.public_id), ("4", delivery.public_id),
    ]  # fmt: skip
    assert len({(got.headers["webhook-id"], got.body) for got in endpoint.got}) == 1


def test_a_receiver_can_tell_a_replay_over_a_filter_and_a_new_delivery(endpoint):
    endpoint.answer(422)
    target = make_connection(make_workspace(), url=endpoint.url)
    (delivery,) = make_deliveries(target)
    deliver(delivery)
    run = Replay.objects.create(workspace=target.workspace, requested_by="key_1")
    replays.send_again([delivery.pk], replays.Terms("original", replay_id=run.pk))
    deliver(delivery)
    endpoint.answer(200)
    new = Delivery.objects.get(pk=replays.send_again([delivery.pk]).made[delivery.pk])
    deliver(new)
    assert replay_headers(endpoint) == [("1", None), ("2", run.public_id), ("1", delivery.public_id)]
    first, _, last = endpoint.got
    assert (first.headers["webhook-id"], last.headers["webhook-id"]) == (delivery.public_id, new.public_id)
    assert new.status == "succeeded"


def test_replaced_credentials_are_used_by_the_next_attempt_at_once(endpoint):
    """Also where the process has just opened the old ones: a claim brings what is in the row."""
    endpoint.answer(503)
    secret = {"signing_secret": new_signing_secret(), "previous": [], "token": "the-old-token"}
    target = make_connection(make_workspace(), url=endpoint.url, secret=secret, retry_schedule=[0, 0.01, 0.01])
    first, second = make_deliveries(target, 2)
    deliver(first, second)
    lifecycle.edit(target, actor="a test", credentials={"token": "the-new-token"})
    make_due(first)
    make_due(second)
    endpoint.answer(200)
    deliver(first, second)
    sent = [got.headers["authorization"] for got in endpoint.got]
    assert sent == ["Bearer the-old-token"] * 2 + ["Bearer the-new-token"] * 2
    assert [first.status, second.status] == ["succeeded", "succeeded"]
    assert [attempt.credential_version for attempt in attempts_of(first)] == [1, 2]


def test_a_delivery_that_is_not_due_is_not_claimed(endpoint):
    endpoint.answer(503)
    target = make_connection(make_workspace(), url=endpoint.url)
    (delivery,) = make_deliveries(target)
    assert deliver(delivery) == 1
    assert deliver(delivery) == 0
    assert len(endpoint.got) == 1
    assert timedelta(seconds=3.9) < delivery.next_attempt_at - datetime.now(UTC) < timedelta(seconds=6.1)


@pytest.mark.django_db(transaction=True)
def test_claims_at_once_take_a_delivery_once(endpoint):
    deliveries = make_deliveries(make_connection(make_workspace(), url=endpoint.url), 20)
    ids = [delivery.pk for delivery in deliveries]

    def claim(number):
        try:
            return [job for job in claims.claim(ids, f"worker {number}") if job]
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        jobs = [job for claimed in pool.map(claim, range(4)) for job in claimed]
    assert sorted(job.delivery_id for job in jobs) == sorted(ids)


@pytest.mark.parametrize(("status", "cause"), [(400, "rejected"), (413, "rejected"), (422, "rejected")])
def test_a_payload_that_will_never_pass_is_dead_at_once(endpoint, status, cause):
    endpoint.answer(status)
    target = make_connection(make_workspace(), url=endpoint.url)
    (delivery,) = make_deliveries(target)
    deliver(delivery)
    assert (delivery.status, delivery.cause) == ("dead", cause)
    assert not ConnectionHealth.objects.filter(connection=target, consecutive_failures__gt=0).exists()


@pytest.mark.parametrize(("status", "hold"), [(410, "disabled"), (401, "needs_reauth")])
def test_an_unusable_connection_holds_what_was_sent_and_costs_no_attempt(endpoint, status, hold):
    endpoint.answer(status)
    target = make_connection(make_workspace(), url=endpoint.url)
    first, second = make_deliveries(target, 2)
    deliver(first)
    target.refresh_from_db()
    assert (target.status, first.status, first.cause, first.budget_used) == (hold, "held", hold, 0)
    assert deliver(second) == 0
    assert len(endpoint.got) == 1


def test_five_failures_in_a_row_open_the_breaker(endpoint):
    endpoint.answer(500)
    target = make_connection(make_workspace(), url=endpoint.url)
    deliveries = make_deliveries(target, 7)
    assert deliver(*deliveries[:5]) == 5
    target.refresh_from_db()
    assert health_of(target).breaker == "open"
    assert timedelta(seconds=28) < target.paused_until - datetime.now(UTC) <= timedelta(seconds=30)
    assert deliver(*deliveries[5:]) == 0
    assert {delivery.attempt_number for delivery in deliveries[5:]} == {0}


def test_half_open_lets_one_probe_through_and_closes_when_it_succeeds(endpoint):
    endpoint.answer(500)
    target = make_connection(make_workspace(), url=endpoint.url)
    deliveries = make_deliveries(target, 8)
    deliver(*deliveries[:5])
    type(target).objects.filter(pk=target.pk).update(paused_until=datetime.now(UTC))
    endpoint.answer(200)
    assert deliver(*deliveries[5:]) == 1
    target.refresh_from_db()
    assert (health_of(target).breaker, target.paused_until) == ("closed", None)
    waiting = [delivery for delivery in deliveries[5:] if delivery.status == "pending"]
    assert deliver(*waiting) == 2


def test_a_probe_that_fails_opens_the_breaker_for_twice_as_long(endpoint):
    endpoint.answer(500)
    target = make_connection(make_workspace(), url=endpoint.url)
    deliveries = make_deliveries(target, 6)
    deliver(*deliveries[:5])
    type(target).objects.filter(pk=target.pk).update(paused_until=datetime.now(UTC))
    assert deliver(deliveries[5]) == 1
    target.refresh_from_db()
    assert health_of(target).breaker == "open"
    assert timedelta(seconds=58) < target.paused_until - datetime.now(UTC) <= timedelta(seconds=60)


def test_a_throttled_connection_rests_as_long_as_asked(endpoint):
    endpoint.answer(429, {"retry-after": "7"})
    target = make_connection(make_workspace(), url=endpoint.url, retry_schedule=[0, 1])
    first, second = make_deliveries(target, 2)
    deliver(first)
    target.refresh_from_db()
    assert target.status == "active"
    assert timedelta(seconds=5) < target.paused_until - datetime.now(UTC) <= timedelta(seconds=7)
    assert first.status == "pending"
    assert timedelta(seconds=6) < first.next_attempt_at - datetime.now(UTC) <= timedelta(seconds=7)
    assert deliver(second) == 0


def test_a_lease_that_ended_settles_nothing(endpoint):
    (delivery,) = make_deliveries(make_connection(make_workspace(), url=endpoint.url))
    (job,) = claims.claim([delivery.pk], "worker")
    lapse_lease(delivery)
    assert claims.end_lapsed_leases([delivery.pk]) == 1
    assert settling.settle([attempts.attempt(job)], "worker") == [False]
    delivery.refresh_from_db()
    assert (delivery.status, delivery.losses, delivery.budget_used) == ("pending", 1, 0)
    assert [(a.number, a.outcome, a.error_class) for a in attempts_of(delivery)] == [(1, "uncertain", "worker_lost")]


def test_a_live_lease_is_not_ended(endpoint):
    (delivery,) = make_deliveries(make_connection(make_workspace(), url=endpoint.url))
    claims.claim([delivery.pk], "worker")
    assert claims.end_lapsed_leases([delivery.pk]) == 0
    delivery.refresh_from_db()
    assert delivery.state == "in_flight"


def test_the_fifth_lost_worker_makes_a_delivery_dead(endpoint):
    (delivery,) = make_deliveries(make_connection(make_workspace(), url=endpoint.url))
    for _ in range(5):
        assert claims.claim([delivery.pk], "worker") != [None]
        lapse_lease(delivery)
        claims.end_lapsed_leases([delivery.pk])
    delivery.refresh_from_db()
    assert (delivery.status, delivery.cause, delivery.losses) == ("dead", "poison", 5)
    assert endpoint.got == []


def test_credentials_copied_from_another_tenant_send_nothing_and_sound_the_alarm(endpoint, caplog):
    mine, other = make_workspace(), make_workspace()
    target, foreign = make_connection(mine, url=endpoint.url), make_connection(other, url=endpoint.url)
    (delivery,) = make_deliveries(target)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE sealed_documents SET document = (SELECT document FROM sealed_documents WHERE connection_id = %s)"
            " WHERE connection_id = %s",
            [foreign.pk, target.pk],
        )
    assert deliver(delivery) == 1
    target.refresh_from_db()
    assert endpoint.got == []
    assert (target.status, delivery.status, delivery.cause) == ("credential_error", "held", "credential_error")
    assert AccessRecord.objects.filter(owner_id=target.pk, granted=False).count() == 1
    (alarm,) = (line for line in caplog.records if line.levelname == "ERROR")
    assert alarm.getMessage() == (
        f"credentials of {target.public_id} of workspace {mine.public_id} refused to open:"
        " it was sealed for another workspace"
    )


def test_a_connection_without_its_sealed_document_sends_nothing(endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    (delivery,) = make_deliveries(target)
    vault.destroy(workspace_id=target.workspace_id, owner_kind="connection", owner_id=target.pk)
    assert not SealedDocument.objects.filter(connection=target).exists()
    deliver(delivery)
    assert endpoint.got == []
    assert delivery.status == "held"


def test_a_refused_address_disables_the_connection(settings, endpoint):
    settings.MESHES_OUTBOUND_ALLOW_NETS = []
    target = make_connection(make_workspace(), url=endpoint.url)
    (delivery,) = make_deliveries(target)
    deliver(delivery)
    target.refresh_from_db()
    assert endpoint.got == []
    assert (target.status, delivery.status) == ("disabled", "held")
    assert "127.0.0.1" not in attempts_of(delivery)[0].error


def test_secrets_are_not_in_the_record_even_if_the_receiver_echoes_them(endpoint):
    token = "canary-5f1c77e0a9"
    secret = {"signing_secret": new_signing_secret(), "previous": [], "token": token}
    target = make_connection(make_workspace(), url=endpoint.url, secret=secret)
    endpoint.answer(500, {"x-echo": token}, f"you sent {token}".encode())
    (delivery,) = make_deliveries(target)
    deliver(delivery)
    assert endpoint.got[0].headers["authorization"] == f"Bearer {token}"
    (attempt,) = attempts_of(delivery)
    record = repr([attempt.request_headers, attempt.response_headers, bytes(attempt.response_body), attempt.error])
    assert token not in record
    assert "••••" in str(attempt.request_headers)


def test_an_answer_is_recorded_up_to_64_kilobytes(endpoint):
    endpoint.answer(200, body=b"x" * 100_000)
    (delivery,) = make_deliveries(make_connection(make_workspace(), url=endpoint.url))
    deliver(delivery)
    (attempt,) = attempts_of(delivery)
    assert (len(attempt.response_body), attempt.response_truncated) == (65_536, True)
    assert delivery.status == "succeeded"


def test_five_days_of_failures_disable_a_connection(endpoint):
    endpoint.answer(500)
    target = make_connection(make_workspace(), url=endpoint.url)
    now = datetime.now(UTC)
    ConnectionHealth.objects.create(
        connection=target,
        workspace=target.workspace,
        consecutive_failures=3,
        first_failure_at=now - timedelta(days=5, minutes=1),
        last_failure_at=now - timedelta(hours=1),
    )
    (delivery,) = make_deliveries(target)
    deliver(delivery)
    target.refresh_from_db()
    assert target.status == "disabled"


def test_a_healthy_delivery_writes_health_once(endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    first, second = make_deliveries(target, 2)
    deliver(first)
    before = health_of(target)
    deliver(second)
    assert health_of(target).last_success_at == before.last_success_at


def test_a_claim_is_a_hot_update(endpoint):
    deliveries = make_deliveries(make_connection(make_workspace(), url=endpoint.url), 5)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(
            "SELECT sum(pg_stat_get_xact_tuples_hot_updated(oid)) FROM pg_class WHERE relname LIKE 'deliveries_p%%'"
        )
        before = cursor.fetchone()[0]
        claims.claim([delivery.pk for delivery in deliveries], "worker")
        cursor.execute(
            "SELECT sum(pg_stat_get_xact_tuples_hot_updated(oid)) FROM pg_class WHERE relname LIKE 'deliveries_p%%'"
        )
        assert cursor.fetchone()[0] - before == 5


def test_a_held_connections_lane_is_emptied(endpoint, redis_client):
    target = make_connection(make_workspace(), url=endpoint.url)
    (delivery,) = make_deliveries(target)
    type(target).objects.filter(pk=target.pk).update(status="paused")
    assert deliver(delivery) == 0
    assert own_lanes().depth(brokers.lane_of(target.pk)) == 0
