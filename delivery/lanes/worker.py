# mypy: disallow-untyped-calls=False
# (kombu's methods have no types)
"""Lanes inside Celery: names that are not remembered, quick reconnection, a worker that ends with nothing leased."""

import logging
from typing import Any

from celery import Celery, bootsteps
from celery.app import amqp
from kombu.connection import Connection
from kombu.entity import Queue
from redis.exceptions import RedisError

from delivery.lanes import transport
from delivery.lanes.events import GatherEvents
from delivery.lanes.names import ring_of

logger = logging.getLogger(__name__)


class LaneQueue(Queue):
    """A lane as a publisher names it: declared nowhere, bound to nothing."""

    can_cache_declaration = False
    is_bound = True

    def declare(self, *args: Any, **kwargs: Any) -> str:
        return str(self.name)


class Queues(amqp.Queues):  # type: ignore[misc]  # Celery has no types
    """Celery's table of queues. Stock keeps every name it was ever asked for, and every connection has a lane."""

    def __missing__(self, name: str) -> Any:
        if ring_of(name) is not None:
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


def install(app: Celery) -> None:
    """Run an application on lanes. Call it right after ``Celery(...)``, in every process."""
    transport.register()
    app.amqp_cls = f"{AMQP.__module__}:{AMQP.__qualname__}"
    app.steps["consumer"].update((HandBack, GatherEvents))
