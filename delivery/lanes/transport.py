# mypy: disallow-untyped-calls=False
# (kombu's methods have no types)
"""kombu's Redis transport with lanes: how they are published to, taken from, settled and repaired.

It takes over the aliases ``redis`` and ``rediss`` instead of adding one, so that URLs keep their scheme: fail-over, TLS
and Flower's broker page go by it. Every other queue behaves as stock.

The polled connection carries one command at a time. Where stock kombu always sends BRPOP over every queue name, this
channel sends *take* while there may be work, and BRPOP on the wake lists of its rings only after a take came back
short. Both replies are read when the event loop finds the socket readable, so taking never blocks the loop. Each take
tells when the next lane wakes up, and a timer of the event loop wakes it then.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from queue import Empty
from time import monotonic
from typing import Any, ClassVar, Final
from uuid import uuid4

from kombu import transport as kombu_transport
from kombu.transport import redis as kombu_redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import NoScriptError, ResponseError

from delivery.lanes import control
from delivery.lanes.control import REPAIR_AT_MOST, RINGS, Scripts, key_prefix, ring_of
from delivery.lanes.lease import Lease, QoS, Settler, end_leases, settlers

logger = logging.getLogger(__name__)

TAKE_AT_MOST: Final = 64
"""Messages that one call takes. It bounds how long the server is busy with it (about half a millisecond)."""
SLOW_SHARE: Final = 4
"""Slow and failing lanes share one in so many of a worker's slots."""
WAKE_AT_MOST_EVERY_SECONDS: Final = 0.005
"""An idle worker wakes lanes no more often, however many have rates: so late at most, and 200 calls a second."""


class Channel(kombu_redis.Channel):
    """A Redis channel that knows lanes and rings, and treats every other queue as stock does."""

    QoS = QoS

    owner: ClassVar[str] = ""
    """Whose the messages are that this process takes from now on, for `Lanes.release`; '' for nobody's."""
    is_taking: ClassVar[bool] = True
    """Whether the channels of this process take messages of lanes."""

    _brpop_sent_at: Any
    lane_in_flight = control.IN_FLIGHT
    lane_first_window = control.FIRST_WINDOW
    lane_capacity = control.CAPACITY
    lane_lease_seconds = control.LEASE_SECONDS

    from_transport_options: Any = (
        *kombu_redis.Channel.from_transport_options,
        *("lane_in_flight", "lane_first_window", "lane_capacity", "lane_lease_seconds"),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._hungry: deque[str] = deque()  # the rings to take from next
        self._taking: str | None = None  # the ring whose take is under way on the polled connection
        self._asked = 0  # how many messages it asked for
        self._waits_for_stock = False  # a BRPOP is under way that may bring a message of a stock queue
        self._waits_for_slow = False  # the BRPOP that is under way also waits for slow and failing lanes
        self._wakes: dict[str, tuple[float, Any]] = {}  # ring → when its next lane wakes (monotonic), and the timer
        self._own_wake_name = f"wake:{uuid4().hex}"
        self._own_wake_key = ""  # on which the BRPOP that is under way waits, unless it waits for slow lanes too
        self._repair_cursors: dict[str, str] = {}
        self._repaired_at = float("-inf")
        super().__init__(*args, **kwargs)
        address = self.connection.client.as_uri(include_password=True)
        self.settler = settlers.setdefault(address, Settler())

    @cached_property
    def scripts(self) -> Scripts:
        return Scripts(self._own_client, self.lane_in_flight, self.lane_first_window)

    @cached_property
    def _own_client(self) -> Any:
        return self._create_client()

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """kombu makes a client for every call, which costs more than most calls do."""
        yield client or self._own_client

    def active_rings(self) -> list[str]:
        return [queue for queue in self.active_queues if queue in RINGS]

    def has_stock_queues(self) -> bool:
        return any(queue not in RINGS for queue in self.active_queues)

    # Publishing

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """A lane refuses a message that it has, and any beyond its capacity; neither is an error of the publisher."""
        ring = ring_of(queue)
        if queue in RINGS:
            raise ValueError(f"{queue!r} is a ring: publish to a lane.")
        if ring is None:
            super()._put(queue, message, **kwargs)
            return
        message_id = message["headers"].get("id") or message["properties"]["delivery_tag"]
        workspace = message["headers"].get("workspace", "")
        arguments = (self.lane_capacity, queue, workspace, message_id, dumps(message))
        batch = kwargs.get("_publish_batch")
        if batch is None:
            self.scripts.run("put", ring, *arguments)
        else:
            put = self.scripts.by_name["put"]
            batch.pipeline.scripts.add(put)  # redis-py then loads what is missing before it sends the batch
            batch.add("evalsha", put.sha, 1, key_prefix(ring), self.scripts.caps, *arguments)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Lanes and rings are reached by name, through the anonymous exchange: a binding would be a key for ever."""
        if queue not in RINGS and ring_of(queue) is None:
            super()._queue_bind(exchange, routing_key, pattern, queue)

    # Taking

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        if queue in RINGS:
            self._hungry.append(queue)
        return super().basic_consume(queue, *args, **kwargs)

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        while self._hungry and self._hungry[0] not in self._active_queues:
            self._hungry.popleft()
        self._taking = self._hungry.popleft() if self._hungry else None
        if self._taking:
            free = self.qos.can_consume_max_estimate()  # never more is asked for than the worker has free slots
            self._asked = TAKE_AT_MOST if free is None else max(1, min(free, TAKE_AT_MOST))
            sha, arguments = self.scripts.by_name["take"].sha, self._take_arguments(self._asked)
            command = ["EVALSHA", sha, 1, key_prefix(self._taking), self.scripts.caps, *arguments]
        else:
            command = self._wait_command(queues, self.brpop_timeout if timeout is None else timeout)
        if self.global_keyprefix:
            command = self.client._prefix_args(command)
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        self.client.connection.send_command(*command)

    def _take_arguments(self, most: int) -> tuple[int, int, int, str]:
        return self._lease_micros(), most, self._slow_room(), self.owner

    def _lease_micros(self) -> int:
        return round(self.lane_lease_seconds * 1_000_000)

    def _slow_room(self) -> int:
        """How many more of the worker's slots slow and failing lanes may fill."""
        slots = self.qos.prefetch_count or TAKE_AT_MOST
        return max(0, max(1, slots // SLOW_SHARE) - len(self.settler.slow))

    def _wait_command(self, queues: Iterable[str], timeout: float) -> list[Any]:
        stock = [queue for queue in queues if queue not in RINGS]
        self._waits_for_stock = bool(stock)
        prefixes = [key_prefix(ring) for ring in self.active_rings()]
        self._waits_for_slow = not prefixes or self._slow_room() > 0
        keys = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in stock]
        keys += [prefix + "wake" for prefix in prefixes]
        if self._waits_for_slow:
            keys += [prefix + "wake:slow" for prefix in prefixes]
        else:
            self._own_wake_key = prefixes[0] + self._own_wake_name
            keys.append(self._own_wake_key)
        return ["BRPOP", *keys, timeout]

    def _brpop_read(self, **read_options: Any) -> bool:
        ring, self._taking = self._taking, None
        try:
            with _broken_if_refused("hand out messages"):
                command = "EVALSHA" if ring else "BRPOP"
                reply = self.client.parse_response(self.client.connection, command, **read_options)
        except NoScriptError:
            with _broken_if_refused("load a script"):
                self._own_client.script_load(self.scripts.by_name["take"].script)
            self._hungry.appendleft(str(ring))
            raise Empty from None
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        finally:
            self._in_poll = False
            self._flush_brpop_reauth()
        return self._deliver_taken(ring, reply) if ring else self._deliver_waited(reply)

    def _deliver_waited(self, reply: Any) -> bool:
        rings = self.active_rings()
        if not reply:  # Nobody woke us for a while. Look by ourselves: a pause may have ended.
            self._hungry.extend(ring for ring in rings if ring not in self._hungry)
            raise Empty
        key, item = bytes_to_str(reply[0]), reply[1]
        ring = next((ring for ring in RINGS if key.startswith(key_prefix(ring))), None)
        if ring is None:
            queue = key.rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self.connection._deliver(loads(bytes_to_str(item)), queue)
        elif key.endswith(self._own_wake_name):
            self._hungry.extend(rings)
        elif ring in rings:
            self._hungry.append(ring)
        else:  # it is consumed no more, as after `cancel_consumer`: the token is another worker's
            self._give_back_wake(ring)
        return True

    def _deliver_taken(self, ring: str, reply: list[bytes]) -> bool:
        """The reply of ``take.lua``: the end of the leases, the next wake, then four fields of each message."""
        ends_at = bytes_to_str(reply[0])
        taken = [
            (Lease(ring, bytes_to_str(lane), bytes_to_str(message_id), ends_at, bool(is_slow)), body)
            for lane, message_id, body, is_slow in zip(*(reply[start::4] for start in range(2, 6)), strict=True)
        ]
        self._plan_wake(ring, int(reply[1]))
        if not taken:
            raise Empty
        if self._closing or not self.is_taking or ring not in self.connection._callbacks:
            self.hand_back([lease for lease, _ in taken])
            return True
        if len(taken) == self._asked and not self.has_stock_queues():  # beside stock queues the wake token does
            self._hungry.append(ring)
        for place, (lease, body) in enumerate(taken):
            try:
                self._deliver_one(lease, body)
            except BaseException:
                self.hand_back([lease for lease, _ in taken[place + 1 :]])
                raise
        return True

    def _deliver_one(self, lease: Lease, body: bytes) -> None:
        try:
            message = loads(bytes_to_str(body))
            message["properties"]["delivery_tag"] = lease
        except (ValueError, KeyError, TypeError):
            logger.exception("Dropped a message of lane %s that cannot be read.", lease.lane)
            self.settler.add(lease)
            return
        if lease.is_slow:
            self.settler.slow.add(lease)
        self.connection._deliver(message, lease.ring)

    def stop_taking(self) -> None:
        """Hand back what is being taken, and leave what waits to other workers, until `is_taking` again."""
        if not self._in_poll or self._waits_for_stock or not self.active_rings():
            return
        self._abandon_poll()
        for ring in self.active_rings():
            self._hungry.append(ring)
            self._give_back_wake(ring)

    # Waking

    def _give_back_wake(self, ring: str) -> None:
        """Make a wake token anew that this worker may have been given: nothing is taken here."""
        with _broken_if_refused("wake other workers"):
            self.scripts.run("take", ring, *self._take_arguments(0))

    def _plan_wake(self, ring: str, milliseconds: int) -> None:
        """Have the lane that sleeps shortest woken when its sleep ends; a negative number: nobody sleeps.

        A server ends a BRPOP up to 0.1 s late, so its timeout would not do.
        """
        loop = self.connection.cycle.loop
        if loop is None or milliseconds < 0:
            return
        seconds = max(milliseconds / 1000, WAKE_AT_MOST_EVERY_SECONDS)
        ends_at = monotonic() + seconds
        planned_at, timer = self._wakes.get(ring, (float("inf"), None))
        if planned_at <= ends_at:
            return
        if timer is not None:
            timer.cancel()
        self._wakes[ring] = ends_at, loop.call_later(seconds, self._wake_due, ring)

    def _wake_due(self, ring: str) -> None:
        del self._wakes[ring]
        if not self.closed:
            with _broken_if_refused("wake lanes"):
                self._plan_wake(ring, int(self.scripts.run("wake", ring)))

    # Settling, handing back, repairing

    def settle_finished(self) -> None:
        with _broken_if_refused("settle messages"):
            if self.settler.finished:
                self.settler.flush(self.scripts)
            if self._in_poll and not self._taking and not self._waits_for_slow and self._slow_room() > 0:
                # It waits for healthy lanes alone, and may run a slow one again: end its wait.
                self._waits_for_slow = True
                with self._create_client().pipeline() as pipeline:
                    pipeline.lpush(self._own_wake_key, "1")
                    pipeline.expire(self._own_wake_key, 10)
                    pipeline.execute()

    def hand_back(self, leases: list[Lease]) -> int:
        """Return messages that were not started to the front of their lanes. Returns how many were still ours."""
        self.settler.free_slots(leases)
        return end_leases(self.scripts, "hand_back", ((lease,) for lease in leases)) if leases else 0

    def hand_back_unstarted(self, running: frozenset[str]) -> int:
        """At the end of a worker: settle what is finished, hand back what is leased here and not ``running`` (ids)."""
        self._stop_polling()
        self.settle_finished()
        return self.hand_back(self.qos.pop_leases(running))

    def repair(self) -> None:
        """Put back what has lapsed, at most once in nine tenths of ``unacked_restore_interval``."""
        if monotonic() - self._repaired_at < self.unacked_restore_interval * 0.9:
            return
        self._repaired_at = monotonic()
        for ring in self.active_rings():
            lapsed = REPAIR_AT_MOST
            while lapsed == REPAIR_AT_MOST:
                cursor = self._repair_cursors.get(ring, "0")
                lapsed, *_, reached = self.scripts.run("repair", ring, REPAIR_AT_MOST, cursor, self._lease_micros())
                self._repair_cursors[ring] = bytes_to_str(reached)

    # Ending

    def _stop_polling(self) -> None:
        self._closing = True
        if self._in_poll:
            self._abandon_poll()

    def _abandon_poll(self) -> None:
        """Read what was taken and hand it back; do not wait for a wake token, which another worker will find."""
        if self._taking or self._waits_for_stock:
            try:
                self._brpop_read()
            except (Empty, *self.connection_errors):
                self._in_poll = False
        else:
            self.client.connection.disconnect()
            self._in_poll = False

    def close(self) -> None:
        if not self.closed:
            try:
                self._stop_polling()
                self.settle_finished()
            except self.connection_errors as error:
                logger.debug("What is finished will be settled by the next connection: %s", error)
        super().close()

    # Celery's own tools (`celery purge -Q conn.<id>`, `celery amqp queue.declare`)

    def _size(self, queue: str) -> int:
        ring = ring_of(queue)
        return int(self._own_client.llen(f"{key_prefix(ring)}waiting:{queue}") if ring else super()._size(queue))

    def _purge(self, queue: str) -> int:
        ring = ring_of(queue)
        return int(self.scripts.run("purge", ring, queue) if ring else super()._purge(queue))


@contextmanager
def _broken_if_refused(what: str) -> Iterator[None]:
    """A server that refuses, as READONLY after a fail-over: the worker must connect anew, not die."""
    try:
        yield
    except NoScriptError:
        raise
    except ResponseError as refusal:
        raise BrokenConnection(f"The broker refused to {what}: {refusal}") from refusal


class Poller(kombu_redis.MultiChannelPoller):
    """Settles before it polls: once per turn of the event loop, for all that was acknowledged since the last turn."""

    loop: Any = None
    """The event loop of the worker, for channels that want to be called at a moment. None: nobody runs one."""

    def on_poll_start(self) -> None:
        for channel in list(self._channels):
            channel.settle_finished()
            if not channel.is_taking:
                channel.stop_taking()
        super().on_poll_start()


class Transport(kombu_redis.Transport):
    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle: Any = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        self.cycle.loop = loop
        super().register_with_event_loop(connection, loop)


def register() -> None:
    """Make every ``redis://`` and ``rediss://`` connection of this process one with lanes. Call before connecting."""
    for alias in ("redis", "rediss"):
        kombu_transport.TRANSPORT_ALIASES[alias] = f"{Transport.__module__}:{Transport.__qualname__}"
        kombu_transport._transport_cache.pop(alias, None)
