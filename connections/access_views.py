"""`/workspaces/{id}/access-log`: who or what opened or changed which credential, when, why, and for which delivery."""

import uuid
from collections.abc import Mapping
from typing import Any, cast

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from connections.models import Connection
from meshes.api.fields import OneOfField, PublicIdField, QuerySerializer
from meshes.api.pages import PeriodIn, period_bounds
from meshes.kit import ids
from workspaces.endpoints import TenantViewSet, resolve_workspace
from workspaces.vault import access_log
from workspaces.vault.models import AccessRecord

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


class AccessLogViewSet(TenantViewSet):
    """The access log of one workspace."""

    queryset = AccessRecord.objects.all()
    id_prefix = ids.ACCESS
    required_scope = "admin"

    @extend_schema(
        parameters=[OpenApiParameter("id", str, OpenApiParameter.PATH), AccessLogQuery],
        responses=AccessRecordOut(many=True),
    )
    def list(self, request: Request, id: str) -> Response:
        """Who or what opened or changed which credential of the workspace, newest first.

        Records are never changed; they go with their retention.
        """
        workspace = resolve_workspace(self.identity, id, include_deleted=True)
        wanted = self.read_query(AccessLogQuery)
        with self.search(is_indexed=wanted.keys() <= {"from", "to"}):
            page: list[AccessRecord] = self.paginate_queryset(narrow_records(self.rows(workspace), wanted)) or []
        named = Connection.objects.filter(workspace=workspace, pk__in={record.connection_id for record in page})
        context = {"connection_names": dict(named.values_list("pk", "name"))}
        return self.get_paginated_response(AccessRecordOut(page, many=True, context=context).data)


def narrow_records(records: "QuerySet[AccessRecord]", wanted: Mapping[str, Any]) -> "QuerySet[AccessRecord]":
    """The records that an `AccessLogQuery` asks for."""
    records = records.filter(period_bounds(wanted))
    if "connection" in wanted:
        records = records.filter(owner_kind="connection", owner_id=wanted["connection"])
    if "granted" in wanted:
        records = records.filter(granted=wanted["granted"] == "true")
    return records.filter(**{name: wanted[name] for name in ("actor", "purpose", "kind") if name in wanted})
