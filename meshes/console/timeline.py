"""What the page of an event or a delivery shows, in words, read in a fixed number of queries and in bounded pieces."""

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from django.db.models import F, IntegerField, QuerySet, Window
from django.db.models.expressions import Func, Value
from django.db.models.fields import BinaryField
from django.db.models.functions import RowNumber

from connections.conversation import Redactor
from connections.models import Connection
from delivery.dispatch.connection_health import waiting_for
from delivery.models import Attempt, Delivery, Event, Payload, RoutingLedger, Rule, Unrouted
from meshes.console import display
from meshes.kit import clock, ids

MOST_DELIVERIES = 200
MOST_ENTRIES = 500
ATTEMPTS_ON_EVENT_PAGE = 10
ATTEMPTS_ON_DELIVERY_PAGE = 100
BODY_BYTES = 4_096
"""Of a body on the pages of events and deliveries; the attempt's own page shows all that is kept."""
BODIES = ("request_body", "response_body")

Shown = dict[str, Any]
"""What a template shows of one thing."""


def of_event(event: Event) -> Shown:
    """Everything that is known of an event, in seven queries."""
    payload = Payload.objects.filter(pk=event.pk, workspace_id=event.workspace_id).first()
    ledger = RoutingLedger.objects.filter(pk=event.pk, workspace_id=event.workspace_id).first()
    unrouted = Unrouted.objects.filter(pk=event.pk).first()
    found = Delivery.objects.filter(event_id=event.pk, workspace_id=event.workspace_id)
    deliveries = list(found.select_related("connection__health", "rule").order_by("pk")[: MOST_DELIVERIES + 1])
    return {
        "payload": display.indented(payload.body) if payload and payload.erased_at is None else None,
        "erased_at": payload.erased_at if payload else None,
        "unrouted": unrouted,
        "why_not_routed": why_not_routed(unrouted) if unrouted else "",
        "ledger": ledger,
        "routed_after": display.span(max(0.0, (ledger.created_at - event.created_at).total_seconds()))
        if ledger
        else "",
        "considered": _considered(ledger) if ledger else [],
        "deliveries": cards(deliveries[:MOST_DELIVERIES], ATTEMPTS_ON_EVENT_PAGE),
        "has_more_deliveries": len(deliveries) > MOST_DELIVERIES,
    }


def cards(deliveries: Iterable[Delivery], most_attempts: int) -> list[Shown]:
    """Deliveries, each with its newest attempts, the oldest of them first; in one query.

    `body` is what the rule's mapping made, None where the payload itself is sent.
    """
    now = clock.now()
    made: dict[uuid.UUID, Shown] = {
        delivery.pk: {
            "delivery": delivery,
            "cause_words": CAUSES.get(delivery.cause, ""),
            "waiting": waiting_for(delivery, now),
            "body": None if delivery.body is None else display.indented(delivery.body),
            "attempts": [],
        }
        for delivery in deliveries
    }
    for attempt in _attempts(list(made), most_attempts + 1):
        made[attempt.delivery_id]["attempts"].append(exchange(attempt))
    for card in made.values():
        card["has_earlier"] = len(card["attempts"]) > most_attempts
        card["attempts"] = card["attempts"][-most_attempts:]
    return list(made.values())


def _attempts(delivery_ids: list[uuid.UUID], most: int) -> QuerySet[Attempt]:
    """With the starts of their bodies, and how long those are."""
    starts: dict[str, Any] = {}
    for body in BODIES:
        starts[f"{body}_start"] = Func(
            F(body), Value(1), Value(BODY_BYTES), function="substring", output_field=BinaryField()
        )
        starts[f"{body}_size"] = Func(F(body), function="octet_length", output_field=IntegerField())
    newest = Window(RowNumber(), partition_by=F("delivery_id"), order_by=F("number").desc())
    found = Attempt.objects.filter(delivery_id__in=delivery_ids).defer(*BODIES).annotate(rank=newest, **starts)
    return found.filter(rank__lte=most).order_by("delivery_id", "number")


def exchange(attempt: Attempt) -> Shown:
    """What went out and came back; headers are masked once more, as they were when they were recorded."""
    return {
        "attempt": attempt,
        "request_headers": _masked(attempt.request_headers),
        "response_headers": _masked(attempt.response_headers),
        "sent": _body(attempt, "request_body"),
        "answer": _body(attempt, "response_body"),
    }


def _body(attempt: Attempt, name: str) -> Shown | None:
    """A body as text: one that was read whole, or its start and size where it was deferred."""
    is_deferred = name in attempt.get_deferred_fields()
    body = getattr(attempt, f"{name}_start" if is_deferred else name)
    if body is None:
        return None
    start = bytes(body)
    size = getattr(attempt, f"{name}_size") if is_deferred else len(start)
    text = display.visible(start.decode("utf-8", "replace"))
    return {"text": text, "size": size, "is_shortened": size > len(start)}


def _masked(headers: Iterable[Iterable[str]]) -> list[list[str]]:
    pairs = [(str(name), str(value)) for name, value in headers]
    return [[display.visible(name), display.visible(value)] for name, value in Redactor({}).headers(pairs)]


def _considered(ledger: RoutingLedger) -> list[Shown]:
    """The rules that name the event's type, and what became of each."""
    entries = ledger.entries[:MOST_ENTRIES]

    def rows(model: type[Rule] | type[Connection], prefix: str, key: str) -> dict[str, Any]:
        named = {text: ids.decode(prefix, text) for text in (str(entry.get(key)) for entry in entries)}
        wanted = [pk for pk in named.values() if pk is not None]
        found = model._default_manager.filter(workspace_id=ledger.workspace_id).in_bulk(wanted)
        return {text: found.get(pk) for text, pk in named.items()}

    rules, connections = rows(Rule, ids.RULE, "rule"), rows(Connection, ids.CONNECTION, "connection")
    shown = []
    for entry in entries:
        rule, connection = rules[str(entry.get("rule"))], connections[str(entry.get("connection"))]
        of_entry: Shown = {
            "rule_id": rule.pk if rule else None,
            "rule": str(entry.get("rule", display.NOTHING)),
            "pattern": rule.event if rule else "",
            "version": entry.get("version"),
            "is_outdated": rule is not None and rule.version != entry.get("version"),
            "connection_id": connection.pk if connection else None,
            "connection": connection.name if connection else str(entry.get("connection", display.NOTHING)),
            "result": str(entry.get("result", "")),
            "words": describe_entry(entry),
        }
        shown.append(of_entry)
    return shown


# --- words ----------------------------------------------------------------------------------------------------------

OPERATORS = {
    "$eq": "equal to",
    "$neq": "different from",
    "$gt": "greater than",
    "$gte": "at least",
    "$lt": "less than",
    "$lte": "at most",
    "$in": "one of",
    "$nin": "none of",
    "$startsWith": "a text that starts with",
    "$endsWith": "a text that ends with",
    "$contains": "something that contains",
    "$regex": "a text that matches",
    "$or": "one of",
    "$not": "not",
}
SHOWN_RAW = {"$in", "$nin", "$or", "$not", "$regex"}
"""Their operands are stored as JSON text, or are patterns: quoting them again would only obscure them."""

CAUSES = {
    "exhausted": "Every attempt of its schedule has failed.",
    "rejected": "The destination will never take this payload.",
    "uncertain": "It may have arrived, and its action must not be done twice.",
    "our_fault": "An error in Meshes itself has ended its attempts.",
    "poison": "It has lost five workers.",
    "mapping_failed": "The rule's mapping could not shape the event.",
    "evaluation_limit": "The rule's filter or mapping needs more work on the event than one rule may take.",
    "worker_lost": "The worker of its last attempt was lost.",
    "key_missing": "The key that opens the connection's credentials is not among FERNET_KEYS.",
    "paused": "The connection is paused.",
    "disabled": "The connection is disabled.",
    "needs_reauth": "The connection needs new credentials.",
    "credential_error": "The vault does not open the connection's credentials.",
    "connection_deleted": "The connection was deleted.",
    "workspace_deleted": "The workspace was deleted.",
    "cancelled_by_user": "Somebody cancelled it.",
    "replaced": "A new delivery stands in its place.",
    "erased": "The event's payload was erased.",
    "filtered": "The rule's filter does not match the event.",
    "expired": "The event became older than the retention period.",
}
"""Of a delivery's state; a cause that is not here says nothing more than its name."""

SET_ASIDE = {
    "workers_lost": "It has lost five workers, and is more likely the cause than a victim.",
    "refused": "PostgreSQL refuses what its rules make of it, while other events pass.",
    "timeout": "Writing what its rules make of it takes too long, while other events pass.",
    "error": "An error in Meshes itself, while other events pass.",
    "": "The cause was not recorded: it was set aside by an older version.",
}


def why_not_routed(unrouted: Unrouted) -> str:
    """Why an event is set aside, or what its last try failed with; empty where it only waits for its turn."""
    detail = unrouted.detail
    if unrouted.poisoned_at is not None:
        return f"{SET_ASIDE.get(unrouted.cause, unrouted.cause)}{f' ({detail})' if detail else ''}"
    return f"Its last try failed: {detail}." if detail else ""


def describe_clause(failed: Mapping[str, Any]) -> str:
    """The clause of a filter that an event did not match: `payload.score is 12, wanted: at least 50`."""
    path = failed.get("path") or "the event"
    operator = str(failed.get("operator", ""))
    expected, actual = failed.get("expected"), failed.get("actual")
    if operator == "$exist":
        return f"{path} is {'missing' if expected else 'there'}, wanted: {'anything' if expected else 'nothing'}"
    is_raw = operator in SHOWN_RAW and isinstance(expected, str)
    shown = expected if is_raw else json.dumps(expected, ensure_ascii=False)
    wanted = f"wanted: {OPERATORS.get(operator, operator)} {shown}"
    if operator in {"$or", "$not"} and not failed.get("found"):
        return wanted
    return f"{path} is {json.dumps(actual, ensure_ascii=False) if failed.get('found') else 'missing'}, {wanted}"


def describe_entry(entry: Mapping[str, Any]) -> str:
    """What became of one rule, in a sentence."""
    reason = entry.get("reason")
    match entry.get("result"):
        case "matched":
            return "Matched; a delivery was made."
        case "filtered":
            failed = entry.get("clause")
            return f"The filter did not match: {describe_clause(failed)}." if failed else "The filter did not match."
        case "disabled":
            return "The rule, or its connection, was out of use."
        case "held":
            state = display.plain(str(reason or "unknown"))
            return f"Matched; the delivery is held. {CAUSES.get(str(reason), f'The connection was {state}.')}"
        case "evaluation_limit":
            return f"It was not decided whether the rule matches: {reason or ''}"
        case "mapping_failed":
            return f"Matched, but the mapping failed: {reason or ''}"
        case other:
            return str(reason or display.plain(str(other or "unknown")))
