"""Routes of integrations and connections, below `/api/v1/`."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from connections.views import ConnectionViewSet, IntegrationViewSet

router = SimpleRouter(trailing_slash=False)
router.register("connections", ConnectionViewSet, basename="connection")

urlpatterns = [
    path("integrations", IntegrationViewSet.as_view({"get": "list"}), name="integration-list"),
    path("integrations/<str:type>", IntegrationViewSet.as_view({"get": "retrieve"}), name="integration-detail"),
    *router.urls,
]
