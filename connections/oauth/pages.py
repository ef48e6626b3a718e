"""The pages that a customer's browser sees: a connect link, and the end of an authorization.

They run no script, load nothing from elsewhere, tell nobody where they were, and hold no secret. A cookie that says
nothing names the browser, so that an authorization ends in the one that began it.
"""

import hmac
import re
import secrets
from typing import Any

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.crypto import salted_hmac
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_safe

from connections import outside, providers
from connections.models import Connection
from connections.oauth import authorizing, links, states
from connections.oauth.addresses import redirect_uri
from connections.oauth.authorizing import AuthorizationFailed, NotAuthorizable
from connections.oauth.links import Link

COOKIE = "meshes_connect"
COOKIE_SECONDS = 3600
_COOKIE_FORM = re.compile(r"[A-Za-z0-9_-]{43}")

OUTCOME_SALT = "connections.oauth.pages.outcome"
OUTCOME_SECONDS = 600

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}

VOID_TITLE = "This link is no longer valid"
VOID_WORDS = "It has expired or was withdrawn. Ask whoever sent it to you for a new one."
OVER_TITLE = "There is nothing more to see here"
OVER_WORDS = "This page told how an authorization ended, and is over."
BUSY_TITLE = "Please reload this page in a moment"
BUSY_WORDS = "Too many authorizations are being completed. Nothing is lost: reload this page to go on."
AGAIN_TITLE = "Please try again"
AGAIN_WORDS = (
    "Your browser did not send back the cookie of this page. Allow cookies for this site and open the link again."
)


@require_GET
def callback(request: HttpRequest) -> HttpResponse:
    """Where vendors send the browser back to. It goes on to a page whose address has neither code nor state."""
    answer = {name: value for name, value in request.GET.items() if isinstance(value, str)}
    title, words = "", ""
    connection: Connection | None
    try:
        with outside.place():
            connection = authorizing.complete(answer, request.COOKIES.get(COOKIE, ""))
    except outside.NoPlace as busy:
        response = _failure(request, BUSY_TITLE, BUSY_WORDS, 503)
        response["Retry-After"] = str(busy.retry_after)
        return response
    except AuthorizationFailed as failed:
        title, words, connection = failed.title, failed.words, failed.connection
    token = signing.dumps([title, words, "" if connection is None else connection.pk.hex], salt=OUTCOME_SALT)
    return HttpResponseRedirect(reverse("oauth-outcome", args=[token]), status=303, headers=HEADERS)


@require_safe
def outcome(request: HttpRequest, token: str) -> HttpResponse:
    """How an authorization ended; it may be opened again."""
    try:
        title, words, pk = signing.loads(token, salt=OUTCOME_SALT, max_age=OUTCOME_SECONDS)
    except signing.BadSignature:
        return _failure(request, OVER_TITLE, OVER_WORDS, 404)
    connection = Connection.objects.filter(pk=pk).select_related("workspace").first() if pk else None
    if title or connection is None:
        return _failure(request, title or OVER_TITLE, words or OVER_WORDS, 400, connection)
    facts = {"account": _account_of(connection), "is_running": connection.status == Connection.Status.ACTIVE}
    return _page(request, "connected", 200, _facts_of(connection) | facts)


@csrf_exempt  # Django's check needs an origin, which pages without a referrer do not send; `_proof` stands for it
@require_http_methods(["GET", "HEAD", "POST"])
def connect(request: HttpRequest, token: str) -> HttpResponse:
    """A connect link: what it connects, and after a click the way to the vendor."""
    link = links.read(token)
    if link is None:
        return _failure(request, VOID_TITLE, VOID_WORDS, 404)
    cookie = _cookie_of(request)
    if request.method != "POST":
        return _offer(request, link, token, cookie or secrets.token_urlsafe(32))
    if cookie is None or not hmac.compare_digest(
        request.POST.get("proof", "").encode(), _proof(cookie, token).encode()
    ):
        return _failure(request, AGAIN_TITLE, AGAIN_WORDS, 403, link.connection)
    try:
        begun = authorizing.begin(link.connection, states.browser_session(cookie), redirect_uri(request))
    except NotAuthorizable as problem:
        return _failure(request, "It cannot be connected now", str(problem), 409, link.connection)
    return _page(request, "leaving", 200, _facts_of(link.connection) | {"url": begun.url})


def _offer(request: HttpRequest, link: Link, token: str, cookie: str) -> HttpResponse:
    connection = link.connection
    try:
        _, oauth = authorizing.provider_of(connection)
    except NotAuthorizable as problem:
        return _failure(request, "It cannot be connected", str(problem), 409, connection)
    facts = {
        "proof": _proof(cookie, token),
        "expires_at": link.expires_at,
        "scopes": oauth.scopes,
        "is_connected": "access_token" in connection.credential_hints,
        "account": _account_of(connection),
    }
    response = _page(request, "connect", 200, _facts_of(connection) | facts)
    response.set_cookie(
        COOKIE, cookie, max_age=COOKIE_SECONDS, secure=settings.SESSION_COOKIE_SECURE, httponly=True, samesite="Lax"
    )  # Lax: the vendor's redirect back brings it along
    return response


def _cookie_of(request: HttpRequest) -> str | None:
    cookie = request.COOKIES.get(COOKIE, "")
    return cookie if _COOKIE_FORM.fullmatch(cookie) else None


def _proof(cookie: str, token: str) -> str:
    """What only a page that was shown to this browser has in its form."""
    return salted_hmac("connections.oauth.pages", f"{cookie}\n{token}", algorithm="sha256").hexdigest()


def _facts_of(connection: Connection) -> dict[str, Any]:
    vendor = providers.get(connection.type).name
    return {"vendor": vendor, "workspace": connection.workspace.name, "connection": connection.name}


def _account_of(connection: Connection) -> str:
    return connection.account_name or connection.account_id


def _failure(
    request: HttpRequest, title: str, words: str, status: int, connection: Connection | None = None
) -> HttpResponse:
    facts = {} if connection is None else _facts_of(connection)
    return _page(request, "failed", status, facts | {"title": title, "words": words})


def _page(request: HttpRequest, name: str, status: int, context: dict[str, Any]) -> HttpResponse:
    body = render_to_string(f"oauth/{name}.html", context, request=request)
    return HttpResponse(body, status=status, headers=HEADERS)
