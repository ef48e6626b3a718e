"""What the API has for authorizations: three actions of a connection, and a workspace's own apps."""

import functools
from typing import Any

from django.urls import reverse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from connections import lifecycle, outside, providers
from connections.models import Connection
from connections.oauth import authorize, grants, pages
from connections.oauth.authorize import AuthorizationError, redirect_uri
from connections.serializers import ConnectionOut
from meshes.api.fields import AnswerSerializer, FieldsOf, PublicIdField, SecretShownField, StrictSerializer
from meshes.api.problems import Problem
from meshes.kit import ids
from workspaces.endpoints import Endpoint, TenantViewSet, resolve_workspace
from workspaces.idempotency import ShownOnce, once
from workspaces.models import Workspace
from workspaces.vault.secret import Secret


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


def _keeping_places(handler: Any) -> Any:
    """A place that the handler takes outlasts the transaction in which its answer is remembered."""

    @functools.wraps(handler)
    def handle(*args: Any, **kwargs: Any) -> Any:
        with outside.keeping_places():
            return handler(*args, **kwargs)

    return handle


class AuthorizationActions(TenantViewSet):
    """Actions of a connection that is authorized at its vendor."""

    def living(self) -> Connection:
        raise NotImplementedError

    @extend_schema(request=StrictSerializer, responses=AuthorizationOut)
    @action(detail=True, methods=["post"])
    @once
    def authorize(self, request: Request, id: str) -> Response:
        """Start an authorization. Redirect the browser of whoever may give access to `url`; ten minutes for all.

        `url` leads on to the vendor. It is good for the first browser that opens it, and the authorization ends only
        there. It ends `needs_reauth` and `credential_error`, and makes connect links void. For somebody who is not at
        your application just now, make a connect link instead.
        """
        connection = self.living()
        self.read(StrictSerializer)
        try:
            ticket, expires_at = authorize.prepare(connection, self.identity, redirect_uri(request, connection.type))
        except AuthorizationError as error:
            raise Problem(409, detail=str(error)) from None
        url = authorize.absolute(request, reverse("oauth-start", args=[ticket]))
        return ShownOnce(AuthorizationOut({"url": url, "expires_at": expires_at}).data, ["url"])

    @extend_schema(request=ConnectLinkIn, responses=ConnectLinkOut)
    @action(detail=True, methods=["post"], url_path="connect-link")
    @once
    def connect_link(self, request: Request, id: str) -> Response:
        """A link with which a person without an account here authorizes this connection, and nothing else.

        The first success makes all links of the connection void, as do disconnecting and deleting it. The making and
        each use of a link stand in the access log.
        """
        connection = self.living()
        seconds = self.read(ConnectLinkIn)["expires_in"]
        try:
            authorize.provider_of(connection)
        except AuthorizationError as error:
            raise Problem(409, detail=str(error)) from None
        token, expires_at = pages.issue_link(connection, seconds, actor=self.identity.actor)
        url = authorize.absolute(request, reverse("oauth-connect", args=[token]))
        return ShownOnce(ConnectLinkOut({"url": url, "expires_at": expires_at}).data, ["url"])

    @extend_schema(request=StrictSerializer, responses=ConnectionOut)
    @action(detail=True, methods=["post"])
    @_keeping_places
    @once
    def disconnect(self, request: Request, id: str) -> Response:
        """Destroy the tokens here and revoke them at the vendor, as far as it answers. Deliveries are held."""
        connection = self.living()
        self.read(StrictSerializer)
        return Response(ConnectionOut(lifecycle.disconnect(connection, actor=self.identity.actor)).data)


_PATH = [OpenApiParameter(name, str, OpenApiParameter.PATH) for name in ("id", "type")]


@extend_schema(parameters=_PATH)
class OAuthAppViewSet(Endpoint, ViewSet):
    """The app that a workspace brings itself: its own name on the vendor's page, its own quota there."""

    required_scope = "config"

    @extend_schema(responses=OAuthAppOut)
    def retrieve(self, request: Request, id: str, type: str) -> Response:
        """The workspace's app at a vendor, without its secret."""
        app = grants.find_app(self.workspace(id).pk, self.integration(type))
        if app is None:
            raise NotFound
        return self.show(app)

    @extend_schema(request=OAuthAppIn, responses=OAuthAppOut)
    def update(self, request: Request, id: str, type: str) -> Response:
        """Set the workspace's app at a vendor. New authorizations use it instead of the installation's.

        Connections that another app authorized go on with that one, as long as it is set up.
        """
        workspace, slug = self.workspace(id), self.integration(type)
        given = self.read(OAuthAppIn)
        secret, actor = Secret(given.pop("client_secret")), self.identity.actor
        return self.show(grants.put_app(workspace.pk, slug, secret=secret, actor=actor, **given))

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, id: str, type: str) -> Response:
        """Forget the workspace's app, and its secret. Connections that it authorized get no new tokens."""
        if not grants.remove_apps(self.workspace(id).pk, self.integration(type), actor=self.identity.actor):
            raise NotFound
        return Response(status=204)

    def workspace(self, reference: str) -> Workspace:
        """Raises Http404."""
        return resolve_workspace(self.identity, reference)

    def integration(self, type: str) -> str:
        """The slug of an integration that authorizes connections. Raises 404."""
        try:
            provider = providers.get(type)
        except KeyError:
            raise NotFound from None
        if provider.oauth is None or not provider.oauth.is_by_person:
            raise NotFound
        return provider.slug

    def show(self, app: Any) -> Response:
        return Response(OAuthAppOut(app, context={"redirect_uri": redirect_uri(self.request, app.type)}).data)
