"""`/events`: how events come in, and what became of them."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.db.models import Prefetch
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from delivery import ingest, intake, waiting
from delivery.intake import Admission, Admitted
from delivery.models import Attempt, Delivery, Event, Payload, Unrouted
from delivery.search import EventQuery, deliveries_of, narrow_events
from delivery.serializers import AcceptedOut, BulkIn, BulkOut, EventDetailOut, EventIn, EventOut
from meshes.api import (
    Problem,
    TenantViewSet,
    bounded_search,
    parsed_body,
    refusing_reuse,
    send,
    stamp_of,
    takes_idempotency_key,
)
from workspaces import directory, idempotency, ids
from workspaces.idempotency import Answer, Stamp

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
    }
    publishable_actions = ("create",)
    problems = {"create": {429}, "payload": {410}}

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
        if stamp is not None and (earlier := _recall(stamp)) is not None:
            return send(earlier)
        admission.take_room()
        (result,) = admission.results()
        if isinstance(result, Problem):
            raise result
        return _accept([result], Answer(202, json.dumps(result.answer())), stamp)

    @extend_schema(parameters=[EventQuery], responses=EventOut(many=True))
    def list(self, request: Request) -> Response:
        """Events, newest first. Give a workspace where you can."""
        wanted = self.read_query(EventQuery)
        rows = narrow_events(self.rows(self.named_workspace(wanted)), wanted)
        with bounded_search():
            page = self.paginate_queryset(rows) or []
        return self.get_paginated_response(EventOut(page, many=True, context=_unrouted(page)).data)

    @extend_schema(responses=EventDetailOut)
    def retrieve(self, request: Request, id: str) -> Response:
        """One event with every rule that was considered, every delivery and every attempt."""
        event = self.find(self.rows().select_related("ledger").prefetch_related(_deliveries(self.decode(id))), id)
        return Response(EventDetailOut(event, context=_unrouted([event])).data)

    @extend_schema(responses={(200, "application/json"): OpenApiTypes.OBJECT})
    @action(detail=True)
    def payload(self, request: Request, id: str) -> HttpResponse:
        """The payload, byte for byte as it was received. 410 when it was erased or its time has passed."""
        event = self.get_object()
        kept = Payload.objects.filter(pk=event.pk, erased_at=None).first()
        if kept is None:
            raise Problem(
                410, "payload-gone", "The payload is not kept any more", "It was erased, or its time is over."
            )
        return HttpResponse(kept.body, content_type="application/json")


class BulkViewSet(TenantViewSet):
    queryset = Event.objects.all()
    id_prefix = ids.EVENT
    required_scope = "events:write"
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
        if stamp is not None and (earlier := _recall(stamp)) is not None:
            return send(earlier)
        admission.take_room()
        results = admission.results()
        admitted = [result for result in results if isinstance(result, Admitted)]
        if not admitted:
            raise _none_accepted([result for result in results if isinstance(result, Problem)])
        return _accept(admitted, _bulk_answer(results), stamp)


def _with_fresh_workspaces(accept: Callable[[], HttpResponse]) -> HttpResponse:
    """Once more where a workspace was deleted or renamed after this process last looked at it."""
    for _ in range(MOST_LOOKS):
        try:
            return accept()
        except ingest.StaleWorkspace:
            directory.forget()
    raise Problem(503, headers={"Retry-After": "1"})


def _recall(stamp: Stamp) -> Answer | None:
    with refusing_reuse():
        return idempotency.recall(stamp)


def _accept(admitted: Sequence[Admitted], answer: Answer, stamp: Stamp | None) -> HttpResponse:
    with refusing_reuse():
        return send(ingest.accept([one.event for one in admitted], answer, stamp))


# --- answers --------------------------------------------------------------------------------------------------------


def _bulk_answer(results: Sequence[Admitted | Problem]) -> Answer:
    refused = sum(isinstance(result, Problem) for result in results)
    document = {
        "accepted": len(results) - refused,
        "refused": refused,
        "results": [_bulk_result(index, result) for index, result in enumerate(results)],
    }
    return Answer(207 if refused else 202, json.dumps(document, ensure_ascii=False))


def _bulk_result(index: int, result: Admitted | Problem) -> dict[str, Any]:
    if isinstance(result, Problem):
        return {"index": index, "status": result.status, "problem": result.document()}
    return {"index": index, "status": 202, "event": result.answer()}


def _none_accepted(problems: Sequence[Problem]) -> Problem:
    """The problem of a bulk request of which nothing was accepted: 429 if waiting would help all of it."""
    if all(problem.status == 429 for problem in problems):
        return max(problems, key=lambda problem: int(problem.headers["Retry-After"]))
    return Problem(422, errors=[mistake for problem in problems for mistake in problem.errors])


def _unrouted(events: Sequence[Event]) -> Mapping[str, Any]:
    found = Unrouted.objects.filter(pk__in=[event.pk for event in events])
    return {"unrouted": set(found.values_list("pk", flat=True))}


def _deliveries(event_id: uuid.UUID) -> "Prefetch[Any]":
    unread = ("request_headers", "request_body", "response_headers", "response_body")
    attempts = Attempt.objects.defer(*unread).order_by("number")
    deliveries = waiting.shown(Delivery.objects.filter(deliveries_of(event_id))).order_by("pk")
    return Prefetch("deliveries", deliveries.prefetch_related(Prefetch("attempts", attempts)))
