"""What delivery does when something changes below it: a connection's hold or limit, a workspace's end."""

import uuid
from typing import Any

from django.dispatch import receiver

from connections.models import Connection, ConnectionHealth
from connections.signals import connection_changed
from delivery import deletion, steering


@receiver(connection_changed)
def follow_connection(sender: Any, connection_id: uuid.UUID, **kwargs: Any) -> None:
    """Give the lane its copy of limit and hold; a connection that was mended starts with a closed breaker."""
    connection = Connection.objects.get(pk=connection_id)
    if connection.status == Connection.Status.DELETED:
        deletion.on_connection_deleted(connection_id)
    steering.limit(connection_id, connection.in_flight)
    if connection.status != Connection.Status.ACTIVE:
        steering.purge(connection_id)
    elif connection.paused_until is None:
        _forget_failures(connection)
        steering.resume(connection_id)


def _forget_failures(connection: Connection) -> None:
    """What failed before somebody mended the connection counts no more: not for the breaker, not for the five days."""
    if connection.status_changed_at is None:
        return
    health = ConnectionHealth.objects.filter(connection=connection, last_failure_at__lte=connection.status_changed_at)
    health.update(
        breaker="closed",
        consecutive_failures=0,
        opened_times=0,
        first_failure_at=None,
        last_failure_at=None,
        probe_until=None,
    )
