"""Deliveries and dead letters, as the API shows and changes them."""

from datetime import UTC, datetime, timedelta

import pytest

from delivery.models import Attempt, Delivery, Payload
from meshes.kit import ids
from tests.delivery.api import mistakes, tenant
from tests.factories import make_connection, make_deliveries, make_rule, make_workspace

pytestmark = pytest.mark.django_db


def set_status(delivery, status, **values):
    due = None if status in ("dead", "succeeded", "cancelled") else datetime.now(UTC)
    Delivery.objects.filter(pk=delivery.pk).update(status=status, next_attempt_at=due, **values)


def take(delivery):
    """As a worker's claim does."""
    until = datetime.now(UTC) + timedelta(seconds=60)
    Delivery.objects.filter(pk=delivery.pk).update(lease_id=ids.uuid7(), lease_until=until)


def add_attempt(delivery, number=1, **values):
    values = {"outcome": "retry", "started_at": datetime.now(UTC)} | values
    return Attempt.objects.create(workspace_id=delivery.workspace_id, delivery=delivery, number=number, **values)


def test_a_delivery_shows_its_attempts_with_what_was_answered(api):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    add_attempt(delivery, 2, response_body=b"\xff\x00", response_truncated=True)
    add_attempt(
        delivery,
        1,
        request_method="POST",
        request_url="https://example.com/hook",
        request_headers=[["authorization", "Bearer ••••"]],
        response_headers=[["content-type", "text/plain"]],
        response_body="déjà vu".encode(),
        credential_version=3,
    )
    add_attempt(delivery, 3)
    document = api.get(f"/deliveries/{delivery.public_id}").json()
    first, second, third = document["attempts"]
    assert [first["number"], second["number"], third["number"]] == [1, 2, 3]
    assert first["request"] == {
        "method": "POST",
        "url": "https://example.com/hook",
        "headers": [["authorization", "Bearer ••••"]],
        "body": None,
        "curl": None,
    }
    assert first["response_headers"] == [["content-type", "text/plain"]]
    assert first["response_body"] == {"encoding": "utf-8", "content": "déjà vu", "truncated": False}
    assert first["credential_version"] == 3
    assert second["response_body"] == {"encoding": "base64", "content": "/wA=", "truncated": True}
    assert third["response_body"] is None
    assert "body" not in document


def test_a_delivery_with_a_live_lease_is_in_flight(api):
    connection = make_connection(make_workspace())
    pending, taken = make_deliveries(connection, 2)
    take(taken)
    assert api.get(f"/deliveries/{taken.public_id}").json()["status"] == "in_flight"

    def found(status):
        return [row["id"] for row in api.get("/deliveries", status=status).json()["data"]]

    assert found("in_flight") == [taken.public_id]
    assert found("pending") == [pending.public_id]


def test_deliveries_are_selected(api):
    workspace = make_workspace()
    first, second = make_connection(workspace), make_connection(workspace)
    (one,) = make_deliveries(first)
    (two,) = [row for row in make_deliveries(second) if row.connection_id == second.pk]
    set_status(one, "dead", cause="rejected", outcome="rejected")
    everything = Delivery.objects.count()

    def found(path="/deliveries", **query):
        return {row["id"] for row in api.get(path, workspace=workspace.external_id, **query).json()["data"]}

    assert len(found()) == everything
    assert found(connection=first.public_id, status="dead") == {one.public_id}
    assert found(outcome="rejected") == found(cause="rejected") == {one.public_id}
    assert two.public_id in found(event=ids.encode(ids.EVENT, two.event_id))
    assert one.public_id not in found(event=ids.encode(ids.EVENT, two.event_id))
    assert len(found(event="lead.created")) == everything
    assert found(event="deal.won") == set()
    assert found(to="2020-01-01") == set()
    assert found("/dead-letters") == {one.public_id}
    assert found("/dead-letters", cause="exhausted") == set()


@pytest.mark.parametrize(
    ("path", "query", "rule"),
    [
        ("/deliveries", {"status": "lost"}, "invalid_choice"),
        ("/deliveries", {"outcome": "x"}, "invalid_choice"),
        ("/deliveries", {"event": "a b"}, "event_type"),
        ("/deliveries", {"cause": "A"}, "invalid_choice"),
        ("/deliveries", {"cause": "exausted"}, "invalid_choice"),
        ("/deliveries", {"cause": "rate_limted"}, "invalid_choice"),
        ("/dead-letters", {"cause": "exausted"}, "invalid_choice"),
        ("/dead-letters", {"cause": "paused"}, "invalid_choice"),
        ("/deliveries", {"event": "evt_01k000"}, "event_id"),
        ("/dead-letters", {"event": "EVT_01k000"}, "event_id"),
        ("/deliveries", {"event": ids.encode(ids.DELIVERY, ids.uuid7())}, "event_id"),
        ("/events", {"event": ids.encode(ids.EVENT, ids.uuid7())}, "event_id"),
        ("/dead-letters", {"status": "dead"}, "unknown_parameter"),
    ],
)
def test_a_bad_parameter_is_named(api, path, query, rule):
    assert mistakes(api.get(path, **query)) == {next(iter(query)): rule}


@pytest.mark.parametrize(
    ("path", "cause", "meant"),
    [
        ("/deliveries", "exausted", "exhausted"),
        ("/dead-letters", "rejectd", "rejected"),
        ("/deliveries", "Cancelled_by_user", "cancelled_by_user"),
        ("/deliveries", "time_out", "timeout"),
    ],
)
def test_a_misspelt_cause_is_refused_with_the_nearest(api, path, cause, meant):
    (error,) = api.get(path, cause=cause).json()["errors"]
    assert error["detail"].startswith(f'"{cause}" is none of exhausted, rejected,')
    assert error["detail"].endswith(f" Did you mean {meant}?")


@pytest.mark.parametrize(
    "cause", ["exhausted", "paused", "replaced", "erased", "filtered", "unreachable", "worker_lost"]
)
def test_every_kind_of_cause_is_searched_for(api, cause):
    one, _ = make_deliveries(make_connection(make_workspace()), 2)
    set_status(one, "pending", cause=cause)
    assert [row["id"] for row in api.get("/deliveries", cause=cause).json()["data"]] == [one.public_id]


def test_an_event_type_may_begin_as_an_id_does(api):
    assert api.get("/deliveries", event="evt_signup").status_code == 200
    assert api.get("/events", event="key_rotated").status_code == 200


def test_a_foreign_delivery_is_an_unknown_one():
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    set_status(delivery, "dead")
    caller = tenant(make_workspace())
    unknown = ids.encode(ids.DELIVERY, ids.uuid7())
    for send in (
        lambda delivery_id: caller.get(f"/deliveries/{delivery_id}"),
        lambda delivery_id: caller.post(f"/deliveries/{delivery_id}/replay"),
        lambda delivery_id: caller.post(f"/deliveries/{delivery_id}/cancel"),
    ):
        assert send(delivery.public_id).status_code == 404
        assert send(delivery.public_id).content == send(unknown).content
    assert caller.get("/dead-letters").json()["data"] == []
    delivery.refresh_from_db()
    assert delivery.status == "dead"


# --- replay ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["dead", "succeeded"])
def test_replay_reopens_with_a_fresh_budget(api, status):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    set_status(
        delivery, status, cause="exhausted", detail="x", budget_used=8, losses=2, attempt_number=9,
        finished_at=datetime.now(UTC),
    )  # fmt: skip
    answer = api.post(f"/deliveries/{delivery.public_id}/replay")
    assert answer.status_code == 202
    delivery.refresh_from_db()
    assert (delivery.status, delivery.cause, delivery.detail) == ("pending", "", "")
    assert (delivery.budget_used, delivery.losses, delivery.attempt_number) == (0, 0, 9)
    assert delivery.finished_at is None
    assert Delivery.objects.filter(pk=delivery.pk, next_attempt_at__lte=datetime.now(UTC)).exists()
    assert answer.json()["status"] == "pending"


@pytest.mark.parametrize("status", ["pending", "held", "cancelled"])
def test_only_what_is_over_is_replayed(api, status):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    set_status(delivery, status, budget_used=3)
    answer = api.post(f"/deliveries/{delivery.public_id}/replay")
    assert answer.status_code == 409
    assert status in answer.json()["detail"]
    delivery.refresh_from_db()
    assert (delivery.status, delivery.budget_used) == (status, 3)


def test_nothing_is_replayed_to_a_deleted_connection(api):
    connection = make_connection(make_workspace())
    (delivery,) = make_deliveries(connection)
    set_status(delivery, "dead")
    connection.status = "deleted"
    connection.save()
    answer = api.post(f"/deliveries/{delivery.public_id}/replay")
    assert (answer.status_code, answer.json()["detail"]) == (409, "Its connection was deleted.")


def test_a_replay_to_a_connection_on_hold_is_held(api):
    connection = make_connection(make_workspace())
    (delivery,) = make_deliveries(connection)
    set_status(delivery, "dead", cause="exhausted")
    connection.status = "paused"
    connection.save()
    assert api.post(f"/deliveries/{delivery.public_id}/replay").status_code == 202
    delivery.refresh_from_db()
    assert (delivery.status, delivery.cause) == ("held", "paused")


def test_nothing_is_replayed_without_its_payload(api):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    set_status(delivery, "dead")
    Payload.objects.update(body="", erased_at=datetime.now(UTC))
    answer = api.post(f"/deliveries/{delivery.public_id}/replay")
    assert (answer.status_code, answer.json()["detail"]) == (409, "The event's payload is not kept any more.")


def test_a_failed_mapping_is_tried_again_with_the_present_one(api):
    connection = make_connection(make_workspace())
    rule = make_rule(connection, mapping=[{"to": "phone", "from": "payload.phone", "on_error": "fail"}])
    (delivery,) = make_deliveries(connection)
    assert (delivery.status, delivery.cause) == ("dead", "mapping_failed")
    refused = api.post(f"/deliveries/{delivery.public_id}/replay")
    told = f"rule {delivery.rule.public_id}, entry 0: phone from payload.phone"
    words = f"The rule's mapping still fails for this event: /0/from: found nothing in this event ({told})"
    assert (refused.status_code, refused.json()["detail"]) == (409, words)
    mended = [{"to": "mail", "from": "payload.email"}]
    assert api.patch(f"/rules/{rule.public_id}", {"mapping": mended}).status_code == 200
    assert api.post(f"/deliveries/{delivery.public_id}/replay").status_code == 202
    delivery.refresh_from_db()
    assert (delivery.status, delivery.body) == ("pending", '{"mail":"ada@example.com"}')


def test_a_failed_mapping_that_was_taken_away_sends_the_payload(api):
    connection = make_connection(make_workspace())
    rule = make_rule(connection, mapping=[{"to": "phone", "from": "payload.phone", "on_error": "fail"}])
    (delivery,) = make_deliveries(connection)
    api.patch(f"/rules/{rule.public_id}", {"mapping": None})
    assert api.post(f"/deliveries/{delivery.public_id}/replay").status_code == 202
    delivery.refresh_from_db()
    assert (delivery.status, delivery.body) == ("pending", None)


# --- cancel ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["pending", "held"])
def test_an_open_delivery_is_cancelled(api, status):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    set_status(delivery, status)
    answer = api.post(f"/deliveries/{delivery.public_id}/cancel")
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["cause"]) == ("cancelled", "cancelled_by_user")
    delivery.refresh_from_db()
    assert (delivery.status, delivery.next_attempt_at) == ("cancelled", None)
    assert delivery.finished_at is not None


def test_a_dead_letter_is_cancelled_for_good(api):
    first, second = make_deliveries(make_connection(make_workspace()), 2)
    for each in (first, second):
        set_status(each, "dead", cause="exhausted", detail="The receiver is away.")
    path = f"/deliveries/{first.public_id}/cancel"
    done = api.post(path).json()
    assert (done["status"], done["cause"]) == ("cancelled", "cancelled_by_user")
    assert done["detail"] == "Cancelled on request. It was a dead letter (exhausted). The receiver is away."
    assert done["finished_at"] is not None
    assert [row["id"] for row in api.get("/dead-letters").json()["data"]] == [second.public_id]
    asked = {"workspace": first.workspace.public_id, "filter": {"cause": "exhausted"}, "dry_run": True}
    assert api.post("/replays", asked).json()["count"] == 1
    assert api.post(f"/deliveries/{first.public_id}/replay").status_code == 409
    assert api.post(path).status_code == 409


@pytest.mark.parametrize("status", ["succeeded", "cancelled"])
def test_what_is_over_is_not_cancelled(api, status):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    set_status(delivery, status)
    assert api.post(f"/deliveries/{delivery.public_id}/cancel").status_code == 409
    delivery.refresh_from_db()
    assert delivery.status == status


def test_what_is_being_sent_is_not_cancelled(api):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    take(delivery)
    answer = api.post(f"/deliveries/{delivery.public_id}/cancel")
    assert answer.status_code == 409
    assert "in_flight" in answer.json()["detail"]
    delivery.refresh_from_db()
    assert delivery.status == "pending"


def test_an_action_takes_no_fields(api):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    answer = api.post(f"/deliveries/{delivery.public_id}/cancel", {"force": True})
    assert mistakes(answer) == {"/force": "unknown_field"}


def test_an_action_needs_no_body(api):
    (delivery,) = make_deliveries(make_connection(make_workspace()))
    assert api.post(f"/deliveries/{delivery.public_id}/cancel", b"").status_code == 200
