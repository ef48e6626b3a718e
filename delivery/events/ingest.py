"""Events come in: rows first, then a hint to fan them out.

An event is an immutable row, its payload the received text byte for byte, and a row in `unrouted` says that it waits
for fan-out. All three are written by one statement, whatever the number of events.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import connection, transaction

from delivery.lanes import publishing
from meshes.kit import ids
from meshes.kit.batching import Group, rows_of
from workspaces import idempotency
from workspaces.idempotency import Answer, Stamp

LARGE_CHARACTERS = 16_384
"""A payload of more is large: it is written and read by itself."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be stored. `payload` is the JSON text as received; the moment of the event is that of its id.

    `external_id` is the one by which the workspace was named, if it was; the workspace must still have it.
    """

    workspace_id: uuid.UUID
    type: str
    payload: str
    api_key_id: uuid.UUID | None = None
    id: uuid.UUID = field(default_factory=ids.uuid7)
    external_id: str | None = None

    @property
    def created_at(self) -> datetime:
        return ids.created_at(self.id)


class StaleWorkspace(Exception):  # noqa: N818 - reads so where it is caught
    """A workspace was deleted, or lost the external id by which it was named. Nothing was stored."""


def accept(events: Sequence[NewEvent], answer: Answer, stamp: Stamp | None = None) -> Answer:
    """Store the events and say how the request is answered, which may be said only after this has returned.

    Without a stamp (a request without `Idempotency-Key`) that is `answer`. With one it is `answer` too, kept for 24
    hours in the transaction of the events, unless the key was used before: then nothing is stored, and the earlier
    answer is returned. A twin that runs at the same time waits for the first to commit. Raises Problem
    where the key belongs to another body, and StaleWorkspace.
    """
    if stamp is None and len(events) == 1 and not connection.in_atomic_block:
        group = _large_singles if len(events[0].payload) > LARGE_CHARACTERS else _singles
        if not group.submit(events[0]):
            raise StaleWorkspace
        return answer
    with transaction.atomic():
        if stamp is not None:
            earlier = idempotency.remember(stamp, answer)
            if earlier is not None:
                return earlier
        if not all(insert_events(events)):
            raise StaleWorkspace
    publishing.publish_fanouts([(event.workspace_id, event.id) for event in events])
    return answer


def _accept_singles(events: list[NewEvent]) -> list[bool]:
    """The events of as many requests, of which each has its own answer."""
    stored = insert_events(events)
    publishing.publish_fanouts(
        [(event.workspace_id, event.id) for event, is_stored in zip(events, stored, strict=True) if is_stored]
    )
    return stored


_singles: Group[NewEvent, bool] = Group("ingest", _accept_singles)
"""Events that come alone share statements and commits, so that a request without a stamp needs no connection."""
_large_singles: Group[NewEvent, bool] = Group("large-ingest", _accept_singles, most=4)
"""Those that take PostgreSQL longer, so that small ones do not wait for them."""


def insert_events(events: Sequence[NewEvent]) -> list[bool]:
    """Insert events, payloads and what waits for fan-out: one statement, hence one transaction, for any number.

    False for an event whose workspace is no longer what it was taken for. An event that is there already is stored.
    """
    if not events:
        return []
    rows, values = rows_of(
        "(%s::uuid, %s::uuid, %s, %s, %s::uuid, %s::timestamptz, %s)",
        [(e.id, e.workspace_id, e.external_id, e.type, e.api_key_id, e.created_at, e.payload) for e in events],
    )
    with connection.cursor() as cursor:
        cursor.execute(_INSERT.format(rows=rows), values)
        stored = {row[0] for row in cursor.fetchall()}
    return [event.id in stored for event in events]


_INSERT = """
WITH first AS (SELECT FROM unrouted WHERE false),
incoming (id, workspace_id, external_id, type, api_key_id, created_at, body) AS (VALUES {rows}),
accepted AS (
    SELECT i.* FROM incoming i JOIN workspaces w ON w.id = i.workspace_id AND w.deleted_at IS NULL
        AND (i.external_id IS NULL OR w.external_id = i.external_id)
),
inserted AS (
    INSERT INTO events (id, workspace_id, type, api_key_id, payload_bytes, created_at)
    SELECT id, workspace_id, type, api_key_id, octet_length(body), created_at FROM accepted
    ON CONFLICT DO NOTHING RETURNING id
),
inserted_payloads AS (
    INSERT INTO payloads (event_id, workspace_id, body)
    SELECT id, workspace_id, body FROM accepted JOIN inserted USING (id)
),
waiting AS (
    INSERT INTO unrouted (event_id, workspace_id, created_at, tries)
    SELECT id, workspace_id, clock_timestamp(), 0 FROM accepted JOIN inserted USING (id)
)
SELECT id FROM accepted
"""
"""`first` reads nothing: because of it `unrouted` is locked before `events`, as by fan-out (see `retention.LOCKED`)."""
