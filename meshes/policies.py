"""What every answer tells browsers, and which methods pages have."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase

from meshes.problems import refuse_method, speaks_json

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""For every page that has no stricter one: our own files only, nothing inline. `data:` is for icons in style sheets."""

PAGE_METHODS = ("GET", "HEAD", "POST")
UNKNOWN_METHOD = "UNKNOWN"


class ContentSecurityPolicy:
    """Middleware, the outermost: the policy stands on every answer, whatever it came from."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        return response


class PageMethods:
    """Middleware: outside the API, where views look after their methods, pages have these and no others.

    Methods are case-sensitive (RFC 9110, 9.1): Django and DRF would take `get` for GET.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.META["REQUEST_METHOD"] != request.method:
            request.method = UNKNOWN_METHOD
        if request.method in PAGE_METHODS or speaks_json(request):
            return self.get_response(request)
        return refuse_method(request, PAGE_METHODS)
