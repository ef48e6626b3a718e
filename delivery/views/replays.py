"""`/replays`: send many deliveries again."""

from typing import Any

from django.db.models import QuerySet
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from delivery import preview, replay
from delivery.models import Delivery, Replay
from delivery.replay import count_states
from delivery.rule_serializers import PreviewOut
from delivery.search import ReplayFilter, replayed
from meshes.api import (
    Problem,
    PublicIdField,
    QuerySerializer,
    StrictSerializer,
    TenantViewSet,
    WorkspaceField,
    bounded_search,
    parsed_body,
    snapshot,
)
from workspaces import clock, ids
from workspaces.models import Workspace

COUNTED = 100_000
"""Nothing is counted further than this; a larger replay says so, and knows its size when it is over."""
SAMPLES = 3


class ReplayIn(StrictSerializer):
    workspace = WorkspaceField()
    filter = ReplayFilter(help_text="Which deliveries; `{}` is every dead one.")
    dry_run = serializers.BooleanField(default=False, help_text="Only say what would be sent.")


class ReplayQuery(QuerySerializer):
    workspace = serializers.CharField(required=False, help_text="Its id or external id.")


class ReplayOut(serializers.Serializer[Any]):
    id = PublicIdField(ids.REPLAY, source="pk")
    workspace = PublicIdField(ids.WORKSPACE, source="workspace_id")
    filter = serializers.DictField()
    status = serializers.ChoiceField(Replay.Status.choices)
    total = serializers.IntegerField(help_text="Deliveries that it is about.")
    total_is_exact = serializers.SerializerMethodField()
    reopened = serializers.IntegerField(help_text="Sent again, or about to be.")
    skipped = serializers.IntegerField(help_text="Could not be sent again: no payload any more, or no connection.")
    requested_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)

    def get_total_is_exact(self, replay: Replay) -> bool:
        return replay.total < COUNTED or replay.status == Replay.Status.COMPLETED


class ReplayDetailOut(ReplayOut):
    deliveries = serializers.SerializerMethodField(help_text="Of what was reopened, how many are in each state now.")

    def get_deliveries(self, replay: Replay) -> dict[str, int]:
        return count_states(replay, clock.database_now(), COUNTED)


class SampleOut(serializers.Serializer[Any]):
    delivery = serializers.CharField()
    event = serializers.CharField()
    event_type = serializers.CharField()
    connection = serializers.CharField()
    request = PreviewOut(allow_null=True)
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

    @extend_schema(parameters=[ReplayQuery], responses=ReplayOut(many=True))
    def list(self, request: Request) -> Response:
        """Replays, newest first."""
        rows: QuerySet[Replay] = self.rows(self.named_workspace(self.read_query(ReplayQuery)))
        return self.answer_page(rows, ReplayOut)

    @extend_schema(request=ReplayIn, responses={200: DryRunOut, 202: ReplayDetailOut})
    def create(self, request: Request) -> HttpResponse:
        """Send every delivery of a filter again; with `dry_run`, only count them and show three requests."""
        given = self.read(ReplayIn)
        workspace: Workspace = given["workspace"]
        matching = replayed(workspace.pk, given["filter"], clock.database_now())
        with bounded_search():
            count = matching.order_by()[:COUNTED].count()
        if given["dry_run"]:
            samples = matching.select_related("connection").order_by("pk")[:SAMPLES]
            shown = [_sample(delivery) for delivery in samples]
            document = {"dry_run": True, "count": count, "count_is_exact": count < COUNTED, "samples": shown}
            return Response(DryRunOut(document).data)
        started = replay.start(
            workspace.pk, parsed_body(request).value["filter"], count, ids.uuid7(), self.identity.actor
        )
        return self._show(started.public_id, 202)

    @extend_schema(responses=ReplayDetailOut)
    def retrieve(self, request: Request, id: str) -> Response:
        """One replay, and how far it is."""
        return self._show(id)

    @extend_schema(request=StrictSerializer, responses=ReplayDetailOut)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, id: str) -> Response:
        """Stop a replay. What it has reopened goes on. 409 where it is over."""
        found = self.get_object()
        self.read(StrictSerializer)
        if not replay.cancel(found.pk, clock.database_now()):
            raise Problem(409, detail=f"Only a running replay is cancelled; this one is {found.status}.")
        return self._show(id)

    def _show(self, id: str, status: int = 200) -> Response:
        with snapshot():
            return Response(ReplayDetailOut(self.find(self.rows(), id)).data, status=status)


def _sample(delivery: Delivery) -> dict[str, Any]:
    """The request that a replay would send; the body of a delivery that was never shaped is made now."""
    body, error = replay.body_now(delivery)
    shown: dict[str, Any] = {"request": None, "error": error}
    if body is not None:
        draft = preview.Draft(
            delivery.pk,
            delivery.event_id,
            delivery.event_type,
            body,
            delivery.action,
            delivery.attempt_number + 1,
            delivery.frozen,
        )
        shown = preview.try_render(delivery.connection, draft)
    return {
        "delivery": delivery.public_id,
        "event": ids.encode(ids.EVENT, delivery.event_id),
        "event_type": delivery.event_type,
        "connection": ids.encode(ids.CONNECTION, delivery.connection_id),
        **shown,
    }
