"""Ingest limits: buckets that all processes share, and what happens while Redis is away."""

import socket
import time

import pytest
import redis

from meshes.kit import ids
from tests.factories import make_workspace
from tests.polling import eventually
from workspaces import limits
from workspaces.limits import LocalBuckets, SharedBuckets, SharedTurns, per_minute, per_second


@pytest.fixture(params=["shared", "local"])
def buckets(request):
    return LocalBuckets() if request.param == "local" else SharedBuckets(request.getfixturevalue("redis_client"))


def test_a_full_bucket_gives_one_seconds_worth(buckets):
    assert buckets.take({"a": per_second(10.0)}, 10) is None
    assert 0 < buckets.take({"a": per_second(10.0)}, 10) <= 1


def test_buckets_fill_again(buckets):
    assert buckets.take({"a": per_second(100.0)}, 100) is None
    eventually(lambda: buckets.take({"a": per_second(100.0)}, 10) is None, seconds=1)


def test_buckets_know_nothing_of_each_other(buckets):
    assert buckets.take({"a": per_second(10.0)}, 10) is None
    assert buckets.take({"b": per_second(10.0)}, 10) is None


def test_all_buckets_give_or_none(buckets):
    assert buckets.take({"a": per_second(10.0)}, 10) is None
    assert buckets.take({"a": per_second(10.0), "b": per_second(10.0)}, 10) is not None
    assert buckets.take({"b": per_second(10.0)}, 10) is None


def test_more_than_a_bucket_holds_passes_when_it_is_full_and_is_paid_back(buckets):
    assert buckets.take({"a": per_second(10.0)}, 500) is None
    assert 45 < buckets.take({"a": per_second(10.0)}, 1) <= 49.1


def test_a_small_rate_still_lets_a_handful_pass_at_once(buckets):
    assert buckets.take({"a": per_second(0.1)}, 10) is None
    assert 5 < buckets.take({"a": per_second(0.1)}, 1) <= 10


def test_what_is_counted_by_the_minute_may_come_at_once(buckets):
    assert [buckets.take({"a": per_minute(6)}, 1) for _ in range(6)] == [None] * 6
    assert 9 < buckets.take({"a": per_minute(6)}, 1) <= 10


def test_processes_share_their_buckets(redis_client):
    first, second = SharedBuckets(redis_client), SharedBuckets(redis_client)
    assert first.take({"a": per_second(10.0)}, 10) is None
    assert second.take({"a": per_second(10.0)}, 10) is not None


def test_buckets_leave_redis_when_they_are_full_again(redis_client):
    SharedBuckets(redis_client).take({"a": per_second(1000.0)}, 1000)
    assert 0 < redis_client.pttl("a") <= 2000


def test_scripts_may_vanish(redis_client):
    buckets = SharedBuckets(redis_client)
    assert buckets.take({"a": per_second(10.0)}, 1) is None
    redis_client.script_flush()
    assert buckets.take({"a": per_second(10.0)}, 1) is None


def test_without_redis_the_process_counts_for_itself():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        buckets = SharedBuckets(redis.Redis(port=free.getsockname()[1], socket_connect_timeout=0.1))
    assert buckets.take({"a": per_second(10.0)}, 10) is None
    assert 0 < buckets.take({"a": per_second(10.0)}, 10) <= 1


def test_a_hung_redis_costs_one_request_its_timeout_and_the_next_nothing():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = limits.connect(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        buckets = SharedBuckets(client)
        began = time.monotonic()
        assert buckets.take({"a": per_second(10.0)}, 1) is None
        assert time.monotonic() - began < 10 * limits.TIMEOUT_SECONDS
        silent.accept()[0].close()
        assert buckets.take({"a": per_second(10.0)}, 1) is None
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):
            silent.accept()
        client.close()


@pytest.mark.django_db
def test_a_workspace_may_bring_its_own_rate(redis_client, settings):
    settings.MESHES_INGEST_RATE = 50
    plain, slow = make_workspace(), make_workspace(ingest_rate=20)
    for workspace, rate in ((plain, 50), (slow, 20)):
        assert limits.take(workspace, ids.uuid7(), rate) is None
        assert limits.take(workspace, ids.uuid7(), rate) is not None


@pytest.mark.django_db
def test_a_key_is_limited_over_all_its_workspaces(redis_client, settings):
    settings.MESHES_INGEST_RATE = settings.MESHES_INGEST_KEY_RATE = 50
    key_id = ids.uuid7()
    assert limits.take(make_workspace(), key_id, 50) is None
    assert limits.take(make_workspace(), key_id, 50) is not None


def test_a_full_process_forgets_the_bucket_that_was_used_longest_ago():
    buckets = LocalBuckets(most=2)
    for name in ("a", "b", "a", "c"):
        buckets.take({name: per_minute(2)}, 1)
    assert buckets.take({"a": per_minute(2)}, 1) is not None
    assert buckets.take({"c": per_minute(2)}, 1) is None
    assert buckets.take({"b": per_minute(2)}, 2) is None  # full again


# --- turns ----------------------------------------------------------------------------------------------------------


def test_processes_share_turns(redis_client):
    one, other = SharedTurns(redis_client), SharedTurns(redis_client)
    first, second = one.enter("a", 2, 60), other.enter("a", 2, 60)
    assert first is not None
    assert second is not None
    assert (one.enter("a", 2, 60), other.enter("a", 2, 60)) == (None, None)
    assert one.enter("b", 2, 60) is not None
    other.leave(first)
    assert one.enter("a", 2, 60) is not None


def test_a_turn_that_nobody_ends_lapses(redis_client):
    turns = SharedTurns(redis_client)
    assert turns.enter("a", 1, 0.2) is not None
    eventually(lambda: turns.enter("a", 1, 60) is not None, seconds=10)
    assert turns.enter("a", 1, 60) is None


def test_without_redis_the_process_counts_turns_for_itself():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        turns = SharedTurns(redis.Redis(port=free.getsockname()[1], socket_connect_timeout=0.1))
    first = turns.enter("a", 1, 60)
    assert first is not None
    assert turns.enter("a", 1, 60) is None
    turns.leave(first)
    assert turns.enter("a", 1, 60) is not None


def test_a_turn_ends_with_what_it_was_for_also_when_that_fails(redis_client):
    limits._turns.cache_clear()

    def fail() -> None:
        with limits.turn("a", 1, 60) as is_mine, limits.turn("a", 1, 60) as is_mine_too:
            assert (is_mine, is_mine_too) == (True, False)
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
