"""CORS for publishable keys: the pages that a key lists may post events with it, from a browser.

A preflight carries no key, so it passes for an origin that any live publishable key lists. The request itself must
bring a key that lists its origin; its answer is shown to the page only then.
"""

import re
import threading
import time
from typing import Any

from django.db.models import Q
from django.db.models.functions import Now
from django.http import HttpRequest

from workspaces.authentication import read_credential
from workspaces.keyring import CredentialError
from workspaces.models import ApiKey

PATH = "/api/v1/events"
ORIGIN = re.compile(r"https?://[a-z0-9.-]{1,253}(:[0-9]{1,5})?|https?://\[[0-9a-f:.]{2,45}\](:[0-9]{1,5})?")
"""As browsers send it (RFC 6454): in small letters, without a path, without the scheme's own port."""

TTL_SECONDS = 5.0
"""How long the answer to a preflight's question is remembered: browsers ask often, keys change seldom."""
_MAX_ORIGINS = 1_000

_known: dict[str, tuple[float, bool]] = {}
_lock = threading.Lock()


def is_allowed(sender: Any, request: HttpRequest, **_: Any) -> bool:
    """Receiver of django-cors-headers' `check_request_enabled`, which asks it for every path."""
    origin = request.META.get("HTTP_ORIGIN", "")
    if request.path_info != PATH or not ORIGIN.fullmatch(origin):
        return False
    if request.method == "OPTIONS":
        return request.META.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD") == "POST" and any_key_lists(origin)
    if request.method != "POST":
        return False
    try:
        record = read_credential(request.META.get("HTTP_AUTHORIZATION", ""))
    except CredentialError:
        return False
    return record.kind == ApiKey.Kind.PUBLISHABLE and origin in record.allowed_origins


def any_key_lists(origin: str) -> bool:
    now = time.monotonic()
    asked_at, answer = _known.get(origin, (0.0, False))
    if asked_at and now - asked_at < TTL_SECONDS:
        return answer
    live = Q(expires_at=None) | Q(expires_at__gt=Now())
    keys = ApiKey.objects.filter(live, kind=ApiKey.Kind.PUBLISHABLE, revoked_at=None)
    answer = keys.filter(allowed_origins__contains=[origin]).exists()
    with _lock:
        if len(_known) >= _MAX_ORIGINS:
            _known.clear()
        _known[origin] = now, answer
    return answer
