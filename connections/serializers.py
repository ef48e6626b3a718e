"""Connections, integrations, authorizations and access records as the API reads and shows them."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.fields import empty

from connections import providers
from connections.messages import with_ascii_host
from connections.models import Connection
from connections.oauth import pages
from meshes.api.fields import (
    AnswerSerializer,
    FieldsOf,
    OneOfField,
    PublicIdField,
    QuerySerializer,
    SecretShownField,
    StrictSerializer,
)
from meshes.api.pages import PeriodIn
from meshes.kit import clock, ids
from meshes.kit.spelling import none_of
from workspaces.endpoints import WorkspaceField
from workspaces.vault import access_log
from workspaces.vault.models import AccessRecord

MAX_SCHEDULE = 20
MAX_DELAY_SECONDS = 86_400
MAX_IN_FLIGHT = 1000
MAX_RATE = 10_000


class SecondsField(serializers.FloatField):
    """A number in a list, where the serializer's own check of JSON types does not reach."""

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float):
            raise ValidationError("This must be a number.", code="type")
        return super().to_internal_value(data)


class IntegrationField(serializers.Field[str, str, str, Any]):
    """The type of an integration; the refusal of another lists them."""

    def to_internal_value(self, data: Any) -> str:
        known = slugs()
        if not isinstance(data, str):
            raise ValidationError("This must be a string.", code="type")
        if data not in known:
            raise ValidationError(f"There is no such integration: {none_of(data, known)}", code="unknown")
        return data

    def to_representation(self, value: str) -> str:
        return value


def slugs() -> list[str]:
    """The types of all integrations."""
    return [provider.slug for provider in providers.all()]


class IntegrationScheme(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # the library is typed in part
    target_class = "connections.serializers.IntegrationField"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: str) -> dict[str, Any]:
        return {"type": "string", "enum": slugs()}


class ColumnsIn(StrictSerializer):
    # An object whose fields are columns of its resource's row, by `source` where the names differ. null sets all of
    # them to null: the defaults. (A docstring would describe each such body in the API's schema.)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"source": "*", "required": False, "allow_null": True, **kwargs})

    def run_validation(self, data: Any = empty) -> Any:
        return super().run_validation(dict.fromkeys(self.fields) if data is None else data)


class RetryIn(ColumnsIn):
    schedule = serializers.ListField(
        child=SecondsField(min_value=0, max_value=MAX_DELAY_SECONDS),
        min_length=1,
        max_length=MAX_SCHEDULE,
        required=False,
        allow_null=True,
        source="retry_schedule",
        help_text="Seconds before each attempt; the first is made at once. null: the default schedule.",
    )


class LimitsIn(ColumnsIn):
    in_flight = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=MAX_IN_FLIGHT, help_text="Requests open at once."
    )
    rate = serializers.FloatField(
        required=False, allow_null=True, min_value=0.01, max_value=MAX_RATE, help_text="Requests per second."
    )
    timeout = serializers.FloatField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=30,
        source="timeout_seconds",
        help_text="Seconds that one request may take.",
    )


class ConnectionChangeIn(StrictSerializer):
    """The body that changes a connection. Objects in it are changed name by name, however deep; null removes one."""

    name = serializers.CharField(max_length=200)
    config = serializers.DictField(required=False, help_text="The integration's config fields.")
    credentials = serializers.DictField(
        required=False,
        help_text="The integration's credential fields. Never shown again; a mask that was shown leaves its secret.",
    )
    retry = RetryIn(help_text="null: the default schedule.")
    limits = LimitsIn(help_text="null: the defaults.")


class ConnectionIn(ConnectionChangeIn):
    """The body that makes a connection."""

    workspace = WorkspaceField()
    type = IntegrationField(help_text="An integration's type, such as `webhook`.")


class RetryOut(AnswerSerializer):
    columns = FieldsOf(RetryIn)


class LimitsOut(AnswerSerializer):
    columns = FieldsOf(LimitsIn)


class AccountOut(serializers.Serializer[Any]):
    """The vendor's account. Connections to the same one share its limits."""

    id = serializers.CharField(source="account_id")
    name = serializers.CharField(source="account_name")


class ConfigField(serializers.DictField):
    """The config; host names that were saved otherwise are shown as punycode."""

    def to_representation(self, value: Any) -> Any:
        shown = super().to_representation(value)
        return {key: with_ascii_host(item) if isinstance(item, str) else item for key, item in shown.items()}


class ConnectionOut(AnswerSerializer):
    """A connection; of its credentials the masks."""

    id = PublicIdField(ids.CONNECTION, source="pk")
    workspace = PublicIdField(ids.WORKSPACE, source="workspace_id")
    workspace_external_id = serializers.CharField(source="workspace.external_id", allow_null=True)
    workspace_name = serializers.CharField(source="workspace.name")
    type = serializers.CharField()
    given = FieldsOf(ConnectionChangeIn)
    config = ConfigField()
    credentials = serializers.DictField(
        child=serializers.CharField(), source="credential_hints", help_text="Masks, such as `••••1234`."
    )
    retry = RetryOut(source="*")
    limits = LimitsOut(source="*")
    status = serializers.ChoiceField(Connection.Status.choices)
    status_reason = serializers.CharField()
    status_changed_at = serializers.DateTimeField(allow_null=True)
    account = AccountOut(source="*", help_text="Whose account a test has found; empty before.")
    paused_until = serializers.SerializerMethodField(help_text="The lane rests until then, by itself; never past.")
    version = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    deleted_at = serializers.DateTimeField(allow_null=True)

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_paused_until(self, connection: Connection) -> datetime | None:
        return connection.paused_until if connection.paused_until and connection.paused_until > clock.now() else None


class ConnectionMadeOut(ConnectionOut):
    """A connection with the secrets that were just made for it: shown this once."""

    signing_secret = serializers.CharField(
        required=False, allow_null=True, help_text="Verifies a webhook's signatures. In this answer only; keep it."
    )
    secret_shown = SecretShownField()


class ConnectionQuery(QuerySerializer):
    workspace = serializers.CharField(required=False, help_text="Id or external id.")
    type = IntegrationField(required=False)
    status = OneOfField(Connection.Status.choices, required=False, help_text="Without it all but the deleted ones.")


@extend_schema_field({"type": "array", "items": {"type": "array", "items": {"type": "string"}}})
class HeadersField(serializers.JSONField):
    """Pairs of name and value, in order."""


class SentOut(serializers.Serializer[Any]):
    method = serializers.CharField()
    url = serializers.CharField()
    headers = HeadersField()
    body = serializers.CharField()


class AnsweredOut(serializers.Serializer[Any]):
    status = serializers.IntegerField()
    headers = HeadersField()
    body = serializers.CharField()
    truncated = serializers.BooleanField()


class ProbedAccountOut(serializers.Serializer[Any]):
    id = serializers.CharField()
    name = serializers.CharField()


class ProbeOut(serializers.Serializer[Any]):
    """What a test came to; `ok` is null where the integration has no test."""

    ok = serializers.BooleanField(allow_null=True)
    outcome = serializers.CharField(help_text="As of an attempt, or `no_test`.")
    error_class = serializers.CharField()
    error = serializers.CharField(source="words")
    duration_ms = serializers.IntegerField(allow_null=True)
    request = SentOut(allow_null=True)
    response = AnsweredOut(allow_null=True)
    status = serializers.CharField(help_text="The connection's status now.")
    account = ProbedAccountOut(allow_null=True, help_text="Whose account it is; null where the vendor does not say.")


_FieldOut = type(  # made so, as some fields have the names of a serializer's own attributes
    "IntegrationField",
    (serializers.Serializer,),
    {
        "key": serializers.CharField(),
        "label": serializers.CharField(),
        "type": serializers.CharField(),
        "required": serializers.BooleanField(),
        "sensitive": serializers.BooleanField(),
        "generated": serializers.BooleanField(help_text="Made by Meshes; cannot be given."),
        "pattern": serializers.CharField(required=False),
        "options": serializers.ListField(child=serializers.CharField(), required=False),
        "default": serializers.JSONField(required=False),
        "minimum": serializers.FloatField(required=False),
        "maximum": serializers.FloatField(required=False),
        "max_length": serializers.IntegerField(required=False),
        "help": serializers.CharField(required=False),
        "example": serializers.CharField(required=False),
    },
)
_MappingFieldOut = type(
    "IntegrationMappingField",
    (serializers.Serializer,),
    {
        "key": serializers.CharField(),
        "label": serializers.CharField(),
        "type": serializers.CharField(),
        "required": serializers.BooleanField(),
        "source": serializers.CharField(help_text="The default, a JMESPath expression; empty: none."),
        "help": serializers.CharField(),
        "example": serializers.CharField(),
    },
)


class ActionOut(serializers.Serializer[Any]):
    slug = serializers.CharField()
    name = serializers.CharField()
    idempotent = serializers.BooleanField(help_text="Sent twice it has the effect of once.")
    help = serializers.CharField()
    fields = _MappingFieldOut(many=True, help_text="What its mapping can fill; none: the payload goes as it is.")
    is_open = serializers.BooleanField(help_text="Also takes fields that are not listed, by the vendor's own names.")
    steps = serializers.ListField(child=serializers.CharField(), help_text="The calls, where it needs several.")
    default_mapping = serializers.ListField(
        child=serializers.DictField(), help_text="In the form of a rule's mapping, which overrides it field by field."
    )


class VendorLimitsOut(serializers.Serializer[Any]):
    in_flight = serializers.IntegerField(allow_null=True)
    rate = serializers.FloatField(allow_null=True)
    body_bytes = serializers.IntegerField(allow_null=True)


class AuthorizationNeedOut(serializers.Serializer[Any]):
    """Connections are authorized at the vendor, by `POST …/authorize` or a connect link."""

    scopes = serializers.ListField(child=serializers.CharField(), help_text="What the app must be allowed to ask for.")


class IntegrationOut(serializers.Serializer[Any]):
    """An integration's declaration."""

    type = serializers.CharField()
    name = serializers.CharField()
    description = serializers.CharField()
    docs_url = serializers.CharField()
    auth = serializers.CharField()
    authorization = AuthorizationNeedOut(allow_null=True)
    config_fields = _FieldOut(many=True)
    credential_fields = _FieldOut(many=True)
    actions = ActionOut(many=True)
    limits = VendorLimitsOut()
    system_limits = VendorLimitsOut(help_text="Of all connections to this vendor together.")
    live_options = serializers.DictField(
        child=serializers.CharField(), help_text="Fields whose choices can be asked for, and what they are."
    )
    test = serializers.CharField()


class ChoiceOut(serializers.Serializer[Any]):
    value = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # a field's own attribute has this name


@extend_schema_serializer(many=False)
class ChoicePageOut(serializers.Serializer[Any]):
    """All of them on one page; the form is that of every list."""

    data = ChoiceOut(many=True)  # type: ignore[assignment]  # a list's name for its rows
    next = serializers.CharField(allow_null=True)
    previous = serializers.CharField(allow_null=True)


@extend_schema_serializer(many=False)
class IntegrationPageOut(serializers.Serializer[Any]):
    """All of them on one page; the form is that of every list."""

    data = IntegrationOut(many=True)  # type: ignore[assignment]  # a list's name for its rows
    next = serializers.CharField(allow_null=True)
    previous = serializers.CharField(allow_null=True)


# --- authorizations -------------------------------------------------------------------------------------------------


class AuthorizationOut(serializers.Serializer[Any]):
    """Where to redirect the browser of whoever may give access."""

    url = serializers.CharField(
        allow_null=True, help_text="Of ours; leads the first browser that opens it to the vendor."
    )
    expires_at = serializers.DateTimeField()
    secret_shown = SecretShownField()


class ConnectLinkIn(StrictSerializer):
    expires_in = serializers.IntegerField(
        required=False,
        default=pages.DEFAULT_SECONDS,
        min_value=pages.SHORTEST_SECONDS,
        max_value=pages.LONGEST_SECONDS,
        help_text="Seconds; 7 days unless given, 30 at most.",
    )


class ConnectLinkOut(serializers.Serializer[Any]):
    """A page of ours that starts the authorization."""

    url = serializers.CharField(allow_null=True, help_text="Whoever has it may authorize this one connection.")
    expires_at = serializers.DateTimeField()
    secret_shown = SecretShownField()


class OAuthAppIn(StrictSerializer):
    client_id = serializers.RegexField(r"\A[\x21-\x7e]+\Z", max_length=255, trim_whitespace=False)
    client_secret = serializers.RegexField(
        r"\A[\x21-\x7e]+\Z", max_length=1024, trim_whitespace=False, help_text="Sealed, and never shown again."
    )


class OAuthAppOut(AnswerSerializer):
    """A workspace's own app at a vendor."""

    id = PublicIdField(ids.APP, source="pk", help_text="As the access log names it.")
    workspace = PublicIdField(ids.WORKSPACE, source="workspace_id")
    workspace_external_id = serializers.CharField(source="workspace.external_id", allow_null=True)
    workspace_name = serializers.CharField(source="workspace.name")
    type = serializers.CharField()
    given = FieldsOf(OAuthAppIn)
    client_secret = serializers.CharField(source="secret_hint", help_text="A mask, such as `••••1234`.")
    redirect_uri = serializers.SerializerMethodField(help_text="Register it with the app.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()

    def get_redirect_uri(self, app: Any) -> str:
        uri: str = self.context["redirect_uri"]
        return uri


# --- the access log -------------------------------------------------------------------------------------------------

PURPOSES = (
    "delivery", "test", "options", "used", "replace credentials", "rotate secret", "created", "replaced", "rotated",
    "deleted", "authorized", "refreshed", "disconnected", "oauth authorize", "oauth refresh", "oauth revoke",
    "verify a machine token", "rotate the key", "key rotation", "recover", "viewed in the admin",
    "restored",
    *access_log.PURPOSES,
)  # fmt: skip
"""All that records have; docs/access-log.md explains them."""
KINDS = ("credentials", "signing_secret", "client", "key", "access_log", access_log.ACTION)


class AccessLogQuery(PeriodIn, QuerySerializer):
    connection = PublicIdField(ids.CONNECTION, required=False)
    actor = serializers.CharField(required=False, max_length=200, help_text="As records name it, in full.")
    purpose = OneOfField(PURPOSES, required=False)
    granted = OneOfField(("true", "false"), required=False, help_text="`false`: what was refused.")
    kind = OneOfField(KINDS, required=False)


class AccessRecordOut(serializers.Serializer[Any]):
    """One opening or change of a sealed document, one look at the records themselves by an operator, or one action."""

    id = PublicIdField(ids.ACCESS, source="pk")
    workspace = PublicIdField(ids.WORKSPACE, source="workspace_id")
    workspace_external_id = serializers.CharField(source="workspace.external_id", allow_null=True)
    workspace_name = serializers.CharField(source="workspace.name")
    at = serializers.DateTimeField(source="created_at")
    actor = serializers.CharField(
        help_text="A key (`key_…`), a process (`host:pid`), a user of the admin (`operator …`) or a command."
    )
    purpose = serializers.CharField()
    granted = serializers.BooleanField(help_text="false: it did not open, and nothing was sent.")
    connection = PublicIdField(ids.CONNECTION, source="connection_id", allow_null=True)
    connection_name = serializers.SerializerMethodField(help_text="null where there is none, or none any more.")
    api_key = PublicIdField(ids.KEY, source="api_key_id", allow_null=True)
    oauth_app = PublicIdField(ids.APP, source="oauth_app_id", allow_null=True)
    owner = serializers.SerializerMethodField(
        help_text="The id of what it was done to: a connection, key or OAuth app; of an `action` also an event,"
        " a delivery, an attempt, a rule, a replay or a workspace. null: the access log."
    )
    kind = serializers.CharField(
        help_text="`credentials`, `signing_secret`, `client` (of an OAuth app), `key`, `access_log`, or `action`:"
        " what was done without opening a secret."
    )
    version = serializers.IntegerField(help_text="Of the secret; each change makes the next one. 0: there is none.")
    delivery = PublicIdField(ids.DELIVERY, source="delivery_id", allow_null=True)
    attempt = serializers.IntegerField(source="attempt_number", allow_null=True)

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_connection_name(self, record: AccessRecord) -> str | None:
        names: Mapping[uuid.UUID, str] = self.context["connection_names"]
        return names.get(record.connection_id) if record.connection_id else None

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_owner(self, record: AccessRecord) -> str | None:
        prefix = access_log.PREFIXES.get(cast(access_log.OwnerKind, record.owner_kind))
        return ids.encode(prefix, record.owner_id) if prefix else None
