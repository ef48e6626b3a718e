"""Routes of integrations and the access log, below `/api/v1/`."""

from django.urls import path

from connections.access_views import AccessLogViewSet
from connections.oauth.views import OAuthAppViewSet
from connections.views import IntegrationViewSet

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
