"""Routes, and the pages of no application: `/`, `/api/schema`, and `/api/docs` that shows it.

Whatever goes wrong below `/api/`, also outside the views, is answered as problem+json.
"""

import json
from collections.abc import Callable
from functools import cache

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.urls import include, path
from drf_spectacular.generators import SchemaGenerator

from meshes.api.problems import handler400 as answer_400
from meshes.api.problems import safe_methods_only
from meshes.health import healthz, readyz
from workspaces import security_log


@safe_methods_only
def home(request: HttpRequest) -> HttpResponse:
    """What is where. It names addresses and nothing that a key or a password guards."""
    return render(request, "meshes/home.html", {"flower_url": settings.MESHES_FLOWER_URL})


@safe_methods_only
def openapi(request: HttpRequest) -> HttpResponse:
    """The OpenAPI document, the same for everybody."""
    return HttpResponse(_document(), content_type="application/json")


@safe_methods_only
def docs(request: HttpRequest) -> HttpResponse:
    """The document for people, by Swagger UI. All that it runs are files, as the content security policy demands."""
    return render(request, "meshes/docs.html")


def redirect_to(place: str) -> Callable[[HttpRequest], HttpResponse]:
    """A view that leads to a route by its name, or to a path."""

    @safe_methods_only
    def leading(request: HttpRequest) -> HttpResponse:
        return redirect(place)

    return leading


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's `handler400`; requests for a host that is not ours are counted."""
    if isinstance(exception, DisallowedHost):
        security_log.count_refusal(request.META, "400 host")
    return answer_400(request, exception)


@cache
def _document() -> bytes:
    generator = SchemaGenerator()  # type: ignore[no-untyped-call]  # the library is typed in part
    document = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]  # likewise
    return json.dumps(document, ensure_ascii=False).encode()


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

handler400 = "meshes.urls.bad_request"
handler403 = "meshes.api.problems.handler403"
handler404 = "meshes.api.problems.handler404"
handler500 = "meshes.api.problems.handler500"
