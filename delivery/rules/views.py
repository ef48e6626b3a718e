"""`/rules`: what goes where, and what a rule would make of an event."""

import json
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from connections.providers.markup import ESCAPES
from delivery.models import Event, Rule
from delivery.rules import saving
from delivery.rules.patterns import RuleError, check_pattern
from delivery.rules.preview import try_rule
from delivery.rules.transforms import PLAIN_TRANSFORMS
from delivery.search import EventTypeField
from delivery.serializers import OmittedFieldOut, WarningOut
from meshes.api.bodies import parsed_body
from meshes.api.fields import AnswerSerializer, FieldsOf, PublicIdField, QuerySerializer, StrictSerializer
from meshes.api.problems import Problem, invalid
from meshes.kit import clock, ids, strictjson
from workspaces.endpoints import TenantViewSet, WorkspaceField
from workspaces.idempotency import once


@extend_schema_field({"type": "object", "nullable": True, "additionalProperties": True})
class FilterField(serializers.JSONField):
    """A filter; `delivery.rules.filters` says what is one."""


_TRANSFORM = {
    "oneOf": [
        {"type": "string", "enum": [*PLAIN_TRANSFORMS]},
        {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": True},
    ]
}
_ENTRY = {
    "type": "object",
    "required": ["to"],
    "properties": {
        "to": {"type": "string", "minLength": 1, "maxLength": 512, "example": "properties.email"},
        "from": {"type": "string", "minLength": 1, "maxLength": 1000, "example": "payload.email"},
        "value": {},
        "transforms": {"type": "array", "maxItems": 20, "items": _TRANSFORM},
        "on_error": {"type": "string", "enum": ["fail", "skip", "null"]},
        "escape": {"type": "string", "enum": ["none", *ESCAPES]},
        "skip_blanks": {"type": "boolean"},
    },
    "additionalProperties": False,
    "oneOf": [
        {"required": ["from"], "not": {"required": ["value"]}},
        {"required": ["value"], "not": {"required": ["from"]}},
    ],
}


@extend_schema_field({"type": "array", "nullable": True, "minItems": 1, "maxItems": 200, "items": _ENTRY})
class MappingField(serializers.JSONField):
    """A mapping; `delivery.rules.mapping` says what is one."""


@extend_schema_field({"type": "string", "pattern": r"^(\*|[A-Za-z0-9_.-]{1,126}\.\*|[A-Za-z0-9_.-]{1,128})$"})
class EventPatternField(serializers.CharField):
    """An event type, the beginning of some, or `*`; checked together with the rest of the rule."""


class RuleChangeIn(StrictSerializer):
    """The body that changes a rule."""

    # A field that a rule has for its owner is named here and nowhere else: it is saved, and answered, because it is.
    connection = PublicIdField(ids.CONNECTION, source="connection_id")
    name = serializers.CharField(required=False, allow_blank=True, max_length=200, help_text="For people.")
    event = EventPatternField(max_length=128, trim_whitespace=False, help_text="`lead.created`, `lead.*` or `*`.")
    filter = FilterField(required=False, allow_null=True, help_text="null: every event that the pattern names.")
    mapping = MappingField(
        required=False,
        allow_null=True,
        help_text="null: the action's default mapping, or without one the payload as it is.",
    )
    action = serializers.CharField(required=False, max_length=64, help_text="Left out: the integration's first.")
    enabled = serializers.BooleanField(required=False)


class RuleIn(RuleChangeIn):
    """The body that makes a rule."""

    workspace = WorkspaceField()


class RuleOut(AnswerSerializer):
    id = PublicIdField(ids.RULE, source="pk")
    workspace = PublicIdField(ids.WORKSPACE, source="workspace_id")
    workspace_external_id = serializers.CharField(source="workspace.external_id", allow_null=True)
    workspace_name = serializers.CharField(source="workspace.name")
    connection = PublicIdField(ids.CONNECTION, source="connection_id")
    connection_name = serializers.CharField(source="connection.name")
    name = serializers.CharField(help_text="Empty: none was given.")
    written = FieldsOf(RuleChangeIn)
    version = serializers.IntegerField(help_text="1, and one more with each change.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class RuleDetailOut(RuleOut):
    """A rule, and what may be wrong with it."""

    warnings = serializers.SerializerMethodField(help_text="It was saved as it is; look whether it says what you mean.")

    @extend_schema_field(WarningOut(many=True))
    def get_warnings(self, rule: Rule) -> list[dict[str, str]]:
        return saving.warnings(rule)


class RuleQuery(QuerySerializer):
    workspace = serializers.CharField(required=False, help_text="Its id or external id.")
    connection = PublicIdField(ids.CONNECTION, required=False)
    event = EventPatternField(required=False, max_length=128, help_text="The pattern, as it is written.")

    def validate_event(self, value: str) -> str:
        try:
            check_pattern(value)
        except RuleError as error:
            raise ValidationError(f"This {error}", code="event_pattern") from None
        return value


class TrialIn(StrictSerializer):
    """An event to try: made up (`event` and `payload`) or received (`event_id`)."""

    alternatives = (
        {"required": ["event", "payload"], "not": {"required": ["event_id"]}},
        {"required": ["event_id"], "not": {"anyOf": [{"required": ["event"]}, {"required": ["payload"]}]}},
    )

    event = EventTypeField(required=False)
    payload = serializers.DictField(required=False)
    event_id = PublicIdField(ids.EVENT, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        made_up = attrs.keys() - {"event_id"}
        wrong, code = (made_up, "exclusive") if "event_id" in attrs else ({"event", "payload"} - made_up, "required")
        if wrong:
            both = "Give an event_id, or an event with its payload, not both."
            detail = both if code == "exclusive" else "Give an event with its payload, or an event_id."
            raise ValidationError({min(wrong): [ErrorDetail(detail, code=code)]})
        return attrs


@extend_schema_field({"type": "array", "items": {"type": "array", "items": {"type": "string"}}})
class HeaderPairsField(serializers.JSONField):
    """Pairs of name and value, in order."""


class PreviewOut(serializers.Serializer[Any]):
    method = serializers.CharField()
    url = serializers.CharField()
    headers = HeaderPairsField(help_text="What credentials make is masked.")
    body = serializers.CharField()
    omitted_fields = OmittedFieldOut(
        many=True, help_text="What the mapping makes and the vendor would not take, left out so that the rest can pass."
    )


class TrialOut(serializers.Serializer[Any]):
    matched = serializers.BooleanField()
    reason = serializers.ChoiceField(
        ("", "event", "filter", "evaluation_limit", "mapping_failed", "unsendable"),
        help_text="What did not match (the event pattern, the filter), or why nothing could be decided or sent.",
    )
    detail = serializers.CharField(help_text="The reason in words.")
    clause = serializers.DictField(allow_null=True, help_text="The clause of the filter that failed.")
    request = PreviewOut(allow_null=True, help_text="What would be sent.")


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
        if "event_id" not in given:
            body = parsed_body(request)
            text = body.text[slice(*strictjson.members(body.text)["payload"])]
            return Response(TrialOut(try_rule(rule, ids.uuid7(), given["event"], given["payload"], text)).data)
        events = Event.objects.filter(pk=given["event_id"], workspace_id=rule.workspace_id)
        event = events.select_related("payload").first()
        if event is None:
            raise invalid("/event_id", "The rule's workspace has no such event.", "unknown")
        payload: Any = getattr(event, "payload", None)
        if payload is None or payload.erased_at is not None:
            raise Problem(409, detail="The event's payload is not kept any more.")
        trial = try_rule(rule, event.pk, event.type, json.loads(payload.body), payload.body)
        return Response(TrialOut(trial).data)
