"""The API of connections: integrations, connections and their authorization, OAuth apps, and the access log."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.db import Error
from django.db.models import QuerySet
from django.urls import path, reverse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from connections import calls, lifecycle, outside, providers
from connections.conversation import Redactor
from connections.credentials import wrapped
from connections.lifecycle import Change
from connections.models import Connection
from connections.oauth import authorize, grants, pages
from connections.oauth.authorize import redirect_uri
from connections.providers.base import InvalidFields
from connections.serializers import (
    AccessLogQuery,
    AccessRecordOut,
    AuthorizationOut,
    ChoiceOut,
    ChoicePageOut,
    ConnectionChangeIn,
    ConnectionIn,
    ConnectionMadeOut,
    ConnectionOut,
    ConnectionQuery,
    ConnectLinkIn,
    ConnectLinkOut,
    IntegrationOut,
    IntegrationPageOut,
    OAuthAppIn,
    OAuthAppOut,
    ProbeOut,
    slugs,
)
from meshes.api.fields import QuerySerializer, StrictSerializer
from meshes.api.pages import period_bounds
from meshes.api.problems import Problem
from meshes.kit import ids
from meshes.kit.spelling import none_of
from workspaces.endpoints import Endpoint, TenantViewSet, resolve_workspace
from workspaces.idempotency import ShownOnce, once, once_outside, once_prepared
from workspaces.models import Workspace
from workspaces.vault.models import AccessRecord
from workspaces.vault.secret import Secret


class IntegrationViewSet(Endpoint, ViewSet):
    """What can be connected to. The catalogue derives from the providers' declarations."""

    required_scope = ("config", "admin", "events:read")
    without_snapshot = ("list", "retrieve")

    @extend_schema(responses=IntegrationPageOut)
    def list(self, request: Request) -> Response:
        """All integrations: their fields, actions, limits, and what testing a connection does."""
        self.read_query(QuerySerializer)
        return Response({"data": [provider.describe() for provider in providers.all()], "next": None, "previous": None})

    @extend_schema(parameters=[OpenApiParameter("type", str, OpenApiParameter.PATH)], responses=IntegrationOut)
    def retrieve(self, request: Request, type: str) -> Response:
        """One integration."""
        try:
            return Response(providers.get(type).describe())
        except KeyError:
            raise Problem(404, detail=f"There is no such integration: {none_of(type, slugs())}") from None


class ConnectionViewSet(TenantViewSet):
    """Destinations of a workspace, but for one by itself: `delivery.dispatch.views` shows that with its health."""

    queryset = Connection.objects.all()
    id_prefix = ids.CONNECTION
    required_scope = "config"
    without_snapshot = ("options_of",)
    credential_actions = ("create",)
    problems = {
        action: {409}
        for action in (
            "partial_update", "pause", "resume", "rotate_secret", "authorize", "connect_link", "disconnect",
        )
    } | {"options_of": {409, 502}}  # fmt: skip

    @extend_schema(parameters=[ConnectionQuery], responses=ConnectionOut(many=True))
    def list(self, request: Request) -> Response:
        """Connections, newest first; deleted ones only where the status is asked for."""
        query = self.read_query(ConnectionQuery)
        rows = self.rows(self.named_workspace(query))
        if "type" in query:
            rows = rows.filter(type=query["type"])
        if "status" in query:
            rows = rows.filter(status=query["status"])
        else:
            rows = rows.exclude(status=Connection.Status.DELETED)
        with self.search(is_indexed=query.keys() <= {"workspace"}):
            return self.answer_page(rows, ConnectionOut)

    @extend_schema(
        request=ConnectionIn,
        responses={201: ConnectionMadeOut},
        examples=[
            OpenApiExample(
                "A webhook",
                {
                    "workspace": "ws_tenant_abc",
                    "type": "webhook",
                    "name": "Our CRM",
                    "config": {"url": "https://example.com/hooks"},
                },
                request_only=True,
            )
        ],
    )
    @once_prepared
    def create(self, request: Request) -> Callable[[], Response]:
        """Make a connection. Secrets that are made for it are in this answer and never shown again."""
        given = self.read(ConnectionIn)
        with _as_problems(given):
            columns = {name: value for name, value in given.items() if name != "workspace"}
            make = lifecycle.prepare_create(given["workspace"].pk, actor=self.identity.actor, **columns)

        def act() -> Response:
            with _as_problems(given):
                return _show(make(), 201)

        return act

    @extend_schema(request=ConnectionChangeIn(partial=True), responses=ConnectionMadeOut)
    def partial_update(self, request: Request, id: str) -> Response:
        """Change a connection; what is left out stays. It takes effect at the next attempt.

        New credentials end `needs_reauth` and `credential_error`. An edit that changes the scheme, host or port of
        anywhere that credentials are sent brings these again, else 422 `credentials_required`.
        """
        connection = self.living()
        given = self.read(ConnectionChangeIn, partial=True)
        with _as_problems(given):
            change = lifecycle.edit(connection, actor=self.identity.actor, **given)
        return _show(change, 200)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, id: str) -> Response:
        """Delete a connection: its secrets are destroyed, its rules disabled; its history stays readable.

        An authorization is revoked at the vendor, as far as it answers.
        """
        connection = self.get_object()
        lifecycle.delete(connection, actor=self.identity.actor)
        return Response(status=204)

    @extend_schema(request=StrictSerializer, responses=ProbeOut)
    @action(detail=True, methods=["post"])
    @once_outside
    def test(self, request: Request, id: str) -> Response:
        """Send a real test request and judge the answer.

        A success ends `disabled`, `needs_reauth`, `credential_error` and the circuit breaker's pause. What is sent, the
        integration says in `test`.
        """
        connection = self.living()
        self.read(StrictSerializer)
        with outside.place_for_test(connection.workspace_id):
            return Response(ProbeOut(calls.probe(connection, actor=self.identity.actor)).data)

    @extend_schema(request=StrictSerializer, responses=ConnectionOut)
    @action(detail=True, methods=["post"])
    @once
    def pause(self, request: Request, id: str) -> Response:
        """Hold all deliveries, new ones too, until `resume`."""
        connection = self.living()
        self.read(StrictSerializer)
        return Response(ConnectionOut(lifecycle.pause(connection)).data)

    @extend_schema(request=StrictSerializer, responses=ConnectionOut)
    @action(detail=True, methods=["post"])
    @once
    def resume(self, request: Request, id: str) -> Response:
        """End whatever holds the connection; held deliveries go out, in order and paced."""
        connection = self.living()
        self.read(StrictSerializer)
        return Response(ConnectionOut(lifecycle.resume(connection)).data)

    @extend_schema(request=StrictSerializer, responses=ConnectionMadeOut)
    @action(detail=True, methods=["post"], url_path="rotate-secret")
    @once_prepared
    def rotate_secret(self, request: Request, id: str) -> Callable[[], Response]:
        """Make a new secret, shown in this answer only. The one before signs beside it for 24 hours."""
        connection = self.living()
        self.read(StrictSerializer)
        rotate = lifecycle.prepare_rotation(connection, actor=self.identity.actor)
        return lambda: _show(rotate(), 200)

    @extend_schema(
        parameters=[OpenApiParameter("field", str, OpenApiParameter.PATH)], request=None, responses=ChoicePageOut
    )
    @action(detail=True, methods=["get"], url_path="options/(?P<field>[a-z_]{1,64})")
    def options_of(self, request: Request, id: str, field: str) -> Response:
        """The choices for a field, as the vendor lists them now or did in the last five minutes.

        Which fields have any, the integration says in `live_options`; for others the answer is 404.
        """
        self.read_query(QuerySerializer)
        found = calls.choices(self.living(), field, actor=self.identity.actor)
        return Response({"data": ChoiceOut(found, many=True).data, "next": None, "previous": None})

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
        ticket, expires_at = authorize.prepare(connection, self.identity, redirect_uri(request, connection.type))
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
        authorize.provider_of(connection)
        token, expires_at = pages.issue_link(connection, seconds, actor=self.identity.actor)
        url = authorize.absolute(request, reverse("oauth-connect", args=[token]))
        return ShownOnce(ConnectLinkOut({"url": url, "expires_at": expires_at}).data, ["url"])

    @extend_schema(request=StrictSerializer, responses=ConnectionOut)
    @action(detail=True, methods=["post"])
    @outside.keeping_places()  # beyond the transaction in which the answer is remembered
    @once
    def disconnect(self, request: Request, id: str) -> Response:
        """Destroy the tokens here and revoke them at the vendor, as far as it answers. Deliveries are held."""
        connection = self.living()
        self.read(StrictSerializer)
        return Response(ConnectionOut(lifecycle.disconnect(connection, actor=self.identity.actor)).data)

    def living(self) -> Connection:
        """The connection that the path names. Raises 404, also for a deleted one."""
        rows = self.rows().exclude(status=Connection.Status.DELETED)
        connection: Connection = self.find(rows, self.kwargs["id"])
        return connection


@contextmanager
def _as_problems(given: Mapping[str, Any]) -> Iterator[None]:
    """Errors as answers. What nobody foresaw may quote the credentials in `given`; it goes on without them."""
    try:
        yield
    except InvalidFields as error:
        places = [
            {"pointer": problem.pointer, "detail": problem.detail, "rule": problem.rule} for problem in error.problems
        ]
        raise Problem(422, errors=places) from None
    except (Problem, Error):
        raise
    except Exception:
        with Redactor(wrapped(given.get("credentials", {}))).guarding():
            raise


def _show(change: Change, status: int) -> Response:
    return ShownOnce({**ConnectionOut(change.connection).data, **change.made}, change.made, status)


@extend_schema(parameters=[OpenApiParameter(name, str, OpenApiParameter.PATH) for name in ("id", "type")])
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


urlpatterns = [
    path("integrations", IntegrationViewSet.as_view({"get": "list"}), name="integration-list"),
    path("integrations/<str:type>", IntegrationViewSet.as_view({"get": "retrieve"}), name="integration-detail"),
    path("workspaces/<str:id>/access-log", AccessLogViewSet.as_view({"get": "list"}), name="workspace-access-log"),
    path(
        "workspaces/<str:id>/oauth-apps/<str:type>",
        OAuthAppViewSet.as_view({"get": "retrieve", "put": "update", "delete": "destroy"}),
        name="oauth-app",
    ),
]
"""Below `/api/v1/`; connections themselves are routed with their health, in `delivery`."""
