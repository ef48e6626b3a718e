"""`/replays`: send many deliveries again."""

import json
import uuid
from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from delivery.dispatch import reopening, replay
from delivery.dispatch.reopening import CURRENT, ORIGINAL, UNCERTAIN, Refusal, Terms, Way
from delivery.dispatch.replay import count_states
from delivery.models import Delivery, Payload, Replay
from delivery.rules import comparing, preview
from delivery.rules.serializers import PreviewOut
from delivery.search import ReplayFilter, replayed
from delivery.serializers import ReplayTermsIn
from meshes.api.bodies import parsed_body
from meshes.api.fields import PublicIdField, QuerySerializer, StrictSerializer
from meshes.api.problems import Problem
from meshes.kit import clock, ids
from meshes.kit.metering import RULE_STEPS, Meter
from meshes.kit.snapshots import snapshot
from workspaces.endpoints import TenantViewSet, WorkspaceField
from workspaces.idempotency import DryRun, once, once_prepared
from workspaces.models import Workspace

COUNTED = 100_000
"""Nothing is counted further than this; a larger replay says so, and knows its size when it is over."""
SAMPLES = 3
MOST_DIFFERENCES = 200
"""Of one sample."""


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


class ReplayQuery(QuerySerializer):
    workspace = serializers.CharField(required=False, help_text="Its id or external id.")


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

    @extend_schema(parameters=[ReplayQuery], responses=ReplayOut(many=True))
    def list(self, request: Request) -> Response:
        """Replays, newest first."""
        rows: QuerySet[Replay] = self.rows(self.named_workspace(self.read_query(ReplayQuery)))
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
                samples = reopening.read(list(matching.order_by("pk").values_list("pk", flat=True)[:SAMPLES]))
                shown = [_sample(delivery, terms) for delivery in samples]
            document = {"dry_run": True, "count": count, "count_is_exact": count < COUNTED, "samples": shown}
            return lambda: DryRun(DryRunOut(document).data)
        asked = parsed_body(request).value["filter"]

        def act() -> Response:
            started = replay.start(workspace.pk, asked, terms, count, ids.uuid7(), self.identity.actor)
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
        if not replay.cancel(found.pk, clock.database_now()):
            raise Problem(409, detail=f"Only a running replay is cancelled; this one is {found.status}.")
        return self._show(id)

    def _show(self, id: str, status: int = 200) -> Response:
        with snapshot():
            return Response(ReplayDetailOut(self.find(self.rows(), id)).data, status=status)


def _sample(delivery: Delivery, terms: Terms) -> dict[str, Any]:
    """What a replay would send in place of a delivery of `reopening.read`, and how its body differs."""
    way = reopening.decide(delivery, terms)
    shape = way if isinstance(way, Refusal) or way is Way.REOPEN else reopening.shape_now(delivery, Meter(RULE_STEPS))
    shown: dict[str, Any] = {"request": None, "difference": [], "reason": "", "error": ""}
    if isinstance(shape, Refusal):
        shown |= {"reason": shape.reason, "error": shape.words}
    else:
        shown |= _request(delivery, None if isinstance(shape, Way) else shape, is_new=way is Way.REPLACE)
    return {
        "delivery": delivery.public_id,
        "event": ids.encode(ids.EVENT, delivery.event_id),
        "event_type": delivery.event_type,
        "connection": ids.encode(ids.CONNECTION, delivery.connection_id),
        "connection_name": delivery.connection.name,
        "mapping": None if isinstance(way, Refusal) else ORIGINAL if way is Way.REOPEN else CURRENT,
        **shown,
    }


def _request(delivery: Delivery, shape: reopening.Shape | None, *, is_new: bool) -> dict[str, Any]:
    """The request, and the difference of the body that the delivery has to its new shape, where it gets one."""
    payload = Payload.objects.filter(pk=delivery.event_id, erased_at=None).values_list("body", flat=True).first() or ""
    before = payload if delivery.body is None else delivery.body
    after = before if shape is None else payload if shape.body is None else shape.body
    draft = preview.Draft(
        reopening.replacement_id(delivery.pk, None) if is_new else delivery.pk,
        delivery.event_id,
        delivery.event_type,
        after,
        delivery.action if shape is None else shape.action,
        1 if is_new else delivery.attempt_number + 1,
        delivery.frozen if shape is None else json.loads(shape.frozen),
        ids.encode(ids.REPLAY, uuid.UUID(int=0)),
    )
    was_shaped = delivery.cause not in reopening.UNSHAPED
    difference = comparing.differences(before, after, MOST_DIFFERENCES) if was_shaped and shape else []
    return {**preview.try_render(delivery.connection, draft), "difference": difference}
