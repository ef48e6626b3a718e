"""Errors as RFC 9457 problem+json: one exception to raise, one place that turns every exception into an answer.

    {"type": "urn:meshes:problem:invalid", "title": "…", "status": 422, "detail": "…",
     "errors": [{"pointer": "/payload", "detail": "…", "rule": "required"}]}

`errors` names each place by `pointer` (RFC 6901, into the body), `parameter` (of the query) or `header`.
"""

import functools
import json
import logging
import math
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from django import shortcuts
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.core.exceptions import ValidationError as ModelValidationError
from django.db import Error
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, UnreadablePostError
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions
from rest_framework.settings import api_settings

from meshes.kit.database_faults import Fault, fault_of
from meshes.kit.strictjson import pointer

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
SAFE_METHODS = ("GET", "HEAD")
MAX_ERRORS = 100
"""Mistakes that one answer names; a body of 500 bad events would else be answered with megabytes."""

_TITLES = {
    400: ("bad-request", "The request cannot be read"),
    401: ("unauthenticated", "A valid API key or machine token is needed"),
    403: ("forbidden", "This key may not do that"),
    404: ("not-found", "There is nothing here"),
    405: ("method-not-allowed", "This method is not allowed here"),
    406: ("not-acceptable", "The answer has no form that the request accepts"),
    408: ("request-timeout", "The request did not arrive in time"),
    409: ("conflict", "The request conflicts with the present state"),
    411: ("length-required", "The request must say how long its body is"),
    413: ("body-too-large", "The body is too large"),
    414: ("address-too-long", "The address of the request is too long"),
    415: ("unsupported-media-type", "The body must be application/json in UTF-8"),
    417: ("expectation-failed", "The server does not do what the request expects"),
    422: ("invalid", "The request is not valid"),
    429: ("rate-limited", "Too many requests"),
    431: ("header-too-large", "The header of the request is too large"),
    500: ("internal", "Something went wrong on our side"),
    501: ("not-implemented", "The transfer coding is not known"),
    502: ("vendor", "The vendor did not answer as it should"),
    503: ("unavailable", "The service is not available for a moment"),
}
NO_KEY = "The request has no key: send `Authorization: Bearer <API key or machine token>`; no other header is read."
_UNNAMED = ("error", "The request failed")
_RETRY_SECONDS = 5
"""What a 503 asks for: a restart of PostgreSQL takes a few seconds, a missing partition a minute at most."""


class Problem(Exception):  # noqa: N818 - RFC 9457's word, and it reads so where it is raised
    """An answer that is an error. `slug` and `title` follow from the status unless given."""

    def __init__(
        self,
        status: int,
        slug: str = "",
        title: str = "",
        detail: str = "",
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        instance: str = "",
    ) -> None:
        default_slug, default_title = _TITLES.get(status, _UNNAMED)
        super().__init__(title or default_title)
        self.status = status
        self.slug = slug or default_slug
        self.title = title or default_title
        self.detail = detail
        self.errors = list(errors[:MAX_ERRORS])
        self.headers = dict(headers or {})
        self.instance = instance

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "type": f"urn:meshes:problem:{self.slug}",
            "title": self.title,
            "status": self.status,
        }
        optional = {"detail": self.detail, "instance": self.instance, "errors": self.errors}
        return document | {name: value for name, value in optional.items() if value}


def invalid(pointer: str, detail: str, rule: str) -> Problem:
    """422 that names one place of the body."""
    return Problem(422, errors=[{"pointer": pointer, "detail": detail, "rule": rule}])


def invalid_parameter(parameter: str, detail: str, rule: str) -> Problem:
    """422 that names one parameter of the query."""
    return Problem(422, errors=[{"parameter": parameter, "detail": detail, "rule": rule}])


def title_of(status: int) -> str:
    return _TITLES.get(status, _UNNAMED)[1]


class ProblemResponse(HttpResponse):
    """A problem as an answer. Not a DRF Response: those are written by the renderer that the request asked for."""

    def __init__(self, problem: Problem) -> None:
        body = json.dumps(problem.document(), ensure_ascii=False).encode()
        super().__init__(body, status=problem.status, content_type=CONTENT_TYPE, headers=problem.headers)
        self.problem = problem


def render(problem: Problem) -> HttpResponse:
    return ProblemResponse(problem)


def problem_response(exc: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """DRF's exception handler: whatever was raised in a view becomes an answer."""
    return render(to_problem(exc))


def to_problem(exc: Exception) -> Problem:
    """The problem that stands for an exception; an unforeseen one is logged under an id and says nothing else."""
    if isinstance(exc, Problem):
        return exc
    if isinstance(exc, exceptions.ValidationError):
        return Problem(422, errors=list(_locate(exc.detail, ())))
    if isinstance(exc, exceptions.APIException):
        return _from_drf(exc)
    if isinstance(exc, ModelValidationError):
        return Problem(422, errors=[{"pointer": "", "detail": text, "rule": "invalid"} for text in exc.messages])
    if isinstance(exc, Http404):
        return Problem(404)
    if isinstance(exc, PermissionDenied):
        return Problem(403)
    if isinstance(exc, UnreadablePostError):
        return Problem(400, detail="The body ended before its announced length.")
    if isinstance(exc, Error) and fault_of(exc) in (Fault.PASSING, Fault.CANCELED):
        logger.error("database unavailable: %s", exc)
        return Problem(503, headers={"Retry-After": str(_RETRY_SECONDS)})
    return _unforeseen(exc)


def _from_drf(exc: exceptions.APIException) -> Problem:
    headers, errors, detail = {}, [], str(exc.detail)
    if isinstance(exc, exceptions.AuthenticationFailed | exceptions.NotAuthenticated):
        headers["WWW-Authenticate"] = getattr(exc, "auth_header", "Bearer")
        detail = NO_KEY if isinstance(exc, exceptions.NotAuthenticated) else str(exc.detail)
        rule = "missing" if isinstance(exc, exceptions.NotAuthenticated) else str(exc.get_codes())
        errors = [{"header": "Authorization", "detail": detail, "rule": rule}]
    if wait := getattr(exc, "wait", None):
        headers["Retry-After"] = str(math.ceil(wait))
    return Problem(exc.status_code, detail=detail, errors=errors, headers=headers)


def _unforeseen(exc: BaseException | None) -> Problem:
    instance = f"urn:uuid:{uuid.uuid4()}"
    logger.error("unforeseen error %s", instance, exc_info=exc)
    return Problem(500, detail="Name the instance when you report it.", instance=instance)


def _locate(detail: Any, path: tuple[str | int, ...]) -> Iterator[dict[str, str]]:
    """DRF's nested error details as flat entries: dicts are objects, lists of dicts arrays, other lists messages."""
    if isinstance(detail, Mapping):
        for name, nested in detail.items():
            inner = path if name == api_settings.NON_FIELD_ERRORS_KEY else (*path, name)
            yield from _locate(nested, inner)
    elif isinstance(detail, Sequence) and not isinstance(detail, str):
        for index, nested in enumerate(detail):
            yield from _locate(nested, (*path, index) if isinstance(nested, Mapping) else path)
    else:
        yield {"pointer": pointer(*path), "detail": str(detail), "rule": str(getattr(detail, "code", "") or "invalid")}


# --- outside the views ----------------------------------------------------------------------------------------------


def refuse_method(request: HttpRequest, allowed: Sequence[str]) -> HttpResponse:
    """405: a problem below the API, plain text elsewhere."""
    if speaks_json(request):
        return render(Problem(405, headers={"Allow": ", ".join(allowed)}))
    refusal: HttpResponse = HttpResponseNotAllowed(allowed, b"This method is not allowed here.\n")
    refusal["Content-Type"] = "text/plain; charset=utf-8"
    return refusal


def safe_methods_only(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Django's `require_safe`, with that answer. It comes before the one that a CSRF token is missing."""

    @csrf_exempt
    @functools.wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        return view(request) if request.method in SAFE_METHODS else refuse_method(request, SAFE_METHODS)

    return guarded


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form that came without its CSRF token, or from elsewhere. Django's log has the reason."""
    return render(Problem(403)) if speaks_json(request) else shortcuts.render(request, "meshes/csrf.html", status=403)


def handler400(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not speaks_json(request):
        return defaults.bad_request(request, exception)
    return render(Problem(413 if isinstance(exception, RequestDataTooBig) else 400))


def handler403(request: HttpRequest, exception: Exception) -> HttpResponse:
    return render(Problem(403)) if speaks_json(request) else defaults.permission_denied(request, exception)


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    return render(Problem(404)) if speaks_json(request) else defaults.page_not_found(request, exception)


def handler500(request: HttpRequest) -> HttpResponse:
    """Called while Django handles an exception that no view caught, such as a middleware's."""
    if not speaks_json(request):
        return defaults.server_error(request)
    exc = sys.exc_info()[1]
    return render(to_problem(exc) if isinstance(exc, Exception) else _unforeseen(exc))


def speaks_json(request: HttpRequest) -> bool:
    """Whether errors at this path are problems; elsewhere they are pages."""
    return request.path_info.startswith(("/api", "/healthz", "/readyz"))
