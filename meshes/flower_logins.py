"""Who logs in to Flower, for `meshes.security`: a browser sends the password with each request, so few are lines.

Guesses are counted by address, in this process, of which there is one: wrong ones above MESHES_WRONG_PASSWORDS a
minute, or ten times as many an hour, are not tried until there is room. A right one takes none.
"""

import json
import logging
import math
import time
from collections import Counter

from flower.views import BaseHandler
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler

from workspaces.limits import LocalBuckets, per_hour, per_minute
from workspaces.security_log import client_network

logger = logging.getLogger("meshes.security")

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
        logger.info('login_succeeded service="flower" %s', pairs)
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
        logger.warning("%s address=%s count=%d", words, json.dumps(address), count)
