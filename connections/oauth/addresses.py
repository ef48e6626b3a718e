"""Our own addresses, as vendors and browsers know them: below `MESHES_PUBLIC_URL`, or where the request came in."""

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse


def redirect_uri(request: HttpRequest) -> str:
    """Where every vendor sends the browser back to; it is registered with each app."""
    return _absolute(request, reverse("oauth-callback"))


def link_url(request: HttpRequest, token: str) -> str:
    return _absolute(request, reverse("oauth-connect", args=[token]))


def _absolute(request: HttpRequest, path: str) -> str:
    base: str = settings.MESHES_PUBLIC_URL
    return base.rstrip("/") + path if base else request.build_absolute_uri(path)
