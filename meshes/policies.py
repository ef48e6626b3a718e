"""What every answer tells browsers, and which methods pages have."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase

from meshes.api.problems import refuse_method, speaks_json
from meshes.headers import HEADERS

PAGE_METHODS = ("GET", "HEAD", "POST")
UNKNOWN_METHOD = "UNKNOWN"


class AnswerHeaders:
    """Middleware, the outermost: they stand on every answer, whatever it came from."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
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
