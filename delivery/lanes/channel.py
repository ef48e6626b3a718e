# mypy: disallow-untyped-calls=False
# (kombu's methods have no types)
"""The channel: how lanes are published to, taken from, settled and repaired through kombu's Redis transport.

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
from typing import Any
from uuid import uuid4

from kombu.transport import redis as kombu_redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import NoScriptError, ResponseError

from delivery.lanes import options
from delivery.lanes.lease import Lease, Settler, current_owner, hand_back_all, is_taking
from delivery.lanes.names import RINGS, key_prefix, ring_of, slow_wake_key, wake_key
from delivery.lanes.qos import QoS
from delivery.lanes.scripts import Scripts, digest, source

logger = logging.getLogger(__name__)

settlers: dict[str, Settler] = {}
"""By broker address: what finished while a channel was lost is settled by the next one to the same server."""


class Channel(kombu_redis.Channel):
    """A Redis channel that knows lanes and rings, and treats every other queue as stock does."""

    QoS = QoS

    _brpop_sent_at: Any
    lane_in_flight = options.IN_FLIGHT
    lane_first_window = options.FIRST_WINDOW
    lane_capacity = options.CAPACITY
    lane_lease_seconds = options.LEASE_SECONDS

    from_transport_options: Any = (
        *kombu_redis.Channel.from_transport_options,
        "lane_in_flight",
        "lane_first_window",
        "lane_capacity",
        "lane_lease_seconds",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._hungry: deque[str] = deque()  # the rings to take from next
        self._taking: str | None = None  # the ring whose take is under way on the polled connection
        self._asked = 0  # how many messages it asked for
        self._waits_for_stock = False  # a BRPOP is under way that may bring a message of a stock queue
        self._take_in_full = False  # the server has forgotten the script: send its text once
        self._wakes: dict[
            str, tuple[float, Any]
        ] = {}  # ring → when its next lane wakes (time.monotonic()), and the timer
        self._waits_for_slow = False  # the BRPOP that is under way also waits for lanes in trouble
        self._own_wake_name = f"wake:{uuid4().hex}"
        self._repair_cursors: dict[str, str] = {}
        self._repaired_at = float("-inf")
        super().__init__(*args, **kwargs)
        address = self.connection.client.as_uri(include_password=True)
        self.settler = settlers.setdefault(address, Settler())

    @cached_property
    def scripts(self) -> Scripts:
        return Scripts.of(self._own_client)

    @cached_property
    def _own_client(self) -> Any:
        return self._create_client()

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """kombu makes a client for every call, which costs more than most calls do."""
        yield client or self._own_client

    @cached_property
    def _caps(self) -> str:
        """What every script is told first."""
        return f"{self.lane_in_flight} {self.lane_first_window}"

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
        args = (self._caps, self.lane_capacity, queue, workspace, message_id, dumps(message))
        batch = kwargs.get("_publish_batch")
        if batch is None:
            self.scripts.put(keys=[key_prefix(ring)], args=args)
        else:
            batch.pipeline.scripts.add(
                self.scripts.put
            )  # redis-py then loads what is missing before it sends the batch
            batch.add("evalsha", digest("put"), 1, key_prefix(ring), *args)

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
        self._taking = self._next_hungry_ring()
        if self._taking:
            command = self._take_command(self._taking)
        else:
            command = self._wait_command(queues, self.brpop_timeout if timeout is None else timeout)
        if self.global_keyprefix:
            command = self.client._prefix_args(command)
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        self.client.connection.send_command(*command)

    def _next_hungry_ring(self) -> str | None:
        while self._hungry:
            ring = self._hungry.popleft()
            if ring in self._active_queues:
                return ring
        return None

    def _take_command(self, ring: str) -> list[Any]:
        script = ["EVAL", source("take")] if self._take_in_full else ["EVALSHA", digest("take")]
        self._take_in_full = False
        self._asked = self._room()
        return [*script, 1, key_prefix(ring), *self._take_args(self._asked)]

    def _take_args(self, most: int) -> tuple[str, int, int, int, str]:
        return self._caps, self._lease_micros(), most, self._slow_room(), current_owner()

    def _lease_micros(self) -> int:
        return round(self.lane_lease_seconds * 1_000_000)

    def _room(self) -> int:
        """The messages to ask for: never more than the worker has free slots."""
        free = self.qos.can_consume_max_estimate()
        return options.TAKE_AT_MOST if free is None else max(1, min(free, options.TAKE_AT_MOST))

    def _slow_room(self) -> int:
        """How many more of the worker's slots lanes in trouble may fill."""
        slots = self.qos.prefetch_count or options.TAKE_AT_MOST
        return max(0, max(1, slots // options.SLOW_SHARE) - self.settler.slow())

    def _wait_command(self, queues: Iterable[str], timeout: float) -> list[Any]:
        stock = [queue for queue in queues if queue not in RINGS]
        self._waits_for_stock = bool(stock)
        keys = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in stock]
        rings = self.active_rings()
        keys += [wake_key(ring) for ring in rings]
        self._waits_for_slow = not rings or self._slow_room() > 0
        keys += [slow_wake_key(ring) for ring in rings] if self._waits_for_slow else [self._own_wake_key()]
        return ["BRPOP", *keys, timeout]

    def _own_wake_key(self) -> str:
        return key_prefix(self.active_rings()[0]) + self._own_wake_name

    def _brpop_read(self, **read_options: Any) -> bool:
        ring, self._taking = self._taking, None
        try:
            reply = self._read_reply("EVALSHA" if ring else "BRPOP", **read_options)
        except NoScriptError:
            self._take_in_full = True
            self._hungry.appendleft(str(ring))
            raise Empty from None
        finally:
            self._in_poll = False
            self._flush_brpop_reauth()
        if ring:
            return self._deliver_taken(ring, reply)
        return self._deliver_waited(reply)

    def _read_reply(self, command: str, **read_options: Any) -> Any:
        try:
            return self.client.parse_response(self.client.connection, command, **read_options)
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        except NoScriptError:
            raise
        except ResponseError as refusal:
            # Such as READONLY after a fail-over: the worker must connect anew, not die.
            self.client.connection.disconnect()
            raise BrokenConnection(f"The broker refused to hand out messages: {refusal}") from refusal

    def _deliver_waited(self, reply: Any) -> bool:
        if not reply:  # Nobody woke us for a while. Look by ourselves: a pause may have ended.
            self._hungry.extend(ring for ring in self.active_rings() if ring not in self._hungry)
            raise Empty
        source_key, item = bytes_to_str(reply[0]), reply[1]
        for ring in self.active_rings():
            if source_key in (wake_key(ring), slow_wake_key(ring)):
                self._hungry.append(ring)
                return True
        if source_key.endswith(self._own_wake_name):
            self._hungry.extend(self.active_rings())
            return True
        queue = source_key.rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        self.connection._deliver(loads(bytes_to_str(item)), queue)
        return True

    def _deliver_taken(self, ring: str, reply: list[Any]) -> bool:
        taken = list(_parse_taken(ring, reply))
        self._plan_wake(ring, int(reply[1]))
        if not taken:
            raise Empty
        if self._closing or not is_taking() or ring not in self.connection._callbacks:
            self.hand_back([lease for lease, _ in taken])
            return True
        if len(taken) == self._asked and not self.has_stock_queues():  # beside stock queues the wake token does
            self._hungry.append(ring)
        while taken:
            lease, body = taken[0]
            try:
                self._deliver_one(lease, body)
            except BaseException:
                self.hand_back([lease for lease, _ in taken[1:]])
                raise
            del taken[0]
        return True

    def _deliver_one(self, lease: Lease, body: bytes) -> None:
        try:
            message = loads(bytes_to_str(body))
            message["properties"]["delivery_tag"] = lease
        except (ValueError, KeyError, TypeError):
            logger.exception("Dropped a message of lane %s that cannot be read.", lease.lane)
            self.settler.add(lease)
            return
        self.settler.hold(lease)
        self.connection._deliver(message, lease.ring)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        if queue not in RINGS:
            stock: dict[str, Any] = super()._get(queue)
            return stock
        for lease, body in _parse_taken(queue, self.scripts.take(keys=[key_prefix(queue)], args=self._take_args(1))):
            message: dict[str, Any] = loads(bytes_to_str(body))
            message["properties"]["delivery_tag"] = lease
            self.settler.hold(lease)
            return message
        raise Empty

    def stop_taking(self) -> None:
        """Hand back what is being taken, and leave what waits to other workers, until `is_taking` again."""
        if not self._in_poll or self._waits_for_stock or not self.active_rings():
            return
        self._abandon_poll()
        with _broken_if_refused("wake other workers"):
            for ring in self.active_rings():
                self._hungry.append(ring)
                # Nothing is taken; a wake token that this worker may have just been given is made anew.
                self.scripts.take(keys=[key_prefix(ring)], args=self._take_args(0))

    # Waking

    def _plan_wake(self, ring: str, milliseconds: int) -> None:
        """Have the lane that sleeps shortest woken when its sleep ends; a negative number: nobody sleeps.

        A server ends a BRPOP up to 0.1 s late, so its timeout would not do.
        """
        loop = self.connection.cycle.loop
        if loop is None or milliseconds < 0:
            return
        seconds = max(milliseconds / 1000, options.WAKE_AT_MOST_EVERY_SECONDS)
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
                self._plan_wake(ring, int(self.scripts.wake(keys=[key_prefix(ring)], args=(self._caps,))))

    def _nudge_itself(self) -> None:
        """A worker that waits for healthy lanes alone may run one in trouble again: end its wait."""
        if self._in_poll and not self._taking and not self._waits_for_slow and self._slow_room() > 0:
            self._waits_for_slow = True
            with self._create_client().pipeline() as pipeline:
                pipeline.lpush(self._own_wake_key(), "1")
                pipeline.expire(self._own_wake_key(), 10)
                pipeline.execute()

    # Settling, handing back, repairing

    def settle_finished(self) -> None:
        with _broken_if_refused("settle messages"):
            if self.settler:
                self.settler.flush(self.scripts.settle, self._caps)
            self._nudge_itself()

    def hand_back(self, leases: list[Lease]) -> int:
        """Return messages that were not started to the front of their lanes. Returns how many were still ours."""
        self.settler.release(leases)
        return hand_back_all(self.scripts.hand_back, self._caps, leases) if leases else 0

    def hand_back_unstarted(self, running: frozenset[str]) -> int:
        """At the end of a worker: settle what is finished, hand back what is leased here and not ``running`` (ids)."""
        self._stop_polling()
        self.settle_finished()
        unstarted = [lease for lease in self.qos.open_leases() if lease.message_id not in running]
        returned = self.hand_back(unstarted)
        self.qos.forget(unstarted)
        return returned

    def repair(self) -> None:
        """Put back what has lapsed, at most once in nine tenths of ``unacked_restore_interval``."""
        if monotonic() - self._repaired_at < self.unacked_restore_interval * 0.9:
            return
        self._repaired_at = monotonic()
        for ring in self.active_rings():
            lapsed, most = options.REPAIR_AT_MOST, options.REPAIR_AT_MOST
            while lapsed == most:
                args = (self._caps, most, self._repair_cursors.get(ring, "0"), self._lease_micros())
                lapsed, _, _, cursor = self.scripts.repair(keys=[key_prefix(ring)], args=args)
                self._repair_cursors[ring] = bytes_to_str(cursor)

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

    # Looking

    def _size(self, queue: str) -> int:
        ring = ring_of(queue)
        if ring is None:
            return int(super()._size(queue))
        return int(self._create_client().llen(f"{key_prefix(ring)}waiting:{queue}"))

    def _purge(self, queue: str) -> int:
        ring = ring_of(queue)
        if ring is None:
            return int(super()._purge(queue))
        return int(self.scripts.purge(keys=[key_prefix(ring)], args=(self._caps, queue)))


def _parse_taken(ring: str, reply: list[bytes]) -> Iterator[tuple[Lease, bytes]]:
    """The reply of ``take.lua``: the end of the leases, the next wake, then four fields of each message."""
    ends_at = bytes_to_str(reply[0])
    for lane, message_id, body, is_slow in zip(*(reply[start::4] for start in range(2, 6)), strict=True):
        yield Lease(ring, bytes_to_str(lane), bytes_to_str(message_id), ends_at, bool(is_slow)), body


@contextmanager
def _broken_if_refused(what: str) -> Iterator[None]:
    """A server that refuses, as READONLY after a fail-over: the worker must connect anew, not die."""
    try:
        yield
    except ResponseError as refusal:
        raise BrokenConnection(f"The broker refused to {what}: {refusal}") from refusal
