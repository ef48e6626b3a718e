"""Notes that a session is in use."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase

from meshes.signin.sessions import mark_seen


class SessionActivity:
    """Middleware: who opens a page or sends a form is there. What a page's script fetches by itself keeps nobody in.

    Browsers say which it is (`Sec-Fetch-Dest`, W3C Fetch Metadata), and no script can say otherwise.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        session = request.session
        if session.accessed and session.session_key and request.headers.get("Sec-Fetch-Dest") != "empty":
            mark_seen(session.session_key)
        return response
