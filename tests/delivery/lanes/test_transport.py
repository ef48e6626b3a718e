"""The transport through kombu alone: publishing, consuming, acknowledging, closing."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from kombu.message import Message
from kombu.messaging import Consumer
from redis import Redis
from redis.exceptions import RedisError

from delivery.lanes import transport, worker
from delivery.lanes.control import Lanes
from delivery.lanes.lease import Lease, settlers
from delivery.lanes.transport import Channel
from delivery.lanes.worker import CELERY_SETTINGS, TRANSPORT_OPTIONS
from tests.delivery.lanes.ring import Ring, ids
from tests.delivery.lanes.valkey import PrivateValkey
from tests.polling import eventually

transport.register()


@pytest.fixture
def connection(shared_valkey: PrivateValkey, client: Redis) -> Iterator[Connection]:
    settlers.clear()  # of tests before, which left messages open
    with Connection(shared_valkey.url, transport_options=TRANSPORT_OPTIONS | {"lane_first_window": 8}) as connection:
        yield connection


@pytest.fixture
def app(shared_valkey: PrivateValkey, client: Redis) -> Iterator[Celery]:
    yield from publisher(shared_valkey)


def publisher(server: PrivateValkey) -> Iterator[Celery]:
    app = Celery("test", broker=server.url, set_as_current=False)
    worker.install(app)
    app.conf.update(CELERY_SETTINGS)
    yield app
    app.close()


class Inbox:
    """Consumes rings or queues on a channel of its own, and keeps what it gets."""

    def __init__(self, connection: Connection, *queues: str, prefetch: int = 0) -> None:
        self.channel = connection.channel()
        self.connection = connection
        self.channel.basic_qos(0, prefetch, False)
        self.messages: list[Message] = []
        self.consumer = Consumer(self.channel, [Queue(name, routing_key=name) for name in queues], accept=["json"])
        self.consumer.register_callback(lambda body, message: self.messages.append(message))
        self.consumer.consume()

    def receive(self, count: int) -> list[Message]:
        """Wait until so many messages have come."""
        deadline = time.monotonic() + 5
        while len(self.messages) < count:
            assert time.monotonic() < deadline, f"{len(self.messages)} of {count} messages"
            self.drain()
        return self.messages

    def drain_until(self, condition: Callable[[], Any]) -> None:
        def is_so() -> Any:
            self.drain()
            return condition()

        eventually(is_so)

    def drain(self) -> None:
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=0.05)


def publish(connection: Connection, lane: str, message_id: str) -> None:
    connection.Producer().publish({"n": 1}, routing_key=lane, headers={"id": message_id})


def received(inbox: Inbox) -> list[str]:
    return [message.headers["id"] for message in inbox.messages]


def test_register_keeps_the_schemes() -> None:
    for url in ("redis://host", "rediss://host", "redis+socket:///path"):
        connection = Connection(url)
        assert connection.get_transport_cls() is transport.Transport
        assert connection.get_transport_cls().driver_type == "redis"


def test_a_message_goes_through_its_lane_and_its_ring(connection: Connection, client: Redis) -> None:
    publish(connection, "conn.a", "m1")
    inbox = Inbox(connection, "deliver")
    (message,) = inbox.receive(1)
    assert message.payload == {"n": 1}
    assert message.delivery_info["routing_key"] == "conn.a"
    assert Ring(client).existing_keys() >= {"leases", "messages:conn.a"}
    message.ack()
    inbox.drain()
    assert Ring(client).existing_keys() == {"turn"}


def test_celery_counts_and_purges_what_waits_in_a_lane(connection: Connection, client: Redis) -> None:
    channel = connection.default_channel
    for number in range(3):
        publish(connection, "conn.a", f"m{number}")
    publish(connection, "stock", "m")
    assert (channel._size("conn.a"), channel._size("conn.b"), channel._size("stock")) == (3, 0, 1)
    assert (channel.queue_purge("conn.a"), channel.queue_purge("stock")) == (3, 1)
    assert (channel._size("conn.a"), channel._size("stock"), Ring(client).waiting("conn.a")) == (0, 0, [])


def test_a_process_takes_as_who_it_is(connection: Connection, client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Channel, "owner", "a session")
    publish(connection, "conn.a", "m1")
    Inbox(connection, "deliver").receive(1)
    assert client.hgetall(f"{Ring(client).prefix}owners") == {b"conn.a m1": b"a session"}


@pytest.fixture
def taking() -> Iterator[None]:
    yield
    Channel.is_taking = True


@pytest.mark.usefixtures("taking")
def test_who_stops_taking_leaves_what_waits_and_gives_back_the_wake_token(
    connection: Connection, client: Redis, lanes: Lanes
) -> None:
    ring, inbox = Ring(client), Inbox(connection, "deliver")
    inbox.drain()
    inbox.drain()  # takes nothing, and then waits for a token
    publish(connection, "conn.a", "m1")
    assert client.llen(f"{ring.prefix}wake") == 0  # the server has given it to who waits
    Channel.is_taking = False
    for _ in range(5):
        inbox.drain()
    assert (received(inbox), lanes.stats("conn.a").in_flight, ring.waiting("conn.a")) == ([], 0, ["m1"])
    assert client.llen(f"{ring.prefix}wake") == 1
    Channel.is_taking = True
    inbox.receive(1)
    assert received(inbox) == ["m1"]


@pytest.mark.usefixtures("taking")
def test_who_stops_taking_hands_back_what_it_is_taking(connection: Connection, client: Redis, lanes: Lanes) -> None:
    inbox = Inbox(connection, "deliver")
    for number in range(3):
        publish(connection, "conn.a", f"m{number}")
    connection.transport.cycle.on_poll_start()
    eventually(lambda: lanes.stats("conn.a").in_flight == 3)
    Channel.is_taking = False
    inbox.drain()
    assert (received(inbox), lanes.stats("conn.a").in_flight) == ([], 0)
    assert Ring(client).waiting("conn.a") == ["m0", "m1", "m2"]
    Channel.is_taking = True
    inbox.receive(3)
    assert received(inbox) == ["m0", "m1", "m2"]


@pytest.mark.usefixtures("taking")
def test_who_stops_taking_asks_the_server_nothing_while_it_does(connection: Connection, client: Redis) -> None:
    inbox = Inbox(connection, "deliver")
    inbox.drain()
    Channel.is_taking = False
    inbox.drain()
    before = client.info("stats")["total_commands_processed"]
    for _ in range(20):
        inbox.drain()
    assert client.info("stats")["total_commands_processed"] - before <= 1  # this test's own


def test_lanes_and_rings_declare_nothing(connection: Connection, client: Redis) -> None:
    Queue("conn.a", routing_key="conn.a")(connection.default_channel).declare()
    inbox = Inbox(connection, "deliver", "fanout")
    inbox.drain()
    assert client.keys("*") == []


def test_a_ring_takes_no_messages(connection: Connection, client: Redis) -> None:
    with pytest.raises(ValueError, match="publish to a lane"):
        publish(connection, "deliver", "m1")
    assert client.keys("*") == []


def test_a_double_and_a_full_lane_are_no_errors_of_the_publisher(shared_valkey: PrivateValkey, lanes: Lanes) -> None:
    options = TRANSPORT_OPTIONS | {"lane_capacity": 2}
    with Connection(shared_valkey.url, transport_options=options) as connection:
        for message_id in ("m1", "m1", "m2", "m3"):
            publish(connection, "conn.a", message_id)
    assert lanes.depth("conn.a") == 2


def test_a_batch_is_published_at_once_also_after_the_scripts_were_flushed(connection: Connection, lanes: Lanes) -> None:
    producer = connection.Producer()
    lanes._client.script_flush()
    with producer.batch():
        for number in range(3):
            producer.publish({}, routing_key="conn.a", headers={"id": f"m{number}"})
        assert lanes.depth("conn.a") == 0
    assert lanes.depth("conn.a") == 3


def test_a_stock_queue_behaves_as_stock_beside_a_ring(connection: Connection, client: Redis) -> None:
    queue = Queue("plain", routing_key="plain")
    connection.Producer().publish({}, routing_key="plain", headers={"id": "p1"}, declare=[queue])
    assert client.llen("plain") == 1
    for number in range(3):
        publish(connection, f"conn.{number}", f"m{number}")
    inbox = Inbox(connection, "plain", "deliver")
    inbox.receive(4)
    assert sorted(received(inbox)) == ["m0", "m1", "m2", "p1"]
    assert client.hlen("unacked") == 1
    for message in inbox.messages:
        message.ack()
    inbox.drain()
    assert client.hlen("unacked") == 0
    assert "leases" not in Ring(client).existing_keys()


@pytest.mark.parametrize("key", ["wake", "wake:slow"])
def test_a_wake_token_of_a_ring_that_is_consumed_no_more_is_no_message(
    connection: Connection, client: Redis, key: str
) -> None:
    """As after `celery control cancel_consumer deliver`: the command under way still waits for it."""
    inbox = Inbox(connection, "deliver", "fanout")
    inbox.drain_until(lambda: inbox.channel._in_poll and not inbox.channel._taking)
    inbox.consumer.cancel_by_queue("deliver")
    client.lpush(f"{Ring(client).prefix}{key}", "1")
    inbox.drain_until(lambda: not client.exists(f"{Ring(client).prefix}{key}"))
    publish(connection, "fanout.a", "m1")
    inbox.receive(1)
    assert received(inbox) == ["m1"]


def test_a_wake_token_of_a_ring_that_is_consumed_no_more_is_left_to_others(
    connection: Connection, client: Redis
) -> None:
    inbox = Inbox(connection, "deliver", "fanout")
    inbox.drain_until(lambda: inbox.channel._in_poll and not inbox.channel._taking)
    inbox.consumer.cancel_by_queue("deliver")
    publish(connection, "conn.a", "m1")
    publish(connection, "fanout.a", "m2")
    inbox.receive(1)
    assert received(inbox) == ["m2"]
    assert client.lrange(f"{Ring(client).prefix}wake", 0, -1) == [b"1"]


def test_a_slot_that_is_free_again_for_slow_lanes_ends_the_wait_also_where_no_ring_is_consumed_any_more(
    connection: Connection, client: Redis
) -> None:
    inbox = Inbox(connection, "deliver", prefetch=4)
    slow = Lease("deliver", "conn.a", "m1", "0", is_slow=True)
    inbox.channel.settler.slow.add(slow)  # one slot in four
    inbox.drain_until(lambda: inbox.channel._in_poll and not inbox.channel._taking)
    inbox.consumer.cancel_by_queue("deliver")
    inbox.channel.settler.free_slots([slow])
    inbox.channel.settle_finished()
    assert client.keys() == []  # the command that waited has taken the token
    inbox.drain_until(lambda: not inbox.channel._in_poll)


def test_never_more_is_taken_than_there_are_free_slots(connection: Connection, client: Redis) -> None:
    for number in range(10):
        publish(connection, f"conn.{number}", f"m{number}")
    inbox = Inbox(connection, "deliver", prefetch=4)
    inbox.receive(4)
    inbox.drain()
    assert len(inbox.messages) == 4
    assert client.zcard("meshes:lanes:{deliver}:leases") == 4
    inbox.messages[0].ack()
    inbox.receive(5)
    inbox.drain()
    assert client.zcard("meshes:lanes:{deliver}:leases") == 4


def test_the_cap_of_a_lane_holds_whatever_the_slots(connection: Connection, client: Redis) -> None:
    for number in range(20):
        publish(connection, "conn.a", f"m{number}")
    inbox = Inbox(connection, "deliver", prefetch=64)
    inbox.receive(8)
    inbox.drain()
    assert len(inbox.messages) == 8
    inbox.messages[0].ack()
    inbox.receive(9)


def test_a_rejected_message_is_settled_or_comes_again(connection: Connection, client: Redis) -> None:
    publish(connection, "conn.a", "m1")
    inbox = Inbox(connection, "deliver")
    inbox.receive(1)[0].reject(requeue=True)
    inbox.receive(2)[1].reject()
    inbox.drain()
    assert received(inbox) == ["m1", "m1"]
    assert "messages:conn.a" not in Ring(client).existing_keys()


def test_unread_garbage_is_dropped_and_stops_nobody(connection: Connection, client: Redis) -> None:
    Ring(client).put("conn.a", "bad", "not json")
    publish(connection, "conn.a", "m1")
    inbox = Inbox(connection, "deliver")
    inbox.receive(1)
    inbox.drain()
    assert received(inbox) == ["m1"]
    assert client.zcard("meshes:lanes:{deliver}:leases") == 1


def test_scripts_may_be_forgotten_while_consuming(connection: Connection, client: Redis) -> None:
    inbox = Inbox(connection, "deliver")
    inbox.drain()
    client.script_flush()
    publish(connection, "conn.a", "m1")
    inbox.receive(1)[0].ack()
    client.script_flush()
    inbox.drain()
    publish(connection, "conn.a", "m2")
    inbox.receive(2)


def test_closing_leaves_open_messages_to_their_leases(connection: Connection, client: Redis, lanes: Lanes) -> None:
    for number in range(2):
        publish(connection, "conn.a", f"m{number}")
    inbox = Inbox(connection, "deliver", prefetch=2)
    first, second = inbox.receive(2)
    first.ack()
    inbox.channel.close()
    assert lanes.stats("conn.a").in_flight == 1
    second.ack()
    other = Inbox(connection, "deliver")
    other.drain()
    assert lanes.stats("conn.a").in_flight == 0


def test_tasks_that_outlive_their_channel_fill_its_slots(connection: Connection, client: Redis, lanes: Lanes) -> None:
    for number in range(6):
        publish(connection, f"conn.{number}", f"m{number}")
    lost = Inbox(connection, "deliver", prefetch=3)
    running = lost.receive(3)
    lost.channel.close()
    inbox = Inbox(connection, "deliver", prefetch=4)
    inbox.receive(1)
    inbox.drain()
    assert lanes.ring_stats("deliver").in_flight == 4
    running[0].ack()
    inbox.receive(2)
    inbox.drain()
    assert lanes.ring_stats("deliver").in_flight == 4
    for message in running[1:] + inbox.messages:
        message.ack()
    inbox.receive(3)


def test_what_was_not_started_is_handed_back_on_request(connection: Connection, client: Redis, lanes: Lanes) -> None:
    for number in range(4):
        publish(connection, "conn.a", f"m{number}")
    inbox = Inbox(connection, "deliver", prefetch=4)
    inbox.receive(4)[0].ack()
    assert inbox.channel.hand_back_unstarted(running=frozenset({"m2"})) == 2
    assert Ring(client).waiting("conn.a") == ["m1", "m3"]
    assert lanes.stats("conn.a").in_flight == 1


def test_a_take_that_was_under_way_is_handed_back(connection: Connection, client: Redis, lanes: Lanes) -> None:
    publish(connection, "conn.a", "m1")
    inbox = Inbox(connection, "deliver")
    inbox.channel.connection.cycle.on_poll_start()  # sends the take, whose reply nobody has read yet
    eventually(lambda: lanes.stats("conn.a").in_flight == 1)
    inbox.channel.close()
    assert lanes.stats("conn.a").in_flight == 0
    assert Ring(client).waiting("conn.a") == ["m1"]
    assert inbox.messages == []


def test_consumers_repair_by_themselves(shared_valkey: PrivateValkey, client: Redis) -> None:
    ring = Ring(client)
    ring.put("conn.a", "m1", json.dumps({"properties": {}, "headers": {"id": "m1"}, "body": ""}))
    assert ids(ring.take(1, lease_micros=1)) == ["m1"]
    options = TRANSPORT_OPTIONS | {"unacked_restore_interval": 0.1}
    with Connection(shared_valkey.url, transport_options=options) as connection:
        inbox = Inbox(connection, "deliver")
        inbox.receive(1)
        assert received(inbox) == ["m1"]


def test_queue_names_of_lanes_are_not_remembered(app: Celery, client: Redis, lanes: Lanes) -> None:
    with app.producer_or_acquire() as producer:
        for number in range(5):
            app.send_task("any", (), queue=f"conn.{number}", task_id=f"t{number}", producer=producer)
        known = len(producer.connection.declared_entities)
    assert [lanes.depth(f"conn.{number}") for number in range(5)] == [1] * 5
    assert set(app.amqp.queues) == {"celery"}
    assert known == 0
    assert client.keys("_kombu*") == []


def test_the_task_id_is_the_message_id(app: Celery, lanes: Lanes) -> None:
    for _ in range(2):
        app.send_task("any", (), queue="conn.a", task_id="t1")
    assert lanes.depth("conn.a") == 1


@pytest.mark.fault
def test_publishing_to_a_dead_or_hung_server_raises_in_time(valkey: PrivateValkey) -> None:
    for app in publisher(valkey):
        app.send_task("any", (), queue="conn.a", task_id="t1")
        for blow in (signal.SIGSTOP, signal.SIGKILL):
            valkey.send(blow)
            for _ in range(2):
                started = time.monotonic()
                with pytest.raises((OperationalError, RedisError, OSError)):
                    app.send_task("any", (), queue="conn.a", task_id="t2")
                assert time.monotonic() - started < 4
