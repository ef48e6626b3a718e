"""Rules as the API reads and shows them."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError

from connections.providers.markup import ESCAPES
from delivery.models import Rule
from delivery.rules import saving
from delivery.rules.patterns import RuleError, check_pattern
from delivery.rules.transforms import PLAIN_TRANSFORMS
from delivery.search import EventTypeField
from delivery.serializers import OmittedFieldOut, WarningOut
from meshes.api.fields import PublicIdField, QuerySerializer, StrictSerializer
from meshes.kit import ids
from workspaces.endpoints import WorkspaceField


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

    connection = PublicIdField(ids.CONNECTION)
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


class RuleOut(serializers.Serializer[Any]):
    id = PublicIdField(ids.RULE, source="pk")
    workspace = PublicIdField(ids.WORKSPACE, source="workspace_id")
    workspace_external_id = serializers.CharField(source="workspace.external_id", allow_null=True)
    workspace_name = serializers.CharField(source="workspace.name")
    connection = PublicIdField(ids.CONNECTION, source="connection_id")
    connection_name = serializers.CharField(source="connection.name")
    name = serializers.CharField(help_text="Empty: none was given.")
    event = serializers.CharField()
    filter = FilterField(allow_null=True)
    mapping = MappingField(allow_null=True)
    action = serializers.CharField()
    enabled = serializers.BooleanField()
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
        given = attrs.keys() - {"event_id"}
        if "event_id" in attrs:
            if given:
                raise _refusal(min(given), "Give an event_id, or an event with its payload, not both.", "exclusive")
        elif missing := {"event", "payload"} - given:
            raise _refusal(min(missing), "Give an event with its payload, or an event_id.", "required")
        return attrs


def _refusal(field: str, detail: str, rule: str) -> ValidationError:
    return ValidationError({field: [ErrorDetail(detail, code=rule)]})


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
