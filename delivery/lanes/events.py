"""Task events, for monitors such as Flower: sent four times a second by each worker, as one message each time.

Celery sends what has gathered at every turn of its loop, which under load is a message and a round trip for a task or
two: a sixth of a worker's CPU.
"""

from typing import Any

from celery import bootsteps

REST_SECONDS = 0.25
MOST_WAITING = 1_000


class GatherEvents(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Takes the place of the consumer's own plan for buffered events, each time that it connects."""

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
                hub.call_soon(hub.call_later, REST_SECONDS, send)

        def send() -> None:
            nonlocal is_planned
            is_planned = False
            dispatcher.flush()

        dispatcher.buffer_limit, dispatcher.on_send_buffered = MOST_WAITING, plan

    def shutdown(self, consumer: Any) -> None:
        """The worker ends: send what has gathered."""
        if consumer.event_dispatcher is not None:
            consumer.event_dispatcher.flush()
