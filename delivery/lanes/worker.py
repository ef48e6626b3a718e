# mypy: disallow-untyped-calls=False
# (kombu's methods have no types)
"""Lanes inside Celery: its settings, queues that are not remembered, and a worker that ends with nothing leased."""

import logging
from typing import Any, Final

from celery import Celery, bootsteps
from celery.app import amqp
from kombu.connection import Connection
from kombu.entity import Queue
from redis.exceptions import RedisError

from delivery.lanes import control, transport

logger = logging.getLogger(__name__)

TRANSPORT_OPTIONS: Final[dict[str, Any]] = {
    "lane_in_flight": control.IN_FLIGHT,
    "lane_first_window": control.FIRST_WINDOW,
    "lane_capacity": control.CAPACITY,
    "lane_lease_seconds": control.LEASE_SECONDS,
    # A publisher must never hang: a call is answered within this, or raises. Above the 1 s that idle workers block for.
    "socket_timeout": 1.5,
    "socket_connect_timeout": 1.0,
    "socket_keepalive": True,
    # Connecting to publish: one try. Workers connect for ever (below).
    "max_retries": 0,
    # kombu's pool refuses instead of waiting, so it must exceed the threads that share a channel.
    "max_connections": 512,
    # Seconds until a dead peer that closed nothing is noticed (kombu's default is 25).
    "health_check_interval": 5,
    # Seconds between repairs by each worker.
    "unacked_restore_interval": 5,
}
"""For ``broker_transport_options``."""

CELERY_SETTINGS: Final[dict[str, Any]] = {
    "broker_transport_options": TRANSPORT_OPTIONS,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # A server that refuses (read-only after a fail-over, out of memory) is a reason to connect anew, not to die.
    "broker_channel_error_retry": True,
    "broker_pool_limit": 64,
    "task_acks_late": True,
    "task_publish_retry": False,
    "worker_prefetch_multiplier": 1,
    # A task goes on while its worker reconnects; its lease is still its own and is settled afterwards.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
}
"""The settings that lanes rely on."""

EVENTS_EVERY_SECONDS: Final = 0.25
MOST_EVENTS: Final = 1_000
"""Task events that a worker keeps while they wait; Celery then sends them."""


class LaneQueue(Queue):
    """A lane as a publisher names it: declared nowhere, bound to nothing."""

    can_cache_declaration = False
    is_bound = True

    def declare(self, *args: Any, **kwargs: Any) -> str:
        return str(self.name)


class Queues(amqp.Queues):  # type: ignore[misc]  # Celery has no types
    """Celery's table of queues. Stock keeps every name it was ever asked for, and every connection has a lane."""

    def __missing__(self, name: str) -> Any:
        if control.ring_of(name) is not None:
            return LaneQueue(name, routing_key=name)
        return super().__missing__(name)


class QuickConnection(Connection):
    """A worker is back within seconds of its broker, however long that was away: Celery would wait up to 30 s."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        quick = {"interval_start": 0.2, "interval_step": 0.2, "interval_max": 1.0}
        return super().ensure_connection(*args, **(quick | kwargs))


class AMQP(amqp.AMQP):  # type: ignore[misc]  # Celery has no types
    queues_cls = Queues
    Connection = QuickConnection


class HandBack(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """When the worker ends, after its pool has, hand back what it took and did not start.

    Not when it loses its connection, although kombu closes the channel in both cases: then its tasks go on, and their
    leases with them.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def shutdown(self, consumer: Any) -> None:
        if consumer.task_consumer is None:
            return
        from celery.worker import state  # heavy, and publishers import this module too

        channel = consumer.task_consumer.channel
        running = frozenset(request.id for request in tuple(state.active_requests))
        try:
            returned = channel.hand_back_unstarted(running)
        except (RedisError, OSError) as error:
            logger.warning("Unstarted messages were not handed back; they return when they lapse: %s", error)
        else:
            logger.info("Handed back %d unstarted messages.", returned)


class GatherEvents(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Task events, for monitors such as Flower, go out four times a second, as one message each time.

    Celery sends what has gathered at every turn of its loop, which under load is a message and a round trip for a task
    or two: a sixth of a worker's CPU. This takes the place of the consumer's own plan, each time that it connects.
    """

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, consumer: Any) -> None:
        dispatcher, hub = consumer.event_dispatcher, consumer.hub
        if dispatcher is None or hub is None:
            return
        is_planned = False

        def plan() -> None:
            """Called by any thread, after each event."""
            nonlocal is_planned
            if not is_planned:
                is_planned = True
                hub.call_soon(hub.call_later, EVENTS_EVERY_SECONDS, send)

        def send() -> None:
            nonlocal is_planned
            is_planned = False
            dispatcher.flush()

        dispatcher.buffer_limit, dispatcher.on_send_buffered = MOST_EVENTS, plan

    def shutdown(self, consumer: Any) -> None:
        """The worker ends: send what has gathered."""
        if consumer.event_dispatcher is not None:
            consumer.event_dispatcher.flush()


def install(app: Celery) -> None:
    """Run an application on lanes. Call it right after ``Celery(...)``, in every process."""
    transport.register()
    app.amqp_cls = f"{AMQP.__module__}:{AMQP.__qualname__}"
    app.steps["consumer"].update((HandBack, GatherEvents))
