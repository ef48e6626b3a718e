"""Workspaces and keys as the API reads and shows them."""

from datetime import datetime
from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError

from meshes.api.fields import AnswerSerializer, FieldsOf, OneOfField, PublicIdField, SecretShownField, StrictSerializer
from meshes.api.searching import MomentField
from meshes.kit import clock, ids
from workspaces import keys
from workspaces.access import EXTERNAL_ID
from workspaces.authentication import Identity
from workspaces.cors import ORIGIN
from workspaces.endpoints import WorkspaceField
from workspaces.models import ApiKey

MAX_BACKLOG = 10**9
MAX_ORIGINS = 50


def refuse(field: str, detail: str, rule: str) -> ValidationError:
    return ValidationError({field: [ErrorDetail(detail, code=rule)]})


class WorkspaceIn(StrictSerializer):
    """The body that makes or changes a workspace."""

    name = serializers.CharField(max_length=200)
    external_id = serializers.RegexField(
        rf"\A{EXTERNAL_ID.pattern}\Z",
        required=False,
        allow_null=True,
        trim_whitespace=False,
        help_text="Your own id of this customer; as good as `id` wherever the API takes a workspace.",
    )
    ingest_rate = serializers.FloatField(
        required=False,
        allow_null=True,
        min_value=0.1,
        max_value=1_000_000,
        help_text="Events per second; null: the installation's default.",
    )
    backlog_limit = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=MAX_BACKLOG,
        help_text="Open deliveries above which new events are refused; null: the installation's default.",
    )

    def validate_external_id(self, value: str | None) -> str | None:
        if value is not None and ids.is_type_id(value):
            raise ValidationError("An external id may not look like one of Meshes' own ids.", code="type_id")
        return value


class WorkspaceOut(AnswerSerializer):
    id = PublicIdField(ids.WORKSPACE, source="pk")
    settings = FieldsOf(WorkspaceIn)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    deleted_at = serializers.DateTimeField(allow_null=True)


class ApiKeyIn(StrictSerializer):
    """The body that makes a key. What the caller may give away is checked here, so that errors name the field."""

    alternatives = (
        {
            "properties": {
                "kind": {"enum": ["account"]},
                "workspace": {"enum": [None]},
                "allowed_origins": {"maxItems": 0},
            },
            "required": ["scopes"],
        },
        {
            "properties": {
                "kind": {"enum": ["workspace"]},
                "workspace": {"type": "string"},
                "allowed_origins": {"maxItems": 0},
            },
            "required": ["workspace", "scopes"],
        },
        {
            "properties": {
                "kind": {"enum": ["publishable"]},
                "workspace": {"type": "string"},
                "scopes": {"items": {"enum": ["events:write"]}},
            },
            "required": ["workspace"],
        },
    )

    name = serializers.CharField(max_length=200)
    kind = OneOfField(ApiKey.Kind.choices)
    workspace = WorkspaceField(required=False, allow_null=True, help_text="Required but for account keys.")
    scopes = serializers.ListField(
        child=OneOfField(keys.SCOPES),
        min_length=1,
        max_length=len(keys.SCOPES),
        required=False,
        help_text="A publishable key has `events:write` and nothing else, also when this is left out.",
    )
    expires_at = MomentField(required=False, allow_null=True)
    allowed_origins = serializers.ListField(
        child=serializers.RegexField(rf"\A({ORIGIN.pattern})\Z", max_length=255, trim_whitespace=False),
        max_length=MAX_ORIGINS,
        required=False,
        help_text="Web origins whose pages may use a publishable key, such as `https://app.example.com`.",
    )

    def validate_expires_at(self, value: datetime | None) -> datetime | None:
        if value is not None and value <= clock.now():
            raise ValidationError("This moment has passed.", code="past")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        identity: Identity = self.context["identity"]
        self._validate_kind(attrs, identity)
        self._validate_scopes(attrs, identity)
        return attrs

    def _validate_kind(self, attrs: dict[str, Any], identity: Identity) -> None:
        kind, workspace = attrs["kind"], attrs.get("workspace")
        if kind == ApiKey.Kind.ACCOUNT and identity.kind != ApiKey.Kind.ACCOUNT:
            raise refuse("kind", "Only an account key may make account keys.", "beyond_own_rights")
        if kind == ApiKey.Kind.ACCOUNT and workspace is not None:
            raise refuse("workspace", "An account key has no workspace.", "forbidden_for_kind")
        if kind != ApiKey.Kind.ACCOUNT and workspace is None:
            raise refuse("workspace", "This kind of key needs a workspace.", "required")
        if kind != ApiKey.Kind.PUBLISHABLE and attrs.get("allowed_origins"):
            raise refuse("allowed_origins", "Only publishable keys have origins.", "forbidden_for_kind")

    def _validate_scopes(self, attrs: dict[str, Any], identity: Identity) -> None:
        if attrs["kind"] == ApiKey.Kind.PUBLISHABLE:
            attrs.setdefault("scopes", list(keys.PUBLISHABLE_SCOPES))
            if set(attrs["scopes"]) != set(keys.PUBLISHABLE_SCOPES):
                raise refuse("scopes", "A publishable key has the scope events:write only.", "forbidden_for_kind")
        elif "scopes" not in attrs:
            raise refuse("scopes", "This field is required.", "required")
        if beyond := set(attrs["scopes"]) - identity.scopes:
            words = f"Your own key lacks {', '.join(sorted(beyond))}."
            raise refuse("scopes", words, "beyond_own_rights")


class RotationIn(StrictSerializer):
    overlap_seconds = serializers.IntegerField(
        min_value=0,
        max_value=keys.MAX_OVERLAP_SECONDS,
        default=keys.DEFAULT_OVERLAP_SECONDS,
        help_text="How long the present key and signing secret stay good beside the new ones.",
    )


class ApiKeyOut(AnswerSerializer):
    """A key without its secrets, which nobody can read again."""

    id = PublicIdField(ids.KEY, source="pk")
    name = serializers.CharField()
    kind = serializers.ChoiceField(ApiKey.Kind.choices)
    workspace = PublicIdField(ids.WORKSPACE, source="workspace_id", allow_null=True)
    workspace_external_id = serializers.CharField(source="workspace.external_id", allow_null=True)
    workspace_name = serializers.CharField(source="workspace.name", allow_null=True)
    rights = FieldsOf(ApiKeyIn)
    version = serializers.IntegerField(help_text="1, and one more with each rotation.")
    previous_expires_at = serializers.DateTimeField(
        allow_null=True, help_text="Until when the secrets before the last rotation stay good."
    )
    expires_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="Exact to a minute.")
    revoked_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()


class IssuedKeyOut(ApiKeyOut):
    """A key that was just made or rotated, with its secrets: shown this once."""

    key = serializers.CharField(allow_null=True, help_text="null in a repetition under an `Idempotency-Key`.")
    signing_secret = serializers.CharField(
        allow_null=True, help_text="Signs machine tokens; null for publishable keys, and in a repetition."
    )
    secret_shown = SecretShownField()
