# mypy: disallow-untyped-calls=False
# (kombu has no types)
"""Hints to the workers, published after the commit and never the only copy.

A publishing thread of each process (one a broker) sends what has gathered, one batch at a time, so that no caller waits
for the broker. Whatever cannot be sent is dropped: the sweeps publish it later from the rows.
"""

import atexit
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable
from functools import cache

from celery import current_app
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.utils.json import dumps

from delivery.lanes import steering

logger = logging.getLogger(__name__)

MOST_WAITING = 20_000
"""Hints that a process keeps while the broker is slow; more are dropped."""
BATCH = 256
REST_SECONDS = 1.0
"""How long nothing is tried after the broker failed: a dead broker costs each process one short try a second."""

Hint = tuple[str, str, uuid.UUID, uuid.UUID]
"""Task name, lane, workspace, id."""
DeliveryHint = tuple[uuid.UUID, uuid.UUID, uuid.UUID]
"""Workspace, connection, delivery."""
_ANY_ID = str(uuid.UUID(int=0))
_ANY_LANE = "conn.any"
_KEPT = frozenset({"task", "id", "ignore_result", "delivery_info", "delivery_tag"})
"""Of what Celery says of a message, all that a worker does not assume by itself: less than half of the bytes."""


def publish_deliveries(hints: Iterable[DeliveryHint]) -> None:
    """Hint that deliveries are due. Call it after the commit. Never raises."""
    _publish(
        ("delivery.deliver", steering.lane_of(connection), workspace, delivery)
        for workspace, connection, delivery in hints
    )


def publish_fanouts(pairs: Iterable[tuple[uuid.UUID, uuid.UUID]]) -> None:
    """Hint that events wait for fan-out: `(workspace id, event id)` pairs. Call it after the commit. Never raises."""
    _publish(("delivery.fan_out", f"fanout.{workspace}", workspace, event) for workspace, event in pairs)


def prepare() -> None:
    """Do what the first hint of a process would have to wait for."""
    for task_name in ("delivery.deliver", "delivery.fan_out"):
        _template(task_name)


def flush(timeout_seconds: float = 5.0) -> bool:
    """Wait until everything handed in has been sent or dropped; False if that took longer than `timeout_seconds`."""
    ends_at = time.monotonic() + timeout_seconds
    return all(_publisher(url).flush(ends_at - time.monotonic()) for url in steering.shards())


def _publish(hints: Iterable[Hint]) -> None:
    by_shard: dict[str, list[Hint]] = {}
    for hint in hints:
        by_shard.setdefault(steering.shard_of(hint[2]), []).append(hint)
    for url, its_hints in by_shard.items():
        _publisher(url).add(its_hints)


class Publisher:
    """The thread of one process that publishes to one broker."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._hints: deque[Hint] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._thread: threading.Thread | None = None

    def add(self, hints: Iterable[Hint]) -> None:
        with self._changed:
            for hint in hints:
                if len(self._hints) >= MOST_WAITING:
                    break
                self._hints.append(hint)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="publisher", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout_seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._hints and not self._busy, timeout_seconds)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._hints:
                    self._changed.wait()
                batch = [self._hints.popleft() for _ in range(min(len(self._hints), BATCH))]
                self._busy = True
            try:
                send(self._url, batch)
            except Exception as error:  # noqa: BLE001  (whatever the broker does, the rows stand and a sweep follows)
                logger.warning("%d hints not published (%s); a sweep will", len(batch), error)
                time.sleep(REST_SECONDS)
                with self._changed:
                    self._hints.clear()


def send(url: str, hints: list[Hint]) -> None:
    """Publish a batch on its lanes in one round trip. Raises redis-py's errors."""
    steering.put(
        url,
        (
            (lane, str(row_id), encode(task_name, lane, row_id), _turns_of(lane, workspace))
            for task_name, lane, workspace, row_id in hints
        ),
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
