"""`/events`: how events come in, and what became of them."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Prefetch
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from delivery.dispatch import connection_health
from delivery.events import intake, setting_aside
from delivery.events.intake import Admission, NewEvent
from delivery.lanes import brokers
from delivery.models import Attempt, Delivery, Event, Payload, Unrouted
from delivery.search import EventQuery, deliveries_of, is_event_search_indexed, narrow_events
from delivery.serializers import (
    AcceptedOut,
    BulkIn,
    BulkOut,
    EventDetailOut,
    EventIn,
    EventOut,
    RouteAgainIn,
    RoutedAgainOut,
)
from meshes.api.fields import StrictSerializer
from meshes.api.problems import Problem
from meshes.api.views import parsed_body
from meshes.kit import ids
from meshes.kit.clock import snapshot
from workspaces import endpoints, idempotency
from workspaces.endpoints import TenantViewSet
from workspaces.idempotency import Answer, once, send, stamp_of, takes_idempotency_key

MOST_LOOKS = 3
"""A workspace would have to change between each of them and the next statement."""


class EventViewSet(TenantViewSet):
    queryset = Event.objects.all()
    id_prefix = ids.EVENT
    required_scope = {
        "create": "events:write",
        "list": "events:read",
        "retrieve": "events:read",
        "payload": "events:read",
        "route": "events:write",
        "route_all": "events:write",
    }
    publishable_actions = ("create",)
    own_rate_actions = ("create",)
    problems = {"create": {429}, "payload": {410}, "route": {409}}

    @extend_schema(request=EventIn, responses={202: AcceptedOut})
    @takes_idempotency_key
    def create(self, request: Request) -> HttpResponse:
        """Accept one event. The answer is given when the event is safe; routing and delivery follow."""
        return _with_fresh_workspaces(lambda: self._accept(request))

    def _accept(self, request: Request) -> HttpResponse:
        body = parsed_body(request)
        admission = Admission(self.identity, [intake.read_one(body)])
        stamp = stamp_of(request, admission.workspace(0).pk, "/events", body.text.encode())
        admission.take_rate()
        if stamp is not None and (earlier := idempotency.recall(stamp)) is not None:
            return send(earlier)
        admission.take_room()
        (result,) = admission.results()
        if isinstance(result, Problem):
            raise result
        return send(intake.store([result], Answer(202, json.dumps(result.answer())), stamp))

    @extend_schema(parameters=[EventQuery], responses=EventOut(many=True))
    def list(self, request: Request) -> Response:
        """Events, newest first. Give a workspace where you can."""
        wanted = self.read_query(EventQuery)
        rows = narrow_events(self.rows(self.named_workspace(wanted)), wanted)
        is_indexed = is_event_search_indexed(wanted, in_one_workspace=self.names_one_workspace(wanted))
        with self.search(is_indexed=is_indexed):
            page = self.paginate_queryset(rows) or []
        return self.get_paginated_response(EventOut(page, many=True, context=_unrouted(page)).data)

    @extend_schema(responses=EventDetailOut)
    def retrieve(self, request: Request, id: str) -> Response:
        """One event with every rule that was considered, every delivery and every attempt."""
        return self._show(id)

    @extend_schema(request=StrictSerializer, responses={202: EventDetailOut})
    @action(detail=True, methods=["post"])
    @once
    def route(self, request: Request, id: str) -> Response:
        """Route an event again that was set aside. 409 where it was not."""
        event = self.get_object()
        self.read(StrictSerializer)
        routed = setting_aside.route_again([event.pk])
        if not routed:
            raise Problem(409, detail="Only an event that was set aside is routed again.")
        transaction.on_commit(lambda: brokers.publish_fanouts(routed))
        return self._show(id, 202)

    @extend_schema(operation_id="events_route_all", request=RouteAgainIn, responses={202: RoutedAgainOut})
    @action(detail=False, methods=["post"], url_path="route")
    @once
    def route_all(self, request: Request) -> Response:
        """Route all events again that were set aside, of one workspace or of all that the key may see."""
        workspace = self.read(RouteAgainIn).get("workspace")
        routed = setting_aside.route_all_again(workspace.pk if workspace else self.identity.workspace_id)
        transaction.on_commit(lambda: brokers.publish_fanouts(routed))
        answer = {"events": len(routed), "remaining": len(routed) == setting_aside.MOST_AT_ONCE}
        return Response(RoutedAgainOut(answer).data, status=202)

    def _show(self, id: str, status: int = 200) -> Response:
        with snapshot():
            event = self.find(self.rows().select_related("ledger").prefetch_related(_deliveries(self.decode(id))), id)
            return Response(EventDetailOut(event, context=_unrouted([event])).data, status=status)

    @extend_schema(responses={(200, "application/json"): OpenApiTypes.OBJECT})
    @action(detail=True)
    def payload(self, request: Request, id: str) -> HttpResponse:
        """The payload, byte for byte as it was received. 410 when it was erased or its time has passed."""
        event = self.get_object()
        kept = Payload.objects.filter(pk=event.pk, workspace_id=event.workspace_id, erased_at=None).first()
        if kept is None:
            raise Problem(
                410, "payload-gone", "The payload is not kept any more", "It was erased, or its time is over."
            )
        return HttpResponse(kept.body, content_type="application/json")


class BulkViewSet(TenantViewSet):
    queryset = Event.objects.all()
    id_prefix = ids.EVENT
    required_scope = "events:write"
    own_rate_actions = ("create",)
    problems = {"create": {429}}
    body_limit = settings.MESHES_BULK_BODY_LIMIT
    body_max_keys = intake.BULK_MAX_KEYS

    @extend_schema(request=BulkIn, responses={202: BulkOut, 207: BulkOut})
    @takes_idempotency_key
    def create(self, request: Request) -> HttpResponse:
        """Accept up to 500 events, each on its own: 202 when all were accepted, 207 when some were.

        When none was, the answer is a problem, and nothing is kept under the `Idempotency-Key`.
        """
        return _with_fresh_workspaces(lambda: self._accept(request))

    def _accept(self, request: Request) -> HttpResponse:
        body = parsed_body(request)
        admission = Admission(self.identity, intake.read_bulk(body))
        scope = self.identity.workspace_id or self.identity.key_id
        stamp = stamp_of(request, scope, "/events/bulk", body.text.encode())
        admission.take_rate()
        if stamp is not None and (earlier := idempotency.recall(stamp)) is not None:
            return send(earlier)
        admission.take_room()
        results = admission.results()
        admitted = [result for result in results if isinstance(result, NewEvent)]
        if not admitted:
            problems = [result for result in results if isinstance(result, Problem)]
            if all(problem.status == 429 for problem in problems):  # waiting would help all of it
                raise max(problems, key=lambda problem: int(problem.headers["Retry-After"]))
            raise Problem(422, errors=[mistake for problem in problems for mistake in problem.errors])
        return send(intake.store(admitted, _bulk_answer(results), stamp))


def _with_fresh_workspaces(accept: Callable[[], HttpResponse]) -> HttpResponse:
    """Once more where a workspace was deleted or renamed after this process last looked at it."""
    for _ in range(MOST_LOOKS):
        try:
            return accept()
        except intake.StaleWorkspaceError:
            endpoints.forget_workspaces()
    raise Problem(503, headers={"Retry-After": "1"})


# --- answers --------------------------------------------------------------------------------------------------------


def _bulk_answer(results: Sequence[NewEvent | Problem]) -> Answer:
    refused = sum(isinstance(result, Problem) for result in results)
    document = {
        "accepted": len(results) - refused,
        "refused": refused,
        "results": [
            {"index": index, "status": result.status, "problem": result.document()}
            if isinstance(result, Problem)
            else {"index": index, "status": 202, "event": result.answer()}
            for index, result in enumerate(results)
        ],
    }
    return Answer(207 if refused else 202, json.dumps(document, ensure_ascii=False))


def _unrouted(events: Sequence[Event]) -> Mapping[str, Any]:
    return {"unrouted": Unrouted.objects.in_bulk([event.pk for event in events])}


def _deliveries(event_id: uuid.UUID) -> "Prefetch[Any]":
    unread = ("request_headers", "request_body", "response_headers", "response_body")
    attempts = Attempt.objects.defer(*unread).order_by("number")
    deliveries = connection_health.shown(Delivery.objects.filter(deliveries_of(event_id))).order_by("pk")
    return Prefetch("deliveries", deliveries.prefetch_related(Prefetch("attempts", attempts)))
