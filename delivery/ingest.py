"""Events come in: rows first, then a hint to fan them out.

An event is an immutable row, its payload the received text byte for byte, and a row in `unrouted` says that it waits
for fan-out. All three are written by one statement, whatever the number of events.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from delivery import idempotency, publishing
from delivery.idempotency import Answer, Stamp
from delivery.models import event_time
from workspaces import ids


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be stored. `payload` is the JSON text as received; the moment of the event is that of its id."""

    workspace_id: uuid.UUID
    type: str
    payload: str
    api_key_id: uuid.UUID | None = None
    id: uuid.UUID = field(default_factory=ids.uuid7)

    @property
    def created_at(self) -> datetime:
        return event_time(self.id)


def accept(events: Sequence[NewEvent], answer: Answer, stamp: Stamp | None = None) -> Answer:
    """Store the events and say how the request is answered, which may be said only after this has returned.

    Without a stamp (a request without `Idempotency-Key`) that is `answer`. With one it is `answer` too, kept for 24
    hours in the transaction of the events, unless the key was used before: then nothing is stored, and the earlier
    answer is returned. A twin that runs at the same time waits for the first to commit. Raises
    `idempotency.KeyReused` where the key belongs to another body.
    """
    if stamp is None:
        insert_events(events)
    else:
        with transaction.atomic():
            earlier = idempotency.remember(stamp, answer)
            if earlier is not None:
                return earlier
            insert_events(events)
    publishing.publish_fanouts([(event.workspace_id, event.id) for event in events])
    return answer


def insert_events(events: Sequence[NewEvent]) -> None:
    """Insert events, payloads and what waits for fan-out: one statement, hence one transaction, for any number."""
    if not events:
        return
    rows = ", ".join(["(%s::uuid, %s::uuid, %s, %s::uuid, %s::timestamptz, %s)"] * len(events))
    values: list[Any] = []
    for event in events:
        values += [event.id, event.workspace_id, event.type, event.api_key_id, event.created_at, event.payload]
    with connection.cursor() as cursor:
        cursor.execute(_INSERT.format(rows=rows), values)


_INSERT = """
WITH incoming (id, workspace_id, type, api_key_id, created_at, body) AS (VALUES {rows}),
inserted_events AS (
    INSERT INTO events (id, workspace_id, type, api_key_id, payload_bytes, created_at)
    SELECT id, workspace_id, type, api_key_id, octet_length(body), created_at FROM incoming
),
inserted_payloads AS (
    INSERT INTO payloads (event_id, workspace_id, body) SELECT id, workspace_id, body FROM incoming
)
INSERT INTO unrouted (event_id, workspace_id, created_at, tries) SELECT id, workspace_id, created_at, 0 FROM incoming
"""
