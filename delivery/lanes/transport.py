# mypy: disallow-untyped-calls=False
# (kombu's methods have no types)
"""kombu's Redis transport with lanes, in the place of the stock one.

It takes over the aliases ``redis`` and ``rediss`` instead of adding one, so that URLs keep their scheme: fail-over, TLS
and Flower's broker page go by it.
"""

from typing import Any

from kombu import transport as kombu_transport
from kombu.transport import redis as kombu_redis

from delivery.lanes.channel import Channel
from delivery.lanes.lease import is_taking


class Poller(kombu_redis.MultiChannelPoller):
    """Settles before it polls: once per turn of the event loop, for all that was acknowledged since the last turn."""

    loop: Any = None
    """The event loop of the worker, for channels that want to be called at a moment. None: nobody runs one."""

    def on_poll_start(self) -> None:
        for channel in list(self._channels):
            channel.settle_finished()
            if not is_taking():
                channel.stop_taking()
        super().on_poll_start()


class Transport(kombu_redis.Transport):
    """Lanes are taken from their ring; every other queue behaves as stock."""

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
