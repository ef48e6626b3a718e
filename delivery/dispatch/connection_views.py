"""`/connections`, with what deliveries know of one: its health."""

from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from connections import views
from connections.models import Connection
from connections.serializers import ConnectionOut
from delivery.dispatch import connection_health
from meshes.kit import clock
from workspaces.vault.models import SealedDocument
from workspaces.vault.vault import CREDENTIALS


class HealthOut(serializers.Serializer[Any]):
    """How a connection does."""

    status = serializers.ChoiceField(connection_health.STATUSES)
    reason = serializers.CharField(help_text="In words; empty while it is ok.")
    since = serializers.DateTimeField(allow_null=True)
    until = serializers.DateTimeField(allow_null=True, help_text="When what it waits for ends by itself.")
    last_success_at = serializers.DateTimeField(allow_null=True)
    last_failure_at = serializers.DateTimeField(allow_null=True)
    consecutive_failures = serializers.IntegerField()
    waiting_deliveries = serializers.IntegerField(source="waiting", help_text="Pending and held.")
    waiting_is_exact = serializers.BooleanField(source="is_exact", help_text="false: there are at least as many.")


class ConnectionDetailOut(ConnectionOut):
    """A connection, and how it does."""

    credentials_changed_at = serializers.SerializerMethodField(
        help_text="null: there are none, or it was not recorded."
    )
    health = serializers.SerializerMethodField(help_text="null for a deleted connection.")

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_credentials_changed_at(self, connection: Connection) -> datetime | None:
        sealed = SealedDocument.objects.filter(connection=connection, kind=CREDENTIALS)
        found = sealed.only("version", "sealed_at", "created_at").first()
        return found.set_at if found else None

    @extend_schema_field(HealthOut(allow_null=True))
    def get_health(self, connection: Connection) -> Any:
        health = connection_health.examine(connection, clock.now())
        return HealthOut(health).data if health else None


class ConnectionViewSet(views.ConnectionViewSet):
    """Destinations of a workspace."""

    @extend_schema(responses=ConnectionDetailOut)
    def retrieve(self, request: Request, id: str) -> Response:
        """One connection and its health; also one that was deleted."""
        return Response(ConnectionDetailOut(self.find(self.rows().select_related("health"), id)).data)
