"""`/workspaces/{id}/erasures`: what events said about a person goes. That they happened, and were sent where, stays.

Emptied are the payload, the bodies that rules shaped from it, what destinations answered, and the values that the
routing ledger repeats. What was not delivered yet is cancelled. An event that is being routed or sent at this moment is
left as it is and named, so that the caller asks again.
"""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Q
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from delivery.dispatch import deletion
from delivery.models import Attempt, Delivery, Event, Payload, RoutingLedger, Unrouted
from delivery.rules.filters import Filter, compile_filter, filter_mistakes, filter_warnings
from delivery.rules.routing import context_of
from delivery.serializers import WarningOut
from meshes.api.fields import PublicIdField, StrictSerializer
from meshes.api.pages import PeriodIn, period_bounds
from meshes.api.problems import Problem, invalid
from meshes.kit import clock, ids
from meshes.kit.metering import OutOfWorkError
from workspaces import journal
from workspaces.endpoints import Endpoint, resolve_workspace
from workspaces.idempotency import DryRun, once_outside
from workspaces.models import IdempotencyRecord, Workspace

BATCH = 100
"""Events of one transaction: at most 25 MB of payloads are read at once."""
BUDGET_SECONDS = 5.0
"""How long one request looks; the next one goes on where it stopped."""


@dataclass(slots=True)
class Erased:
    """What one request has done. `next` is the event after which to go on; None: everything was looked at."""

    is_dry: bool = False
    scanned: int = 0
    count: int = 0
    events: int = 0
    cancelled: int = 0
    busy: list[uuid.UUID] = field(default_factory=list)
    next: uuid.UUID | None = None


def erase_events(
    workspace: Workspace, event_ids: Sequence[uuid.UUID], now: datetime, *, is_dry: bool = False
) -> Erased:
    """Erase these events of the workspace; ids that are not its own are passed over. `is_dry`: only count them."""
    own = Event.objects.filter(workspace=workspace, pk__in=list(event_ids)).order_by("pk").values_list("pk", flat=True)
    done, found = Erased(is_dry), list(own)
    for start in range(0, len(found), BATCH):
        _erase(workspace, found[start : start + BATCH], now, done)
    done.scanned = len(found)
    return done


def erase_matching(
    workspace: Workspace,
    document: dict[str, Any],
    period: Q,
    after: uuid.UUID | None,
    now: datetime,
    *,
    is_dry: bool = False,
) -> Erased:
    """Erase the events that a filter matches, in the order of their ids, for at most five seconds.

    `period` bounds the events' ids; `is_dry`: only count. Addresses match however they are typed.
    Payloads that are not kept any more are passed over. Raises Problem where more steps are needed than a filter may
    take, so that nothing is said of that event; what came before is erased.
    """
    ended = time.monotonic() + BUDGET_SECONDS
    done, wanted = Erased(is_dry, next=after), compile_filter(document, folds_addresses=True)
    while time.monotonic() < ended:
        events = Event.objects.filter(period, workspace=workspace)
        if done.next is not None:
            events = events.filter(pk__gt=done.next)
        rows = list(events.order_by("pk").values_list("pk", "type")[:BATCH])
        _erase(workspace, _matching(workspace, wanted, dict(rows)), now, done)
        done.scanned += len(rows)
        if len(rows) < BATCH:
            done.next = None
            break
        done.next = rows[-1][0]
    return done


def _matching(workspace: Workspace, wanted: Filter, types: dict[uuid.UUID, str]) -> list[uuid.UUID]:
    kept = Payload.objects.filter(pk__in=list(types), workspace=workspace, erased_at=None)
    matching = []
    for event_id, body in kept.order_by("pk").values_list("pk", "body"):
        context = context_of(event_id, types[event_id], json.loads(body), workspace)
        try:
            is_wanted = wanted.matches(context)
        except OutOfWorkError:
            event = ids.encode(ids.EVENT, event_id)
            words = f"Whether {event} matches needs more work than a filter may cause; match on less."
            raise invalid("/match", f"{words} Events before it are erased.", "evaluation_limit") from None
        if is_wanted:
            matching.append(event_id)
    return matching


def _erase(workspace: Workspace, event_ids: Sequence[uuid.UUID], now: datetime, done: Erased) -> None:
    """One transaction. The rows are locked first, so nothing is claimed between the look and the erasure."""
    done.count += len(event_ids)
    if not event_ids or done.is_dry:
        return
    with transaction.atomic():
        deliveries = Delivery.objects.filter(workspace=workspace, event_id__in=event_ids).order_by("pk")
        locked = list(deliveries.select_for_update().values_list("pk", "event_id", "lease_id"))
        waiting = list(
            Unrouted.objects.filter(pk__in=event_ids).select_for_update().values_list("pk", "lease_id", "lease_until")
        )
        busy = {event_id for _, event_id, lease in locked if lease is not None}
        busy |= {event_id for event_id, lease, until in waiting if lease is not None and until and until > now}
        free = [event_id for event_id in event_ids if event_id not in busy]
        delivery_ids = [pk for pk, event_id, _ in locked if event_id not in busy]
        done.events += len(free)
        done.busy += sorted(busy)
        done.cancelled += deletion.cancel(delivery_ids, deletion.ERASED, now)
        _empty(workspace, free, delivery_ids, now)
        _empty_answers(workspace, delivery_ids)
        _close_unrouted(workspace, [event_id for event_id, *_ in waiting if event_id not in busy], now)
        if free:
            erased = [ids.encode(ids.EVENT, event_id) for event_id in free]
            journal.note("erased", workspace=workspace.public_id, events=erased)


def _empty(
    workspace: Workspace, event_ids: Sequence[uuid.UUID], delivery_ids: Sequence[uuid.UUID], now: datetime
) -> None:
    Payload.objects.filter(pk__in=event_ids, workspace=workspace, erased_at=None).update(body="", erased_at=now)
    Delivery.objects.filter(pk__in=delivery_ids).update(body=None, detail=deletion.CANCELLED_WORDS[deletion.ERASED])
    Attempt.objects.filter(delivery_id__in=delivery_ids).update(
        request_body=None, response_body=None, response_headers=[], error="", steps=None, omitted_fields=None
    )
    for ledger in RoutingLedger.objects.filter(pk__in=event_ids, workspace=workspace):
        entries = [  # the clause that failed repeats what the payload said
            entry | {"clause": entry["clause"] | {"actual": None}} if "clause" in entry else entry
            for entry in ledger.entries
        ]
        RoutingLedger.objects.filter(pk=ledger.pk).update(entries=entries)


def _empty_answers(workspace: Workspace, delivery_ids: Sequence[uuid.UUID]) -> None:
    """What is kept of answers under an `Idempotency-Key` repeats attempts, and so what destinations answered."""
    named = [f"/deliveries/{ids.encode(ids.DELIVERY, pk)}/" for pk in delivery_ids]
    paths = [place + act for place in named for act in ("replay", "cancel")]
    for record in IdempotencyRecord.objects.filter(scope=workspace.pk, path__in=paths):
        record.answer = json.dumps(json.loads(record.answer) | {"attempts": []}, ensure_ascii=False)
        record.save(update_fields=["answer"])


def _close_unrouted(workspace: Workspace, event_ids: Sequence[uuid.UUID], now: datetime) -> None:
    entries = [{"result": "erased", "reason": "It was erased before it was routed."}]
    RoutingLedger.objects.bulk_create(
        [RoutingLedger(event_id=pk, workspace=workspace, entries=entries, created_at=now) for pk in event_ids],
        ignore_conflicts=True,
    )
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM unrouted WHERE event_id = ANY(%s)", [list(event_ids)])


# --- the API --------------------------------------------------------------------------------------------------------

MOST_EVENTS = 500


class ErasureIn(PeriodIn, StrictSerializer):
    """Which events: by their ids, or by a filter in the dialect of rules."""

    alternatives = (
        {"required": ["events"], "not": {"anyOf": [{"required": [name]} for name in ("match", "after", "from", "to")]}},
        {"required": ["match"], "properties": {"match": {"minProperties": 1}}, "not": {"required": ["events"]}},
    )

    events = serializers.ListField(
        child=PublicIdField(ids.EVENT), min_length=1, max_length=MOST_EVENTS, required=False, help_text="Their ids."
    )
    match = serializers.DictField(required=False, help_text='Such as `{"payload.email": "ada@example.com"}`.')
    after = PublicIdField(ids.EVENT, required=False, help_text="`next` of the answer before.")
    dry_run = serializers.BooleanField(default=False, help_text="Only count the events.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        wrong = ("", "", "")
        if ("events" in attrs) == ("match" in attrs):
            wrong = "match", "Give either events or match.", "exclusive"
        elif "events" in attrs and (extra := attrs.keys() - {"events", "dry_run"}):
            wrong = min(extra), "This belongs to match.", "exclusive"
        elif attrs.get("match") == {}:
            wrong = "match", "An empty filter would match every event.", "required"
        name, detail, rule = wrong
        if name:
            raise ValidationError({name: [ErrorDetail(detail, code=rule)]})
        return super().validate(attrs)


class ErasureOut(serializers.Serializer[Any]):
    dry_run = serializers.BooleanField(source="is_dry", help_text="true: nothing was changed.")
    count = serializers.IntegerField(help_text="Events that are asked for: erased or busy, or to be erased.")
    scanned = serializers.IntegerField(help_text="Events that were looked at.")
    erased = serializers.IntegerField(source="events")
    cancelled = serializers.IntegerField(help_text="Deliveries that were still to be made.")
    busy = serializers.ListField(
        child=PublicIdField(ids.EVENT), help_text="Being routed or sent at this moment, not erased: ask again for them."
    )
    next = PublicIdField(ids.EVENT, allow_null=True, help_text="Send it as `after` to go on; null: all was looked at.")
    warnings = serializers.SerializerMethodField(help_text="What `match` says and mostly does not mean.")

    @extend_schema_field(WarningOut(many=True))
    def get_warnings(self, done: Erased) -> list[dict[str, str]]:
        return list(self.context["warnings"])


class ErasureView(Endpoint):
    required_scope = "admin"

    def named_place(self) -> tuple[uuid.UUID, str]:
        workspace = resolve_workspace(self.identity, self.kwargs["id"], include_deleted=True)
        return workspace.pk, f"/workspaces/{workspace.public_id}/erasures"

    @extend_schema(
        request=ErasureIn,
        responses=ErasureOut,
        examples=[OpenApiExample("A person", {"match": {"payload.email": "ada@example.com"}}, request_only=True)],
    )
    @once_outside
    def post(self, request: Request, id: str) -> Response:
        """Empty payloads, shaped bodies and answers of a person's events; cancel what is still to be delivered.

        An address is found however it was typed: spaces around it and case do not count. `dry_run` only counts.
        One request looks for five seconds at most. Repeat it with `after` until `next` is null.
        """
        workspace = resolve_workspace(self.identity, id, include_deleted=True)
        warnings: list[dict[str, str]] = []
        given, now = self.read(ErasureIn), clock.database_now()
        is_dry = given["dry_run"]
        if "events" in given:
            done = erase_events(workspace, given["events"], now, is_dry=is_dry)
        else:
            if mistakes := filter_mistakes(given["match"], "match"):
                raise Problem(422, errors=mistakes)
            warnings = filter_warnings(given["match"], "match")
            period, after = period_bounds(given), given.get("after")
            done = erase_matching(workspace, given["match"], period, after, now, is_dry=is_dry)
        answer = ErasureOut(done, context={"warnings": warnings}).data
        return DryRun(answer) if is_dry else Response(answer)
