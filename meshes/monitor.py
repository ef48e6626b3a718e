"""Celery's application for Flower (`celery -A meshes.monitor flower`): all that Flower serves is behind its password.

Flower serves everything to everybody where it has no password, and `/metrics` even where it has one; nor does it send a
content security policy. `/healthcheck` stays open: it says OK, to whatever watches the process. Flower only shows:
what would stop workers or send tasks is refused unless MESHES_FLOWER_CONTROL says otherwise, and is logged either way.

The process needs the broker and its logins, and reads nothing else: no settings of Django, no database, no keys.
"""

import atexit
import base64
import hashlib
import json
import logging
import logging.config
import math
import os
import time
from collections import Counter
from typing import Any

from celery import Celery
from django.core.exceptions import ImproperlyConfigured
from flower.api import BaseApiHandler
from flower.app import Flower
from flower.inspector import Inspector
from flower.urls import settings as FLOWER_SETTINGS  # noqa: N812  (the library's dict, which is changed here)
from flower.views import BaseHandler
from flower.views.monitor import Healthcheck
from flower.views.tasks import TasksDataTable
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler

from delivery.lanes.worker import CELERY_SETTINGS, install
from meshes.answers import HEADERS, SHOWN_OF_BROKER, show_settings
from meshes.environment import (
    LEVELS,
    check_logins,
    env,
    envbool,
    envbroker,
    envchoice,
    envint,
    exit_where_misconfigured,
)
from meshes.logs import to_stderr
from workspaces.limits import LocalBuckets, per_hour, per_minute
from workspaces.security_log import client_network

logger, security = logging.getLogger(__name__), logging.getLogger("meshes.security")

INLINE_SCRIPT = "\nvar autorefresh = 1;\n"
"""The one that Flower has, on its page of workers: whether that renews itself."""
_HASH = base64.b64encode(hashlib.sha256(INLINE_SCRIPT.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; script-src 'self' 'sha256-{_HASH}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " font-src 'self'; connect-src 'self'; form-action 'self'; object-src 'none'; base-uri 'none';"
    " frame-ancestors 'none'"
)
"""Its pages have style attributes."""
READING = frozenset({"GET", "HEAD"})
READ_BY_POST = TasksDataTable
"""The page of tasks asks for its rows by POST: their filter is long."""

# --- who logs in ------------------------------------------------------------------------------------------------------
# For `meshes.security`. A browser sends the password with each request, so few are lines. Guesses are counted by
# address, in this process, of which there is one: wrong ones above MESHES_WRONG_PASSWORDS a minute, or ten times as
# many an hour, are not tried until there is room. A right one takes none.

SESSION_SECONDS = 1800.0
"""After so long without a request the next one is a login again."""
WINDOW_SECONDS = 60.0
MOST_KEPT = 1_000
OTHERS = "(others)"

_seen: dict[tuple[str, str], float] = {}
"""By user and address, when the last request came."""
_failed: Counter[tuple[str, str]] = Counter()
"""What was wrong, or not tried, in this minute, and its address; what exceeds `MOST_KEPT` counts as of others."""
WORDS = {401: 'login_failed service="flower"', 429: 'refused kind="429 password" service="flower"'}
HOURS_SHARE = 10
"""As for operators, in workspaces.limits."""
_guesses = LocalBuckets()


def try_guess(handler: BaseHandler, number: int) -> None:
    """Let Flower compare the password, if one came. `number`: of wrong ones by the minute. Raises HTTPError: 401 where
    it is wrong, 429 where it came too soon."""
    is_guess = "Authorization" in handler.request.headers
    network = client_network({"REMOTE_ADDR": handler.request.remote_ip})
    buckets = {f"{network}:minute": per_minute(number), f"{network}:hour": per_hour(number * HOURS_SHARE)}
    if is_guess and (seconds := _guesses.take(buckets, 1)) is not None:
        handler.retry_after = math.ceil(seconds)
        raise HTTPError(429, f"Too many wrong passwords. Try again in {handler.retry_after} s.")
    handler.current_user  # noqa: B018  (raises 401 for a wrong password)
    if is_guess:
        _guesses.take(buckets, -1)


def note_login(handler: RequestHandler, user: str) -> None:
    """A request came with the right password."""
    who, now = (user, str(handler.request.remote_ip)), time.monotonic()
    if now - _seen.pop(who, -SESSION_SECONDS) >= SESSION_SECONDS:
        pairs = f"user={json.dumps(user)} address={json.dumps(who[1])}"
        security.info('login_succeeded service="flower" %s', pairs)
    if len(_seen) >= MOST_KEPT:
        del _seen[next(iter(_seen))]
    _seen[who] = now


def note_failure(handler: RequestHandler) -> None:
    """A request came with a wrong password, or too soon. What name it had is not told: it may have been a password."""
    what = (WORDS[handler.get_status()], str(handler.request.remote_ip))
    if not _failed:
        IOLoop.current().call_later(WINDOW_SECONDS, write_failures)
    _failed[what if what in _failed or len(_failed) < MOST_KEPT else (what[0], OTHERS)] += 1


def write_failures() -> None:
    """Write what was gathered, now."""
    counts = dict(_failed)
    _failed.clear()
    for (words, address), count in counts.items():
        security.warning("%s address=%s count=%d", words, json.dumps(address), count)


# --- Flower, changed --------------------------------------------------------------------------------------------------

with exit_where_misconfigured():
    app = Celery("meshes", broker=envbroker(), fixups=[])  # without Celery's fixups, which load Django's settings
    MAY_CONTROL = envbool("MESHES_FLOWER_CONTROL", False)
    WRONG_PASSWORDS = envint("MESHES_WRONG_PASSWORDS", 10)
    inspector = {"flower.inspector": {"level": "ERROR"}}  # it starts before workers do, and asks them
    logging.config.dictConfig(to_stderr(envchoice("MESHES_LOG_LEVEL", LEVELS, "INFO"), inspector))
    if logins := env("FLOWER_BASIC_AUTH"):
        os.environ["FLOWER_BASIC_AUTH"] = logins  # where Flower looks, also for what a file holds
atexit.register(write_failures)
install(app)
app.conf.update(CELERY_SETTINGS)

_set_default_headers = BaseHandler.set_default_headers
_prepare_api = BaseApiHandler.prepare
_start_http_server = Flower.start_http_server
_on_update = Inspector._on_update


def start_http_server(flower: Flower) -> Any:
    """Not before it is known that there is a password, wherever Flower took it from."""
    with exit_where_misconfigured():
        if not any(flower.options.basic_auth or ()):
            raise ImproperlyConfigured("FLOWER_BASIC_AUTH is not set: Flower would be open to everybody.")
        check_logins("FLOWER_BASIC_AUTH", flower.options.basic_auth)
    flower.options.read_only = not MAY_CONTROL  # leaves the buttons out
    return _start_http_server(flower)


def set_default_headers(handler: BaseHandler) -> None:
    _set_default_headers(handler)
    set_headers(handler)


def set_headers(handler: RequestHandler) -> None:
    """Those of all other pages of Meshes, and none that tells a version; static files are kept by browsers."""
    for name, value in (HEADERS | {"Content-Security-Policy": CONTENT_SECURITY_POLICY}).items():
        if name != "Cache-Control" or isinstance(handler, BaseHandler):
            handler.set_header(name, value)
    handler.clear_header("Server")


def prepare(handler: BaseHandler) -> None:
    """Before any method of any page."""
    if isinstance(handler, Healthcheck):
        return
    try_guess(handler, WRONG_PASSWORDS)
    handler.login = _login_of(handler)
    note_login(handler, handler.login)
    if _is_action(handler) and not MAY_CONTROL:
        raise HTTPError(403, "Flower only shows here. MESHES_FLOWER_CONTROL=1 lets it act.")


def prepare_api(handler: BaseApiHandler) -> None:
    _prepare_api(handler)
    prepare(handler)


def on_finish(handler: BaseHandler) -> None:
    """Who asked for what, and what the answer was."""
    if handler.get_status() in WORDS and "Authorization" in handler.request.headers:
        note_failure(handler)
    if _is_action(handler) and hasattr(handler, "login"):
        request = handler.request
        said = (handler.login, request.method, request.path, request.remote_ip, handler.get_status())
        logger.warning("%r asked Flower to act: %s %r, from %s, answered %d", *said)


def write_error(handler: BaseHandler, status_code: int, **kwargs: Any) -> None:
    """What went wrong is in the log: Flower's own page of errors shows code, and its API nothing but a status."""
    _, error, _ = kwargs.get("exc_info", (None, None, None))
    if status_code == 401:
        handler.set_header("WWW-Authenticate", 'Basic realm="flower"')
    if status_code == 429:
        handler.set_header("Retry-After", str(handler.retry_after))
    known = isinstance(error, HTTPError) and error.log_message and status_code < 500
    handler.set_header("Content-Type", "text/plain; charset=UTF-8")
    handler.finish(f"{error.get_message()}\n" if known else f"{status_code} {handler._reason}\n")


def show_update(inspector: Inspector, worker: str, method: str, response: Any) -> None:
    """Also of a worker of an older version, which tells all its settings."""
    if method == "conf":
        response = show_settings(response)
    if method == "stats" and isinstance(broker := response.get("broker"), dict):
        response["broker"] = {name: broker[name] for name in SHOWN_OF_BROKER if name in broker}
    _on_update(inspector, worker, method, response)


def _is_action(handler: BaseHandler) -> bool:
    return handler.request.method not in READING and not (
        handler.request.method == "POST" and isinstance(handler, READ_BY_POST)
    )


def _login_of(handler: BaseHandler) -> str:
    """The name in a login that was let through: Flower compares it, and does not keep it."""
    _, _, encoded = handler.request.headers.get("Authorization", "").partition(" ")
    return base64.b64decode(encoded).decode().partition(":")[0]


Flower.start_http_server = start_http_server
Inspector._on_update = show_update
RequestHandler.set_default_headers = set_headers  # type: ignore[method-assign, assignment]  # it is named otherwise
BaseHandler.set_default_headers = set_default_headers
BaseHandler.on_finish = on_finish
FLOWER_SETTINGS["xsrf_cookie_kwargs"] = {"samesite": "Strict"}  # scripts of its own read that cookie
BaseHandler.prepare = prepare
BaseHandler.write_error = write_error
BaseApiHandler.prepare = prepare_api
BaseApiHandler.write_error = write_error
