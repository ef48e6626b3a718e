"""Our own addresses, as vendors and browsers know them: below `MESHES_PUBLIC_URL`, or where the request came in."""

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse

from connections.oauth import grants

VENDOR, SHARED = "vendor", "shared"


def redirect_uri(request: HttpRequest, type: str) -> str:
    """Where the vendor sends the browser back to after a new authorization; it is registered with the app."""
    return absolute(request, callback_path(type if callback_in_use() == VENDOR else None))


def callback_in_use() -> str:
    """Which redirect URIs new authorizations name: `vendor` or `shared`. See `MESHES_OAUTH_CALLBACK`."""
    chosen: str = settings.MESHES_OAUTH_CALLBACK
    if chosen in (VENDOR, SHARED):
        return chosen
    return SHARED if grants.exist_by_shared_callback() else VENDOR


def callback_path(type: str | None) -> str:
    """The path of the vendor's own redirect URI; without a vendor, of the one that all shared."""
    return reverse("oauth-callback") if type is None else reverse("oauth-vendor-callback", args=[type])


def is_shared(redirect_uri: str) -> bool:
    return redirect_uri.endswith(callback_path(None))


def start_url(request: HttpRequest, ticket: str) -> str:
    return absolute(request, reverse("oauth-start", args=[ticket]))


def link_url(request: HttpRequest, token: str) -> str:
    return absolute(request, reverse("oauth-connect", args=[token]))


def absolute(request: HttpRequest, path: str) -> str:
    base: str = settings.MESHES_PUBLIC_URL
    return base.rstrip("/") + path if base else request.build_absolute_uri(path)
