"""What is refused, told to whoever watches, and to whoever guesses too fast."""

import math
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render

from meshes.api.problems import ProblemResponse, speaks_json
from meshes.console.signin.sessions import NEW_DEVICE
from workspaces import security_log
from workspaces.authentication import REFUSED_KEY, Identity
from workspaces.limits import DEVICE_SECONDS, TooManyGuessesError

REFUSED = (401, 403, 429)
"""Answers of the API that are counted: no key, no right, too much."""
FORGED = "cursor"
"""The rule of a page's cursor that we have not signed, or that is another list's."""
LINKS = ("/connect/", "/oauth/")
"""Pages that a link, a state or a ticket opens, of which somebody may try many."""


class CountRefusals:
    """Middleware: what was refused, and what a flood or a guesser can repeat, is counted for `meshes.security`."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

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


class GuessLimits:
    """Middleware: a guess that was not tried is answered 429; a browser in which somebody logged in is remembered."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if (device := request.META.get(NEW_DEVICE)) and isinstance(response, HttpResponse):
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
