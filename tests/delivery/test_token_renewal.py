"""Deliveries of connections whose tokens end: renewed before they are sent, or after a refusal, or held."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection as database
from django.db import connections

from connections import calls, lifecycle, providers
from connections.models import Connection, ConnectionHealth, OAuthGrant
from connections.oauth import refresh
from connections.oauth import tokens as token_documents
from delivery import tasks
from delivery.dispatch import attempts, claims, hold, settling
from delivery.models import Attempt, Delivery
from tests.connections.oauth.conftest import integrations, vendor  # noqa: F401  (fixtures)
from tests.connections.oauth.making import access_token, authorized, expired, need_of, opened
from tests.connections.oauth.vendor import CANARY, Reply
from tests.factories import create_connection, deliver, make_connection, make_deliveries, make_rule, make_workspace
from tests.receivers import Answer
from workspaces.vault.models import AccessRecord

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

UPSERTED = Reply(200, {"status": "COMPLETE", "results": [{"id": "501"}]})
CREATED = Reply(201, {"id": "601"})


@pytest.fixture
def hubspot(vendor):  # noqa: F811
    """The vendor as HubSpot: contacts are written."""
    vendor.api = lambda asked: UPSERTED if asked.path.endswith("upsert") else CREATED
    return vendor


def deliveries_of(target, number=1, action="upsert_contact", mapping=None):
    make_rule(target, action=action, mapping=mapping)
    return make_deliveries(target, number)


def attempt_of(delivery) -> Attempt:
    return Attempt.objects.get(delivery=delivery)


# --- renewed --------------------------------------------------------------------------------------------------------


def test_an_expired_token_is_renewed_before_the_delivery_is_sent(hubspot):
    target = expired(hubspot)
    (delivery,) = deliveries_of(target)
    assert deliver(delivery) == 1
    assert (delivery.status, len(hubspot.refreshes), len(hubspot.api_requests)) == ("succeeded", 1, 1)
    assert hubspot.api_requests[0].bearer == access_token(target)
    attempt = attempt_of(delivery)
    assert (attempt.number, attempt.credential_version, attempt.steps) == (1, 2, None)
    records = AccessRecord.objects.filter(owner_id=target.pk, delivery_id=delivery.pk)
    assert sorted((record.purpose, record.version) for record in records) == [("delivery", 1), ("oauth refresh", 1)]


def test_a_refused_token_is_renewed_and_the_call_made_again(hubspot):
    target = authorized(hubspot)
    hubspot.expire_access()
    (delivery,) = deliveries_of(target)
    deliver(delivery)
    assert (delivery.status, delivery.attempt_number, delivery.budget_used) == ("succeeded", 1, 0)
    first, second = hubspot.api_requests
    assert second.bearer == access_token(target) != first.bearer
    attempt = attempt_of(delivery)
    assert ([step["status"] for step in attempt.steps], attempt.status_code) == ([401, 200], 200)
    assert attempt.credential_version == 2
    target.refresh_from_db()
    assert target.status == "active"


def test_a_second_refusal_in_a_row_holds_the_connection(hubspot):
    target = authorized(hubspot)
    hubspot.expire_access()
    hubspot.api = lambda asked: Reply(401, {})
    (delivery,) = deliveries_of(target)
    deliver(delivery)
    target.refresh_from_db()
    assert (delivery.status, delivery.cause, target.status) == ("held", "needs_reauth", "needs_reauth")
    assert (len(hubspot.refreshes), len(hubspot.api_requests)) == (1, 2)


def test_a_token_that_ends_between_two_steps(hubspot):
    """The contact is written with the old token; the note with the new one, and the contact once."""
    target = authorized(hubspot)

    def end_after_the_first(asked):
        hubspot.expire_access()
        hubspot.api = lambda asked: CREATED
        return UPSERTED

    hubspot.api = end_after_the_first
    note = [{"to": "note", "value": "Hello"}]
    (delivery,) = deliveries_of(target, action="create_note", mapping=note)
    deliver(delivery)
    assert delivery.status == "succeeded"
    paths = [asked.path.rpartition("/")[2] for asked in hubspot.api_requests]
    assert paths == ["upsert", "notes", "notes"]
    assert [step["status"] for step in attempt_of(delivery).steps] == [200, 401, 201]


def test_deliveries_that_were_claimed_before_use_the_token_that_came_after(hubspot):
    target = expired(hubspot)
    deliveries = deliveries_of(target, 5)
    jobs = [job for job in claims.claim([delivery.pk for delivery in deliveries], "worker-7") if job]
    results = [attempts.attempt(job) for job in jobs]
    assert {result.verdict.outcome for result in results} == {"delivered"}
    assert len(hubspot.refreshes) == 1


def test_a_webhook_s_own_client_gets_its_first_token_and_the_next(hubspot, endpoint):
    target = own_server(hubspot, endpoint)
    first, second = make_deliveries(target, 2)
    deliver(first)
    assert (first.status, endpoint.got[0].headers["authorization"]) == ("succeeded", f"Bearer {access_token(target)}")
    endpoint.answers = lambda got: Answer(200 if got.headers["authorization"] == f"Bearer {latest(hubspot)}" else 401)
    hubspot.access_tokens.clear()
    hubspot.access_tokens.add("another")
    deliver(second)
    assert second.status == "succeeded"
    assert [asked.form["grant_type"] for asked in hubspot.token_requests] == ["client_credentials"] * 2
    assert "refresh_token" not in opened(target).secret


def own_server(vendor, endpoint):  # noqa: F811
    config = {"url": endpoint.url, "oauth_token_url": f"{vendor.url}/token", "oauth_scope": "hooks"}
    secrets = {"oauth_client_id": "app-1", "oauth_client_secret": f"{CANARY}client-secret"}
    change = create_connection(make_workspace().pk, "webhook", "Hook", config, secrets)
    assert change.connection.status == "active"
    return change.connection


def latest(vendor):  # noqa: F811
    """The access token that the vendor gave last."""
    given = [token for token in vendor.access_tokens if token != "another"]
    return given[-1] if given else ""


def test_a_webhook_s_client_that_is_refused_is_the_customer_s_to_mend(hubspot, endpoint):
    hubspot.clients.clear()
    target = own_server(hubspot, endpoint)
    (delivery,) = make_deliveries(target)
    deliver(delivery)
    target.refresh_from_db()
    assert (delivery.status, target.status, endpoint.got) == ("held", "needs_reauth", [])
    assert target.status_reason == (
        "The authorization server refuses the client (invalid_client). Check its id, its secret and the scope."
    )
    hubspot.clients["app-2"] = f"{CANARY}second"
    secrets = {"oauth_client_id": "app-2", "oauth_client_secret": f"{CANARY}second"}
    lifecycle.edit(target, actor="a test", credentials=secrets)
    hold.release_held(datetime.now(UTC))
    deliver(delivery)
    assert delivery.status == "succeeded"


def test_a_webhook_s_client_that_was_mended_at_its_server_is_asked_for_again_after_a_resume(hubspot, endpoint):
    hubspot.clients.clear()
    target = own_server(hubspot, endpoint)
    (delivery,) = make_deliveries(target)
    deliver(delivery)
    hubspot.clients["app-1"] = f"{CANARY}client-secret"
    end_rests(target)
    lifecycle.resume(target)
    hold.release_held(datetime.now(UTC))
    deliver(delivery)
    assert (delivery.status, len(hubspot.token_requests)) == ("succeeded", 2)


def test_a_webhook_s_client_that_was_mended_at_its_server_passes_its_test(hubspot, endpoint):
    hubspot.clients.clear()
    target = own_server(hubspot, endpoint)
    (delivery,) = make_deliveries(target)
    deliver(delivery)
    hubspot.clients["app-1"] = f"{CANARY}client-secret"
    end_rests(target)
    assert calls.probe(target, actor="a test").ok
    target.refresh_from_db()
    assert target.status == "active"


def test_a_scope_that_was_refused_is_mended_by_another(hubspot, endpoint):
    refused = Reply(400, {"error": "invalid_scope"})
    hubspot.before_reply = lambda asked: None if asked.form["scope"] == "hooks:write" else refused
    target = own_server(hubspot, endpoint)
    (delivery,) = make_deliveries(target)
    deliver(delivery)
    target.refresh_from_db()
    assert (delivery.status, target.status) == ("held", "needs_reauth")
    lifecycle.edit(target, actor="a test", config={"oauth_scope": "hooks:write"})
    hold.release_held(datetime.now(UTC))
    deliver(delivery)
    assert delivery.status == "succeeded"


def test_another_token_url_makes_the_token_void(hubspot, endpoint):
    target = own_server(hubspot, endpoint)
    first, second = make_deliveries(target, 2)
    deliver(first)
    target.refresh_from_db()
    lifecycle.edit(target, actor="a test", config={"oauth_token_url": f"{hubspot.url}/other/token"})
    assert "access_token" not in opened(target).secret
    deliver(second)
    assert [asked.path for asked in hubspot.token_requests] == ["/token", "/other/token"]


# --- trouble --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [Reply(503, {}), Reply(200, b"<html>"), Reply(401, {"error": "invalid_client"})])
def test_a_token_endpoint_in_trouble_rests_the_connection(hubspot, reply):
    hubspot.before_reply = lambda asked: reply
    target = expired(hubspot)
    first, second = deliveries_of(target, 2)
    deliver(first)
    target.refresh_from_db()
    assert (first.status, first.outcome, target.status) == ("pending", "retry", "active")
    assert first.cause == "token_unavailable"
    assert timedelta(seconds=3) < target.paused_until - datetime.now(UTC) <= timedelta(seconds=5)
    assert (hubspot.api_requests, deliver(second)) == ([], 0)
    assert OAuthGrant.objects.get(connection=target).lease_id is None


def test_no_outage_of_a_token_endpoint_uses_up_a_delivery_or_disables_the_connection(hubspot):
    hubspot.before_reply = lambda asked: Reply(503, {})
    target = expired(hubspot)
    Connection.objects.filter(pk=target.pk).update(retry_schedule=[0, 1])
    long_ago = datetime.now(UTC) - timedelta(days=6)
    ConnectionHealth.objects.create(
        connection=target, workspace=target.workspace, breaker="closed", consecutive_failures=4, opened_times=0,
        first_failure_at=long_ago, last_failure_at=long_ago + timedelta(days=1),
    )  # fmt: skip
    (delivery,) = deliveries_of(target)
    for number in range(1, 5):
        assert deliver(delivery) == 1
        target.refresh_from_db()
        assert (delivery.status, delivery.attempt_number, delivery.budget_used) == ("pending", number, 0)
        assert (target.status, target.health.consecutive_failures) == ("active", 4)
        assert delivery.next_attempt_at <= target.paused_until <= datetime.now(UTC) + timedelta(seconds=5 * 2**number)
        end_rests(target)
    assert len(hubspot.token_requests) == 4
    hubspot.before_reply = lambda asked: None
    deliver(delivery)
    assert (delivery.status, delivery.attempt_number) == ("succeeded", 5)


def end_rests(target):
    """As if the time had passed for which grant, lane and delivery rest."""
    now = datetime.now(UTC)
    OAuthGrant.objects.update(not_before=now)
    Connection.objects.filter(pk=target.pk).update(paused_until=now)
    ConnectionHealth.objects.update(probe_until=now)
    Delivery.objects.filter(connection=target).update(next_attempt_at=now)


def test_after_the_trouble_everything_goes_out(hubspot):
    hubspot.before_reply = lambda asked: Reply(503, {})
    target = expired(hubspot)
    first, second = deliveries_of(target, 2)
    deliver(first)
    hubspot.before_reply = lambda asked: None
    end_rests(target)
    assert (deliver(first, second), deliver(first, second)) == (1, 1)  # a probe, then the others
    assert (first.status, second.status, len(hubspot.refreshes)) == ("succeeded", "succeeded", 2)


def test_an_end_holds_everything_once_and_a_new_authorization_releases_it(hubspot, caplog):
    hubspot.refresh_tokens.clear()
    target = expired(hubspot)
    hubspot.refresh_tokens.clear()
    deliveries = deliveries_of(target, 6)
    jobs = [job for job in claims.claim([delivery.pk for delivery in deliveries[:4]], "worker-7") if job]
    results = [attempts.attempt(job) for job in jobs]
    assert settling.settle(results, "worker-7") == [True] * 4
    target.refresh_from_db()
    assert target.status == "needs_reauth"
    assert target.status_reason.startswith("HubSpot no longer accepts this connection's authorization (invalid_grant)")
    assert (len(hubspot.token_requests), hubspot.api_requests) == (1, [])
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    assert deliver(*deliveries[4:]) == 0
    hold.hold([target.pk])
    assert set(Delivery.objects.values_list("status", "cause")) == {("held", "needs_reauth")}
    assert set(Delivery.objects.values_list("budget_used", flat=True)) == {0}

    reauthorize(hubspot, target)
    target.refresh_from_db()
    assert target.status == "active"
    assert hold.release_held(datetime.now(UTC)) == 6
    assert deliver(*deliveries) == 6
    assert set(Delivery.objects.values_list("status", flat=True)) == {"succeeded"}
    assert len(hubspot.token_requests) == 1


def reauthorize(hubspot, target):
    new = token_documents.read_tokens(hubspot.grant(), providers.get("hubspot").oauth, datetime.now(UTC))
    lifecycle.authorize(target, new, lifecycle.Granted(), client_id="app-1", actor="a test")


def test_an_end_that_settles_late_does_not_hold_what_was_authorized_meanwhile(hubspot):
    target = expired(hubspot)
    hubspot.refresh_tokens.clear()
    (delivery,) = deliveries_of(target)
    (job,) = claims.claim([delivery.pk], "worker-7")
    result = attempts.attempt(job)
    reauthorize(hubspot, target)
    settling.settle([result], "worker-7")
    target.refresh_from_db()
    delivery.refresh_from_db()
    assert (target.status, delivery.status) == ("active", "held")
    assert hold.release_held(datetime.now(UTC)) == 1


def test_a_refusal_of_replaced_credentials_does_not_hold_the_new_ones(hubspot):
    target = authorized(hubspot)
    lifecycle.edit(target, actor="a test", credentials={"access_token": "pat-old-1234567"})
    (delivery,) = deliveries_of(target)
    (job,) = claims.claim([delivery.pk], "worker-7")
    result = attempts.attempt(job)
    assert result.verdict.hold == "needs_reauth"
    target.refresh_from_db()
    lifecycle.edit(target, actor="a test", credentials={"access_token": "pat-new-1234567"})
    settling.settle([result], "worker-7")
    target.refresh_from_db()
    assert target.status == "active"


def test_a_connection_that_was_never_authorized_holds_what_it_gets(hubspot):
    target = make_connection(make_workspace(), type="hubspot", config={}, secret={})
    (delivery,) = deliveries_of(target)
    deliver(delivery)
    target.refresh_from_db()
    assert (delivery.status, target.status) == ("held", "needs_reauth")
    assert hubspot.api_requests == []


def test_a_long_wait_ends_before_the_claim_does(hubspot, monkeypatch, settings):
    """Whatever is left of a short lease: the attempt ends in time to be settled."""
    settings.MESHES_LEASE_SECONDS = 8
    target = expired(hubspot)
    refresh.begin_refresh([need_of(target)])  # somebody is at it, and never ends
    (delivery,) = deliveries_of(target)
    deliver(delivery)
    assert (delivery.status, delivery.outcome, delivery.cause) == ("pending", "retry", "token_unavailable")
    assert attempt_of(delivery).duration_ms < 3000


# --- threads that deliver -------------------------------------------------------------------------------------------


@pytest.fixture
def grouped(transactional_db):
    """The steps as a worker runs them; the thread that runs them lets its database connection go at the end."""

    def close(items):
        connections.close_all()
        return items

    yield tasks.GROUPED
    tasks._renewals._run, run = close, tasks._renewals._run
    tasks._renewals.submit((close, None))
    tasks._renewals._run = run


@pytest.mark.django_db(transaction=True)
def test_threads_that_deliver_never_touch_the_database(hubspot, grouped):
    target = expired(hubspot)
    deliveries = deliveries_of(target, 20)
    jobs = [job for job in claims.claim([delivery.pk for delivery in deliveries], "worker-7") if job]
    results = []

    def run(job):
        tasks._forbid_database()
        results.append(attempts.attempt(job, grouped))

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    before = database_connections()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {result.verdict.outcome for result in results} == {"delivered"}
    assert len(hubspot.refreshes) == 1
    assert database_connections() - before <= 1
    assert settling.settle(results, "worker-7") == [True] * 20


def database_connections():
    with database.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return cursor.fetchone()[0]


def test_one_batch_runs_each_kind_of_step_once(hubspot):
    targets = [expired(hubspot) for _ in range(3)]
    needs = [need_of(target) for target in targets]
    steps = [(refresh.read_states, needs[0]), (refresh.begin_refresh, needs[1]), (refresh.read_states, needs[2])]
    first, second, third = tasks._renew_tokens([*steps, (refresh.begin_refresh, needs[0])])[:3]
    assert (type(first).__name__, type(second).__name__, type(third).__name__) == ("GrantState", "Lease", "GrantState")
    assert second.need == needs[1]


# --- secrets --------------------------------------------------------------------------------------------------------


def test_tokens_are_in_no_record_of_an_attempt(hubspot, caplog):
    caplog.set_level("DEBUG")
    target = authorized(hubspot)
    hubspot.expire_access()
    hubspot.api = lambda asked: Reply(500, {"message": f"{asked.bearer} {asked.form}"}, {"x-echo": asked.bearer})
    (delivery,) = deliveries_of(target)
    deliver(delivery)
    assert (delivery.status, len(hubspot.api_requests)) == ("pending", 2)
    assert CANARY not in str(Attempt.objects.values().get())
    assert CANARY not in str(Delivery.objects.values().get())
    assert CANARY.encode() not in bytes(attempt_of(delivery).response_body)
    assert "••••" in bytes(attempt_of(delivery).response_body).decode()
    assert CANARY not in caplog.text
