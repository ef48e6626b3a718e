"""Routes of connections, events, rules, deliveries, replays and erasures, below `/api/v1/`."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from delivery.views.connections import ConnectionViewSet
from delivery.views.deliveries import DeadLetterViewSet, DeliveryViewSet
from delivery.views.erasures import ErasureView
from delivery.views.events import BulkViewSet, EventViewSet
from delivery.views.replays import ReplayViewSet
from delivery.views.rules import RuleViewSet

router = SimpleRouter(trailing_slash=False)
router.register("connections", ConnectionViewSet, basename="connection")
router.register("events/bulk", BulkViewSet, basename="event-bulk")
router.register("events", EventViewSet, basename="event")
router.register("rules", RuleViewSet, basename="rule")
router.register("deliveries", DeliveryViewSet, basename="delivery")
router.register("dead-letters", DeadLetterViewSet, basename="dead-letter")
router.register("replays", ReplayViewSet, basename="replay")

urlpatterns = [*router.urls, path("workspaces/<str:id>/erasures", ErasureView.as_view(), name="workspace-erasures")]
