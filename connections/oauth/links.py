"""Connect links: with one a customer without an account here authorizes one connection.

A link is a signed text that names its connection, its end, and the generation of the connection's links; nothing is
stored. A success, disconnecting and deleting begin another generation, so that every link before is void. The making of
a link and each use, which is a click on its page, stand in the access log.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from django.core import signing
from django.db import transaction

from connections.models import Connection, OAuthGrant
from connections.oauth.states import LINK_ACTOR
from connections.recording import record_action
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


@transaction.atomic
def issue(connection: Connection, seconds: int, *, actor: str) -> tuple[str, datetime]:
    """A link's token, for a URL's path, and its end. `actor` is for the access record."""
    _record(connection, actor, "link_made")
    grant, _ = OAuthGrant.objects.get_or_create(
        connection=connection, defaults={"workspace_id": connection.workspace_id}
    )
    expires_at = (clock.database_now() + timedelta(seconds=seconds)).replace(microsecond=0)
    claims = [connection.pk.hex, grant.link_generation, int(expires_at.timestamp())]
    return signing.dumps(claims, salt=SALT), expires_at


@contextmanager
def using(token: str) -> Iterator[Link | None]:
    """The link, if it is good, and so until the end of this: no success ends it meanwhile. Its use is recorded."""
    with transaction.atomic():
        link = read(token)
        if link is not None:
            Connection.objects.select_for_update(no_key=True).filter(pk=link.connection.pk).first()
            link = read(token)
        if link is not None:
            _record(link.connection, LINK_ACTOR, "link_used")
        yield link


def _record(connection: Connection, actor: str, purpose: Literal["link_made", "link_used"]) -> None:
    record_action(
        workspace_id=connection.workspace_id,
        owner_kind="connection",
        owner_id=connection.pk,
        actor=actor,
        purpose=purpose,
    )


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
