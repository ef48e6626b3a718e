"""Celery's application for Flower (`celery -A meshes.monitor flower`): all that Flower serves is behind its password.

Flower leaves `/metrics` open, and sends no content security policy. `/healthcheck` stays open: it says OK, to whatever
watches the process.
"""

import base64
import hashlib

from flower.views import BaseHandler
from flower.views.monitor import Healthcheck
from tornado.web import HTTPError

from meshes.celery import app

__all__ = ["app"]

INLINE_SCRIPT = "\nvar autorefresh = 1;\n"
"""The one that Flower has, on its page of workers: whether that renews itself."""
_HASH = base64.b64encode(hashlib.sha256(INLINE_SCRIPT.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; script-src 'self' 'sha256-{_HASH}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Its pages have style attributes."""

_set_default_headers = BaseHandler.set_default_headers


def set_default_headers(handler: BaseHandler) -> None:
    _set_default_headers(handler)
    handler.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)


def prepare(handler: BaseHandler) -> None:
    """Before any method of any page: `current_user` raises 401 for a wrong password."""
    if not isinstance(handler, Healthcheck) and not handler.current_user:
        raise HTTPError(401)


BaseHandler.set_default_headers = set_default_headers
BaseHandler.prepare = prepare
