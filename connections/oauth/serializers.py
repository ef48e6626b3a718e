"""Authorizations and a workspace's own apps as the API reads and shows them."""

from typing import Any

from rest_framework import serializers

from connections.oauth import links
from meshes.api import PublicIdField, SecretShownField, StrictSerializer
from workspaces import ids


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
        default=links.DEFAULT_SECONDS,
        min_value=links.SHORTEST_SECONDS,
        max_value=links.LONGEST_SECONDS,
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


class OAuthAppOut(serializers.Serializer[Any]):
    """A workspace's own app at a vendor."""

    id = PublicIdField(ids.APP, source="pk", help_text="As the access log names it.")
    workspace = PublicIdField(ids.WORKSPACE, source="workspace_id")
    workspace_external_id = serializers.CharField(source="workspace.external_id", allow_null=True)
    workspace_name = serializers.CharField(source="workspace.name")
    type = serializers.CharField()
    client_id = serializers.CharField()
    client_secret = serializers.CharField(source="secret_hint", help_text="A mask, such as `••••1234`.")
    redirect_uri = serializers.SerializerMethodField(help_text="Register it with the app.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()

    def get_redirect_uri(self, app: Any) -> str:
        uri: str = self.context["redirect_uri"]
        return uri
