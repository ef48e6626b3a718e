"""Notes that a session is in use, and has browsers keep nothing of one that is over."""

from collections.abc import Callable
from urllib.parse import urlencode

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse

from meshes.console.signin.sessions import mark_seen, seconds_left

KEPT_BY_BROWSERS = '"cache", "storage"'
"""What is cleared; cookies are not, as the one that tells a known browser stays."""


class SessionActivity:
    """Middleware: who opens a page or sends a form is there. What a page's script fetches by itself keeps nobody in.

    Browsers say which it is (`Sec-Fetch-Dest`, W3C Fetch Metadata), and no script can say otherwise. A page leaves the
    screen when its session has ended for want of requests, also where we are not reached any more by then.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        session = request.session
        if session.is_empty():
            if session.accessed and settings.SESSION_COOKIE_NAME in request.COOKIES:
                response.headers["Clear-Site-Data"] = KEPT_BY_BROWSERS
        elif session.accessed and session.session_key:
            if request.headers.get("Sec-Fetch-Dest") != "empty":
                mark_seen(session.session_key)
            if response.status_code == 200 and response.headers.get("Content-Type", "").startswith("text/html"):
                place = f"{reverse('admin:away')}?{urlencode({'next': request.get_full_path()})}"
                response.headers["Refresh"] = f"{seconds_left(session)}; url={place}"
        return response
