"""Middleware: how a request may come, and what every answer tells, browsers and whoever watches."""

import math
from collections.abc import Callable
from urllib.parse import urlencode

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponsePermanentRedirect
from django.http.request import split_domain_port, validate_host
from django.shortcuts import render
from django.urls import reverse

from meshes.answers import HEADERS
from meshes.api import problems
from meshes.api.problems import Problem, ProblemResponse, speaks_json
from meshes.console.signin import sessions
from workspaces import security_log
from workspaces.authentication import REFUSED_KEY, Identity, named_key
from workspaces.limits import DEVICE_SECONDS, TooManyGuessesError

Answer = Callable[[HttpRequest], HttpResponseBase]


class Middleware:
    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response


PAGE_METHODS = ("GET", "HEAD", "POST")
UNKNOWN_METHOD = "UNKNOWN"


class AnswerHeaders(Middleware):
    """The outermost: they stand on every answer, whatever it came from."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response


class PageMethods(Middleware):
    """Outside the API, where views look after their methods, pages have these and no others.

    Methods are case-sensitive (RFC 9110, 9.1): Django and DRF would take `get` for GET.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.META["REQUEST_METHOD"] != request.method:
            request.method = UNKNOWN_METHOD
        if request.method in PAGE_METHODS or speaks_json(request):
            return self.get_response(request)
        return problems.refuse_method(request, PAGE_METHODS)


# --- https, and hosts -------------------------------------------------------------------------------------------------

HEALTH = ("/healthz", "/readyz")
"""What watches a process asks it directly: over http, and by whatever name it is reached."""
ADMIN = ("/admin",)
ADMIN_ALONE = (*HEALTH, *ADMIN, "/static", "/favicon.ico")
"""All that answers under a host of the admin."""
SPILLED = (
    "This request came over http, so that whoever is on the way may have read it. Nothing was done. Treat the key that"
    " it brought as known to others: rotate it, and call https:// from now on."
)


class RequireHttps(Middleware):
    """With `MESHES_HTTPS`, pages that were asked for over http are redirected, and the API refuses.

    It refuses before any key is looked at, so that a key which was sent in clear never works and somebody notices; a
    redirect would hide that. The key is not revoked: a proxy that is set up wrongly would end all of them.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not settings.MESHES_HTTPS:
            return self.get_response(request)
        if security_log.came_over_https(request.META):
            request.META["wsgi.url_scheme"] = "https"
        if request.is_secure() or request.path_info in HEALTH:
            return self.get_response(request)
        if speaks_json(request):
            key = named_key(request.META.get("HTTP_AUTHORIZATION", ""))
            security_log.count_refusal(request.META, "403 https_required", key=key)
            error = {"header": "X-Forwarded-Proto", "detail": SPILLED, "rule": "https_required"}
            title = "The API answers over https only"
            return problems.render(Problem(403, "https_required", title, SPILLED, errors=[error]))
        return HttpResponsePermanentRedirect(f"https://{request.get_host()}{request.get_full_path()}")


class AdminHosts(Middleware):
    """With `MESHES_ADMIN_HOSTS`, the admin is under these hosts and all else under the others."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not settings.MESHES_ADMIN_HOSTS or is_here(request):
            return self.get_response(request)
        return problems.handler404(request, LookupError("not under this host"))


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


# --- sessions of operators --------------------------------------------------------------------------------------------

KEPT_BY_BROWSERS = '"cache", "storage"'
"""What is cleared; cookies are not, as the one that tells a known browser stays."""


class SessionActivity(Middleware):
    """Who opens a page or sends a form is there. What a page's script fetches by itself keeps nobody in.

    Browsers say which it is (`Sec-Fetch-Dest`, W3C Fetch Metadata), and no script can say otherwise. A page leaves the
    screen when its session has ended for want of requests, also where we are not reached any more by then. Browsers
    keep nothing of a session that is over.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        session = request.session
        if session.is_empty():
            if session.accessed and settings.SESSION_COOKIE_NAME in request.COOKIES:
                response.headers["Clear-Site-Data"] = KEPT_BY_BROWSERS
        elif session.accessed and session.session_key:
            if request.headers.get("Sec-Fetch-Dest") != "empty":
                sessions.mark_seen(session.session_key)
            if response.status_code == 200 and response.headers.get("Content-Type", "").startswith("text/html"):
                place = f"{reverse('admin:away')}?{urlencode({'next': request.get_full_path()})}"
                response.headers["Refresh"] = f"{sessions.seconds_left(session)}; url={place}"
        return response


# --- refusals ---------------------------------------------------------------------------------------------------------

REFUSED = (401, 403, 429)
"""Answers of the API that are counted: no key, no right, too much."""
FORGED = "cursor"
"""The rule of a page's cursor that we have not signed, or that is another list's."""
LINKS = ("/connect/", "/oauth/")
"""Pages that a link, a state or a ticket opens, of which somebody may try many."""


class CountRefusals(Middleware):
    """What was refused, and what a flood or a guesser can repeat, is counted for `meshes.security`."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if not speaks_json(request):
            _count_page(request, response.status_code)
        elif response.status_code in REFUSED or (response.status_code == 422 and _why(response) == FORGED):
            identity = getattr(request, "auth", None)
            key = identity.actor if isinstance(identity, Identity) else request.META.get(REFUSED_KEY, "")
            security_log.count_refusal(request.META, f"{response.status_code} {_why(response)}", key=key)
        return response


def _count_page(request: HttpRequest, status: int) -> None:
    if status == 403:
        user = getattr(request, "user", None)
        security_log.count_refusal(request.META, "403 page", user=user.get_username() if user else "")
    elif status in (400, 404) and request.path_info.startswith(LINKS):
        security_log.count_refusal(request.META, f"{status} link")


class GuessLimits(Middleware):
    """A guess that was not tried is answered 429; a browser in which somebody logged in is remembered."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if (device := request.META.get(sessions.NEW_DEVICE)) and isinstance(response, HttpResponse):
            response.set_cookie(
                settings.MESHES_DEVICE_COOKIE_NAME,
                device,
                max_age=DEVICE_SECONDS,
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Strict",
            )
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, TooManyGuessesError):
            return None
        seconds = math.ceil(exception.seconds)
        page = render(request, "meshes/too_many_guesses.html", {"seconds": seconds}, status=429)
        page["Retry-After"] = str(seconds)
        page["Cache-Control"] = "no-store"
        return page


def _why(response: HttpResponseBase) -> str:
    if not isinstance(response, ProblemResponse):
        return "refused"
    problem = response.problem
    return problem.errors[0].get("rule", problem.slug) if problem.errors else problem.slug
