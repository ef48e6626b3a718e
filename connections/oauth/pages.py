"""The pages that a customer's browser sees: a connect link, the way to the vendor, and the end of an authorization.

They run no script, load nothing from elsewhere, tell nobody where they were, and hold no secret. A cookie that says
nothing names the browser, so that an authorization ends in the one that began it.
"""

import hmac
import math
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
from connections.oauth import authorizing, links
from connections.oauth.addresses import callback_path, redirect_uri
from connections.oauth.authorizing import AuthorizationFailed, NotAuthorizable
from connections.oauth.links import Link
from workspaces import limits, security_log

COOKIE = "meshes_connect"
"""Over https `__Host-` stands before it: no other host of the domain can set it."""
COOKIE_SECONDS = 3600
_COOKIE_FORM = re.compile(r"[A-Za-z0-9_-]{43}")

OUTCOME_SALT = "connections.oauth.pages.outcome"
OUTCOME_SECONDS = 600

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; object-src 'none';"
    " base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}

VOID_TITLE = "This link is no longer valid"
VOID_WORDS = "It was used, has expired or was withdrawn. Ask whoever sent it to you for a new one."
WINDOW_TITLE = "Please open this address in a window of its own"
WINDOW_WORDS = "It was asked for ahead of time, or inside another page. Nothing has begun, and it is still good."
MANY_TITLE = "Please wait a moment"
MANY_WORDS = "This connection has been started many times in the last minute. Wait a little, and try again."
NOT_NOW_TITLE = "It cannot be connected now"
OVER_TITLE = "There is nothing more to see here"
OVER_WORDS = "This page told how an authorization ended, and is over."
BUSY_TITLE = "Please reload this page in a moment"
BUSY_WORDS = "Too many authorizations are being completed. Nothing is lost: reload this page to go on."
AGAIN_TITLE = "Please try again"
AGAIN_WORDS = (
    "Your browser did not send back the cookie of this page. Allow cookies for this site and open the link again."
)


@require_GET
def start(request: HttpRequest, ticket: str) -> HttpResponse:
    """Where an application sends the browser of whoever may give access. It goes on to the vendor, in this browser."""
    if not _is_opened(request):
        return _failure(request, WINDOW_TITLE, WINDOW_WORDS, 403)
    cookie = _cookie_of(request) or secrets.token_urlsafe(32)
    try:
        url = authorizing.take_up(ticket, cookie)
    except AuthorizationFailed as failed:
        return _failure(request, failed.title, failed.words, 404)
    except NotAuthorizable as problem:
        return _failure(request, NOT_NOW_TITLE, str(problem), 409)
    response = HttpResponseRedirect(url, status=303, headers=HEADERS)
    _set_cookie(response, cookie)
    return response


def _is_opened(request: HttpRequest) -> bool:
    """Whether somebody opens the address, as far as the browser says so: not a look ahead, a frame, or a picture."""
    ahead = "".join(request.headers.get(name, "") for name in ("Sec-Purpose", "Purpose", "X-Moz")).lower()
    kind = (request.headers.get("Sec-Fetch-Mode", "navigate"), request.headers.get("Sec-Fetch-Dest", "document"))
    return "prefetch" not in ahead and kind == ("navigate", "document")


@require_GET
def callback(request: HttpRequest, vendor: str | None = None) -> HttpResponse:
    """Where vendors send the browser back to. It goes on to a page whose address has neither code nor state."""
    answer = {name: str(values[0]) for name, values in request.GET.lists() if len(values) == 1}
    title, words = "", ""
    connection: Connection | None
    try:
        with outside.place():
            connection = authorizing.complete(answer, _cookie_of(request) or "", callback_path(vendor))
    except outside.NoPlace as busy:
        response = _failure(request, BUSY_TITLE, BUSY_WORDS, 503)
        response["Retry-After"] = str(busy.retry_after)
        return response
    except AuthorizationFailed as failed:
        title, words, connection = failed.title, failed.words, failed.connection
        if connection is None:
            security_log.count_refusal(request.META, "400 state")
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
    if cookie is None or not _is_proven(request.POST.get("proof", ""), cookie, token):
        return _failure(request, AGAIN_TITLE, AGAIN_WORDS, 403, link.connection)
    if (wait := limits.take_authorization(link.connection.pk)) is not None:
        response = _failure(request, MANY_TITLE, MANY_WORDS, 429, link.connection)
        response["Retry-After"] = str(math.ceil(wait))
        return response
    return _leave(request, token, cookie)


def _leave(request: HttpRequest, token: str, cookie: str) -> HttpResponse:
    with links.using(token) as link:
        if link is None:
            return _failure(request, VOID_TITLE, VOID_WORDS, 404)
        try:
            url = authorizing.begin(link.connection, cookie, redirect_uri(request, link.connection.type))
        except NotAuthorizable as problem:
            return _failure(request, NOT_NOW_TITLE, str(problem), 409, link.connection)
    return _page(request, "leaving", 200, _facts_of(link.connection) | {"url": url})


def _offer(request: HttpRequest, link: Link, token: str, cookie: str) -> HttpResponse:
    connection = link.connection
    try:
        _, oauth = authorizing.provider_of(connection)
    except NotAuthorizable as problem:
        return _failure(request, "It cannot be connected", str(problem), 409, connection)
    facts = {
        "proof": _proof(cookie, token, settings.SECRET_KEY),
        "expires_at": link.expires_at,
        "scopes": oauth.scopes,
        "is_connected": "access_token" in connection.credential_hints,
        "account": _account_of(connection),
    }
    response = _page(request, "connect", 200, _facts_of(connection) | facts)
    _set_cookie(response, cookie)
    return response


def _set_cookie(response: HttpResponse, cookie: str) -> None:
    response.set_cookie(
        _cookie_name(),
        cookie,
        max_age=COOKIE_SECONDS,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",  # the vendor's redirect back brings it along
    )


def _cookie_name() -> str:
    return f"__Host-{COOKIE}" if settings.SESSION_COOKIE_SECURE else COOKIE


def _cookie_of(request: HttpRequest) -> str | None:
    cookie = request.COOKIES.get(_cookie_name(), "")
    return cookie if _COOKIE_FORM.fullmatch(cookie) else None


def _is_proven(given: str, cookie: str, token: str) -> bool:
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return any(hmac.compare_digest(given.encode(), _proof(cookie, token, key).encode()) for key in keys)


def _proof(cookie: str, token: str, key: str) -> str:
    """What only a page that was shown to this browser has in its form."""
    return salted_hmac("connections.oauth.pages", f"{cookie}\n{token}", key, algorithm="sha256").hexdigest()


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
