"""Events come in: a body is checked, workspaces are found and limits asked; rows are written, then fan-out is told.

An item of a bulk body is refused alone, so what decides here answers for each item. An event is an immutable row, its
payload the received text byte for byte, and a row in `unrouted` says that it waits for fan-out. All three are written
by one statement, whatever the number of events.
"""

import math
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cachetools import LRUCache
from django.conf import settings
from django.db import connection, transaction

from delivery.lanes import brokers
from delivery.rules.patterns import EVENT_TYPE, EVENT_TYPE_WORDS
from meshes.api.fields import unknown_field
from meshes.api.problems import Problem
from meshes.kit import ids, strictjson
from meshes.kit.batching import Group, rows_of
from meshes.kit.strictjson import InvalidJson, Parsed, pointer
from workspaces import endpoints, idempotency, limits
from workspaces.authentication import Identity
from workspaces.idempotency import Answer, Stamp
from workspaces.models import Workspace

BULK_MOST = 500
"""Events of one bulk request."""
BULK_MAX_KEYS = BULK_MOST * (strictjson.MAX_KEYS + len("wep")) + 1
"""Members of a bulk body: each payload may have as many as a single one, in an event of three, in one list."""
LARGE_CHARACTERS = 16_384
"""A payload of more is large: it is written and read by itself."""
FIELDS = ("workspace", "event", "payload")

Path = tuple[str | int, ...]
Mistake = dict[str, str]
Draft = tuple[Path, str, str, str]
"""A well-formed event of a body: its place there, what the caller calls its workspace, its type, its payload's text."""


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

    def answer(self) -> dict[str, str]:
        """What the caller is told: its own word for the workspace, and the event's id and moment."""
        return {
            "id": ids.encode(ids.EVENT, self.id),
            "workspace": self.external_id or ids.encode(ids.WORKSPACE, self.workspace_id),
            "event": self.type,
            "status": "accepted",
            "created_at": self.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }


# --- reading --------------------------------------------------------------------------------------------------------


def read_one(body: Parsed) -> Draft | Problem:
    """The event of a `POST /events` body."""
    span = strictjson.members(body.text).get("payload")
    return _read(body.value, body.text[slice(*span)] if span else "", ())


def read_bulk(body: Parsed) -> list[Draft | Problem]:
    """The events of a `POST /events/bulk` body, each on its own. Raises Problem 422 where the body is no such list."""
    events, wrong = body.value.get("events"), ("events",)
    mistakes = [
        _mistake((name,), unknown_field(name, ["events"]), "unknown_field") for name in body.value if name != "events"
    ]
    if not mistakes and not isinstance(events, list):
        rule = "type" if "events" in body.value else "required"
        mistakes = [_mistake(wrong, "A list of events is required.", rule)]
    elif not mistakes and not 1 <= len(events) <= BULK_MOST:
        mistakes = [_mistake(wrong, f"There may be 1 to {BULK_MOST} events.", "length")]
    if mistakes:
        raise Problem(422, errors=mistakes)
    return [
        _read(value, body.text[slice(*span)] if span else "", ("events", index))
        for index, (value, span) in enumerate(zip(events, strictjson.payload_slices(body.text), strict=True))
    ]


def _read(value: Any, payload: str, at: Path) -> Draft | Problem:
    if not isinstance(value, dict):
        return Problem(422, errors=[_mistake(at, "An event is a JSON object.", "type")])
    mistakes = [
        *(_mistake((*at, name), "This field is required.", "required") for name in FIELDS if name not in value),
        *(_mistake((*at, name), unknown_field(name, FIELDS), "unknown_field") for name in value if name not in FIELDS),
        *_mistakes_in_values(value, payload, at),
    ]
    return Problem(422, errors=mistakes) if mistakes else (at, value["workspace"], value["event"], payload)


def _mistakes_in_values(value: Mapping[str, Any], payload: str, at: Path) -> Iterable[Mistake]:
    """A bulk body as a whole has larger limits than a single event; each payload in it has those of one."""
    if not isinstance(value.get("workspace", ""), str):
        yield _mistake((*at, "workspace"), "This must be a string: the workspace's id or external id.", "type")
    event, size = value.get("event", ""), len(payload.encode()) if at else 0
    if "event" in value and not (isinstance(event, str) and EVENT_TYPE.fullmatch(event)):
        yield _mistake((*at, "event"), EVENT_TYPE_WORDS, "event_type")
    if not isinstance(value.get("payload", {}), dict):
        yield _mistake((*at, "payload"), "This must be a JSON object.", "type")
    elif size > settings.MESHES_BODY_LIMIT:
        words = f"This has {size:,} bytes; at most {settings.MESHES_BODY_LIMIT:,} are accepted."
        yield _mistake((*at, "payload"), words, "too_large")
    elif at and "payload" in value:
        try:
            strictjson.check_value(value["payload"])
        except InvalidJson as error:
            place = pointer(*at, "payload") + error.pointer
            yield {"pointer": place, "detail": error.message, "rule": error.rule}


def _mistake(at: Path, detail: str, rule: str) -> Mistake:
    return {"pointer": pointer(*at), "detail": detail, "rule": rule}


# --- admitting ------------------------------------------------------------------------------------------------------


class Admission:
    """Drafts on their way in. What a step refuses keeps its place in the list, as a problem."""

    def __init__(self, identity: Identity, drafts: Sequence[Draft | Problem]) -> None:
        self._identity = identity
        names = {draft[1] for draft in drafts if not isinstance(draft, Problem)}
        self._workspaces = endpoints.find_workspaces(identity, names)
        self._places = list(drafts)
        for index, draft in enumerate(drafts):
            if not isinstance(draft, Problem) and draft[1] not in self._workspaces:
                unknown = _mistake((*draft[0], "workspace"), "There is no such workspace.", "unknown")
                self._places[index] = Problem(422, errors=[unknown])

    def workspace(self, index: int) -> Workspace:
        """The workspace of a draft. Raises the Problem that stands in its place."""
        draft = self._places[index]
        if isinstance(draft, Problem):
            raise draft
        return self._workspaces[draft[1]]

    def take_rate(self) -> None:
        """Ask the rate limits of each workspace and of the key."""
        for workspace, count in self._count_by_workspace().items():
            wait = limits.take(workspace, self._identity.key_id, count)
            if wait is not None:
                self._refuse(workspace, "The events of this workspace or key come faster than its rate allows.", wait)

    def take_room(self) -> None:
        """Ask the cap on each workspace's backlog."""
        for workspace, count in self._count_by_workspace().items():
            limit = settings.MESHES_BACKLOG_LIMIT if workspace.backlog_limit is None else workspace.backlog_limit
            if not take_room(workspace.pk, count, limit):
                words = f"{limit:,} or more deliveries and events of this workspace wait already."
                self._refuse(workspace, words, RETRY_AFTER_SECONDS)

    def results(self) -> list[NewEvent | Problem]:
        """What the drafts have become; those that are not refused have ids now."""
        results: list[NewEvent | Problem] = []
        for place in self._places:
            if isinstance(place, Problem):
                results.append(place)
            else:
                _, named, type_, payload = place
                workspace = self._workspaces[named]
                external_id = named if named == workspace.external_id else None
                key_id = self._identity.key_id
                results.append(NewEvent(workspace.pk, type_, payload, key_id, external_id=external_id))
        return results

    def _count_by_workspace(self) -> Counter[Workspace]:
        return Counter(self._workspaces[draft[1]] for draft in self._places if not isinstance(draft, Problem))

    def _refuse(self, workspace: Workspace, detail: str, wait_seconds: float) -> None:
        problem = Problem(429, detail=detail, headers={"Retry-After": str(max(1, math.ceil(wait_seconds)))})
        self._places = [
            draft if isinstance(draft, Problem) or self._workspaces[draft[1]] != workspace else problem
            for draft in self._places
        ]


# --- the cap on what waits in one workspace: open deliveries, and events before their fan-out -------------------------

RETRY_AFTER_SECONDS = 30
"""What a caller is told to wait: a backlog drains by deliveries, not by the second."""
FRESHEST_SECONDS, STALEST_SECONDS = 1.0, 15.0
"""How long a count is used: the shorter, the nearer it is to the cap."""
COUNTING_SHARE = 20
"""A count that took long is used for this many times as long, so that counting never takes over 5 % of anything."""

_counts: LRUCache[uuid.UUID | None, list[Any]] = LRUCache(10_000)
"""`[what is counted, fresh until]` of each workspace that this process serves; None: of `unrouted`, by workspace."""
_lock = threading.Lock()


def take_room(workspace_id: uuid.UUID, events: int, limit: int) -> bool:
    """Let `events` more in, unless the workspace has `limit` or more waiting already.

    Nothing is counted per request. Each process adds what it accepts itself to what it has counted, so that a cap is
    exact for one process and a few seconds late between several.
    """

    def waiting() -> int:
        unrouted: dict[uuid.UUID, int] = _kept_count(None, _count_unrouted)[0]
        return _count_deliveries(workspace_id, limit) + unrouted.get(workspace_id, 0)

    def seconds(count: int) -> float:
        room = max(0.0, 1 - count / limit) if limit > 0 else 0.0
        return STALEST_SECONDS * (room - 0.5) * 2

    count = _kept_count(workspace_id, waiting, seconds)
    with _lock:
        if count[0] >= limit:
            return False
        count[0] += events
        return True


def _kept_count(
    key: uuid.UUID | None, count: Callable[[], Any], seconds: Callable[[Any], float] = lambda counted: 0.0
) -> list[Any]:
    with _lock:
        kept: list[Any] | None = _counts.get(key)
        if kept is not None:
            if kept[1] > time.monotonic():
                return kept
            kept[1] = time.monotonic() + STALEST_SECONDS  # one thread counts, the others go on
    began = time.monotonic()
    counted = count()
    ended = time.monotonic()
    fresh = [counted, ended + max(FRESHEST_SECONDS, seconds(counted), COUNTING_SHARE * (ended - began))]
    with _lock:
        _counts[key] = fresh
    return fresh


def _count_deliveries(workspace_id: uuid.UUID, limit: int) -> int:
    """Open deliveries, counted no further than the limit, by the index on workspace and status."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE workspace_id = %s"
            " AND status IN ('pending', 'held') LIMIT %s) AS open",
            [workspace_id, limit],
        )
        return int(cursor.fetchone()[0])


def _count_unrouted() -> dict[uuid.UUID, int]:
    """Events before their fan-out, of all workspaces at once: `unrouted` is short, and has no index by workspace."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT workspace_id, count(*) FROM unrouted GROUP BY workspace_id")
        return dict(cursor.fetchall())


# --- storing --------------------------------------------------------------------------------------------------------


class StaleWorkspaceError(Exception):
    """A workspace was deleted, or lost the external id by which it was named. Nothing was stored."""


def store(events: Sequence[NewEvent], answer: Answer, stamp: Stamp | None = None) -> Answer:
    """Store the events and say how the request is answered, which may be said only after this has returned.

    Without a stamp (a request without `Idempotency-Key`) that is `answer`. With one it is `answer` too, kept for 24
    hours in the transaction of the events, unless the key was used before: then nothing is stored, and the earlier
    answer is returned. A twin that runs at the same time waits for the first to commit. Raises Problem
    where the key belongs to another body, and StaleWorkspaceError.
    """
    if stamp is None and len(events) == 1 and not connection.in_atomic_block:
        group = _large_singles if len(events[0].payload) > LARGE_CHARACTERS else _singles
        if not group.submit(events[0]):
            raise StaleWorkspaceError
        return answer
    with transaction.atomic():
        if stamp is not None:
            earlier = idempotency.remember(stamp, answer)
            if earlier is not None:
                return earlier
        if not all(insert_events(events)):
            raise StaleWorkspaceError
    brokers.publish_fanouts([(event.workspace_id, event.id) for event in events])
    return answer


def _accept_singles(events: list[NewEvent]) -> list[bool]:
    """The events of as many requests, of which each has its own answer."""
    stored = insert_events(events)
    brokers.publish_fanouts(
        [(event.workspace_id, event.id) for event, is_stored in zip(events, stored, strict=True) if is_stored]
    )
    return stored


_singles: Group[NewEvent, bool] = Group("ingest", _accept_singles)
"""Events that come alone share statements and commits, so that a request without a stamp needs no connection."""
_large_singles: Group[NewEvent, bool] = Group("large-ingest", _accept_singles, most=4)
"""Those that take PostgreSQL longer, so that small ones do not wait for them."""


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
