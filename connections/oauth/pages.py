"""The pages that a customer's browser sees: a connect link, the way to the vendor, and the end of an authorization.

They run no script, load nothing from elsewhere, tell nobody where they were, and hold no secret. A cookie that says
nothing names the browser, so that an authorization ends in the one that began it.

With a connect link a customer without an account here authorizes one connection. It is a signed text that names its
connection, its end, and the generation of the connection's links; nothing is stored. A success, disconnecting and
deleting begin another generation, so that every link before is void. The making of a link and each use, which is a
click on its page, are in the access log.
"""

import hmac
import math
import re
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from django.conf import settings
from django.core import signing
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import path, reverse
from django.utils.crypto import salted_hmac
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_safe

from connections import outside, providers
from connections.credentials import owner_of
from connections.models import Connection, OAuthGrant
from connections.oauth import authorize
from connections.oauth.authorize import NOT_AUTHORIZABLE, AuthorizationError
from meshes.kit import clock
from workspaces import limits, security_log
from workspaces.vault.access_log import record_action

# --- connect links --------------------------------------------------------------------------------------------------

DEFAULT_SECONDS = 7 * 86_400
LONGEST_SECONDS = 30 * 86_400
SHORTEST_SECONDS = 60
LINK_SALT = "connections.oauth.links"  # links that customers hold are signed with it
MAX_LENGTH = 300


Link = tuple[Connection, datetime]
"""A link that is good: its connection, with its workspace, and its end."""


@transaction.atomic
def issue_link(connection: Connection, seconds: int, *, actor: str) -> tuple[str, datetime]:
    """A link's token, for a URL's path, and its end. `actor` is for the access record."""
    _record(connection, actor, "link_made")
    grant, _ = OAuthGrant.objects.get_or_create(
        connection=connection, defaults={"workspace_id": connection.workspace_id}
    )
    expires_at = (clock.database_now() + timedelta(seconds=seconds)).replace(microsecond=0)
    claims = [connection.pk.hex, grant.link_generation, int(expires_at.timestamp())]
    return signing.dumps(claims, salt=LINK_SALT), expires_at


@contextmanager
def using_link(token: str) -> Iterator[Link | None]:
    """The link, if it is good, and so until the end of this: no success ends it meanwhile. Its use is recorded."""
    with transaction.atomic():
        link = read_link(token)
        if link is not None:
            Connection.objects.select_for_update(no_key=True).filter(pk=link[0].pk).first()
            link = read_link(token)
        if link is not None:
            _record(link[0], authorize.LINK_ACTOR, "link_used")
        yield link


def _record(connection: Connection, actor: str, purpose: Literal["link_made", "link_used"]) -> None:
    record_action(**owner_of(connection), actor=actor, purpose=purpose)


def read_link(token: str) -> Link | None:
    """The link that a token stands for; None where it is forged, over, or void."""
    try:
        pk, generation, expires = signing.loads(token if len(token) <= MAX_LENGTH else "", salt=LINK_SALT)
    except signing.BadSignature:
        return None
    expires_at = datetime.fromtimestamp(expires, UTC)
    if expires_at <= clock.database_now():
        return None
    connection = (
        Connection.objects.filter(pk=uuid.UUID(pk), oauth_grant__link_generation=generation, workspace__deleted_at=None)
        .exclude(status=Connection.Status.DELETED)
        .select_related("workspace")
        .first()
    )
    return None if connection is None else (connection, expires_at)


# --- pages ----------------------------------------------------------------------------------------------------------

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

VOID = (
    "This link is no longer valid",
    "It was used, has expired or was withdrawn. Ask whoever sent it to you for a new one.",
)
OTHER_WINDOW = (
    "Please open this address in a window of its own",
    "It was asked for ahead of time, or inside another page. Nothing has begun, and it is still good.",
)
TOO_MANY = (
    "Please wait a moment",
    "This connection has been started many times in the last minute. Wait a little, and try again.",
)
OVER = ("There is nothing more to see here", "This page told how an authorization ended, and is over.")
BUSY = (
    "Please reload this page in a moment",
    "Too many authorizations are being completed. Nothing is lost: reload this page to go on.",
)
NO_COOKIE = (
    "Please try again",
    "Your browser did not send back the cookie of this page. Allow cookies for this site and open the link again.",
)


@require_GET
def start(request: HttpRequest, ticket: str) -> HttpResponse:
    """Where an application sends the browser of whoever may give access. It goes on to the vendor, in this browser."""
    ahead = "".join(request.headers.get(name, "") for name in ("Sec-Purpose", "Purpose", "X-Moz")).lower()
    kind = (request.headers.get("Sec-Fetch-Mode", "navigate"), request.headers.get("Sec-Fetch-Dest", "document"))
    if "prefetch" in ahead or kind != ("navigate", "document"):  # a look ahead, a frame, or a picture: nobody opens it
        return _failure(request, *OTHER_WINDOW, 403)
    cookie = _cookie_of(request) or secrets.token_urlsafe(32)
    try:
        url = authorize.take_up(ticket, cookie)
    except AuthorizationError as error:
        return _failure(request, error.heading, error.detail, 409 if error.reason == NOT_AUTHORIZABLE else 404)
    response = HttpResponseRedirect(url, status=303, headers=HEADERS)
    _set_cookie(response, cookie)
    return response


@require_GET
def callback(request: HttpRequest, vendor: str | None = None) -> HttpResponse:
    """Where vendors send the browser back to. It goes on to a page whose address has neither code nor state."""
    answer = {name: str(values[0]) for name, values in request.GET.lists() if len(values) == 1}
    title, message = "", ""
    connection: Connection | None
    try:
        with outside.place():
            connection = authorize.complete(answer, _cookie_of(request) or "", authorize.callback_path(vendor))
    except outside.OutsideBusyError as busy:
        return _failure(request, *BUSY, 503, wait=busy.retry_after)
    except AuthorizationError as error:
        title, message, connection = error.heading, error.detail, error.connection
        if connection is None:
            security_log.count_refusal(request.META, "400 state")
    token = signing.dumps([title, message, "" if connection is None else connection.pk.hex], salt=OUTCOME_SALT)
    return HttpResponseRedirect(reverse("oauth-outcome", args=[token]), status=303, headers=HEADERS)


@require_safe
def outcome(request: HttpRequest, token: str) -> HttpResponse:
    """How an authorization ended; it may be opened again."""
    try:
        title, message, pk = signing.loads(token, salt=OUTCOME_SALT, max_age=OUTCOME_SECONDS)
    except signing.BadSignature:
        return _failure(request, *OVER, 404)
    connection = Connection.objects.filter(pk=pk).select_related("workspace").first() if pk else None
    if title or connection is None:
        return _failure(request, title or OVER[0], message or OVER[1], 400, connection)
    facts = {"account": _account_of(connection), "is_running": connection.status == Connection.Status.ACTIVE}
    return _page(request, "connected", 200, connection, facts)


@csrf_exempt  # Django's check needs an origin, which pages without a referrer do not send; `_proof` replaces it
@require_http_methods(["GET", "HEAD", "POST"])
def connect(request: HttpRequest, token: str) -> HttpResponse:
    """A connect link: what it connects, and after a click the way to the vendor."""
    link = read_link(token)
    if link is None:
        return _failure(request, *VOID, 404)
    connection, cookie = link[0], _cookie_of(request)
    if request.method != "POST":
        return _offer(request, link, token, cookie or secrets.token_urlsafe(32))
    if cookie is None or not _is_proven(request.POST.get("proof", ""), cookie, token):
        return _failure(request, *NO_COOKIE, 403, connection)
    if (wait := limits.take_authorization(connection.pk)) is not None:
        return _failure(request, *TOO_MANY, 429, connection, wait=math.ceil(wait))
    with using_link(token) as link:
        if link is None:
            return _failure(request, *VOID, 404)
        try:
            url = authorize.begin(link[0], cookie, authorize.redirect_uri(request, connection.type))
        except AuthorizationError as error:
            return _failure(request, error.heading, error.detail, 409, connection)
    return _page(request, "leaving", 200, connection, {"url": url})


def _offer(request: HttpRequest, link: Link, token: str, cookie: str) -> HttpResponse:
    connection, expires_at = link
    try:
        _, oauth = authorize.provider_of(connection)
    except AuthorizationError as error:
        return _failure(request, "It cannot be connected", error.detail, 409, connection)
    facts = {
        "proof": _proof(cookie, token, settings.SECRET_KEY),
        "expires_at": expires_at,
        "scopes": oauth.scopes,
        "is_connected": "access_token" in connection.credential_hints,
        "account": _account_of(connection),
    }
    response = _page(request, "connect", 200, connection, facts)
    _set_cookie(response, cookie)
    return response


def _account_of(connection: Connection) -> str:
    return connection.account_name or connection.account_id


def _failure(
    request: HttpRequest, title: str, message: str, status: int, connection: Connection | None = None, wait: int = 0
) -> HttpResponse:
    response = _page(request, "failed", status, connection, {"title": title, "words": message})
    if wait:
        response["Retry-After"] = str(wait)
    return response


def _page(
    request: HttpRequest, name: str, status: int, connection: Connection | None, facts: dict[str, Any]
) -> HttpResponse:
    if connection is not None:
        vendor = providers.get(connection.type).name
        facts |= {"vendor": vendor, "workspace": connection.workspace.name, "connection": connection.name}
    body = render_to_string(f"oauth/{name}.html", facts, request=request)
    return HttpResponse(body, status=status, headers=HEADERS)


# --- the browser's cookie -------------------------------------------------------------------------------------------

COOKIE = "meshes_connect"
"""Over https `__Host-` comes before it: no other host of the domain can set it."""
COOKIE_SECONDS = 3600
_COOKIE_FORM = re.compile(r"[A-Za-z0-9_-]{43}")


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


urlpatterns = [
    path("oauth/start/<str:ticket>", start, name="oauth-start"),
    path("oauth/callback", callback, name="oauth-callback"),
    path("oauth/callback/<str:vendor>", callback, name="oauth-vendor-callback"),
    path("oauth/outcome/<str:token>", outcome, name="oauth-outcome"),
    path("connect/<str:token>", connect, name="oauth-connect"),
]
