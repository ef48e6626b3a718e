"""System checks of what delivery needs of its servers."""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import Error, connections

from delivery.dispatch import sessions


@register(Tags.database)
def check_direct_connection(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """`delivery.W001`: the connection for worker sessions leads to a pooling proxy. Asks the server, if it is there."""
    return _look() if databases else []


@register("delivery", deploy=True)
def check_direct_connection_of_deployment(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """The same, for a deployment."""
    return [] if databases else _look()


def _look() -> list[CheckMessage]:
    try:
        if sessions.is_direct(connections[sessions.DIRECT]):
            return []
    except Error:
        return []  # whoever asks for the database at all is told by Django
    finally:
        connections[sessions.DIRECT].close()
    return [
        Warning(
            f"MESHES_DIRECT_DATABASE_URL (unset: DATABASE_URL) {sessions.NOT_DIRECT_WORDS}.",
            hint="What a worker that is gone had taken waits until its leases lapse, 90 s by default, and sweeps cannot"
            " hold their locks. Set it to PostgreSQL's own address.",
            id="delivery.W001",
        )
    ]
