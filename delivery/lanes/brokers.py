# mypy: disallow-untyped-calls=False
# (kombu has no types)
"""What every process asks of the brokers: messages for the workers, and the copies of what holds a connection's lane.

Where there are several brokers, each workspace is on one of them, by a hash of its id, with all its lanes.

Messages are published after the commit and never the only copy. A publishing thread of each process (one a broker)
sends what has gathered, one batch at a time, so that no caller waits for the broker. Whatever cannot be sent is
dropped: the sweeps publish it later from the rows.

PostgreSQL decides what a lane may do; a copy that cannot be set is set again later. A lane's limits are its
connection's own and the vendor's. Vendors count requests by account, whichever connection sends them: a test of a
connection learns its account, and from then on all connections to that account, of whatever workspace, draw on one
bucket with the vendor's limits. Where the vendor counts by address, all connections of its kind draw on one. Lanes of
different brokers share no bucket. Nothing but `send` and `shards` raises: a lane that misses its pause costs claims
that take nothing, never a delivery.
"""

import atexit
import hashlib
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import redis
from celery import current_app
from django.conf import settings
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.utils.json import dumps
from redis.backoff import NoBackoff
from redis.retry import Retry

from connections import providers
from delivery.lanes.control import Lanes

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 1.0

LaneOf = tuple[uuid.UUID, uuid.UUID]
"""Workspace, connection."""
Bucket = tuple[str, int | None, float | None]
"""A budget that lanes share: its name, deliveries open at once, deliveries per second."""


# --- which broker ---------------------------------------------------------------------------------------------------


@cache
def lanes_at(url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> Lanes:
    """The lanes of one broker, with short timeouts."""
    client = redis.Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),  # redis-py would go on for seconds
    )
    return Lanes(client, lease_seconds=settings.MESHES_LANE_LEASE_SECONDS)


def shards() -> list[str]:
    """The URLs of all brokers."""
    return list(settings.MESHES_REDIS_SHARDS)


def shard_of(workspace_id: uuid.UUID) -> str:
    """The URL of the broker that serves a workspace: the same in every process that knows the same shards."""
    urls = shards()
    digest = hashlib.sha256(workspace_id.bytes).digest()
    return urls[int.from_bytes(digest[:8], "big") % len(urls)]


def lanes_for(workspace_id: uuid.UUID) -> Lanes:
    """The lanes of the broker that serves a workspace."""
    return lanes_at(shard_of(workspace_id))


def lane_of(connection_id: uuid.UUID) -> str:
    """The name of a connection's lane."""
    return f"conn.{connection_id}"


# --- publishing -----------------------------------------------------------------------------------------------------

MOST_WAITING = 20_000
"""Wake-ups that a process keeps while the broker is slow; more are dropped."""
BATCH = 256
COOL_DOWN_SECONDS = 1.0
"""How long nothing is tried after the broker failed: a dead broker costs each process one short try a second."""

WakeUp = tuple[str, str, uuid.UUID, uuid.UUID]
"""Task name, lane, workspace, id."""
DeliveryHint = tuple[uuid.UUID, uuid.UUID, uuid.UUID]
"""Workspace, connection, delivery."""
_ANY_ID = str(uuid.UUID(int=0))
_ANY_LANE = "conn.any"
_KEPT = frozenset({"task", "id", "ignore_result", "delivery_info", "delivery_tag"})
"""Of what Celery says of a message, all that a worker does not assume by itself: less than half of the bytes."""


def publish_deliveries(wake_ups: Iterable[DeliveryHint]) -> None:
    """Tell workers that deliveries are due. Call it after the commit. Never raises."""
    _publish(
        ("delivery.deliver", lane_of(connection), workspace, delivery) for workspace, connection, delivery in wake_ups
    )


def publish_fanouts(pairs: Iterable[tuple[uuid.UUID, uuid.UUID]]) -> None:
    """Tell workers that events (workspace, event) wait for fan-out. Call it after the commit. Never raises."""
    _publish(("delivery.fan_out", f"fanout.{workspace}", workspace, event) for workspace, event in pairs)


def prepare() -> None:
    """Do what the first wake-up of a process would have to wait for."""
    for task_name in ("delivery.deliver", "delivery.fan_out"):
        _template(task_name)


def flush(timeout_seconds: float = 5.0) -> bool:
    """Wait until everything handed in has been sent or dropped; False if that took longer than `timeout_seconds`."""
    ends_at = time.monotonic() + timeout_seconds
    return all(_publisher(url).flush(ends_at - time.monotonic()) for url in shards())


def _publish(wake_ups: Iterable[WakeUp]) -> None:
    by_shard: dict[str, list[WakeUp]] = {}
    for wake_up in wake_ups:
        by_shard.setdefault(shard_of(wake_up[2]), []).append(wake_up)
    for url, its_wake_ups in by_shard.items():
        _publisher(url).add(its_wake_ups)


class Publisher:
    """The thread of one process that publishes to one broker."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._wake_ups: deque[WakeUp] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._thread: threading.Thread | None = None

    def add(self, wake_ups: Iterable[WakeUp]) -> None:
        with self._changed:
            for wake_up in wake_ups:
                if len(self._wake_ups) >= MOST_WAITING:
                    break
                self._wake_ups.append(wake_up)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="publisher", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout_seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._wake_ups and not self._busy, timeout_seconds)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._wake_ups:
                    self._changed.wait()
                batch = [self._wake_ups.popleft() for _ in range(min(len(self._wake_ups), BATCH))]
                self._busy = True
            try:
                send(self._url, batch)
            except Exception as error:  # noqa: BLE001  (whatever the broker does, the rows stand and a sweep follows)
                logger.warning("%d wake-ups not published (%s); a sweep will", len(batch), error)
                time.sleep(COOL_DOWN_SECONDS)
                with self._changed:
                    self._wake_ups.clear()


def send(url: str, wake_ups: list[WakeUp]) -> None:
    """Publish a batch on its lanes in one round trip. Raises redis-py's errors."""
    lanes_at(url).put(
        (lane, str(row_id), encode(task_name, lane, row_id), _turns_of(lane, workspace))
        for task_name, lane, workspace, row_id in wake_ups
    )


def _turns_of(lane: str, workspace_id: uuid.UUID) -> str:
    """The workspace whose turns a lane shares with others; a workspace's lane of fan-out shares with nobody."""
    return "" if lane.startswith("fanout.") else str(workspace_id)


def encode(task_name: str, lane: str, row_id: uuid.UUID) -> str:
    """The message of a task on a lane, as Celery writes it: `send_task(task_name, (row_id,), queue=lane)`.

    Celery encodes one message of each task; all others are that text with another id and lane, which is a fortieth of
    the work.
    """
    return _template(task_name).replace(_ANY_ID, str(row_id)).replace(_ANY_LANE, lane)


@cache
def _template(task_name: str) -> str:
    with Connection("memory://") as memory:
        channel = memory.default_channel
        channel.body_encoding = None  # the body stays readable, and shorter, in the message
        current_app.send_task(
            task_name,
            (_ANY_ID,),
            task_id=_ANY_ID,
            queue=Queue(_ANY_LANE, exchange=Exchange("", type="direct"), routing_key=_ANY_LANE),
            declare=[],  # a lane is no queue that anybody declares: it costs nothing while it is empty
            producer=memory.Producer(channel),
            ignore_result=True,
        )
        message = channel._get(_ANY_LANE)
    for part in ("headers", "properties"):
        message[part] = {name: message[part][name] for name in message[part] if name in _KEPT}
    text: str = dumps(message)
    return text


@cache
def _publisher_of(process_id: int, url: str) -> Publisher:
    publisher = Publisher(url)
    atexit.register(publisher.flush, 2.0)
    return publisher


def _publisher(url: str) -> Publisher:
    return _publisher_of(os.getpid(), url)


# --- one lane -------------------------------------------------------------------------------------------------------


def pause(workspace_id: uuid.UUID, connection_id: uuid.UUID, seconds: float) -> None:
    """The lane gives out nothing for so long, by the broker's clock: no other is compared with it."""
    _try(lanes_for(workspace_id).pause, lane_of(connection_id), seconds)


def resume(workspace_id: uuid.UUID, connection_id: uuid.UUID) -> None:
    """The lane gives out what it has, at once."""
    _try(lanes_for(workspace_id).resume, lane_of(connection_id))


def pause_fan_out(workspace_id: uuid.UUID, seconds: float) -> None:
    """The workspace's fan-out lane gives out nothing for so long, by the broker's clock."""
    _try(lanes_for(workspace_id).pause, f"fanout.{workspace_id}", seconds)


def purge(workspace_id: uuid.UUID, connection_id: uuid.UUID) -> None:
    """The lane forgets what waits in it; the rows stand."""
    _try(lanes_for(workspace_id).purge, lane_of(connection_id))


# --- limits ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """What a connection's lane may do: deliveries open at once, deliveries per second. None: the default."""

    workspace_id: uuid.UUID
    connection_id: uuid.UUID
    in_flight: int | None
    rate: float | None
    bucket: Bucket | None = None

    @property
    def says_something(self) -> bool:
        return self.in_flight is not None or self.rate is not None or self.bucket is not None


def limits_of(
    workspace_id: uuid.UUID,
    connection_id: uuid.UUID,
    in_flight: int | None,
    rate: float | None,
    connection_type: str,
    account_id: str,
) -> LaneLimits:
    """The limits of a connection with these columns. An owner may ask for less than the vendor allows, not for more."""
    try:
        provider = providers.get(connection_type)
    except KeyError:
        return LaneLimits(workspace_id, connection_id, in_flight, rate)
    vendor, system = provider.limits, provider.system_limits
    bucket: Bucket | None = None
    if system.in_flight is not None or system.rate is not None:
        bucket = (provider.slug, system.in_flight, system.rate)
    elif account_id and (vendor.in_flight is not None or vendor.rate is not None):
        bucket = (bucket_of(provider.slug, account_id), vendor.in_flight, vendor.rate)
    least_in_flight = min((each for each in (in_flight, vendor.in_flight) if each is not None), default=None)
    least_rate = min((each for each in (rate, vendor.rate) if each is not None), default=None)
    return LaneLimits(workspace_id, connection_id, least_in_flight, least_rate, bucket)


def bucket_of(connection_type: str, account_id: str) -> str:
    """The bucket's name; a vendor's ids may hold any character."""
    return f"{connection_type}.{hashlib.sha256(account_id.encode()).hexdigest()[:24]}"


# --- many lanes -----------------------------------------------------------------------------------------------------


def limit(limits: Sequence[LaneLimits]) -> None:
    """Give lanes their limits and buckets, in one round trip a broker."""
    by_shard: dict[str, list[tuple[str, int | None, float | None, Bucket | None]]] = {}
    for each in limits:
        terms = (lane_of(each.connection_id), each.in_flight, each.rate, each.bucket)
        by_shard.setdefault(shard_of(each.workspace_id), []).append(terms)
    for url, rows in by_shard.items():
        _try(lanes_at(url).limit_many, rows)


def depths(wanted: Sequence[LaneOf]) -> list[int]:
    """How many deliveries wait in each lane; 0 where the broker does not answer."""
    by_shard: dict[str, list[uuid.UUID]] = {}
    for workspace_id, connection_id in wanted:
        by_shard.setdefault(shard_of(workspace_id), []).append(connection_id)
    found: dict[uuid.UUID, int] = {}
    for url, connection_ids in by_shard.items():
        try:
            waiting = lanes_at(url).depths([lane_of(connection_id) for connection_id in connection_ids])
        except redis.RedisError:
            continue
        found.update(zip(connection_ids, waiting, strict=True))
    return [found.get(connection_id, 0) for _, connection_id in wanted]


def repair() -> int:
    """Put back what workers were lost with; how many messages."""
    repaired = 0
    for url in shards():
        try:
            repaired += lanes_at(url).repair().lapsed
        except redis.RedisError as error:
            logger.warning("repair of a broker's lanes failed (%s); its workers repair them too", error)
    return repaired


def leased_to(session_id: uuid.UUID) -> list[uuid.UUID]:
    """The deliveries that a worker has taken from lanes, as far as brokers answer."""
    found: list[str] = []
    for url in shards():
        try:
            found += [message_id for _, message_id in lanes_at(url).leased_to(str(session_id), "deliver")]
        except redis.RedisError as error:
            logger.warning("a broker does not tell what a worker had leased (%s); its lanes are looked at later", error)
    return [uuid.UUID(message_id) for message_id in found]


def release(session_id: uuid.UUID) -> None:
    """Put back what a worker that is gone had taken, as far as brokers answer."""
    for url in shards():
        try:
            lanes_at(url).release(str(session_id))
        except redis.RedisError as error:
            logger.warning("a broker does not release what a worker had leased (%s); it is asked again", error)


def _try(function: Callable[..., Any], *arguments: Any) -> None:
    try:
        function(*arguments)
    except redis.RedisError as error:
        logger.warning("%s of lanes failed (%s); it is set again later: %s", function.__name__, error, arguments[0])
