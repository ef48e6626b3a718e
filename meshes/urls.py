"""Routes. Whatever goes wrong below `/api/`, also outside the views, is answered as problem+json."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path

from meshes.health import healthz, readyz
from meshes.views import docs, home, openapi, redirect_to

urlpatterns = [
    path("", home, name="home"),
    path("api/v1/", include("workspaces.urls")),
    path("api/v1/", include("connections.views")),
    path("api/v1/", include("delivery.urls")),
    path("", include("connections.oauth.pages")),
    path("api/schema", openapi, name="schema"),
    path("api/schema/", redirect_to("schema")),
    path("api/docs", docs, name="docs"),
    path("api/docs/", redirect_to("docs")),
    path("healthz", healthz),
    path("readyz", readyz),
    path("admin", redirect_to("admin:index")),
    path("admin/", admin.site.urls),
    path("favicon.ico", redirect_to(static("meshes/favicon.svg"))),
]

handler400 = "meshes.views.bad_request"
handler403 = "meshes.api.problems.handler403"
handler404 = "meshes.api.problems.handler404"
handler500 = "meshes.api.problems.handler500"
