"""Connect links: with one a customer without an account here authorizes one connection.

A link is a signed text that names its connection, its end, and the generation of the connection's links; nothing is
stored. Disconnecting and deleting begin another generation, so that every link before is void.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.core import signing

from connections.models import Connection, OAuthGrant
from workspaces import clock

DEFAULT_SECONDS = 7 * 86_400
LONGEST_SECONDS = 30 * 86_400
SHORTEST_SECONDS = 60
SALT = "connections.oauth.links"
MAX_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Link:
    """A link that is good: its connection, with its workspace, and its end."""

    connection: Connection
    expires_at: datetime


def issue(connection: Connection, seconds: int) -> tuple[str, datetime]:
    """A link's token, for a URL's path, and its end."""
    grant, _ = OAuthGrant.objects.get_or_create(
        connection=connection, defaults={"workspace_id": connection.workspace_id}
    )
    expires_at = (clock.database_now() + timedelta(seconds=seconds)).replace(microsecond=0)
    claims = [connection.pk.hex, grant.link_generation, int(expires_at.timestamp())]
    return signing.dumps(claims, salt=SALT), expires_at


def read(token: str) -> Link | None:
    """The link that a token stands for; None where it is forged, over, or void."""
    if len(token) > MAX_LENGTH:
        return None
    try:
        pk, generation, expires = signing.loads(token, salt=SALT)
    except signing.BadSignature:
        return None
    expires_at = datetime.fromtimestamp(expires, UTC)
    if expires_at <= clock.database_now():
        return None
    connection = (
        Connection.objects.filter(pk=uuid.UUID(pk), oauth_grant__link_generation=generation, workspace__deleted_at=None)
        .exclude(status=Connection.Status.DELETED)
        .select_related("workspace")
        .first()
    )
    return None if connection is None else Link(connection, expires_at)
