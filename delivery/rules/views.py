"""`/rules`: what goes where, and what a rule would make of an event."""

import json
import uuid
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from delivery.models import Event, Rule
from delivery.rules import saving
from delivery.rules.serializers import RuleChangeIn, RuleDetailOut, RuleIn, RuleOut, RuleQuery, TrialIn, TrialOut
from meshes.api.bodies import parsed_body
from meshes.api.problems import Problem, invalid
from meshes.kit import clock, ids, strictjson
from workspaces.endpoints import TenantViewSet
from workspaces.idempotency import once


class RuleViewSet(TenantViewSet):
    """Rules of a workspace."""

    queryset = Rule.objects.filter(deleted_at=None).select_related("connection")
    id_prefix = ids.RULE
    required_scope = "config"
    problems = {"test": {409}}
    not_repeated = {"test": "It sends and stores nothing."}

    @extend_schema(parameters=[RuleQuery], responses=RuleOut(many=True))
    def list(self, request: Request) -> Response:
        """Rules, newest first."""
        query = self.read_query(RuleQuery)
        rows: QuerySet[Rule] = self.rows(self.named_workspace(query))
        columns = {"connection": "connection_id", "event": "event"}
        rows = rows.filter(**{columns[name]: value for name, value in query.items() if name in columns})
        is_indexed = self.names_one_workspace(query) or "connection" in query or "event" not in query
        with self.search(is_indexed=is_indexed):
            return self.answer_page(rows, RuleOut)

    @extend_schema(
        request=RuleIn,
        responses={201: RuleDetailOut},
        examples=[
            OpenApiExample(
                "Warm leads, in a shape of their own",
                {
                    "workspace": "ws_tenant_abc",
                    "connection": "conn_01k0000000000000000000000a",
                    "event": "lead.*",
                    "filter": {"payload.score": {"$gte": 50}},
                    "mapping": [{"to": "email", "from": "payload.email", "transforms": ["trim", "lower"]}],
                },
                request_only=True,
            )
        ],
    )
    @once
    def create(self, request: Request) -> Response:
        """Make a rule. Events that are accepted from now on follow it."""
        given = self.read(RuleIn)
        return Response(RuleDetailOut(saving.create(given.pop("workspace"), given)).data, status=201)

    @extend_schema(responses=RuleDetailOut)
    def retrieve(self, request: Request, id: str) -> Response:
        """One rule."""
        return Response(RuleDetailOut(self.get_object()).data)

    @extend_schema(request=RuleChangeIn(partial=True), responses=RuleDetailOut)
    def partial_update(self, request: Request, id: str) -> Response:
        """Change a rule; what is left out stays, and its version goes up. What is routed already stays as it is."""
        rule = self.get_object()
        return Response(RuleDetailOut(saving.change(rule.pk, self.read(RuleChangeIn, partial=True))).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, id: str) -> Response:
        """Delete a rule. Deliveries that it has caused go on."""
        saving.delete(self.get_object(), clock.database_now())
        return Response(status=204)

    @extend_schema(request=TrialIn, responses=TrialOut)
    @action(detail=True, methods=["post"])
    def test(self, request: Request, id: str) -> Response:
        """Try a rule on a made-up event, or on one that was received. Nothing is sent, and nothing is stored.

        The request is what would be sent now, with everything that credentials make masked.
        """
        rule = self.get_object()
        given = self.read(TrialIn)
        if "event_id" in given:
            return Response(TrialOut(self._try_received(rule, given["event_id"])).data)
        body = parsed_body(request)
        text = body.text[slice(*strictjson.members(body.text)["payload"])]
        return Response(TrialOut(saving.try_rule(rule, ids.uuid7(), given["event"], given["payload"], text)).data)

    def _try_received(self, rule: Rule, event_id: uuid.UUID) -> saving.Trial:
        events = Event.objects.filter(pk=event_id, workspace_id=rule.workspace_id)
        event = events.select_related("payload").first()
        if event is None:
            raise invalid("/event_id", "The rule's workspace has no such event.", "unknown")
        payload: Any = getattr(event, "payload", None)
        if payload is None or payload.erased_at is not None:
            raise Problem(409, detail="The event's payload is not kept any more.")
        return saving.try_rule(rule, event.pk, event.type, json.loads(payload.body), payload.body)
