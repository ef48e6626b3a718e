"""How a request came, and whether it may have come so: https only where `MESHES_HTTPS` says it, and each part of
Meshes under its own hosts where `MESHES_ADMIN_HOSTS` does."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase, HttpResponsePermanentRedirect
from django.http.request import split_domain_port, validate_host

from meshes.api.problems import Problem, handler404, render, speaks_json
from workspaces import security_log
from workspaces.authentication import named_key

HEALTH = ("/healthz", "/readyz")
"""What watches a process asks it directly: over http, and by whatever name it is reached."""
ADMIN = ("/admin",)
ADMIN_ALONE = (*HEALTH, *ADMIN, "/static", "/favicon.ico")
"""All that answers under a host of the admin."""
SPILLED = (
    "This request came over http, so that whoever is on the way may have read it. Nothing was done. Treat the key that"
    " it brought as known to others: rotate it, and call https:// from now on."
)


class RequireHttps:
    """Middleware: with `MESHES_HTTPS`, pages that were asked for over http are redirected, and the API refuses.

    It refuses before any key is looked at, so that a key which was sent in clear never works and somebody notices; a
    redirect would hide that. The key is not revoked: a proxy that is set up wrongly would end all of them.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not settings.MESHES_HTTPS:
            return self.get_response(request)
        if security_log.came_over_https(request.META):
            request.META["wsgi.url_scheme"] = "https"
        if request.is_secure() or request.path_info in HEALTH:
            return self.get_response(request)
        if speaks_json(request):
            return _refuse(request)
        return HttpResponsePermanentRedirect(f"https://{request.get_host()}{request.get_full_path()}")


class AdminHosts:
    """Middleware: with `MESHES_ADMIN_HOSTS`, the admin is under these hosts and all else under the others."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not settings.MESHES_ADMIN_HOSTS or is_here(request):
            return self.get_response(request)
        return handler404(request, LookupError("not under this host"))


def is_here(request: HttpRequest) -> bool:
    """Whether the path is served under the request's host."""
    if _is_below(request.path_info, HEALTH):
        return True
    host, _ = split_domain_port(request.get_host())
    if validate_host(host, settings.MESHES_ADMIN_HOSTS):
        return request.path_info == "/" or _is_below(request.path_info, ADMIN_ALONE)
    return not _is_below(request.path_info, ADMIN)


def _is_below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _refuse(request: HttpRequest) -> HttpResponseBase:
    key = named_key(request.META.get("HTTP_AUTHORIZATION", ""))
    security_log.count_refusal(request.META, "403 https_required", key=key)
    error = {"header": "X-Forwarded-Proto", "detail": SPILLED, "rule": "https_required"}
    return render(Problem(403, "https_required", "The API answers over https only", SPILLED, errors=[error]))
