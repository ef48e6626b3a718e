"""What a database that was restored does not know: what was erased, deleted, revoked and sent since its dump.

What the journal tells of is done again, and what nobody can know is listed, so that an operator decides. See
docs/backup.md.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import Q
from django.utils.dateparse import parse_datetime

from connections import lifecycle as connection_lifecycle
from connections.credentials import ConflictError
from connections.models import Connection
from delivery.dispatch import claims, sessions
from delivery.events import erasure
from delivery.models import Event, Payload, Unrouted
from delivery.rules import fanout
from meshes.kit import clock, ids
from workspaces import journal, keys
from workspaces import lifecycle as workspace_lifecycle
from workspaces.models import ApiKey, Workspace

ACTOR = "after_restore"


# --- what the journal tells of --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Applied:
    """What was done again, counted by what it is. `busy` are events that a worker has at this moment."""

    counts: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    unreadable: int = 0
    busy: list[str] = field(default_factory=list)


def end_what_was_running() -> int:
    """The leases of the workers that the dump tells of, which are gone, end as lost; how many did."""
    for session_id, *_ in sessions.end_missing(grace_seconds=0):
        fanout.end_leases(session_id)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT d.id FROM deliveries d WHERE d.status = 'pending' AND {claims.LEASE_IS_OVER}")
        return claims.end_lapsed_leases([row[0] for row in cursor.fetchall()])


def apply(paths: Iterable[str]) -> Applied:
    """Do again what journals tell of, as far as it is not done in this database. Raises OSError."""
    done = Applied()
    for entry in journal.read(paths):
        did, facts = entry or ("", {})
        act = _ACTS.get(did)
        if act is None:
            done.unreadable += 1
            continue
        done.entries += 1
        try:
            done.counts[did] += act(facts, done)
        except (KeyError, TypeError, ValueError):
            done.unreadable += 1
    return done


def _erase(facts: Mapping[str, Any], done: Applied) -> int:
    workspace = Workspace.objects.filter(pk=_id(ids.WORKSPACE, facts["workspace"])).first()
    if workspace is None:
        return 0
    named = [_id(ids.EVENT, each) for each in facts["events"]]
    own = set(Event.objects.filter(workspace=workspace, pk__in=named).values_list("pk", flat=True))
    own -= set(Payload.objects.filter(pk__in=own, erased_at__isnull=False).values_list("pk", flat=True))
    erased = erasure.erase_events(workspace, sorted(own), clock.database_now())
    done.busy += [ids.encode(ids.EVENT, event_id) for event_id in erased.busy]
    return erased.events


def _delete_workspace(facts: Mapping[str, Any], done: Applied) -> int:
    workspace = Workspace.objects.filter(pk=_id(ids.WORKSPACE, facts["workspace"]), deleted_at=None).first()
    if workspace is None:
        return 0
    workspace_lifecycle.delete_workspace(workspace, clock.database_now())
    return 1


def _delete_connection(facts: Mapping[str, Any], done: Applied) -> int:
    found = _connection(facts)
    return int(found is not None and connection_lifecycle.delete(found, actor=ACTOR, asks_vendor=False))


def _disconnect(facts: Mapping[str, Any], done: Applied) -> int:
    """Unless the connection is newer than that: then it was disconnected before the dump, and authorized since."""
    found = _connection(facts)
    if found is None or found.version >= facts["version"]:
        return 0
    try:
        connection_lifecycle.disconnect(found, actor=ACTOR, asks_vendor=False)
    except ConflictError:
        return 0
    return 1


def _revoke_key(facts: Mapping[str, Any], done: Applied) -> int:
    key = ApiKey.objects.filter(pk=_id(ids.KEY, facts["key"]), revoked_at=None).first()
    if key is None:
        return 0
    keys.revoke_key(key.pk, clock.database_now(), actor=ACTOR)
    return 1


def _end_rotated_key(facts: Mapping[str, Any], done: Applied) -> int:
    """The secret that is known here was given up, and the one that took its place is lost: it ends when it was to."""
    ends_at = parse_datetime(facts["ends_at"])
    rows = ApiKey.objects.filter(pk=_id(ids.KEY, facts["key"]), version__lt=facts["version"], revoked_at=None)
    return rows.filter(Q(expires_at=None) | Q(expires_at__gt=ends_at)).update(expires_at=ends_at)


_ACTS: dict[str, Callable[[Mapping[str, Any], Applied], int]] = {
    "erased": _erase,
    "workspace_deleted": _delete_workspace,
    "connection_deleted": _delete_connection,
    "connection_disconnected": _disconnect,
    "key_revoked": _revoke_key,
    "key_rotated": _end_rotated_key,
}


def _connection(facts: Mapping[str, Any]) -> Connection | None:
    workspace_id, pk = _id(ids.WORKSPACE, facts["workspace"]), _id(ids.CONNECTION, facts["connection"])
    rows = Connection.objects.filter(pk=pk, workspace_id=workspace_id)
    return rows.exclude(status=Connection.Status.DELETED).first()


def _id(prefix: str, text: str) -> uuid.UUID:
    found = ids.decode(prefix, text)
    if found is None:
        raise ValueError(f"{text!r} is no id that begins with {prefix}_")
    return found


# --- what is in question --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """One connection of which something is not known: deliveries that may go out again, an authorization that may be
    spent. `expires_at` of the token that the dump had; `is_authorized`: it has such tokens at all."""

    connection_id: uuid.UUID
    workspace_id: uuid.UUID
    name: str
    type: str
    status: str
    pending: int
    held: int
    attempted: int
    is_authorized: bool
    expires_at: datetime | None


QUESTIONS = """
SELECT c.id, c.workspace_id, c.name, c.type, c.status, coalesce(d.pending, 0), coalesce(d.held, 0),
    coalesce(d.attempted, 0), c.credential_hints ? 'access_token', g.expires_at
FROM connections c
LEFT JOIN (
    SELECT connection_id, count(*) FILTER (WHERE status = 'pending') AS pending,
        count(*) FILTER (WHERE status = 'held') AS held, count(*) FILTER (WHERE attempt_number > 0) AS attempted
    FROM deliveries WHERE status IN ('pending', 'held') GROUP BY connection_id
) d ON d.connection_id = c.id
LEFT JOIN oauth_grants g ON g.connection_id = c.id
WHERE c.status <> 'deleted' AND (d.connection_id IS NOT NULL OR c.credential_hints ? 'access_token')
ORDER BY c.id
"""


@dataclass(frozen=True, slots=True)
class State:
    """What the database is, as far as it tells. `newest_event_at` is None where there is no event."""

    newest_event_at: datetime | None
    unrouted: int
    live_account_keys: list[str]
    live_workspace_keys: int
    questions: list[Question]


def read_state() -> State:
    """All that an operator has to know before the release. Nothing changes it while the installation is held."""
    with connection.cursor() as cursor:
        cursor.execute(QUESTIONS)
        questions = [Question(*row) for row in cursor.fetchall()]
    live = ApiKey.objects.filter(revoked_at=None).exclude(expires_at__lte=clock.database_now())
    return State(
        newest_event_at=Event.objects.order_by("-pk").values_list("created_at", flat=True).first(),
        unrouted=Unrouted.objects.count(),
        live_account_keys=[f"{key.public_id} {key.name}" for key in live.filter(workspace=None).order_by("pk")],
        live_workspace_keys=live.exclude(workspace=None).count(),
        questions=questions,
    )
