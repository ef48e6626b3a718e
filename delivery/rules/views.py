"""`/rules`: which events go to which connection, in what shape, and what a rule would make of an event.

Whatever a rule says is checked when it is saved.
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from connections import providers
from connections.models import Connection
from connections.providers.markup import ESCAPES
from delivery.models import Event, Rule
from delivery.rules.filters import filter_mistakes, filter_warnings
from delivery.rules.mapping import field_mistakes
from delivery.rules.mapping_spelling import mapping_mistakes, mapping_warnings
from delivery.rules.patterns import Note, RuleError, check_pattern, note, odd_pattern
from delivery.rules.preview import try_rule
from delivery.rules.transforms import PLAIN_TRANSFORMS
from delivery.search import EventTypeField, WorkspaceQuery
from delivery.serializers import OmittedFieldOut, WarningOut
from meshes.api.fields import AnswerSerializer, FieldsOf, PublicIdField, StrictSerializer, store
from meshes.api.problems import Problem, invalid
from meshes.api.views import parsed_body
from meshes.kit import clock, ids, strictjson
from meshes.kit.spelling import suggested
from workspaces.endpoints import TenantViewSet, WorkspaceField
from workspaces.idempotency import once
from workspaces.models import Workspace


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
        return warnings_of(rule)


class RuleQuery(WorkspaceQuery):
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
        return Response(RuleDetailOut(create_rule(given.pop("workspace"), given)).data, status=201)

    @extend_schema(responses=RuleDetailOut)
    def retrieve(self, request: Request, id: str) -> Response:
        """One rule."""
        return Response(RuleDetailOut(self.get_object()).data)

    @extend_schema(request=RuleChangeIn(partial=True), responses=RuleDetailOut)
    def partial_update(self, request: Request, id: str) -> Response:
        """Change a rule; what is left out stays, and its version goes up. What is routed already stays as it is."""
        rule = self.get_object()
        return Response(RuleDetailOut(change_rule(rule.pk, self.read(RuleChangeIn, partial=True))).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, id: str) -> Response:
        """Delete a rule. Deliveries that it has caused go on."""
        delete_rule(self.get_object())
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


# --- saving ---------------------------------------------------------------------------------------------------------


def create_rule(workspace: Workspace, columns: Mapping[str, Any]) -> Rule:
    """A new rule. `columns` are validated in form; raises Problem 422 for what is wrong in what they say."""
    most = settings.MESHES_RULES_PER_WORKSPACE
    rule = Rule(workspace=workspace, **columns)
    with transaction.atomic():
        locked = Workspace.objects.select_for_update(no_key=True).filter(pk=workspace.pk)
        if not locked.exists():  # makers of rules wait for one another, so that each counts the others'
            raise Problem(404)
        if Rule.objects.filter(workspace=workspace, deleted_at=None)[:most].count() >= most:
            detail = f"A workspace has at most {most:,} rules (MESHES_RULES_PER_WORKSPACE); delete one first."
            raise invalid("", detail, "limit")
        _check(rule, columns)
        rule.save(force_insert=True)
    return rule


def change_rule(rule_id: uuid.UUID, columns: Mapping[str, Any]) -> Rule:
    """Change a rule: events from now on see its next version. Raises Problem, 404 where it was deleted meanwhile."""
    with transaction.atomic():
        rule = Rule.objects.select_for_update().filter(pk=rule_id, deleted_at=None).first()
        if rule is None:
            raise Problem(404)
        for name, value in columns.items():
            setattr(rule, name, value)
        _check(rule, columns)
        store(rule, **{**columns, "action": rule.action, "version": rule.version + 1})
    return rule


def delete_rule(rule: Rule) -> None:
    """Leave a tombstone: no event follows the rule any more; deliveries because of it go on and can be read."""
    now = clock.database_now()
    living = Rule.objects.filter(pk=rule.pk, deleted_at=None)
    living.update(deleted_at=now, updated_at=now, enabled=False, version=rule.version + 1)


def warnings_of(rule: Rule) -> list[Note]:
    """What a rule says that may be meant, and mostly is not. `rule.connection` is at hand."""
    words = odd_pattern(rule.event)
    found = [note(words, "event_pattern", "event")] if words else []
    if rule.filter:
        found += filter_warnings(rule.filter, "filter")
    if rule.mapping:
        found += mapping_warnings(rule.mapping, providers.get(rule.connection.type).action(rule.action), "mapping")
    return found


def _check(rule: Rule, columns: Mapping[str, Any]) -> None:
    """Give the rule an action where it has none, the provider's first.

    Raises Problem 422 with every mistake in these columns; a filter and a mapping from before go on as they are.
    """
    if "connection_id" in columns:
        live = Connection.objects.filter(pk=rule.connection_id, workspace_id=rule.workspace_id, deleted_at=None)
        if (connection := live.first()) is None:  # a foreign one is an unknown one
            raise invalid("/connection", "This workspace has no such connection.", "unknown")
        rule.connection = connection
    mistakes: list[Note] = []
    try:
        check_pattern(rule.event)
    except RuleError as error:
        mistakes.append(note(f"This {error.message}", "event_pattern", "event"))
    if columns.get("filter") is not None:
        mistakes += filter_mistakes(rule.filter, "filter")
    if columns.get("mapping") is not None:
        mistakes += mapping_mistakes(rule.mapping, "mapping")
    provider = providers.get(rule.connection.type)
    known = [each.slug for each in provider.actions]
    rule.action = rule.action or known[0]
    if rule.action not in known:
        detail = f"{provider.name} can {', '.join(known)}.{suggested(rule.action, known)}"
        mistakes.append(note(detail, "action", "action"))
    if not mistakes:  # the mapping is asked once it is right in itself, and the action known
        in_mapping = field_mistakes(provider.action(rule.action), rule.mapping)
        mistakes = [each | {"pointer": f"/mapping{each['pointer']}"} for each in in_mapping]
    if mistakes:
        raise Problem(422, errors=mistakes)
