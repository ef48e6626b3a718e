"""Routes of connections, events, rules, deliveries, replays and erasures, below `/api/v1/`."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from delivery.dispatch.views import ConnectionViewSet, DeadLetterViewSet, DeliveryViewSet, ReplayViewSet
from delivery.events.erasure import ErasureView
from delivery.events.views import BulkViewSet, EventViewSet
from delivery.rules.views import RuleViewSet

router = SimpleRouter(trailing_slash=False)
router.register("connections", ConnectionViewSet, basename="connection")
router.register("events/bulk", BulkViewSet, basename="event-bulk")
router.register("events", EventViewSet, basename="event")
router.register("rules", RuleViewSet, basename="rule")
router.register("deliveries", DeliveryViewSet, basename="delivery")
router.register("dead-letters", DeadLetterViewSet, basename="dead-letter")
router.register("replays", ReplayViewSet, basename="replay")

urlpatterns = [*router.urls, path("workspaces/<str:id>/erasures", ErasureView.as_view(), name="workspace-erasures")]
