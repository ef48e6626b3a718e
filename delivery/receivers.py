"""What delivery does when something changes below it: a connection's hold or limit, a workspace's end."""

import uuid
from typing import Any

from django.dispatch import receiver

from connections.lifecycle import CLOSED_BREAKER
from connections.models import Connection, ConnectionHealth
from connections.signals import connection_changed
from delivery.dispatch import deletion
from delivery.dispatch.budgets import Limits, limits_of
from delivery.lanes import steering


@receiver(connection_changed)
def follow_connection(sender: Any, connection_id: uuid.UUID, **kwargs: Any) -> None:
    """Give the lane its copy of limits and hold; a connection that was mended starts with a closed breaker."""
    connection = Connection.objects.get(pk=connection_id)
    workspace_id, is_deleted = connection.workspace_id, connection.status == Connection.Status.DELETED
    if is_deleted:
        deletion.on_connection_deleted(connection_id)
    steering.limit([Limits(workspace_id, connection_id, None, None) if is_deleted else _limits(connection)])
    if connection.status != Connection.Status.ACTIVE:
        steering.purge(workspace_id, connection_id)
    elif connection.paused_until is None:
        _forget_failures(connection)
        steering.resume(workspace_id, connection_id)


def _limits(connection: Connection) -> Limits:
    return limits_of(
        connection.workspace_id,
        connection.pk,
        connection.in_flight,
        connection.rate,
        connection.type,
        connection.account_id,
    )


def _forget_failures(connection: Connection) -> None:
    """What failed before somebody mended the connection counts no more: not for the breaker, not for the five days."""
    if connection.status_changed_at is None:
        return
    health = ConnectionHealth.objects.filter(connection=connection, last_failure_at__lte=connection.status_changed_at)
    health.exclude(breaker="closed", consecutive_failures=0).update(**CLOSED_BREAKER)
