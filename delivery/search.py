"""What may be asked for in lists and replays, and the queries that answer it.

`from` and `to` speak of the moment of the event: a delivery's id begins with it.
"""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from delivery.matching import is_event_type
from delivery.models import Delivery, Event, Unrouted
from meshes.api import OneOfField, PeriodIn, PublicIdField, QuerySerializer, StrictSerializer, period_bounds
from workspaces import ids

IN_FLIGHT = "in_flight"
STATES = (*Delivery.Status.values, IN_FLIGHT)
OUTCOMES = ("delivered", "retry", "rejected", "broken", "uncertain")
EVENT_STATUSES = ("accepted", "routed", "set_aside")
REPLAYABLE = (Delivery.Status.DEAD.value, Delivery.Status.SUCCEEDED.value)

Wanted = Mapping[str, Any]
"""Validated data of one of the serializers below."""


# --- fields ---------------------------------------------------------------------------------------------------------


@extend_schema_field({"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,128}$", "example": "lead.created"})
class EventTypeField(serializers.Field[str, str, str, Any]):
    default_error_messages = {"event_type": "An event type is 1 to 128 of A-Z a-z 0-9 _ . and -, as in lead.created."}

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str) or not is_event_type(data):
            self.fail("event_type")
        return data

    def to_representation(self, value: str) -> str:
        return value


@extend_schema_field(
    {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,128}$", "description": "An event's id (evt_…) or an event type."}
)
class EventReferenceField(EventTypeField):
    """An event's id, as a UUID, else an event type, as a string."""

    def to_internal_value(self, data: Any) -> Any:
        event_id = ids.decode(ids.EVENT, data) if isinstance(data, str) else None
        return event_id or super().to_internal_value(data)


# --- what may be asked ----------------------------------------------------------------------------------------------


class WorkspaceIn(serializers.Serializer[Any]):
    workspace = serializers.CharField(required=False, help_text="Its id or external id.")


class EventQuery(WorkspaceIn, PeriodIn, QuerySerializer):
    event = EventTypeField(required=False)
    status = OneOfField(EVENT_STATUSES, required=False)
    connection = PublicIdField(ids.CONNECTION, required=False)


class DeadLetterQuery(WorkspaceIn, PeriodIn, QuerySerializer):
    connection = PublicIdField(ids.CONNECTION, required=False)
    event = EventReferenceField(required=False)
    cause = serializers.RegexField(r"\A[a-z0-9_]{1,64}\Z", required=False, trim_whitespace=False)


class DeliveryQuery(DeadLetterQuery):
    status = OneOfField(STATES, required=False)
    outcome = OneOfField(OUTCOMES, required=False)


class ReplayFilter(PeriodIn, StrictSerializer):
    """What a replay is about; deliveries of status `dead` unless it says `succeeded`."""

    connection = PublicIdField(ids.CONNECTION, required=False)
    event = EventReferenceField(required=False)
    status = OneOfField(REPLAYABLE, required=False)
    cause = serializers.RegexField(r"\A[a-z0-9_]{1,64}\Z", required=False, trim_whitespace=False)


def read_replay_filter(document: Mapping[str, Any]) -> Wanted:
    """The filter in a replay's row. Raises ValidationError."""
    serializer = ReplayFilter(data=document)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


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
