"""Several brokers: each workspace is on one of them, with all its lanes."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from delivery.dispatch import sweep
from delivery.lanes import brokers
from meshes.kit import ids
from tests.delivery.lanes.valkey import PrivateValkey
from tests.factories import make_connection, make_deliveries, make_event, make_workspace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]


@pytest.fixture(scope="module")
def two_servers():
    servers = [PrivateValkey(), PrivateValkey()]
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def shards(settings, two_servers):
    urls = [f"unix://{server.socket}" for server in two_servers]
    for server in two_servers:
        with server.client() as client:
            client.flushall()
    settings.MESHES_REDIS_SHARDS = urls
    settings.REDIS_URL = urls[0]
    return urls


def targets_on_each(shards):
    """A connection on every shard."""
    found = {}
    while len(found) < len(shards):
        workspace = make_workspace()
        found.setdefault(brokers.shard_of(workspace.pk), make_connection(workspace, rate=5, in_flight=2))
    return [found[url] for url in shards]


def depths_at(url, targets):
    return brokers.lanes_at(url).depths([brokers.lane_of(target.pk) for target in targets])


def test_workspaces_spread_over_the_shards_and_stay(shards):
    workspaces = [ids.uuid7() for _ in range(400)]
    first = [brokers.shard_of(workspace) for workspace in workspaces]
    assert first == [brokers.shard_of(workspace) for workspace in workspaces]
    assert all(150 < number < 250 for number in Counter(first).values())


def test_hints_limits_and_pauses_go_to_the_shard_of_the_workspace(shards):
    targets = targets_on_each(shards)
    for target in targets:
        make_deliveries(target, 2)
    brokers.publish_fanouts([(target.workspace_id, make_event(target.workspace).pk) for target in targets])
    sweep.top_up_lanes(datetime.now(UTC) + timedelta(seconds=10))
    assert brokers.flush()
    assert [depths_at(url, targets) for url in shards] == [[2, 0], [0, 2]]
    assert brokers.depths([(target.workspace_id, target.pk) for target in targets]) == [2, 2]
    for url, target in zip(shards, targets, strict=True):
        brokers.pause(target.workspace_id, target.pk, 3600)
        stats = brokers.lanes_at(url).stats(brokers.lane_of(target.pk))
        assert (stats.rate, stats.limit, stats.paused_until is None) == (5, 2, False)
        assert brokers.lanes_at(url).depth(f"fanout.{target.workspace_id}") == 1
        brokers.resume(target.workspace_id, target.pk)
        brokers.purge(target.workspace_id, target.pk)
    assert [depths_at(url, targets) for url in shards] == [[0, 0], [0, 0]]


def test_after_the_shards_have_changed_a_sweep_fills_the_right_ones(shards, settings):
    targets = targets_on_each(shards)
    for target in targets:
        make_deliveries(target)
    settings.MESHES_REDIS_SHARDS = shards[:1]
    sweep.top_up_lanes(datetime.now(UTC) + timedelta(seconds=10))
    assert brokers.flush()
    assert depths_at(shards[0], targets) == [1, 1]
    settings.MESHES_REDIS_SHARDS = shards
    for url in shards:
        brokers.lanes_at(url)._client.flushall()
    sweep.top_up_lanes(datetime.now(UTC) + timedelta(seconds=10))
    assert brokers.flush()
    assert [depths_at(url, targets) for url in shards] == [[1, 0], [0, 1]]


def test_a_dead_shard_costs_the_others_nothing(shards, settings):
    targets = targets_on_each(shards)
    for target in targets:
        make_deliveries(target)
    dead = "redis://127.0.0.1:1/0"
    settings.MESHES_REDIS_SHARDS = [shards[0], dead]
    sweep.top_up_lanes(datetime.now(UTC) + timedelta(seconds=10))
    brokers.pause(targets[1].workspace_id, targets[1].pk, 3600)
    assert brokers.flush()
    assert depths_at(shards[0], targets) == [1, 0]
    assert brokers.depths([(target.workspace_id, target.pk) for target in targets]) == [1, 0]
    assert brokers.repair() == 0
