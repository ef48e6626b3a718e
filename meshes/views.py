"""`/`, the page that says what is where, `/api/schema`, and `/api/docs` that shows it."""

import json
from collections.abc import Callable
from functools import cache

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from drf_spectacular.generators import SchemaGenerator

from meshes.api.problems import handler400, safe_methods_only
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
    return handler400(request, exception)


@cache
def _document() -> bytes:
    generator = SchemaGenerator()  # type: ignore[no-untyped-call]  # the library is typed in part
    document = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]  # likewise
    return json.dumps(document, ensure_ascii=False).encode()
