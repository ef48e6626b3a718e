"""Routes of workspaces and keys, below `/api/v1/`."""

from rest_framework.routers import SimpleRouter

from workspaces.views import ApiKeyViewSet, WorkspaceViewSet

router = SimpleRouter(trailing_slash=False)
router.register("workspaces", WorkspaceViewSet, basename="workspace")
router.register("api-keys", ApiKeyViewSet, basename="api-key")

urlpatterns = router.urls
