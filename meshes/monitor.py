"""Celery's application for Flower (`celery -A meshes.monitor flower`): all that Flower serves is behind its password.

Flower serves everything to everybody where it has no password, and `/metrics` even where it has one; nor does it send a
content security policy. `/healthcheck` stays open: it says OK, to whatever watches the process.
"""

import base64
import hashlib
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from flower.app import Flower
from flower.views import BaseHandler
from flower.views.monitor import Healthcheck

from meshes.celery import app
from meshes.environment import check_logins
from meshes.startup import exit_where_misconfigured

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
_start_http_server = Flower.start_http_server


def start_http_server(flower: Flower) -> Any:
    """Not before it is known that there is a password, wherever Flower took it from."""
    with exit_where_misconfigured():
        if not any(flower.options.basic_auth or ()):
            raise ImproperlyConfigured("FLOWER_BASIC_AUTH is not set: Flower would be open to everybody.")
        check_logins("FLOWER_BASIC_AUTH", flower.options.basic_auth)
    return _start_http_server(flower)


def set_default_headers(handler: BaseHandler) -> None:
    _set_default_headers(handler)
    handler.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)


def prepare(handler: BaseHandler) -> None:
    """Before any method of any page."""
    if not isinstance(handler, Healthcheck):
        handler.current_user  # noqa: B018  (raises 401 for a wrong password)


Flower.start_http_server = start_http_server
BaseHandler.set_default_headers = set_default_headers
BaseHandler.prepare = prepare
