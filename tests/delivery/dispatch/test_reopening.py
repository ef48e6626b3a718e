"""Sending again with the original or the current mapping: which delivery is open then, and what names what."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, connections, transaction

from delivery.dispatch import replays
from delivery.dispatch.replays import advance_replays, replacement_id
from delivery.models import Attempt, Delivery, Payload, Replay
from meshes.kit import ids
from tests.delivery.api import mistakes
from tests.factories import make_connection, make_deliveries, make_rule, make_workspace

pytestmark = pytest.mark.django_db

OLD = [{"to": "mail", "from": "payload.email"}]
NEW = [{"to": "address", "from": "payload.email"}]


def rejected(connection=None, number=1, mapping=OLD, **values):
    """Deliveries that their destination refused, whose rule has been changed since."""
    connection = connection or make_connection(make_workspace())
    rule = make_rule(connection, mapping=mapping)
    made = make_deliveries(connection, number)
    values = {"status": "dead", "cause": "rejected", "detail": "bad field", "outcome": "rejected"} | values
    rows = Delivery.objects.filter(pk__in=[row.pk for row in made])
    rows.update(next_attempt_at=None, attempt_number=1, finished_at=datetime.now(UTC), **values)
    rule.mapping, rule.version = NEW, 2
    rule.save()
    return list(rows.order_by("pk"))


def add_attempt(delivery, outcome, **values):
    values |= {"workspace_id": delivery.workspace_id, "outcome": outcome, "started_at": datetime.now(UTC)}
    Attempt.objects.create(delivery=delivery, number=1, **values)


def again(api, delivery, **body):
    return api.post(f"/deliveries/{delivery.public_id}/replay", body)


def fresh(delivery):
    return Delivery.objects.get(pk=delivery.pk)


def later(seconds=0):
    return datetime.now(UTC) + timedelta(seconds=seconds)


# --- after a rejection ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{}, {"mapping": "current"}])
def test_what_was_rejected_is_sent_as_a_new_delivery_with_todays_mapping(api, body):
    (old,) = rejected()
    answer = again(api, old, **body)
    assert answer.status_code == 202
    document = answer.json()
    new = Delivery.objects.get(pk=replacement_id(old.pk, None))
    assert document["id"] == new.public_id != old.public_id
    assert (document["status"], document["replay_of"], document["replaced_by"]) == ("pending", old.public_id, None)
    assert (document["attempt_count"], document["attempts"], document["outcome"]) == (0, [], "")
    assert set(document) == set(api.get(f"/deliveries/{old.public_id}").json())
    assert (new.body, new.event_id, new.rule_id) == ('{"address":"ada@example.com"}', old.event_id, old.rule_id)
    assert ids.milliseconds(new.pk) == ids.milliseconds(old.event_id)
    shown = api.get(f"/deliveries/{old.public_id}").json()
    assert (shown["status"], shown["cause"], shown["replaced_by"]) == ("cancelled", "replaced", new.public_id)
    assert shown["detail"] == (
        f"Replaced by {new.public_id}, which today's mapping shaped. It was a dead letter (rejected). bad field"
    )
    assert fresh(old).body == '{"mail":"ada@example.com"}'


def test_lists_and_counts_hold_one_of_the_two(api):
    (old,) = rejected()
    new = again(api, old).json()["id"]
    workspace = ids.encode(ids.WORKSPACE, old.workspace_id)
    assert api.get("/dead-letters", workspace=workspace).json()["data"] == []
    open_ones = [row["id"] for row in api.get("/deliveries", workspace=workspace, status="pending").json()["data"]]
    assert open_ones == [new]


def test_original_reopens_the_same_delivery_in_its_bytes(api):
    (old,) = rejected()
    answer = again(api, old, mapping="original").json()
    assert (answer["id"], answer["status"], answer["replaced_by"]) == (old.public_id, "pending", None)
    row = fresh(old)
    assert (row.body, row.attempt_number) == ('{"mail":"ada@example.com"}', 1)
    assert row.replayed_at is not None
    assert Delivery.objects.count() == 1


def test_what_was_exhausted_is_reopened_unless_asked_otherwise(api):
    (old,) = rejected(cause="exhausted", outcome="retry")
    assert again(api, old).json()["id"] == old.public_id
    (old,) = rejected(cause="exhausted", outcome="retry")
    assert again(api, old, mapping="current").json()["replay_of"] == old.public_id


def test_a_repeated_call_makes_no_second_one_and_names_the_newest(api):
    (old,) = rejected()
    new = again(api, old).json()["id"]
    for body in ({}, {"mapping": "original"}, {"mapping": "current", "may_duplicate": True}):
        refused = again(api, old, **body)
        assert refused.status_code == 409
        assert refused.json()["detail"] == f"It was replaced by {new}: replay that one."
    assert Delivery.objects.count() == 2


def test_every_earlier_one_of_a_chain_names_the_newest(api):
    (first,) = rejected()
    second = Delivery.objects.get(pk=ids.decode(ids.DELIVERY, again(api, first).json()["id"]))
    Delivery.objects.filter(pk=second.pk).update(status="dead", cause="rejected", next_attempt_at=None)
    third = again(api, second).json()["id"]
    assert api.get(f"/deliveries/{first.public_id}").json()["replaced_by"] == third
    assert api.get(f"/deliveries/{second.public_id}").json()["replaced_by"] == third
    assert api.get(f"/deliveries/{third}").json()["replay_of"] == second.public_id
    assert again(api, first).json()["detail"] == f"It was replaced by {third}: replay that one."


def test_a_new_delivery_to_a_connection_on_hold_is_held(api):
    (old,) = rejected()
    old.connection.status, old.connection.status_reason = "paused", "Paused by its owner."
    old.connection.save()
    answer = again(api, old).json()
    assert (answer["status"], answer["cause"], answer["detail"]) == ("held", "paused", "Paused by its owner.")


def test_a_changed_action_goes_with_its_mapping(api):
    connection = make_connection(make_workspace(), config={"url": "https://example.com/hook", "body": "raw"})
    (old,) = rejected(connection)
    Delivery.objects.filter(pk=old.pk).update(action="earlier", frozen={"body": "wrapped"})
    new = Delivery.objects.get(pk=ids.decode(ids.DELIVERY, again(api, old).json()["id"]))
    assert (new.action, new.frozen) == ("send", {"body": "raw"})


@pytest.mark.django_db(transaction=True)
def test_replays_at_once_make_one_new_delivery_each():
    made = rejected(number=10)
    wanted = [row.pk for row in made]

    def send(mapping):
        try:
            return replays.send_again(wanted, replays.Terms(mapping))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        sent = list(pool.map(send, ["current", "original", "current", ""]))
    done = [old for each in sent for old in each.made]
    assert sorted(done) == sorted(wanted)
    assert {refusal.reason for each in sent for refusal in each.refused.values()} <= {
        "changed",
        "in_progress",
        "replaced",
    }
    replaced = Delivery.objects.filter(pk__in=wanted, cause="replaced")
    assert Delivery.objects.count() == 10 + replaced.count()
    assert Delivery.objects.filter(status="pending").count() == 10
    for row in replaced:
        assert Delivery.objects.get(replay_of=row.pk).pk == row.replaced_by_id


# --- what may arrive twice ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({"status": "succeeded", "cause": "", "outcome": "delivered"}, None),
        ({"cause": "uncertain", "outcome": "uncertain"}, None),
        ({"cause": "exhausted", "outcome": "uncertain"}, None),
        ({"cause": "exhausted", "outcome": "retry"}, "uncertain"),
        ({"cause": "poison", "outcome": "uncertain"}, "uncertain"),
        ({"cause": "rejected", "outcome": "rejected"}, "delivered"),
    ],
)
def test_what_arrived_or_may_have_needs_may_duplicate(api, values, outcome):
    (old,) = rejected(**values)
    if outcome:
        add_attempt(old, outcome)
    refused = again(api, old, mapping="current")
    assert refused.status_code == 409
    assert "may_duplicate: true" in refused.json()["detail"]
    assert Delivery.objects.count() == 1
    answer = again(api, old, mapping="current", may_duplicate=True)
    assert (answer.status_code, answer.json()["replay_of"]) == (202, old.public_id)


def test_a_rejection_speaks_for_the_attempts_before_it_that_had_no_answer(api):
    (old,) = rejected()
    add_attempt(old, "uncertain")
    add_attempt(old, "rejected", status_code=422)
    assert again(api, old).status_code == 202


def test_a_rejection_of_ours_speaks_for_nobody(api):
    """Such as a request that could not be built any more."""
    (old,) = rejected()
    add_attempt(old, "uncertain")
    add_attempt(old, "rejected")
    refused = again(api, old)
    assert refused.status_code == 409
    assert "may_duplicate: true" in refused.json()["detail"]


def test_what_succeeded_stays_so_beside_the_new_one(api):
    (old,) = rejected(status="succeeded", cause="", detail="", outcome="delivered")
    new = again(api, old, mapping="current", may_duplicate=True).json()["id"]
    shown = api.get(f"/deliveries/{old.public_id}").json()
    assert (shown["status"], shown["cause"], shown["replaced_by"]) == ("succeeded", "", new)


# --- what speaks against it -----------------------------------------------------------------------------------------


def test_a_deleted_rule_has_no_present_mapping(api):
    (old,) = rejected()
    assert api.delete(f"/rules/{ids.encode(ids.RULE, old.rule_id)}").status_code == 204
    refused = again(api, old)
    assert refused.status_code == 409
    words = "Its rule was deleted, so there is no present mapping. Or ask for mapping: original."
    assert refused.json()["detail"] == words
    assert again(api, old, mapping="original").status_code == 202


def test_a_disabled_rule_still_has_its_mapping(api):
    (old,) = rejected()
    assert api.patch(f"/rules/{ids.encode(ids.RULE, old.rule_id)}", {"enabled": False}).status_code == 200
    assert again(api, old).status_code == 202


@pytest.mark.parametrize("cause", ["rejected", "mapping_failed"])
def test_the_mapping_of_a_rule_that_leads_elsewhere_is_not_for_this_connection(api, cause):
    (old,) = rejected(cause=cause)
    other = make_connection(old.workspace)
    old.rule.connection = other
    old.rule.save()
    refused = again(api, old)
    assert refused.status_code == 409
    assert refused.json()["detail"].startswith("Its rule leads to another connection now")
    assert fresh(old).status == "dead"


def test_a_deleted_connection_takes_nothing(api):
    (old,) = rejected()
    old.connection.status = "deleted"
    old.connection.save()
    assert again(api, old).json()["detail"] == "Its connection was deleted."


def test_without_the_payload_there_is_nothing_to_shape(api):
    (old,) = rejected()
    Payload.objects.update(body="", erased_at=datetime.now(UTC))
    assert again(api, old).json()["detail"] == replays.NOT_KEPT
    assert again(api, old, mapping="original").status_code == 202


def test_a_mapping_that_fails_now_leaves_the_delivery_dead(api):
    (old,) = rejected()
    old.rule.mapping = [{"to": "phone", "from": "payload.phone", "on_error": "fail"}]
    old.rule.save()
    refused = again(api, old)
    assert (refused.status_code, Delivery.objects.count()) == (409, 1)
    assert refused.json()["detail"].startswith("The rule's mapping still fails for this event: /0/from")
    assert fresh(old).status == "dead"


def test_a_failed_mapping_reopens_itself_whatever_is_asked_for(api):
    for mapping in ({}, {"mapping": "original"}, {"mapping": "current"}):
        (old,) = rejected(cause="mapping_failed", body=None)
        answer = again(api, old, **mapping).json()
        assert (answer["id"], answer["replay_of"]) == (old.public_id, None)
        assert fresh(old).body == '{"address":"ada@example.com"}'


def test_the_database_refuses_a_link_into_another_workspace():
    (own,), (foreign,) = rejected(), rejected()
    for column in ("replay_of", "replaced_by"):
        with pytest.raises(IntegrityError), transaction.atomic():
            Delivery.objects.filter(pk=own.pk).update(**{column: foreign})
        with pytest.raises(IntegrityError), transaction.atomic():
            Delivery.objects.filter(pk=own.pk).update(**{f"{column}_id": ids.uuid7()})


def test_options_are_checked(api):
    (old,) = rejected()
    assert mistakes(again(api, old, mapping="newest")) == {"/mapping": "invalid_choice"}
    assert mistakes(again(api, old, may_duplicate="yes")) == {"/may_duplicate": "type"}
    assert mistakes(again(api, old, dry=True)) == {"/dry": "unknown_field"}
    assert fresh(old).status == "dead"


# --- many -----------------------------------------------------------------------------------------------------------


def begin(api, delivery, document=None, **values):
    workspace = ids.encode(ids.WORKSPACE, delivery.workspace_id)
    return api.post("/replays", {"workspace": workspace, "filter": document or {}} | values)


def run(replay_id):
    for step in range(20):
        advance_replays(later(step * 5))
        found = Replay.objects.get(pk=ids.decode(ids.REPLAY, replay_id))
        if found.status == "completed":
            return found
    raise AssertionError("the replay does not end")


def test_a_replay_over_a_filter_takes_the_same_options_and_says_so(api):
    made = rejected(number=3)
    document = begin(api, made[0], mapping="current", may_duplicate=True).json()
    assert (document["mapping"], document["may_duplicate"]) == ("current", True)
    done = run(document["id"])
    assert (done.reopened, done.skipped, done.total) == (3, 0, 3)
    new = Delivery.objects.filter(replay=done)
    assert {row.pk for row in new} == {replacement_id(row.pk, done.pk) for row in made}
    assert {row.body for row in new} == {'{"address":"ada@example.com"}'}
    shown = api.get(f"/replays/{document['id']}").json()
    assert shown["deliveries"] == {
        "pending": 3, "succeeded": 0, "held": 0, "dead": 0, "cancelled": 0, "in_flight": 0,
    }  # fmt: skip


def test_without_a_mapping_each_delivery_goes_by_its_cause(api):
    (one,) = rejected()
    (other,) = make_deliveries(one.connection)
    Delivery.objects.filter(pk=other.pk).update(status="dead", cause="exhausted", next_attempt_at=None)
    document = begin(api, one).json()
    assert document["mapping"] is None
    run(document["id"])
    assert fresh(one).status == "cancelled"
    assert fresh(other).status == "pending"


def test_what_a_replay_has_made_it_does_not_take_up_again(api, monkeypatch):
    """A new delivery's id may lie ahead of the cursor, and the delivery may die at once."""
    made = rejected(number=5)
    document = begin(api, made[0]).json()
    send = replays.send_again

    def and_die(delivery_ids, terms, steps):
        sent = send(delivery_ids, terms, steps)
        Delivery.objects.filter(pk__in=sent.made.values()).update(status="dead", cause="rejected", next_attempt_at=None)
        return sent

    monkeypatch.setattr(replays, "send_again", and_die)
    monkeypatch.setattr(replays, "REPLAY_RATE", 1.0)
    done = run(document["id"])
    assert (done.reopened, done.total) == (5, 5)
    assert Delivery.objects.count() == 10


def test_a_crash_between_writing_and_moving_on_makes_no_doubles(api, monkeypatch):
    made = rejected(number=3)
    document = begin(api, made[0]).json()
    with monkeypatch.context() as patch:
        patch.setattr(replays, "_move", lambda *args, **kwargs: 1 / 0)
        assert advance_replays(later()) == 0
    assert Delivery.objects.count() == 3
    Replay.objects.update(next_batch_at=later(-1))
    assert run(document["id"]).reopened == 3
    assert Delivery.objects.count() == 6


def test_what_mappings_cost_a_replay_is_spread_over_its_batches(api, monkeypatch):
    made = rejected(number=5)
    monkeypatch.setattr(replays, "EVENT_STEPS", 1)
    document = begin(api, made[0]).json()
    assert advance_replays(later()) == 1
    assert [fresh(row).cause for row in made] == ["replaced", *["rejected"] * 4]
    done = run(document["id"])
    assert (done.reopened, done.skipped) == (5, 0)


def test_what_is_skipped_is_counted_by_reason(api):
    first, second, third, fourth = rejected(number=4)
    Delivery.objects.filter(pk=fourth.pk).update(cause="uncertain", outcome="uncertain")
    Payload.objects.filter(pk__in=[first.event_id, second.event_id]).update(body="", erased_at=datetime.now(UTC))
    document = begin(api, first, mapping="current").json()
    assert document["skipped_by_reason"] == {}
    run(document["id"])
    shown = api.get(f"/replays/{document['id']}").json()
    assert (shown["reopened"], shown["skipped"]) == (1, 3)
    assert shown["skipped_by_reason"] == {"payload_gone": 2, "may_duplicate": 1}
    assert fresh(third).cause == "replaced"


@pytest.mark.parametrize("document", [{"status": "succeeded"}, {"cause": "uncertain"}])
def test_a_replay_that_would_skip_everything_is_refused(api, document):
    (old,) = rejected()
    assert mistakes(begin(api, old, document, mapping="current")) == {"/may_duplicate": "required"}
    assert not Replay.objects.exists()
    assert begin(api, old, document, mapping="current", may_duplicate=True).status_code == 202


def test_a_replaced_success_is_not_counted_again(api):
    (old,) = rejected(status="succeeded", cause="", detail="", outcome="delivered")
    again(api, old, mapping="current", may_duplicate=True)
    assert begin(api, old, {"status": "succeeded"}, dry_run=True).json()["count"] == 0


# --- dry run --------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_how_the_bodies_differ_and_changes_nothing(api):
    (old,) = rejected()
    (sample,) = begin(api, old, dry_run=True).json()["samples"]
    assert (sample["mapping"], sample["reason"], sample["error"]) == ("current", "", "")
    assert sample["difference"] == [
        {"pointer": "/mail", "before": "ada@example.com"},
        {"pointer": "/address", "after": "ada@example.com"},
    ]
    assert json.loads(sample["request"]["body"])["data"] == {"address": "ada@example.com"}
    (sample,) = begin(api, old, dry_run=True, mapping="original").json()["samples"]
    assert (sample["mapping"], sample["difference"]) == ("original", [])
    assert json.loads(sample["request"]["body"])["data"] == {"mail": "ada@example.com"}
    assert fresh(old).status == "dead"
    assert (Delivery.objects.count(), Replay.objects.count()) == (1, 0)


def test_a_dry_run_gives_the_reason_why_nothing_would_be_sent(api):
    (old,) = rejected()
    api.delete(f"/rules/{ids.encode(ids.RULE, old.rule_id)}")
    (sample,) = begin(api, old, dry_run=True).json()["samples"]
    assert (sample["request"], sample["mapping"], sample["reason"]) == (None, None, "rule_deleted")
    assert sample["error"].startswith("Its rule was deleted")
