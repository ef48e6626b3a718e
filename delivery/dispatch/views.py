"""`/deliveries`, `/dead-letters` and `/replays`: what was sent where, with every attempt, and sending it again. And
`/connections`, with what deliveries know of one: its health."""

import json
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Prefetch, QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from connections import views as connection_views
from connections.models import Connection
from connections.serializers import ConnectionOut
from delivery.dispatch import deletion, replays
from delivery.dispatch.connection_health import STATUSES, examine, shown
from delivery.dispatch.replays import CURRENT, ORIGINAL, REOPEN, REPLACE, UNCERTAIN, Refusal, Shape, Terms, count_states
from delivery.lanes import brokers
from delivery.models import Attempt, Delivery, Replay
from delivery.rules import preview
from delivery.rules.views import PreviewOut
from delivery.search import (
    DeadLetterQuery,
    DeliveryQuery,
    ReplayFilter,
    Wanted,
    WorkspaceQuery,
    is_delivery_search_indexed,
    narrow_deliveries,
    replayed,
)
from delivery.serializers import DeliveryDetailOut, DeliveryOut, ReplayTermsIn
from meshes.api.fields import PublicIdField, StrictSerializer
from meshes.api.problems import Problem
from meshes.api.views import parsed_body
from meshes.kit import clock, ids
from meshes.kit.clock import snapshot
from meshes.kit.metering import RULE_STEPS, Meter
from workspaces.endpoints import TenantViewSet, WorkspaceField, scope
from workspaces.idempotency import DryRun, once, once_prepared
from workspaces.models import Workspace
from workspaces.vault.models import SealedDocument
from workspaces.vault.vault import CREDENTIALS

COUNTED = 100_000
"""Nothing is counted further than this; a larger replay says so, and knows its size when it is over."""
SAMPLES = 3
MOST_DIFFERENCES = 200
"""Of one sample."""


# --- deliveries -------------------------------------------------------------------------------------------------------


class DeliverySearch(TenantViewSet):
    def answer_search(self, wanted: Wanted) -> Response:
        """One page of the deliveries that are asked for."""
        workspace = self.named_workspace(wanted)
        rows: QuerySet[Delivery] = self.rows(workspace)
        if "connection" in wanted:
            named: QuerySet[Connection] = Connection.objects.filter(pk=wanted["connection"])
            if not scope(named, self.identity, workspace).exists():
                rows = rows.none()  # where an index would read all that a stranger has, and leave it out
        is_indexed = is_delivery_search_indexed(wanted, in_one_workspace=self.names_one_workspace(wanted))
        with self.search(is_indexed=is_indexed):
            return self.answer_page(narrow_deliveries(rows, wanted, clock.database_now()), DeliveryOut)


class DeliveryViewSet(DeliverySearch):
    """One event to one connection because of one rule."""

    queryset = shown(Delivery.objects.all())
    id_prefix = ids.DELIVERY
    required_scope = {
        "list": "events:read",
        "retrieve": "events:read",
        "replay": "events:write",
        "cancel": "events:write",
    }
    problems = {"replay": {409}, "cancel": {409}}

    @extend_schema(parameters=[DeliveryQuery], responses=DeliveryOut(many=True))
    def list(self, request: Request) -> Response:
        """Deliveries, the newest events first. Give a workspace where you can."""
        return self.answer_search(self.read_query(DeliveryQuery))

    @extend_schema(responses=DeliveryDetailOut)
    def retrieve(self, request: Request, id: str) -> Response:
        """One delivery with all its attempts: what was sent, with secrets masked, and what was answered."""
        return self._show(id)

    @extend_schema(request=ReplayTermsIn, responses={202: DeliveryDetailOut})
    @action(detail=True, methods=["post"])
    @once
    def replay(self, request: Request, id: str) -> Response:
        """Send a dead or succeeded delivery again, with a fresh budget; the answer is the delivery that is open then.

        With the original mapping it is the same one, under the same `webhook-id`. With the current one, the default
        after a rejection, it is a new one, and the old one names it in `replaced_by`.
        """
        delivery = self.get_object()
        terms = Terms(**self.read(ReplayTermsIn))
        sent = replays.send_again([delivery.pk], terms)
        if refusal := sent.refused.get(delivery.pk):
            if refusal.reason == replays.FILTERED:
                return self._show(id, 202)
            raise Problem(409, detail=refusal.words)
        transaction.on_commit(lambda: brokers.publish_deliveries(sent.to_publish))
        return self._show(ids.encode(ids.DELIVERY, sent.made[delivery.pk]), 202)

    @extend_schema(request=StrictSerializer, responses=DeliveryDetailOut)
    @action(detail=True, methods=["post"])
    @once
    def cancel(self, request: Request, id: str) -> Response:
        """Cancel a pending or held delivery, or a dead letter, for good. 409 where it is over, or being sent just now.

        A dead letter leaves the list of dead letters, and no replay sends it; `detail` says why it died.
        """
        delivery, now = self.get_object(), clock.database_now()
        self.read(StrictSerializer)
        if not deletion.cancel([delivery.pk], deletion.BY_USER, now) and not deletion.dismiss([delivery.pk], now):
            words = "Only a pending or held delivery or a dead letter is cancelled"
            raise Problem(409, detail=f"{words}; this one is {self.get_object().state}.")
        return self._show(id)

    def _show(self, id: str, status: int = 200) -> Response:
        attempts = Prefetch("attempts", Attempt.objects.order_by("number"))
        with snapshot():
            delivery = self.find(self.rows().prefetch_related(attempts), id)
            return Response(DeliveryDetailOut(delivery).data, status=status)


class DeadLetterViewSet(DeliverySearch):
    """Deliveries that will not be tried again by themselves."""

    queryset = shown(Delivery.objects.filter(status=Delivery.Status.DEAD))
    id_prefix = ids.DELIVERY
    required_scope = "events:read"

    @extend_schema(parameters=[DeadLetterQuery], responses=DeliveryOut(many=True))
    def list(self, request: Request) -> Response:
        """Dead letters, the newest events first, each with its cause."""
        return self.answer_search({**self.read_query(DeadLetterQuery), "status": Delivery.Status.DEAD})


# --- replays ----------------------------------------------------------------------------------------------------------


class ReplayIn(ReplayTermsIn):
    workspace = WorkspaceField()
    filter = ReplayFilter(help_text="Which deliveries; `{}` is every dead one.")
    dry_run = serializers.BooleanField(default=False, help_text="Only say what would be sent.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Not what would pass over everything that it is about."""
        wanted = attrs["filter"]
        arrived = wanted.get("status") == Delivery.Status.SUCCEEDED or wanted.get("cause") == UNCERTAIN
        if arrived and attrs.get("mapping") == CURRENT and not attrs["may_duplicate"]:
            words = "These arrived, or may have: new deliveries may do the same twice. true allows that."
            raise ValidationError({"may_duplicate": [ErrorDetail(words, code="required")]})
        return attrs


class ReplayOut(serializers.Serializer[Any]):
    id = PublicIdField(ids.REPLAY, source="pk")
    workspace = PublicIdField(ids.WORKSPACE, source="workspace_id")
    workspace_external_id = serializers.CharField(source="workspace.external_id", allow_null=True)
    workspace_name = serializers.CharField(source="workspace.name")
    filter = serializers.DictField()
    status = serializers.ChoiceField(Replay.Status.choices)
    total = serializers.IntegerField(help_text="Deliveries that it is about.")
    total_is_exact = serializers.SerializerMethodField()
    mapping = serializers.SerializerMethodField(help_text="null: by the cause of each delivery.")
    may_duplicate = serializers.BooleanField()
    reopened = serializers.IntegerField(help_text="Sent again, or about to be; also where as new deliveries.")
    skipped = serializers.IntegerField(help_text="Could not be sent again.")
    skipped_by_reason = serializers.DictField(child=serializers.IntegerField(), help_text="The number of each reason.")
    requested_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)

    @extend_schema_field(serializers.ChoiceField((ORIGINAL, CURRENT), allow_null=True))
    def get_mapping(self, replay: Replay) -> str | None:
        return replay.mapping or None

    def get_total_is_exact(self, replay: Replay) -> bool:
        return replay.total < COUNTED or replay.status == Replay.Status.COMPLETED


class ReplayDetailOut(ReplayOut):
    deliveries = serializers.SerializerMethodField(help_text="Of what was reopened, how many are in each state now.")

    def get_deliveries(self, replay: Replay) -> dict[str, int]:
        return count_states(replay, clock.database_now(), COUNTED)


class DifferenceOut(serializers.Serializer[Any]):
    """A place in which two bodies differ; without `before` or `after`, it is not in that one."""

    pointer = serializers.CharField(help_text="RFC 6901, into the JSON body.")
    before = serializers.JSONField(required=False)
    after = serializers.JSONField(required=False)


class SampleOut(serializers.Serializer[Any]):
    delivery = serializers.CharField()
    event = serializers.CharField()
    event_type = serializers.CharField()
    connection = serializers.CharField()
    connection_name = serializers.CharField()
    mapping = serializers.ChoiceField((ORIGINAL, CURRENT), allow_null=True)
    request = PreviewOut(
        allow_null=True, help_text="As it would be sent; ids that the replay makes are shown as others."
    )
    difference = DifferenceOut(many=True, help_text="Of the body, from the last one; the first 200 places.")
    reason = serializers.CharField(help_text="As in `skipped_by_reason`; empty where there is a request.")
    error = serializers.CharField(help_text="Why there would be no request.")


class DryRunOut(serializers.Serializer[Any]):
    dry_run = serializers.BooleanField()
    count = serializers.IntegerField()
    count_is_exact = serializers.BooleanField(help_text="false: there are at least as many.")
    samples = SampleOut(many=True)


class ReplayViewSet(TenantViewSet):
    """Replays over a filter. A sweep works them off at a pace that leaves room for new events."""

    queryset = Replay.objects.all()
    id_prefix = ids.REPLAY
    required_scope = {
        "list": "events:read",
        "retrieve": "events:read",
        "create": "events:write",
        "cancel": "events:write",
    }
    problems = {"cancel": {409}}

    @extend_schema(parameters=[WorkspaceQuery], responses=ReplayOut(many=True))
    def list(self, request: Request) -> Response:
        """Replays, newest first."""
        rows: QuerySet[Replay] = self.rows(self.named_workspace(self.read_query(WorkspaceQuery)))
        return self.answer_page(rows, ReplayOut)

    @extend_schema(request=ReplayIn, responses={200: DryRunOut, 202: ReplayDetailOut})
    @once_prepared
    def create(self, request: Request) -> Callable[[], Response]:
        """Send every delivery of a filter again; with `dry_run`, only count them and show three requests."""
        given = self.read(ReplayIn)
        workspace: Workspace = given["workspace"]
        terms = Terms(given.get("mapping", ""), given["may_duplicate"])
        matching = replayed(workspace.pk, given["filter"], clock.database_now())
        with self.search(is_indexed=False):  # a count has no end but its own
            count = matching.order_by()[:COUNTED].count()
        if given["dry_run"]:
            with snapshot():
                first = replays.read(list(matching.order_by("pk").values_list("pk", flat=True)[:SAMPLES]))
                samples = [_sample(delivery, terms) for delivery in first]
            document = {"dry_run": True, "count": count, "count_is_exact": count < COUNTED, "samples": samples}
            return lambda: DryRun(DryRunOut(document).data)
        asked = parsed_body(request).value["filter"]

        def act() -> Response:
            started = replays.start(workspace.pk, asked, terms, count, ids.uuid7(), self.identity.actor)
            return self._show(started.public_id, 202)

        return act

    @extend_schema(responses=ReplayDetailOut)
    def retrieve(self, request: Request, id: str) -> Response:
        """One replay, and how far it is."""
        return self._show(id)

    @extend_schema(request=StrictSerializer, responses=ReplayDetailOut)
    @action(detail=True, methods=["post"])
    @once
    def cancel(self, request: Request, id: str) -> Response:
        """Stop a replay. What it has reopened goes on. 409 where it is over."""
        found = self.get_object()
        self.read(StrictSerializer)
        if not replays.cancel(found.pk, clock.database_now()):
            raise Problem(409, detail=f"Only a running replay is cancelled; this one is {found.status}.")
        return self._show(id)

    def _show(self, id: str, status: int = 200) -> Response:
        with snapshot():
            return Response(ReplayDetailOut(self.find(self.rows(), id)).data, status=status)


def _sample(delivery: Delivery, terms: Terms) -> dict[str, Any]:
    """What a replay would send in place of a delivery of `replays.read`, and how its body differs."""
    way = replays.decide(delivery, terms)
    shape: Shape | Refusal | None = None
    if way != REOPEN:
        shape = way if isinstance(way, Refusal) else replays.shape_now(delivery, Meter(RULE_STEPS))
    sample: dict[str, Any] = {"request": None, "difference": [], "reason": "", "error": ""}
    if isinstance(shape, Refusal):
        sample |= {"reason": shape.reason, "error": shape.words}
    else:
        sample |= _request(delivery, shape, is_new=way == REPLACE)
    return {
        "delivery": delivery.public_id,
        "event": ids.encode(ids.EVENT, delivery.event_id),
        "event_type": delivery.event_type,
        "connection": ids.encode(ids.CONNECTION, delivery.connection_id),
        "connection_name": delivery.connection.name,
        "mapping": None if isinstance(way, Refusal) else ORIGINAL if way == REOPEN else CURRENT,
        **sample,
    }


def _request(delivery: Delivery, shape: Shape | None, *, is_new: bool) -> dict[str, Any]:
    """The request, and the difference of the body that the delivery has to its new shape, where it gets one."""
    payload = replays.payload_of(delivery) or ""
    before = payload if delivery.body is None else delivery.body
    after = before if shape is None else payload if shape.body is None else shape.body
    rendered = preview.try_render(
        delivery.connection,
        delivery_id=replays.replacement_id(delivery.pk, None) if is_new else delivery.pk,
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        body=after,
        action=delivery.action if shape is None else shape.action,
        attempt_number=1 if is_new else delivery.attempt_number + 1,
        frozen=delivery.frozen if shape is None else json.loads(shape.frozen),
        replay=ids.encode(ids.REPLAY, uuid.UUID(int=0)),
    )
    was_shaped = delivery.cause not in replays.UNSHAPED
    difference = preview.differences(before, after, MOST_DIFFERENCES) if was_shaped and shape else []
    return {**rendered, "difference": difference}


# --- connections ------------------------------------------------------------------------------------------------------


class HealthOut(serializers.Serializer[Any]):
    """How a connection does."""

    status = serializers.ChoiceField(STATUSES)
    reason = serializers.CharField(help_text="In words; empty while it is ok.")
    since = serializers.DateTimeField(allow_null=True)
    until = serializers.DateTimeField(allow_null=True, help_text="When what it waits for ends by itself.")
    last_success_at = serializers.DateTimeField(allow_null=True)
    last_failure_at = serializers.DateTimeField(allow_null=True)
    consecutive_failures = serializers.IntegerField()
    waiting_deliveries = serializers.IntegerField(help_text="Pending and held.")
    waiting_is_exact = serializers.BooleanField(help_text="false: there are at least as many.")


class ConnectionDetailOut(ConnectionOut):
    """A connection, and how it does."""

    credentials_changed_at = serializers.SerializerMethodField(
        help_text="null: there are none, or it was not recorded."
    )
    health = serializers.SerializerMethodField(help_text="null for a deleted connection.")

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_credentials_changed_at(self, connection: Connection) -> datetime | None:
        sealed = SealedDocument.objects.filter(connection=connection, kind=CREDENTIALS)
        found = sealed.only("version", "sealed_at", "created_at").first()
        return found.set_at if found else None

    @extend_schema_field(HealthOut(allow_null=True))
    def get_health(self, connection: Connection) -> Any:
        health = examine(connection, clock.now())
        return HealthOut(health).data if health else None


class ConnectionViewSet(connection_views.ConnectionViewSet):
    """Destinations of a workspace."""

    @extend_schema(responses=ConnectionDetailOut)
    def retrieve(self, request: Request, id: str) -> Response:
        """One connection and its health; also one that was deleted."""
        return Response(ConnectionDetailOut(self.find(self.rows().select_related("health"), id)).data)
