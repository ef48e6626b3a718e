"""What may be asked for in lists and replays, and the queries that answer it.

`from` and `to` speak of the moment of the event: a delivery's id begins with it.
"""

import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from connections.providers.verdicts import ERROR_CLASSES, Outcome
from delivery.dispatch.connection_health import HOLDS
from delivery.dispatch.deletion import CANCELLED_WORDS
from delivery.models import Delivery, Event, Unrouted
from delivery.rules.patterns import EVENT_TYPE, EVENT_TYPE_WORDS
from meshes.api.fields import OneOfField, PublicIdField, QuerySerializer, StrictSerializer
from meshes.api.pages import PeriodIn, period_bounds
from meshes.kit import ids

IN_FLIGHT = "in_flight"
STATES = (*Delivery.Status.values, IN_FLIGHT)
OUTCOMES = tuple(map(str, Outcome))
EVENT_STATUSES = ("accepted", "routed", "set_aside")
DEAD_CAUSES = ("exhausted", "rejected", "uncertain", "our_fault", "poison", "mapping_failed", "evaluation_limit")
CANCELLED_CAUSES = (*CANCELLED_WORDS, "replaced", "filtered")
CAUSES = tuple(dict.fromkeys((*DEAD_CAUSES, *HOLDS, *CANCELLED_CAUSES, *ERROR_CLASSES)))
"""Why a delivery is in its state, in one word; what is pending has the error class of its last attempt."""
REPLAYABLE = (Delivery.Status.DEAD.value, Delivery.Status.SUCCEEDED.value)
"""`cancelled` is final: somebody, or a deletion, decided against it, or another delivery stands in its place."""

Wanted = Mapping[str, Any]
"""Validated data of one of the serializers below."""


# --- fields ---------------------------------------------------------------------------------------------------------


@extend_schema_field({"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,128}$", "example": "lead.created"})
class EventTypeField(serializers.Field[str, str, str, Any]):
    default_error_messages = {"event_type": EVENT_TYPE_WORDS}

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str) or not EVENT_TYPE.fullmatch(data):
            self.fail("event_type")
        return data

    def to_representation(self, value: str) -> str:
        return value


@extend_schema_field(
    {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,128}$", "description": "An event's id (evt_…) or an event type."}
)
class EventReferenceField(EventTypeField):
    """An event's id, as a UUID, else an event type, as a string; with `is_strict` none that begins like an id."""

    def __init__(self, *, is_strict: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.is_strict = is_strict

    def to_internal_value(self, data: Any) -> Any:
        event_id = ids.decode(ids.EVENT, data) if isinstance(data, str) else None
        if event_id is None and self.is_strict:
            refuse_id(data)
        return event_id or super().to_internal_value(data)


class SearchedTypeField(EventTypeField):
    """An event type that a list is searched for."""

    def to_internal_value(self, data: Any) -> str:
        refuse_id(data)
        return super().to_internal_value(data)


def refuse_id(data: Any) -> None:
    """Raise ValidationError for what begins like an id, where an event type is asked for."""
    if isinstance(data, str) and (found := _LIKE_AN_ID.match(data)):
        is_whole = ids.is_type_id(data)
        words = "is an id, and no event type" if is_whole else f"is no whole id: {found[1]}_ and 26 letters and digits"
        raise ValidationError(f'"{data[:64]}" {words}.', code="event_id")


_LIKE_AN_ID = re.compile(f"({'|'.join(ids.PREFIXES)})_[0-7]", re.IGNORECASE)
"""An id has 128 bits in 26 digits of base 32, so that the first is 0 to 7."""


# --- what may be asked ----------------------------------------------------------------------------------------------


class WorkspaceQuery(QuerySerializer):
    workspace = serializers.CharField(required=False, help_text="Its id or external id.")


class EventQuery(WorkspaceQuery, PeriodIn):
    event = SearchedTypeField(required=False, help_text="An event type.")
    status = OneOfField(EVENT_STATUSES, required=False)
    connection = PublicIdField(ids.CONNECTION, required=False)


class DeadLetterQuery(WorkspaceQuery, PeriodIn):
    connection = PublicIdField(ids.CONNECTION, required=False)
    event = EventReferenceField(required=False)
    cause = OneOfField(DEAD_CAUSES, required=False)


class DeliveryQuery(DeadLetterQuery):
    cause = OneOfField(CAUSES, required=False, help_text="Of what is pending: the class of its last error.")
    status = OneOfField(STATES, required=False)
    outcome = OneOfField(OUTCOMES, required=False)


class _WhichDeliveries(PeriodIn, StrictSerializer):
    connection = PublicIdField(ids.CONNECTION, required=False)
    status = OneOfField(REPLAYABLE, required=False)


class ReplayFilter(_WhichDeliveries):
    """What a replay is about; deliveries of status `dead` unless it says `succeeded`."""

    event = EventReferenceField(required=False)
    cause = OneOfField(DEAD_CAUSES, required=False)


class StoredReplayFilter(_WhichDeliveries):
    """As rows have it: what was accepted before causes and ids were checked goes on, and finds nothing."""

    event = EventReferenceField(required=False, is_strict=False)
    cause = serializers.CharField(required=False)


def read_replay_filter(document: Mapping[str, Any]) -> Wanted:
    """The filter in a replay's row. Raises ValidationError."""
    serializer = StoredReplayFilter(data=document)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


# --- what indexes serve ---------------------------------------------------------------------------------------------

_IN_EVERY_INDEX = frozenset({"workspace", "from", "to"})
"""Every index of a list begins with the workspace or has none, and ends with the id, in which the moment is."""


def is_event_search_indexed(wanted: Wanted, *, in_one_workspace: bool) -> bool:
    """Whether an index reads the events that an `EventQuery` asks for in order, and hardly any other."""
    named = wanted.keys() - _IN_EVERY_INDEX
    return not named or (named == {"event"} and in_one_workspace)


def is_delivery_search_indexed(wanted: Wanted, *, in_one_workspace: bool) -> bool:
    """Whether an index reads the deliveries that a `DeliveryQuery` asks for in order, and hardly any other.

    Those that are in flight are told by their lease, which no index has.
    """
    if isinstance(wanted.get("event"), uuid.UUID):
        return True
    named, status = wanted.keys() - _IN_EVERY_INDEX, wanted.get("status")
    if named == {"status"}:
        return status == Delivery.Status.DEAD or (in_one_workspace and status != IN_FLIGHT)
    return not named or (named == {"connection", "status"} and status != IN_FLIGHT)


# --- queries --------------------------------------------------------------------------------------------------------


def narrow_events(events: QuerySet[Event], wanted: Wanted) -> QuerySet[Event]:
    """The events that an `EventQuery` asks for."""
    events = events.filter(period_bounds(wanted))
    if "event" in wanted:
        events = events.filter(type=wanted["event"])
    if "connection" in wanted:
        sent = Delivery.objects.filter(event_id=OuterRef("pk"), connection_id=wanted["connection"])
        events = events.filter(Exists(sent))
    if "status" in wanted:
        unrouted = Unrouted.objects.filter(pk=OuterRef("pk"))
        in_status = {
            "accepted": Exists(unrouted.filter(poisoned_at=None)),
            "set_aside": Exists(unrouted.exclude(poisoned_at=None)),
            "routed": ~Exists(unrouted),
        }
        events = events.filter(in_status[wanted["status"]])
    return events


def narrow_deliveries(deliveries: QuerySet[Delivery], wanted: Wanted, now: datetime) -> QuerySet[Delivery]:
    """The deliveries that a `DeliveryQuery`, `DeadLetterQuery` or `ReplayFilter` asks for."""
    deliveries = deliveries.filter(period_bounds(wanted))
    if "connection" in wanted:
        deliveries = deliveries.filter(connection_id=wanted["connection"])
    if isinstance(event := wanted.get("event"), uuid.UUID):
        deliveries = deliveries.filter(deliveries_of(event))
    elif event is not None:
        deliveries = deliveries.filter(event_type=event)
    plain = {name: wanted[name] for name in ("outcome", "cause") if name in wanted}
    deliveries = deliveries.filter(**plain)
    return deliveries.filter(_in_state(wanted["status"], now)) if "status" in wanted else deliveries


def replayed(workspace_id: uuid.UUID, wanted: Wanted, now: datetime) -> QuerySet[Delivery]:
    """The deliveries that a replay by this filter is about: of those that replaced each other the newest."""
    wanted = {"status": Delivery.Status.DEAD.value, **wanted}
    return narrow_deliveries(Delivery.objects.filter(workspace_id=workspace_id, replaced_by=None), wanted, now)


def _in_state(state: str, now: datetime) -> Q:
    if state == IN_FLIGHT:
        return Q(status=Delivery.Status.PENDING, lease_until__gt=now)
    if state == Delivery.Status.PENDING:
        return Q(status=state) & (Q(lease_until=None) | Q(lease_until__lte=now))
    return Q(status=state)


def deliveries_of(event_id: uuid.UUID) -> Q:
    """An event's deliveries: their ids begin with its millisecond, which spares the look into other partitions."""
    lowest = ids.milliseconds(event_id) << 80
    return Q(event_id=event_id, pk__gte=uuid.UUID(int=lowest), pk__lt=uuid.UUID(int=lowest + (1 << 80)))
