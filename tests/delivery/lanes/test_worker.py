"""Real workers: what they take, how they end, and what happens when they or their broker are killed."""

import json
import os
import re
import signal
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from kombu.exceptions import BatchPublishError

from delivery.lanes.control import Lanes, RingStats
from delivery.lanes.worker import EVENTS_EVERY_SECONDS
from meshes.dev.embedded import free_port
from tests.delivery.lanes.ring import Ring
from tests.delivery.lanes.valkey import PrivateValkey
from tests.delivery.lanes.workers import Journal, Publisher, Worker
from tests.polling import eventually

IDLE = RingStats(ready=0, busy=0, paused=0, in_flight=0)
ROUNDS = int(os.environ.get("MESHES_FAULT_ROUNDS", "1"))
STANDSTILL_SECONDS = 30.0 if ROUNDS > 1 else 3.0
QUICK = {"lane_lease_seconds": 1.0, "unacked_restore_interval": 0.5}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture
def publisher(valkey: PrivateValkey) -> Iterator[Publisher]:
    publisher = Publisher(valkey.url)
    yield publisher
    publisher.close()


@pytest.fixture
def lanes(valkey: PrivateValkey) -> Iterator[Lanes]:
    with valkey.client() as client:
        yield Lanes(client)


def each_once(publisher: Publisher) -> dict[str, int]:
    return dict.fromkeys(publisher.sent, 1)


def test_every_task_runs_once_and_nothing_is_left(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    publisher.send(300, lanes=40)
    publisher.send(50, lanes=5, kind="fanout.")
    with Worker(valkey.url, tmp_path, queues="deliver,fanout") as worker:
        eventually(lambda: journal.counts("end") == each_once(publisher), 20)
        eventually(lambda: (lanes.ring_stats("deliver"), lanes.ring_stats("fanout")) == (IDLE, IDLE))
        assert worker.stop() == 0
    with valkey.client() as client:
        assert set(client.keys("*lanes*")) <= {b"meshes:lanes:{deliver}:turn", b"meshes:lanes:{fanout}:turn"}
        assert client.keys("_kombu.binding.*conn*") == []


def test_every_event_of_every_task_is_told_in_a_few_messages_and_the_last_at_the_end(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, tmp_path: Path
) -> None:
    with valkey.client() as client, client.pubsub() as listening:
        listening.psubscribe("*celeryev/task*")
        assert listening.get_message(timeout=5)["type"] == "psubscribe"
        with Worker(valkey.url, tmp_path, worker_send_task_events=True) as worker:
            worker.wait_until_ready()
            began = time.monotonic()
            publisher.send(300, lanes=40)
            eventually(lambda: journal.has_ended(300), 20)
            assert worker.stop() == 0
            most = (time.monotonic() - began) / EVENTS_EVERY_SECONDS + 2
        messages = list(iter(partial(listening.get_message, timeout=0.2), None))
    bodies = [json.loads(b64decode(json.loads(message["data"])["body"])) for message in messages]
    told = Counter((event["type"], event["uuid"]) for body in bodies for event in body)
    kinds = ("task-received", "task-started", "task-succeeded")
    assert told == {(kind, task_id): 1 for kind in kinds for task_id in publisher.sent}
    assert len(messages) <= most


def test_a_worker_leases_no_more_than_its_threads_and_no_more_of_a_lane_than_its_cap(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    lanes.limit("conn.0", 2)
    publisher.send(60, lanes=3, seconds=0.1)
    most_leased, most_of_lane = 0, 0
    with Worker(valkey.url, tmp_path, threads=6):
        deadline = time.monotonic() + 20
        while journal.counts("end") != each_once(publisher):
            assert time.monotonic() < deadline
            most_leased = max(most_leased, lanes.ring_stats("deliver").in_flight)
            most_of_lane = max(most_of_lane, lanes.stats("conn.0").in_flight)
    assert (most_leased, most_of_lane) == (6, 2)


def test_a_rate_is_kept_to_and_used_up(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    with Worker(valkey.url, tmp_path).wait_until_ready():
        lanes.limit("conn.0", rate=20)
        publisher.send(46, lanes=2)
        eventually(lambda: journal.counts("end") == each_once(publisher), 20)
        times = journal.times("start")
        starts = sorted(times[f"t{number}"] for number in range(0, 46, 2))
        assert 0.95 < starts[-1] - starts[0] < 1.3  # 3 at once, then 20 in a second
        assert max(times[f"t{number}"] for number in range(1, 46, 2)) - starts[0] < 0.5


def test_an_idle_worker_wakes_lanes_exactly_when_they_may_run(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    with Worker(valkey.url, tmp_path, threads=16).wait_until_ready():
        publisher.send(1, lanes=1)
        eventually(lambda: journal.has_ended(1))
        now = datetime.now(UTC)
        ends = {f"t{number}": now + timedelta(seconds=0.5 + 0.137 * (13 - number)) for number in range(1, 13)}
        for number, until in enumerate(ends.values()):
            lanes.pause(f"conn.{number}", (until - datetime.now(UTC)).total_seconds())
        publisher.send(12, lanes=12)
        eventually(lambda: journal.counts("end") == each_once(publisher))
        late = sorted(journal.times("start")[task_id] - until.timestamp() for task_id, until in ends.items())
        assert late[0] >= 0
        assert late[6] < 0.02
        assert late[-1] < 0.1  # on a machine that is busy


def test_lanes_in_trouble_hold_a_quarter_of_the_slots_and_healthy_ones_go_on(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    with Worker(valkey.url, tmp_path, threads=8):
        publisher.send(30, lanes=30, kind="conn.bad-", reported=15.0)
        eventually(lambda: lanes.ring_stats("deliver").troubled == 30, 20)
        slow = publisher.send(60, lanes=30, kind="conn.bad-", seconds=0.3, reported=15.0)
        healthy = publisher.send(100, lanes=10, seconds=0.01)
        most_slow, deadline = 0, time.monotonic() + 30
        with valkey.client() as client:
            while not journal.counts("end").keys() >= set(healthy):
                assert time.monotonic() < deadline
                members = client.zrange("meshes:lanes:{deliver}:leases", 0, -1)
                most_slow = max(most_slow, sum(member.startswith(b"conn.bad") for member in members))
        assert most_slow == 2
        assert len(journal.counts("end").keys() & set(slow)) < 30
        eventually(lambda: journal.counts("end") == each_once(publisher), 30)
        starts = sorted(journal.times("start")[task_id] for task_id in slow)
        assert starts[-1] - starts[0] < 60 / 2 * 0.3 * 1.4  # whoever waits for slots of slow lanes wakes at once


def test_an_idle_worker_wakes_when_a_pause_ends(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    with Worker(valkey.url, tmp_path).wait_until_ready():
        until = datetime.now(UTC) + timedelta(seconds=1.5)
        lanes.pause("conn.0", (until - datetime.now(UTC)).total_seconds())
        publisher.send(1, lanes=1)
        eventually(lambda: journal.counts("end") == {"t0": 1})
        assert 0 <= journal.times("start")["t0"] - until.timestamp() < 0.2
        lanes.pause("conn.0", 3600)
        publisher.send(1, lanes=1)
        lanes.resume("conn.0")
        eventually(lambda: journal.counts("end") == {"t0": 1, "t1": 1}, 2)


@pytest.mark.fault
def test_a_warm_shutdown_loses_and_doubles_nothing_and_leaves_no_lease(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    publisher.send(60, lanes=12, seconds=0.3)
    with Worker(valkey.url, tmp_path, threads=4, worker_prefetch_multiplier=3) as worker:
        eventually(lambda: len(journal.counts("end")) >= 4, 20)
        assert worker.stop() == 0
        assert re.search(r"Handed back [1-9]\d* unstarted messages\.", worker.log.read_text())
    assert lanes.ring_stats("deliver").in_flight == 0
    assert journal.counts("start") == journal.counts("end")
    waiting = sum(lanes.depths([f"conn.{number}" for number in range(12)]))
    assert waiting + len(journal.counts("end")) == 60
    with Worker(valkey.url, tmp_path, threads=16):
        eventually(lambda: journal.counts("end") == each_once(publisher), 20)


@pytest.mark.fault
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_ends_in_time_while_its_broker_is_away(
    blow: signal.Signals, valkey: PrivateValkey, publisher: Publisher, journal: Journal, tmp_path: Path
) -> None:
    with Worker(valkey.url, tmp_path) as worker:
        publisher.send(8, lanes=8, seconds=1.0)
        eventually(lambda: len(journal.counts("start")) == 8, 20)
        valkey.send(blow)
        assert worker.stop(15) == 0
    assert journal.counts("end") == each_once(publisher)


@pytest.mark.fault
def test_a_worker_told_to_stop_twice_loses_nothing(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    publisher.send(60, lanes=12, seconds=0.5)
    with Worker(valkey.url, tmp_path, threads=8, transport=QUICK) as worker:
        eventually(lambda: len(journal.counts("start")) >= 8, 20)
        worker.process.terminate()
        eventually(lambda: b"Warm shutdown" in worker.log.read_bytes(), 10)
        worker.process.terminate()
        worker.process.wait(20)
    with Worker(valkey.url, tmp_path, threads=32, transport=QUICK):
        eventually(lambda: journal.counts("end").keys() == set(publisher.sent), 30)
        eventually(lambda: lanes.ring_stats("deliver") == IDLE)


@pytest.mark.fault
def test_two_workers_that_fight_for_one_lane_keep_to_its_limits_and_double_nothing(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    lanes.limit("conn.0", 3, rate=40, burst=2)
    with Worker(valkey.url, tmp_path).wait_until_ready(), Worker(valkey.url, tmp_path).wait_until_ready():
        publisher.send(60, lanes=1, seconds=0.04)
        most_leased, deadline = 0, time.monotonic() + 30
        while journal.counts("end") != each_once(publisher):
            assert time.monotonic() < deadline
            most_leased = max(most_leased, lanes.stats("conn.0").in_flight)
    starts = sorted(journal.times("start").values())
    assert most_leased <= 3
    assert starts[-1] - starts[0] > (60 - 2) / 40 - 0.1
    assert journal.counts("start") == each_once(publisher)


@pytest.mark.fault
def test_a_full_server_is_worked_off_and_takes_messages_again(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    with valkey.client() as client, Worker(valkey.url, tmp_path).wait_until_ready() as worker:
        publisher.send(300, lanes=30, seconds=0.05)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        with pytest.raises(BatchPublishError):
            publisher.send(1, lanes=1)
        lanes.pause("conn.0", 1)
        eventually(lambda: journal.counts("end") == each_once(publisher), 30)
        client.config_set("maxmemory", 0)
        publisher.send(30, lanes=30)
        eventually(lambda: journal.counts("end") == each_once(publisher), 20)
        eventually(lambda: lanes.ring_stats("deliver") == IDLE)
        assert worker.is_running()


@pytest.mark.fault
@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_killed_workers_lose_no_message(
    valkey: PrivateValkey,
    publisher: Publisher,
    journal: Journal,
    lanes: Lanes,
    tmp_path: Path,
    round_number: int,
) -> None:
    publisher.send(500, lanes=100, seconds=0.05)
    for kills in range(1, 6):
        with Worker(valkey.url, tmp_path, threads=8, transport=QUICK) as worker:
            eventually(partial(journal.has_ended, kills * 25), 20)
            worker.kill()
    with Worker(valkey.url, tmp_path, threads=32, transport=QUICK) as worker:
        eventually(lambda: journal.counts("end").keys() == set(publisher.sent), 30)
        eventually(lambda: lanes.ring_stats("deliver") == IDLE)
        assert worker.stop() == 0
    with valkey.client() as client:
        assert Ring(client).existing_keys() & {"leases", "ring", "busy"} == set()


@pytest.mark.fault
def test_a_worker_goes_on_when_its_broker_comes_back_empty(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    with Worker(valkey.url, tmp_path) as worker:
        running = publisher.send(8, lanes=8, seconds=1.5)
        publisher.send(200, lanes=8)
        eventually(lambda: journal.counts("start").keys() == set(running), 20)
        valkey.kill()
        eventually(lambda: "Connection to broker lost" in worker.log.read_text())
        valkey.start()
        later = publisher.send(20, lanes=4)
        eventually(lambda: journal.counts("end").keys() >= set(running + later), 6)
        assert journal.counts("start") == dict.fromkeys(running + later, 1)
        assert worker.is_running()
        assert worker.stop() == 0
    assert lanes.ring_stats("deliver") == IDLE


@pytest.mark.fault
def test_a_broken_connection_doubles_nothing_and_its_tasks_are_settled(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    with Worker(valkey.url, tmp_path, threads=4) as worker, valkey.client() as client:
        publisher.send(30, lanes=10, seconds=0.3)
        eventually(lambda: len(journal.counts("start")) >= 8, 20)
        for connection in client.client_list():
            if connection["id"] != str(client.client_id()):
                client.client_kill_filter(_id=connection["id"])
        most_leased, deadline = 0, time.monotonic() + 20
        while journal.counts("end") != each_once(publisher):
            assert time.monotonic() < deadline
            most_leased = max(most_leased, lanes.ring_stats("deliver").in_flight)
        eventually(lambda: lanes.ring_stats("deliver") == IDLE)
        assert journal.counts("start") == each_once(publisher)
        assert most_leased == 4
        assert worker.is_running()


@pytest.mark.fault
def test_a_worker_survives_a_broker_that_refuses_to_write_as_after_a_fail_over(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    with Worker(valkey.url, tmp_path) as worker, valkey.client() as client:
        publisher.send(200, lanes=20, seconds=0.05)
        eventually(partial(journal.has_ended, 10), 20)
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        eventually(lambda: "ReadOnlyError" in worker.log.read_text())
        client.execute_command("REPLICAOF", "NO", "ONE")
        eventually(lambda: journal.counts("end") == each_once(publisher), 20)
        eventually(lambda: lanes.ring_stats("deliver") == IDLE)
        assert worker.is_running()


@pytest.mark.fault
def test_a_worker_goes_on_at_the_replica_that_took_over(tmp_path: Path, journal: Journal) -> None:
    with closing(PrivateValkey(free_port())) as primary, closing(PrivateValkey()) as replica:
        primary.start()
        replica.start("--replicaof", f"127.0.0.1 {primary.port}")
        with replica.client() as client:
            eventually(lambda: client.info("replication")["master_link_status"] == "up", 20)
        with closing(Publisher(primary.url)) as publisher, Worker(primary.url, tmp_path, transport=QUICK) as worker:
            publisher.send(200, lanes=20, seconds=0.05)
            with primary.client() as client:
                assert client.wait(1, 5_000) == 1
            eventually(partial(journal.has_ended, 20), 20)
            replica.take_over(primary)
            eventually(lambda: set(journal.counts("end")) == set(publisher.sent), 30)
            with primary.client() as client:
                eventually(lambda: Lanes(client).ring_stats("deliver") == IDLE, 20)
            assert worker.is_running()
            doubled = sum(journal.counts("start").values()) - len(publisher.sent)
            assert doubled <= 2 * 8  # what was settled, or lay in the worker, and had not reached the replica


@pytest.mark.fault
def test_a_worker_survives_a_broker_that_stands_still_and_forgets_its_scripts(
    valkey: PrivateValkey, publisher: Publisher, journal: Journal, lanes: Lanes, tmp_path: Path
) -> None:
    with Worker(valkey.url, tmp_path) as worker, valkey.client() as client:
        publisher.send(100, lanes=10, seconds=0.02)
        eventually(lambda: len(journal.counts("end")) >= 10, 20)
        client.script_flush()
        eventually(lambda: len(journal.counts("end")) >= 40, 20)
        valkey.send(signal.SIGSTOP)
        stopped_at = time.monotonic()
        eventually(lambda: "Connection to broker lost" in worker.log.read_text())
        eventually(lambda: time.monotonic() - stopped_at > STANDSTILL_SECONDS, STANDSTILL_SECONDS + 1)
        valkey.send(signal.SIGCONT)
        eventually(lambda: journal.counts("end") == each_once(publisher), 20)
        eventually(lambda: lanes.ring_stats("deliver") == IDLE)
        assert worker.is_running()
