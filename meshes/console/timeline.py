"""What the page of an event or a delivery shows, read in a fixed number of queries and in bounded pieces."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db.models import F, IntegerField, QuerySet, Window
from django.db.models.expressions import Func, Value
from django.db.models.fields import BinaryField
from django.db.models.functions import RowNumber

from connections.masking import Redactor
from connections.models import Connection
from delivery.dispatch.connection_health import Waiting, waiting_for
from delivery.models import Attempt, Delivery, Event, Payload, RoutingLedger, Rule, Unrouted
from meshes.console import display, wording
from meshes.kit import clock, ids

MOST_DELIVERIES = 200
MOST_ENTRIES = 500
ATTEMPTS_ON_EVENT_PAGE = 10
ATTEMPTS_ON_DELIVERY_PAGE = 100
BODY_BYTES = 4_096
"""Of a body on the pages of events and deliveries; the attempt's own page shows all that is kept."""
BODIES = ("request_body", "response_body")


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a request or an answer as text."""

    text: str
    size: int
    is_shortened: bool


@dataclass(frozen=True, slots=True)
class AttemptCard:
    attempt: Attempt
    request_headers: list[list[str]]
    response_headers: list[list[str]]
    sent: Body | None
    answer: Body | None


@dataclass(slots=True)
class DeliveryCard:
    """A delivery with its newest attempts, the oldest of them first."""

    delivery: Delivery
    cause_words: str
    waiting: Waiting | None
    body: str | None
    """What its rule's mapping made, indented; None where the payload itself is sent, or where it is not asked for."""
    attempts: list[AttemptCard] = field(default_factory=list)
    has_earlier: bool = False


@dataclass(frozen=True, slots=True)
class Considered:
    """A rule that names the event's type, and what became of it."""

    rule_id: uuid.UUID | None
    rule: str
    pattern: str
    version: Any
    is_outdated: bool
    connection_id: uuid.UUID | None
    connection: str
    result: str
    words: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """The whole life of an event."""

    payload: str | None
    """Indented; None where it is not kept any more."""
    erased_at: datetime | None
    unrouted: Unrouted | None
    ledger: RoutingLedger | None
    considered: list[Considered]
    deliveries: list[DeliveryCard]
    has_more_deliveries: bool

    @property
    def why_not_routed(self) -> str:
        unrouted = self.unrouted
        if unrouted is None:
            return ""
        return wording.why_not_routed(unrouted.poisoned_at is not None, unrouted.cause, unrouted.detail)


def of_event(event: Event) -> Timeline:
    """Everything that is known of an event, in seven queries."""
    payload = Payload.objects.filter(pk=event.pk, workspace_id=event.workspace_id).first()
    ledger = RoutingLedger.objects.filter(pk=event.pk, workspace_id=event.workspace_id).first()
    found = Delivery.objects.filter(event_id=event.pk, workspace_id=event.workspace_id)
    deliveries = list(found.select_related("connection__health", "rule").order_by("pk")[: MOST_DELIVERIES + 1])
    shown = deliveries[:MOST_DELIVERIES]
    return Timeline(
        payload=display.indented(payload.body) if payload and payload.erased_at is None else None,
        erased_at=payload.erased_at if payload else None,
        unrouted=Unrouted.objects.filter(pk=event.pk).first(),
        ledger=ledger,
        considered=_considered(ledger, event.workspace_id) if ledger else [],
        deliveries=cards(shown, ATTEMPTS_ON_EVENT_PAGE),
        has_more_deliveries=len(deliveries) > MOST_DELIVERIES,
    )


def cards(deliveries: Iterable[Delivery], most_attempts: int) -> list[DeliveryCard]:
    """Deliveries with their newest attempts each, in one query."""
    now = clock.now()
    made = {
        delivery.pk: DeliveryCard(
            delivery,
            wording.cause(delivery.cause),
            waiting_for(delivery, now),
            None if delivery.body is None else display.indented(delivery.body),
        )
        for delivery in deliveries
    }
    for attempt in _attempts(list(made), most_attempts + 1):
        made[attempt.delivery_id].attempts.append(card(attempt))
    for one in made.values():
        one.has_earlier = len(one.attempts) > most_attempts
        one.attempts = one.attempts[-most_attempts:]
    return list(made.values())


def _attempts(delivery_ids: list[uuid.UUID], most: int) -> QuerySet[Attempt]:
    newest = Window(RowNumber(), partition_by=F("delivery_id"), order_by=F("number").desc())
    return (
        Attempt.objects.filter(delivery_id__in=delivery_ids)
        .defer(*BODIES)
        .annotate(rank=newest, **{name: made for body in BODIES for name, made in _start_and_size(body).items()})
        .filter(rank__lte=most)
        .order_by("delivery_id", "number")
    )


def card(attempt: Attempt) -> AttemptCard:
    """An attempt as it is shown; its headers are masked once more, as they were when it was recorded."""
    sent, answered = (_body(attempt, name) for name in BODIES)
    return AttemptCard(attempt, _masked(attempt.request_headers), _masked(attempt.response_headers), sent, answered)


def _body(attempt: Attempt, name: str) -> Body | None:
    """A body that was read whole, or its start and size where it was deferred."""
    is_deferred = name in attempt.get_deferred_fields()
    body = getattr(attempt, f"{name}_start") if is_deferred else getattr(attempt, name)
    if body is None:
        return None
    start = bytes(body)
    size = getattr(attempt, f"{name}_size") if is_deferred else len(start)
    return Body(display.visible(start.decode("utf-8", "replace")), size, size > len(start))


def _start_and_size(body: str) -> dict[str, Any]:
    start = Func(F(body), Value(1), Value(BODY_BYTES), function="substring", output_field=BinaryField())
    size = Func(F(body), function="octet_length", output_field=IntegerField())
    return {f"{body}_start": start, f"{body}_size": size}


def _masked(headers: Iterable[Iterable[str]]) -> list[list[str]]:
    pairs = [(str(name), str(value)) for name, value in headers]
    return [[display.visible(name), display.visible(value)] for name, value in Redactor({}).headers(pairs)]


def _considered(ledger: RoutingLedger, workspace_id: uuid.UUID) -> list[Considered]:
    entries = ledger.entries[:MOST_ENTRIES]
    rules = _by_public_id(Rule.objects.filter(workspace_id=workspace_id), ids.RULE, entries, "rule")
    connections = _by_public_id(
        Connection.objects.filter(workspace_id=workspace_id), ids.CONNECTION, entries, "connection"
    )
    return [_one(entry, rules, connections) for entry in entries]


def _by_public_id(
    queryset: QuerySet[Any], prefix: str, entries: Iterable[Mapping[str, Any]], key: str
) -> dict[str, Any]:
    named = {str(entry.get(key)): ids.decode(prefix, str(entry.get(key))) for entry in entries}
    rows = queryset.in_bulk([pk for pk in named.values() if pk is not None])
    return {text: rows.get(pk) for text, pk in named.items() if pk is not None}


def _one(entry: Mapping[str, Any], rules: Mapping[str, Any], connections: Mapping[str, Any]) -> Considered:
    rule, connection = rules.get(str(entry.get("rule"))), connections.get(str(entry.get("connection")))
    return Considered(
        rule_id=rule.pk if rule else None,
        rule=str(entry.get("rule", display.NOTHING)),
        pattern=rule.event if rule else "",
        version=entry.get("version"),
        is_outdated=rule is not None and rule.version != entry.get("version"),
        connection_id=connection.pk if connection else None,
        connection=connection.name if connection else str(entry.get("connection", display.NOTHING)),
        result=str(entry.get("result", "")),
        words=wording.ledger_entry(entry),
    )


def delay(earlier: datetime, later: datetime) -> str:
    """How long after one moment another was."""
    return display.span(max(0.0, (later.astimezone(UTC) - earlier.astimezone(UTC)).total_seconds()))
