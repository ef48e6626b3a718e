"""How a connection does, in one word and with its reason; and what its deliveries wait for."""

from datetime import UTC, datetime, timedelta

import pytest
from django.utils.dateparse import parse_datetime

from connections import lifecycle
from connections.models import ConnectionHealth
from delivery.dispatch import claims, connection_health
from delivery.dispatch.connection_health import COOL_DOWN_WORDS, HALF_OPEN_WORDS, PROBE_WORDS, RETRY_WORDS, TURN_WORDS
from delivery.models import Delivery, Payload
from tests.factories import deliver, make_connection, make_deliveries, make_workspace
from tests.operators import superuser, words

pytestmark = pytest.mark.django_db

BREAKERS = ("closed", "open", "half_open")


def fail(endpoint, target, number):
    """So many failures in a row; the deliveries wait for their next attempts."""
    endpoint.answer(503, body=b"down for repairs")
    made = make_deliveries(target, number)
    assert deliver(*made) == number
    return made


def health(api, target):
    document = api.get(f"/connections/{target.public_id}").json()
    return document["health"]


def shown(api, delivery):
    document = api.get(f"/deliveries/{delivery.public_id}").json()
    return document["next_attempt_at"], document["waiting_for"]


def ahead(seconds):
    return datetime.now(UTC) + timedelta(seconds=seconds)


def counters(target, **values):
    ConnectionHealth.objects.update_or_create(
        connection=target, defaults={"workspace_id": target.workspace_id, **values}
    )


# --- health ---------------------------------------------------------------------------------------------------------


def test_a_new_connection_is_ok(api):
    target = make_connection(make_workspace())
    assert health(api, target) == {
        "status": "ok",
        "reason": "",
        "since": target.created_at.isoformat().replace("+00:00", "Z"),
        "until": None,
        "last_success_at": None,
        "last_failure_at": None,
        "consecutive_failures": 0,
        "waiting_deliveries": 0,
        "waiting_is_exact": True,
    }


def test_failures_make_it_failing_with_the_newest_words(api, endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    fail(endpoint, target, 3)
    found, row = health(api, target), ConnectionHealth.objects.get()
    assert (found["status"], found["consecutive_failures"], found["waiting_deliveries"]) == ("failing", 3, 3)
    assert found["reason"].startswith("The last 3 attempts failed. The newest failure: ")
    assert "503" in found["reason"]
    assert parse_datetime(found["since"]) == row.first_failure_at
    assert parse_datetime(found["last_failure_at"]) == row.last_failure_at


def test_an_open_breaker_makes_it_cool_down_until_a_moment(api, endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    fail(endpoint, target, 5)
    found = health(api, target)
    target.refresh_from_db()
    assert found["status"] == "cooling_down"
    assert found["reason"].startswith(COOL_DOWN_WORDS["failures"])
    assert parse_datetime(found["until"]) == target.paused_until > datetime.now(UTC)
    assert parse_datetime(found["since"]) == ConnectionHealth.objects.get().last_failure_at


@pytest.mark.parametrize("status", ["paused", "disabled", "needs_reauth", "credential_error"])
def test_what_holds_a_connection_is_its_health(api, status):
    since = ahead(-60)
    target = make_connection(
        make_workspace(), status=status, status_reason="Because.", status_changed_at=since, paused_until=ahead(60)
    )
    (delivery,) = make_deliveries(target)
    found = health(api, target)
    assert (found["status"], found["reason"], found["waiting_deliveries"]) == (status, "Because.", 1)
    assert parse_datetime(found["since"]) == since
    assert shown(api, delivery) == (None, {"reason": status, "until": None, "detail": "Because."})


def test_a_deleted_connection_has_no_health(api):
    target = make_connection(make_workspace(), status="deleted")
    assert health(api, target) is None


def test_waiting_deliveries_are_counted_so_far_and_no_further(api, monkeypatch):
    monkeypatch.setattr(connection_health, "MOST_WAITING", 2)
    target = make_connection(make_workspace())
    make_deliveries(target, 2)
    assert (health(api, target)["waiting_deliveries"], health(api, target)["waiting_is_exact"]) == (2, True)
    make_deliveries(target, 1)
    assert (health(api, target)["waiting_deliveries"], health(api, target)["waiting_is_exact"]) == (2, False)


# --- what the breaker does not count --------------------------------------------------------------------------------


def test_payloads_that_are_refused_make_it_failing_though_the_breaker_counts_none(api, endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    endpoint.answer(422, body=b"no such list")
    before = datetime.now(UTC)
    for _ in range(6):
        deliver(*make_deliveries(target))
    assert set(Delivery.objects.values_list("status", "cause")) == {("dead", "rejected")}
    assert not ConnectionHealth.objects.filter(consecutive_failures__gt=0).exists()
    found = health(api, target)
    assert (found["status"], found["consecutive_failures"], found["waiting_deliveries"]) == ("failing", 6, 0)
    assert found["reason"].startswith("The last 6 attempts were refused. The newest failure: ")
    assert "422" in found["reason"]
    assert before <= parse_datetime(found["since"]) < parse_datetime(found["last_failure_at"]) <= datetime.now(UTC)
    endpoint.answer(200)
    deliver(*make_deliveries(target))
    after = health(api, target)
    assert (after["status"], after["reason"], after["consecutive_failures"]) == ("ok", "", 0)
    assert after["last_failure_at"] == found["last_failure_at"]


def test_refusals_and_failures_are_counted_together(api, endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    fail(endpoint, target, 2)
    endpoint.answer(413)
    deliver(*make_deliveries(target))
    found = health(api, target)
    assert (found["status"], found["consecutive_failures"]) == ("failing", 3)
    assert found["reason"].startswith("The last 3 attempts failed. The newest failure: ")
    assert "413" in found["reason"]
    assert parse_datetime(found["since"]) == ConnectionHealth.objects.get().first_failure_at


@pytest.mark.parametrize(("status", "held"), [(410, "disabled"), (401, "needs_reauth")])
def test_what_breaks_a_connection_is_its_last_failure(api, endpoint, status, held):
    target = make_connection(make_workspace(), url=endpoint.url)
    endpoint.answer(status)
    before = datetime.now(UTC)
    deliver(*make_deliveries(target))
    found = health(api, target)
    assert (found["status"], found["consecutive_failures"]) == (held, 1)
    assert before <= parse_datetime(found["last_failure_at"]) <= datetime.now(UTC)
    assert found["reason"].count(str(status)) == 1
    assert api.post(f"/connections/{target.public_id}/resume").status_code == 200
    resumed = health(api, target)
    assert (resumed["status"], resumed["last_failure_at"]) == ("ok", found["last_failure_at"])


def test_a_connection_that_failed_for_days_tells_the_newest_failure_too(api, endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    counters(target, consecutive_failures=9, first_failure_at=ahead(-6 * 86_400), last_failure_at=ahead(-3600))
    fail(endpoint, target, 1)
    found = health(api, target)
    assert found["status"] == "disabled"
    assert found["reason"].startswith("The destination has failed for five days. The newest failure: ")
    assert "503" in found["reason"]


def test_the_words_of_a_failure_outlive_its_delivery(api, endpoint):
    target = make_connection(make_workspace(), url=endpoint.url, retry_schedule=[0])
    fail(endpoint, target, 3)
    assert set(Delivery.objects.values_list("status", "cause")) == {("dead", "exhausted")}
    found = health(api, target)
    assert found["reason"].startswith("The last 3 attempts failed. The newest failure: ")
    assert "503" in found["reason"]


def test_what_fails_on_this_side_is_no_failure_of_the_receiver_s(api, endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    lost, gone = make_deliveries(target, 2)
    claims.claim([lost.pk], "a worker that is lost")
    Delivery.objects.filter(pk=lost.pk).update(lease_until=ahead(-1))
    assert claims.end_lapsed_leases([lost.pk]) == 1
    Payload.objects.filter(pk=gone.event_id).update(erased_at=datetime.now(UTC))
    deliver(gone)
    gone.refresh_from_db()
    assert (gone.status, gone.cause) == ("dead", "rejected")
    found = health(api, target)
    assert (found["status"], found["last_failure_at"], found["consecutive_failures"]) == ("ok", None, 0)


# --- a breaker whose pause is over ----------------------------------------------------------------------------------


def test_a_breaker_whose_pause_is_over_is_half_open_and_failing_everywhere(api, endpoint):
    target = make_connection(make_workspace(), name="Flaky", url=endpoint.url)
    fail(endpoint, target, 5)
    root = superuser()
    assert "1 Circuit breakers open" in words(root.client.get("/admin/"))
    assert "Circuit breaker open" in root.text("connections_connection", target.pk)
    type(target).objects.update(paused_until=ahead(-60))
    found = health(api, target)
    assert (found["status"], found["until"], found["consecutive_failures"]) == ("failing", None, 5)
    assert found["reason"].startswith(f"The last 5 attempts failed. {HALF_OPEN_WORDS} The newest failure: ")
    page = root.text("connections_connection", target.pk)
    assert "Circuit breaker half open the next delivery tries" in page
    assert "Is failing since" in page
    assert "0 Circuit breakers open" in words(root.client.get("/admin/"))
    lists = {value: words(root.list("connections_connection", health__breaker=value)) for value in BREAKERS}
    assert {value: "Flaky" in text for value, text in lists.items()} == {
        "closed": False, "open": False, "half_open": True,
    }  # fmt: skip
    assert "half open" in lists["half_open"]


def test_a_rest_for_want_of_a_token_is_failing_once_it_is_over(api):
    """The breaker counts no failure there, and nothing has succeeded since all the same."""
    target = make_connection(make_workspace(), paused_until=ahead(-1))
    counters(target, breaker="open", opened_by="no_credentials")
    found = health(api, target)
    assert (found["status"], found["reason"], found["consecutive_failures"]) == ("failing", HALF_OPEN_WORDS, 0)


def test_the_admin_says_which_wait_where(api):
    target = make_connection(make_workspace())
    make_deliveries(target, 3)
    text = superuser().text("connections_connection", target.pk)
    assert "Waiting 3 deliveries in PostgreSQL: pending or held, due now or later" in text
    assert "Waiting 0 in the broker: of those that wait in PostgreSQL, what is due now" in text


# --- true after recovery and rotation -------------------------------------------------------------------------------


def test_the_last_success_is_the_last_one_and_the_last_failure_stays(api, endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    fail(endpoint, target, 2)
    failed_at = ConnectionHealth.objects.get().last_failure_at
    endpoint.answer(200)
    for _ in range(3):
        deliver(*make_deliveries(target))
    found = health(api, target)
    newest = max(Delivery.objects.filter(status="succeeded").values_list("finished_at", flat=True))
    assert found["status"] == "ok"
    assert parse_datetime(found["last_success_at"]) == newest
    assert parse_datetime(found["last_failure_at"]) == failed_at


def test_a_late_success_of_an_old_event_is_the_last_one_too(api, endpoint, monkeypatch):
    """The counters know of it, to the minute, where the newest events do not tell."""
    monkeypatch.setattr(connection_health, "NEWEST", 1)
    target = make_connection(make_workspace(), url=endpoint.url)
    old, new = make_deliveries(target, 2)
    deliver(new)
    long_ago = ahead(-3600)
    Delivery.objects.filter(pk=new.pk).update(finished_at=long_ago)
    ConnectionHealth.objects.update(last_success_at=long_ago)
    deliver(old)
    assert parse_datetime(health(api, target)["last_success_at"]) > ahead(-60)


def test_credentials_tell_when_they_were_changed(api):
    target = make_connection(make_workspace(), config={"url": "https://example.com/hook"})
    made_at = parse_datetime(api.get(f"/connections/{target.public_id}").json()["credentials_changed_at"])
    sealed = target.sealed_documents.defer("document").get()
    target.sealed_documents.update(created_at=ahead(-86_400), sealed_at=ahead(-86_400))
    assert api.post(f"/connections/{target.public_id}/rotate-secret").status_code == 200
    changed = target.sealed_documents.defer("document").get()
    shown_at = parse_datetime(api.get(f"/connections/{target.public_id}").json()["credentials_changed_at"])
    assert made_at == sealed.sealed_at
    assert shown_at == changed.sealed_at >= made_at
    assert f"v2, set {changed.sealed_at:%Y-%m-%d %H:%M:%S}" in superuser().text("connections_connection", target.pk)


def test_of_credentials_from_before_only_the_first_version_has_a_date(api):
    target = make_connection(make_workspace())
    target.sealed_documents.update(sealed_at=None)
    assert api.get(f"/connections/{target.public_id}").json()["credentials_changed_at"] is not None
    target.sealed_documents.update(version=2)
    assert api.get(f"/connections/{target.public_id}").json()["credentials_changed_at"] is None


# --- a test that passes ---------------------------------------------------------------------------------------------


def test_a_test_that_passes_ends_a_breakers_pause(api, endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    fail(endpoint, target, 5)
    assert health(api, target)["status"] == "cooling_down"
    endpoint.answer(500)
    api.post(f"/connections/{target.public_id}/test")
    assert health(api, target)["status"] == "cooling_down"
    endpoint.answer(200)
    assert api.post(f"/connections/{target.public_id}/test").json()["ok"] is True
    found = health(api, target)
    assert (found["status"], found["consecutive_failures"]) == ("ok", 0)
    target.refresh_from_db()
    assert target.paused_until is None
    assert ConnectionHealth.objects.get().breaker == "closed"


def test_a_test_that_passes_does_not_end_the_rest_that_a_429_asked_for(api, endpoint):
    target = make_connection(make_workspace(), url=endpoint.url)
    endpoint.answer(429, {"Retry-After": "3600"})
    deliver(*make_deliveries(target))
    endpoint.answer(200)
    assert api.post(f"/connections/{target.public_id}/test").json()["ok"] is True
    found = health(api, target)
    assert (found["status"], found["reason"].startswith(COOL_DOWN_WORDS["throttled"])) == ("cooling_down", True)
    target.refresh_from_db()
    assert target.paused_until > ahead(3000)


def test_a_test_that_passes_leaves_a_users_own_pause(endpoint, api):
    target = make_connection(make_workspace(), url=endpoint.url, paused_until=ahead(60))
    counters(target, breaker="open", opened_by="failures", consecutive_failures=5)
    lifecycle.pause(target)
    assert api.post(f"/connections/{target.public_id}/test").json()["ok"] is True
    target.refresh_from_db()
    assert target.status == "paused"


# --- the next attempt -----------------------------------------------------------------------------------------------


def test_a_due_delivery_waits_for_its_turn(api):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    assert shown(api, delivery) == (None, {"reason": "turn", "until": None, "detail": TURN_WORDS})


def test_a_retry_waits_for_its_schedule(api):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    due = ahead(300)
    Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=due)
    next_attempt_at, waiting = shown(api, delivery)
    assert parse_datetime(next_attempt_at) == parse_datetime(waiting["until"]) == due
    assert (waiting["reason"], waiting["detail"]) == ("retry", RETRY_WORDS)


@pytest.mark.parametrize(
    ("values", "opened_by"),
    [
        ({"breaker": "open", "opened_by": "failures"}, "failures"),
        ({"breaker": "open", "opened_by": ""}, "failures"),
        ({"breaker": "open", "opened_by": "throttled"}, "throttled"),
        ({"breaker": "open", "opened_by": "no_credentials"}, "no_credentials"),
        ({"breaker": "closed"}, ""),
        (None, ""),
    ],
)
def test_what_is_due_in_a_pause_waits_for_its_end(api, values, opened_by):
    until = ahead(300)
    target = make_connection(make_workspace(), paused_until=until)
    if values is not None:
        counters(target, **values)
    due, later = make_deliveries(target, 2)
    Delivery.objects.filter(pk=later.pk).update(next_attempt_at=ahead(600))
    next_attempt_at, waiting = shown(api, due)
    assert parse_datetime(next_attempt_at) == until
    assert (waiting["reason"], waiting["detail"]) == ("cool_down", COOL_DOWN_WORDS[opened_by])
    assert shown(api, later)[1]["reason"] == "retry"


def test_while_a_probe_is_made_the_others_wait_for_it(api):
    target = make_connection(make_workspace(), paused_until=ahead(-1))
    until = ahead(30)
    counters(target, breaker="half_open", opened_by="failures", probe_until=until)
    (delivery,) = make_deliveries(target)
    next_attempt_at, waiting = shown(api, delivery)
    assert (parse_datetime(next_attempt_at), waiting["reason"], waiting["detail"]) == (until, "probe", PROBE_WORDS)


@pytest.mark.parametrize("status", ["succeeded", "dead", "cancelled"])
def test_what_is_over_has_no_next_attempt(api, status):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    Delivery.objects.filter(pk=delivery.pk).update(status=status)  # whose due time is left as it was
    assert shown(api, delivery) == (None, None)


def test_what_is_in_flight_waits_for_nothing_of_ours(api):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    Delivery.objects.filter(pk=delivery.pk).update(lease_until=ahead(60))
    assert shown(api, delivery) == (None, None)


def test_no_list_shows_a_next_attempt_that_is_past(api):
    target = make_connection(make_workspace())
    for delivery in make_deliveries(target, 3):
        Delivery.objects.filter(pk=delivery.pk).update(next_attempt_at=ahead(-3600))
    Delivery.objects.filter(pk=delivery.pk).update(status="dead")
    event = api.get(f"/events/{delivery.event.public_id}").json()
    rows = api.get("/deliveries").json()["data"] + api.get("/dead-letters").json()["data"] + event["deliveries"]
    assert {row["next_attempt_at"] for row in rows} == {None}


def test_the_admin_says_what_is_waited_for(api):
    until = ahead(300)
    target = make_connection(make_workspace(), paused_until=until)
    counters(target, breaker="open", opened_by="throttled", consecutive_failures=1, last_failure_at=ahead(-5))
    (delivery,) = make_deliveries(target)
    root = superuser()
    for page in (("delivery_delivery", delivery.pk), ("delivery_event", delivery.event_id)):
        text = root.text(*page)
        assert f"Next attempt {until:%Y-%m-%d %H:%M:%S}" in text
        assert COOL_DOWN_WORDS["throttled"] in text
    assert f"{until:%Y-%m-%d %H:%M:%S} cool down" in words(root.list("delivery_delivery"))
    assert "Is cooling down since" in root.text("connections_connection", target.pk)


def test_a_pause_that_is_over_is_not_shown(api):
    target = make_connection(make_workspace(), paused_until=ahead(-60))
    assert api.get(f"/connections/{target.public_id}").json()["paused_until"] is None
    assert [row["paused_until"] for row in api.get("/connections").json()["data"]] == [None]
    until = ahead(60)
    type(target).objects.update(paused_until=until)
    assert parse_datetime(api.get(f"/connections/{target.public_id}").json()["paused_until"]) == until


def test_the_admin_shows_no_probe_that_is_over(api):
    target = make_connection(make_workspace())
    over = ahead(-3600)
    counters(target, breaker="half_open", probe_until=over)
    assert f"{over:%Y-%m-%d %H:%M:%S}" not in superuser().text("connections_connection", target.pk)
