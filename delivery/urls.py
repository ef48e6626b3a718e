"""Routes of events, rules, deliveries and replays, below `/api/v1/`."""

from rest_framework.routers import SimpleRouter

from delivery.views.events import BulkViewSet, EventViewSet

router = SimpleRouter(trailing_slash=False)
router.register("events/bulk", BulkViewSet, basename="event-bulk")
router.register("events", EventViewSet, basename="event")

urlpatterns = router.urls
