"""Who logs in to Flower, for `meshes.security`: a browser sends the password with each request, so few are lines."""

import json
import logging
import time
from collections import Counter

from tornado.ioloop import IOLoop
from tornado.web import RequestHandler

logger = logging.getLogger("meshes.security")

SESSION_SECONDS = 1800.0
"""After so long without a request the next one is a login again."""
WINDOW_SECONDS = 60.0
MOST_KEPT = 1_000
OTHERS = "(others)"

_seen: dict[tuple[str, str], float] = {}
"""By user and address, when the last request came."""
_failed: Counter[str] = Counter()
"""Wrong passwords of this minute by address; what exceeds `MOST_KEPT` counts as of others."""


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
    """A request came with a wrong password. What name it had is not told: it may have been a password."""
    address = str(handler.request.remote_ip)
    if not _failed:
        IOLoop.current().call_later(WINDOW_SECONDS, write_failures)
    _failed[address if address in _failed or len(_failed) < MOST_KEPT else OTHERS] += 1


def write_failures() -> None:
    """Write what was gathered, now."""
    counts = dict(_failed)
    _failed.clear()
    for address, count in counts.items():
        logger.warning('login_failed service="flower" address=%s count=%d', json.dumps(address), count)
