"""`/deliveries` and `/dead-letters`: what was sent where, with every attempt."""

import uuid

from django.db import transaction
from django.db.models import Prefetch, QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from connections.models import Connection
from delivery.dispatch import cancelling, reopening, waiting
from delivery.lanes import publishing
from delivery.models import Attempt, Delivery
from delivery.search import DeadLetterQuery, DeliveryQuery, Wanted, is_delivery_search_indexed, narrow_deliveries
from delivery.serializers import DeliveryDetailOut, DeliveryOut, ReplayTermsIn
from meshes.api.fields import StrictSerializer
from meshes.api.problems import Problem
from meshes.kit import clock, ids
from meshes.kit.snapshots import snapshot
from workspaces.access import scope
from workspaces.endpoints import TenantViewSet
from workspaces.idempotency import once
from workspaces.models import Workspace


class DeliverySearch(TenantViewSet):
    def answer_search(self, wanted: Wanted) -> Response:
        """One page of the deliveries that are asked for."""
        workspace = self.named_workspace(wanted)
        rows: QuerySet[Delivery] = self.rows(workspace)
        if "connection" in wanted and not self._is_seen(wanted["connection"], workspace):
            rows = rows.none()  # where an index would read all that a stranger has, and leave it out
        is_indexed = is_delivery_search_indexed(wanted, in_one_workspace=self.names_one_workspace(wanted))
        with self.search(is_indexed=is_indexed):
            return self.answer_page(narrow_deliveries(rows, wanted, clock.database_now()), DeliveryOut)

    def _is_seen(self, connection_id: uuid.UUID, workspace: Workspace | None) -> bool:
        connections: QuerySet[Connection] = Connection.objects.filter(pk=connection_id)
        return scope(connections, self.identity, workspace).exists()


class DeliveryViewSet(DeliverySearch):
    """One event to one connection because of one rule."""

    queryset = waiting.shown(Delivery.objects.all())
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
        terms = reopening.Terms(**self.read(ReplayTermsIn))
        sent = reopening.send_again([delivery.pk], terms)
        if refusal := sent.refused.get(delivery.pk):
            if refusal.reason == reopening.FILTERED:
                return self._show(id, 202)
            raise Problem(409, detail=refusal.words)
        transaction.on_commit(lambda: publishing.publish_deliveries(sent.to_publish))
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
        if not cancelling.cancel([delivery.pk], cancelling.BY_USER, now) and not cancelling.dismiss([delivery.pk], now):
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

    queryset = waiting.shown(Delivery.objects.filter(status=Delivery.Status.DEAD))
    id_prefix = ids.DELIVERY
    required_scope = "events:read"

    @extend_schema(parameters=[DeadLetterQuery], responses=DeliveryOut(many=True))
    def list(self, request: Request) -> Response:
        """Dead letters, the newest events first, each with its cause."""
        return self.answer_search({**self.read_query(DeadLetterQuery), "status": Delivery.Status.DEAD})
