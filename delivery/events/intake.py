"""A request body becomes events: checked, their workspaces found, the limits asked.

An item of a bulk body is refused alone, so everything here returns what it decides for each item. Nothing is stored
here; see `delivery.events.ingest`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from delivery.events import backlog
from delivery.events.ingest import NewEvent
from delivery.rules.patterns import is_event_type
from meshes.api.fields import unknown_field
from meshes.api.problems import Problem
from meshes.kit import ids, strictjson
from meshes.kit.strictjson import InvalidJson, Parsed, pointer
from workspaces import endpoints, limits
from workspaces.authentication import Identity
from workspaces.models import Workspace

BULK_MOST = 500
"""Events of one bulk request."""
BULK_MAX_KEYS = BULK_MOST * (strictjson.MAX_KEYS + len("wep")) + 1
"""Members of a bulk body: each payload may have as many as a single one, in an event of three, in one list."""
FIELDS = ("workspace", "event", "payload")

Path = tuple[str | int, ...]
Mistake = dict[str, str]


@dataclass(frozen=True, slots=True)
class Draft:
    """A well-formed event of a body; `at` is its place there, `workspace` what the caller calls its workspace."""

    at: Path
    workspace: str
    type: str
    payload: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """An event that may be stored, and how its body names the workspace."""

    draft: Draft
    event: NewEvent

    def answer(self) -> dict[str, str]:
        """What the caller is told: its own words, and the event's id and moment."""
        return {
            "id": ids.encode(ids.EVENT, self.event.id),
            "workspace": self.draft.workspace,
            "event": self.event.type,
            "status": "accepted",
            "created_at": self.event.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }


# --- reading --------------------------------------------------------------------------------------------------------


def read_one(body: Parsed) -> Draft | Problem:
    """The event of a `POST /events` body."""
    span = strictjson.members(body.text).get("payload")
    return _read(body.value, body.text[slice(*span)] if span else "", ())


def read_bulk(body: Parsed) -> list[Draft | Problem]:
    """The events of a `POST /events/bulk` body, each on its own. Raises Problem 422 where the body is no such list."""
    unknown = [
        _mistake((name,), unknown_field(name, ["events"]), "unknown_field") for name in body.value if name != "events"
    ]
    if unknown:
        raise Problem(422, errors=unknown)
    events = body.value.get("events")
    if not isinstance(events, list):
        rule = "type" if "events" in body.value else "required"
        raise Problem(422, errors=[_mistake(("events",), "A list of events is required.", rule)])
    if not 1 <= len(events) <= BULK_MOST:
        raise Problem(422, errors=[_mistake(("events",), f"There may be 1 to {BULK_MOST} events.", "length")])
    spans = strictjson.payload_slices(body.text)
    return [
        _read(value, body.text[slice(*span)] if span else "", ("events", index))
        for index, (value, span) in enumerate(zip(events, spans, strict=True))
    ]


def _read(value: Any, payload: str, at: Path) -> Draft | Problem:
    if not isinstance(value, dict):
        return Problem(422, errors=[_mistake(at, "An event is a JSON object.", "type")])
    mistakes = [
        *(_mistake((*at, name), "This field is required.", "required") for name in FIELDS if name not in value),
        *(_mistake((*at, name), unknown_field(name, FIELDS), "unknown_field") for name in value if name not in FIELDS),
        *_mistakes_in_values(value, payload, at),
    ]
    return Problem(422, errors=mistakes) if mistakes else Draft(at, value["workspace"], value["event"], payload)


def _mistakes_in_values(value: Mapping[str, Any], payload: str, at: Path) -> Iterable[Mistake]:
    if not isinstance(value.get("workspace", ""), str):
        yield _mistake((*at, "workspace"), "This must be a string: the workspace's id or external id.", "type")
    event = value.get("event", "")
    if "event" in value and not (isinstance(event, str) and is_event_type(event)):
        yield _mistake(
            (*at, "event"), "An event type is 1 to 128 of A-Z a-z 0-9 _ . and -, as in lead.created.", "event_type"
        )
    if "payload" not in value:
        return
    if not isinstance(value["payload"], dict):
        yield _mistake((*at, "payload"), "This must be a JSON object.", "type")
    elif at:
        yield from _mistakes_in_bulk_payload(value["payload"], payload, (*at, "payload"))


def _mistakes_in_bulk_payload(value: Any, payload: str, at: Path) -> Iterable[Mistake]:
    """A bulk body as a whole has larger limits; each payload has those of a single event."""
    size = len(payload.encode())
    if size > settings.MESHES_BODY_LIMIT:
        yield _mistake(
            at, f"This has {size:,} bytes; at most {settings.MESHES_BODY_LIMIT:,} are accepted.", "too_large"
        )
        return
    try:
        strictjson.check_value(value)
    except InvalidJson as error:
        yield {"pointer": pointer(*at) + error.pointer, "detail": error.message, "rule": error.rule}


def _mistake(at: Path, detail: str, rule: str) -> Mistake:
    return {"pointer": pointer(*at), "detail": detail, "rule": rule}


# --- admitting ------------------------------------------------------------------------------------------------------


class Admission:
    """Drafts on their way in. What a step refuses keeps its place in the list, as a problem."""

    def __init__(self, identity: Identity, drafts: Sequence[Draft | Problem]) -> None:
        self._identity = identity
        self._workspaces = endpoints.find_workspaces(
            identity, (draft.workspace for draft in drafts if isinstance(draft, Draft))
        )
        self._places = [
            draft if isinstance(draft, Problem) or draft.workspace in self._workspaces else _unknown_workspace(draft)
            for draft in drafts
        ]

    def workspace(self, index: int) -> Workspace:
        """The workspace of a draft. Raises the Problem that stands in its place."""
        draft = self._places[index]
        if isinstance(draft, Problem):
            raise draft
        return self._workspaces[draft.workspace]

    def take_rate(self) -> None:
        """Ask the rate limits of each workspace and of the key."""
        for workspace, count in self._counts().items():
            wait = limits.take(workspace, self._identity.key_id, count)
            if wait is not None:
                words = "The events of this workspace or key come faster than its rate allows."
                self._refuse(workspace, _too_many(words, wait))

    def take_room(self) -> None:
        """Ask the cap on each workspace's backlog."""
        for workspace, count in self._counts().items():
            limit = settings.MESHES_BACKLOG_LIMIT if workspace.backlog_limit is None else workspace.backlog_limit
            try:
                backlog.admit(workspace.pk, count, limit)
            except backlog.BacklogFull:
                words = f"{limit:,} or more deliveries and events of this workspace wait already."
                self._refuse(workspace, _too_many(words, backlog.RETRY_AFTER_SECONDS))

    def results(self) -> list[Admitted | Problem]:
        """What the drafts have become; those that stand now have ids."""
        return [place if isinstance(place, Problem) else self._admit(place) for place in self._places]

    def _counts(self) -> Counter[Workspace]:
        return Counter(self._workspaces[draft.workspace] for draft in self._places if isinstance(draft, Draft))

    def _refuse(self, workspace: Workspace, problem: Problem) -> None:
        self._places = [
            problem if isinstance(draft, Draft) and self._workspaces[draft.workspace] == workspace else draft
            for draft in self._places
        ]

    def _admit(self, draft: Draft) -> Admitted:
        workspace = self._workspaces[draft.workspace]
        external_id = draft.workspace if draft.workspace == workspace.external_id else None
        return Admitted(
            draft, NewEvent(workspace.pk, draft.type, draft.payload, self._identity.key_id, external_id=external_id)
        )


def _unknown_workspace(draft: Draft) -> Problem:
    return Problem(422, errors=[_mistake((*draft.at, "workspace"), "There is no such workspace.", "unknown")])


def _too_many(detail: str, wait_seconds: float) -> Problem:
    return Problem(429, detail=detail, headers={"Retry-After": str(max(1, math.ceil(wait_seconds)))})
