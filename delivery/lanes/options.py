"""What Celery needs to be told to run on lanes. Plain data: importing it costs nothing."""

from typing import Any, Final

IN_FLIGHT: Final = 8
"""Messages of one lane that may be leased at once, unless the lane has a limit of its own."""

FIRST_WINDOW: Final = 2
"""Of a lane that begins to run, so many messages may be leased at first, and one more for each that does not fail."""

LATENESS_SECONDS: Final = 0.1
"""A lane with a rate and no burst of its own may make good so much, for tokens whose taker came late."""

CAPACITY: Final = 1000
"""Messages that may wait in one lane. The backlog itself is in PostgreSQL."""

PUT_AT_ONCE: Final = 32
"""Messages that one call appends. It bounds how long the server is busy with it (about half a millisecond)."""

LEASE_SECONDS: Final = 90.0
"""A message that is neither settled nor handed back for so long goes back to its lane. Above the longest task."""

TAKE_AT_MOST: Final = 64
"""Messages that one call takes. It bounds how long the server is busy with it (about half a millisecond)."""

SLOW_SHARE: Final = 4
"""Lanes in trouble share one in so many of a worker's slots."""

WAKE_AT_MOST_EVERY_SECONDS: Final = 0.005
"""An idle worker wakes lanes no more often, however many have rates: so late at most, and 200 calls a second."""

REPAIR_AT_MOST: Final = 200
"""Lapsed leases that one call of repair puts back; it is called again until fewer are left."""

TRANSPORT_OPTIONS: Final[dict[str, Any]] = {
    "lane_in_flight": IN_FLIGHT,
    "lane_first_window": FIRST_WINDOW,
    "lane_capacity": CAPACITY,
    "lane_lease_seconds": LEASE_SECONDS,
    # A publisher must never hang: a call is answered within this, or raises. Above the 1 s that idle workers block for.
    "socket_timeout": 1.5,
    "socket_connect_timeout": 1.0,
    "socket_keepalive": True,
    # Connecting to publish: one try. Workers connect for ever (delivery.lanes.worker).
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
