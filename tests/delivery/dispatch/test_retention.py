"""Partitions are made ahead and dropped in time; what is open then is closed visibly."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.db.models import Max

from connections.models import OAuthState
from delivery.dispatch import replays, retention
from delivery.models import Attempt, Delivery, Event, Payload, Replay, RoutingLedger, Unrouted
from meshes.kit import ids, partitions
from meshes.kit.partitions import Partition, week_of
from tests.factories import make_connection, make_deliveries, make_event, make_rule, make_workspace
from workspaces.models import IdempotencyRecord

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC)


def id_at(moment):
    return partitions.first_id(moment.date()).__class__(
        int=int(moment.timestamp() * 1000) << 80 | (ids.uuid7().int & (1 << 80) - 1)
    )


def make_week(moment):
    for table in retention.TABLES:
        partitions.ensure(table, week_of(moment))


def make_old(workspace, days, *, status="succeeded", attempt_days=None):
    """An event of so many days ago, with payload, ledger and delivery, and an attempt."""
    moment = NOW - timedelta(days=days)
    make_week(moment)
    hook = make_connection(workspace)
    rule = make_rule(hook)
    event = Event.objects.create(
        id=id_at(moment), workspace=workspace, type="lead.created", payload_bytes=2, created_at=moment
    )
    Payload.objects.create(event=event, workspace=workspace, body=json.dumps({"n": days}))
    RoutingLedger.objects.create(event=event, workspace=workspace, created_at=moment)
    delivery = Delivery.objects.create(
        id=id_at(moment), workspace=workspace, event=event, rule=rule, connection=hook, event_type=event.type,
        action="send", status=status, created_at=moment, next_attempt_at=NOW if status == "pending" else None,
        body='{"shaped":1}',
    )  # fmt: skip
    tried = NOW - timedelta(days=days if attempt_days is None else attempt_days)
    make_week(tried)
    Attempt.objects.create(
        id=id_at(tried), workspace=workspace, delivery=delivery, number=1, started_at=tried, outcome="retry"
    )
    return delivery


def replaced(delivery, number):
    """A chain of so many deliveries, each in place of the one before."""
    chain = [delivery]
    for _ in range(number - 1):
        last = chain[-1]
        made = Delivery.objects.get(pk=last.pk)
        made.pk, made.replay_of_id = replays.replacement_id(last.pk, None), last.pk
        made.save(force_insert=True)
        chain.append(made)
    Delivery.objects.filter(pk__in=[each.pk for each in chain[:-1]]).update(replaced_by=chain[-1])
    return chain


def expire(now):
    """With the checks of the rows just made behind it: each test is one transaction, which a sweep is not."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    return retention.expire(now)


def weeks(table):
    return {partition.start for partition in partitions.existing(table)}


def test_partitions_are_made_ahead_once():
    future = NOW + timedelta(weeks=20)
    assert retention.ensure_partitions(future) == 5 * len(retention.TABLES)
    assert retention.ensure_partitions(future) == 0
    this_week = partitions.week_of(future)
    ahead = {this_week + partitions.WEEK * number for number in (1, 2, 3)}
    assert [{start for start in weeks(table) if start > this_week} for table in retention.TABLES] == [ahead] * 6


def test_a_partition_that_was_detached_comes_back_with_its_rows():
    event = make_event(make_workspace())
    partition = Partition("routing_ledgers", partitions.week_of(datetime.now(UTC)))
    RoutingLedger.objects.create(event=event, workspace=event.workspace, created_at=NOW)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(f"ALTER TABLE routing_ledgers DETACH PARTITION {partition.name}")
    assert not RoutingLedger.objects.exists()
    assert retention.ensure_partitions(datetime.now(UTC)) == 1
    assert RoutingLedger.objects.get().event_id == event.pk
    assert retention.ensure_partitions(datetime.now(UTC)) == 0


def test_each_table_goes_in_its_time():
    workspace = make_workspace()
    for days in (10, 45, 100, 140):
        make_old(workspace, days)
    dropped = expire(NOW)

    def kept(table, days):
        return week_of(NOW - timedelta(days=days)) in weeks(table)

    assert [kept("attempts", days) for days in (10, 45, 100, 140)] == [True, False, False, False]
    assert [kept("payloads", days) for days in (10, 45, 100, 140)] == [True, True, False, False]
    for table in ("routing_ledgers", "deliveries", "events"):
        assert [kept(table, days) for days in (10, 45, 100, 140)] == [True, True, True, False]
    assert Event.objects.count() == Delivery.objects.count() == RoutingLedger.objects.count() == 3
    assert Payload.objects.count() == 2
    assert Attempt.objects.count() == 1
    assert len(dropped) == len(set(dropped))
    assert expire(NOW) == []


def test_a_week_is_kept_until_its_last_day_is_past(settings):
    workspace = make_workspace()
    delivery = make_old(workspace, 45)
    end = datetime.combine(week_of(delivery.created_at) + timedelta(days=7), datetime.min.time(), tzinfo=UTC)
    days = settings.MESHES_RETENTION["attempts"]
    assert expire(end + days - timedelta(days=1)) == []
    assert f"attempts_p{week_of(delivery.created_at):%Y%m%d}" in expire(end + days)


@pytest.mark.parametrize("status", ["pending", "held"])
def test_what_is_open_when_its_payload_goes_is_cancelled(status):
    workspace = make_workspace()
    delivery, young = make_old(workspace, 100, status=status), make_old(workspace, 45, status=status)
    expire(NOW)
    delivery.refresh_from_db()
    young.refresh_from_db()
    assert (delivery.status, delivery.cause) == ("cancelled", "expired")
    assert (young.status, young.body) == (status, '{"shaped":1}')


def test_shaped_bodies_go_with_the_payloads():
    delivery = make_old(make_workspace(), 100)
    expire(NOW)
    delivery.refresh_from_db()
    assert (delivery.status, delivery.body) == ("succeeded", None)


def test_a_delivery_in_flight_keeps_its_payload_until_it_is_over():
    delivery = make_old(make_workspace(), 100, status="pending")
    Delivery.objects.update(lease_id=ids.uuid7(), lease_until=NOW)
    expire(NOW)
    assert Payload.objects.filter(pk=delivery.event_id).exists()
    Delivery.objects.update(lease_id=None, lease_until=None)
    expire(NOW)
    assert not Payload.objects.filter(pk=delivery.event_id).exists()


def test_an_unrouted_event_is_closed_with_a_ledger_that_says_so():
    delivery = make_old(make_workspace(), 100)
    event = delivery.event
    RoutingLedger.objects.all().delete()
    Unrouted.objects.create(event=event, workspace_id=event.workspace_id, created_at=event.created_at)
    expire(NOW)
    assert not Unrouted.objects.exists()
    assert RoutingLedger.objects.get(pk=event.pk).entries[0]["result"] == "expired"


def test_what_is_referred_to_waits():
    """A delivery that was tried late keeps its week until that attempt's week has gone."""
    delivery = make_old(make_workspace(), 140, attempt_days=10)
    expire(NOW)
    assert Delivery.objects.filter(pk=delivery.pk).exists()
    assert Event.objects.filter(pk=delivery.event_id).exists()
    assert not Payload.objects.exists()
    later = NOW + timedelta(days=40)
    expire(later)
    assert not Delivery.objects.exists()
    assert not Event.objects.exists()


@pytest.mark.parametrize("batch", [1, 1000])
def test_deliveries_that_name_each_other_go_with_their_week(monkeypatch, batch):
    monkeypatch.setattr(retention, "BATCH", batch)
    (first, second, third) = replaced(make_old(make_workspace(), 140), 3)
    old_week = week_of(NOW - timedelta(days=140))
    assert f"deliveries_p{old_week:%Y%m%d}" in expire(NOW)
    assert old_week not in weeks("events")
    assert not Delivery.objects.filter(pk__in=[first.pk, second.pk, third.pk]).exists()


def test_a_kept_delivery_stops_naming_those_that_went():
    (first, second) = replaced(make_old(make_workspace(), 140), 2)
    tried = NOW - timedelta(days=1)
    Attempt.objects.create(
        id=id_at(tried), workspace_id=second.workspace_id, delivery=second, number=1, started_at=tried, outcome="retry"
    )
    expire(NOW)
    second.refresh_from_db()
    assert second.replay_of_id is None
    assert not Delivery.objects.filter(pk=first.pk).exists()
    assert week_of(NOW - timedelta(days=140)) in weeks("deliveries")


def test_the_present_partitions_are_never_dropped():
    before = {table: weeks(table) for table in retention.TABLES}
    assert expire(NOW) == []
    assert {table: weeks(table) for table in retention.TABLES} == before


def test_idempotency_records_go_after_a_day():
    for age in (1, 25):
        IdempotencyRecord.objects.create(
            scope=ids.uuid7(), path="/events", key="k", body_hash=b"", status_code=202, answer="",
            created_at=NOW - timedelta(hours=age),
        )  # fmt: skip
    expire(NOW)
    assert IdempotencyRecord.objects.aggregate(newest=Max("created_at"))["newest"] == NOW - timedelta(hours=1)
    assert IdempotencyRecord.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_lock_that_is_not_free_is_waited_for_but_briefly():
    make_old(make_workspace(), 45)
    rival = connection.copy()
    try:
        with rival.cursor() as cursor:
            cursor.execute("BEGIN; SELECT count(*) FROM attempts")
            assert expire(NOW) == []
            cursor.execute("ROLLBACK")
        assert len(expire(NOW)) == 1
    finally:
        rival.close()
        make_week(NOW - timedelta(days=45))


def test_bodies_that_were_sent_go_with_the_payloads(settings):
    """Also where attempts are kept longer."""
    settings.MESHES_RETENTION = settings.MESHES_RETENTION | {"attempts": timedelta(days=119)}
    old, young = make_old(make_workspace(), 100), make_old(make_workspace(), 10)
    Attempt.objects.update(request_body=b"{}", steps=[{"request_body": "{}"}])
    expire(NOW)
    gone, kept = Attempt.objects.get(delivery=old), Attempt.objects.get(delivery=young)
    assert (gone.request_body, gone.steps) == (None, None)
    assert (bytes(kept.request_body), kept.steps) == (b"{}", [{"request_body": "{}"}])


def test_ledgers_and_deliveries_go_in_times_of_their_own(settings):
    ages = {"events": 110, "payloads": 80, "routing_ledgers": 20, "deliveries": 50, "attempts": 119}
    settings.MESHES_RETENTION = settings.MESHES_RETENTION | {
        table: timedelta(days=days) for table, days in ages.items()
    }
    workspace = make_workspace()
    for days in (10, 30, 60, 95, 125):
        make_old(workspace, days)
    open_still = make_old(workspace, 60, status="pending")
    expire(NOW)

    def kept(table):
        there = weeks(table)
        return [days for days in (10, 30, 60, 95, 125) if week_of(NOW - timedelta(days=days)) in there]

    assert kept("routing_ledgers") == [10]
    assert kept("deliveries") == kept("attempts") == [10, 30]
    assert kept("payloads") == [10, 30, 60]
    assert kept("events") == [10, 30, 60, 95]
    assert not Delivery.objects.filter(pk=open_still.pk).exists()
    assert expire(NOW) == []


def test_at_seven_days_everything_older_goes_but_the_week_it_is_in(settings):
    week = timedelta(days=7)
    settings.MESHES_RETENTION = dict.fromkeys(settings.MESHES_RETENTION, week)
    workspace = make_workspace()
    for days in (1, 16, 30, 60, 110):
        make_old(workspace, days)
    expire(NOW)
    oldest = week_of(NOW - week)
    for table in ("events", "payloads", "routing_ledgers", "deliveries", "attempts"):
        assert min(weeks(table)) == oldest
    assert Event.objects.count() == Payload.objects.count() == Delivery.objects.count() == Attempt.objects.count() == 1


def test_small_tables_are_emptied_of_what_nobody_needs(django_user_model):
    workspace = make_workspace()
    target = make_connection(workspace)
    (delivery,) = make_deliveries(target)
    finished = {name: NOW - timedelta(days=days) for name, days in (("old", 121), ("named", 121), ("young", 119))}
    replays = {name: Replay.objects.create(workspace=workspace, finished_at=at) for name, at in finished.items()}
    replays["running"] = Replay.objects.create(workspace=workspace, created_at=finished["old"])
    Delivery.objects.filter(pk=delivery.pk).update(replay=replays["named"])
    for name, minutes in (("over", -61), ("just over", -1), ("open", 1)):
        OAuthState.objects.create(
            workspace=workspace, connection=target, state_hash=name, session="key:x", client_id="c",
            redirect_uri="https://meshes.example.com", expires_at=NOW + timedelta(minutes=minutes),
        )  # fmt: skip
    operator = django_user_model.objects.create_user("ada")
    for days in (366, 364):
        LogEntry.objects.create(
            user=operator, action_flag=2, object_repr=str(days), action_time=NOW - timedelta(days=days)
        )
    expire(NOW)
    assert set(Replay.objects.all()) == {replays[name] for name in ("named", "young", "running")}
    assert sorted(each.state_hash for each in OAuthState.objects.all()) == ["just over", "open"]
    assert [each.object_repr for each in LogEntry.objects.all()] == ["364"]
