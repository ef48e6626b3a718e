"""Sessions of operators, kept under a hash of the key that their cookie holds: a dump of the table logs nobody in.

A session ends after `MESHES_SESSION_IDLE_SECONDS` without a request, and `MESHES_SESSION_SECONDS` after the sign-in
whatever happens. PostgreSQL's clock says when. A new key (with each step of the sign-in, and with a new password)
starts no new time for a session that already had a user.
"""

import hashlib
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.base import CreateError, UpdateError
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.http import HttpRequest

from meshes.console.signin.models import OperatorSession
from meshes.kit import clock
from workspaces import security_log

SEEN_EVERY_SECONDS = 30
"""A session in use is written to so seldom."""
BROWSER_LENGTH = 300


def stored(session_key: str | None) -> str:
    """Under what a session is kept: 160 bits of SHA-256 in hexadecimal."""
    return hashlib.sha256((session_key or "").encode()).hexdigest()[:40]


class SessionStore(db.SessionStore):
    _row: OperatorSession | None = None

    @classmethod
    def get_model_class(cls) -> type[OperatorSession]:  # type: ignore[override]  # a model of our own
        return OperatorSession

    @classmethod
    def clear_expired(cls) -> int:  # type: ignore[override]  # how many there were
        """Delete what has ended."""
        live = OperatorSession.objects.live()
        return OperatorSession.objects.exclude(pk__in=live.values("pk")).delete()[0]

    def exists(self, session_key: str) -> bool:
        return OperatorSession.objects.filter(pk=stored(session_key)).exists()

    def load(self) -> dict[str, Any]:
        self._row = OperatorSession.objects.live().filter(pk=stored(self.session_key)).first()
        if self._row is None:
            self._session_key = None
            return {}
        data: dict[str, Any] = self.decode(self._row.session_data)
        return data

    def save(self, must_create: bool = False) -> None:
        """Write what the session holds. Raises UpdateError where somebody has ended it meanwhile."""
        if self.session_key is None:
            return self.create()
        data = self._get_session(no_load=must_create)  # type: ignore[attr-defined]  # Django's own
        values = {"session_data": self.encode(data), "user_id": data.get(SESSION_KEY)}
        if must_create:
            try:
                with transaction.atomic():
                    OperatorSession.objects.create(pk=stored(self.session_key), **values)
            except IntegrityError:
                raise CreateError from None
        elif not OperatorSession.objects.filter(pk=stored(self.session_key)).update(**values):
            raise UpdateError
        return None

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            OperatorSession.objects.filter(pk=stored(key)).delete()

    def cycle_key(self) -> None:
        """A new key for the same session, which grows no younger by it."""
        old = self._row
        super().cycle_key()
        if old is not None and old.user_id is not None:
            OperatorSession.objects.filter(pk=stored(self.session_key)).update(
                user_id=old.user_id, started_at=old.started_at, address=old.address, browser=old.browser
            )


def describe(request: HttpRequest) -> None:
    """Note from where, and with which browser, the session of a request was begun."""
    browser = request.headers.get("User-Agent", "").replace("\x00", "")[:BROWSER_LENGTH]
    OperatorSession.objects.filter(pk=stored(request.session.session_key)).update(
        address=security_log.client_address(request.META), browser=browser
    )


def seconds_left(session: Any) -> int:
    """In how many seconds a session that is in use now ends, without another request."""
    idle: int = settings.MESHES_SESSION_IDLE_SECONDS
    began = OperatorSession.objects.filter(pk=stored(session.session_key)).values_list("started_at", flat=True).first()
    if began is None:
        return 0
    age = (clock.database_now() - began).total_seconds()
    return max(0, min(idle, int(settings.MESHES_SESSION_SECONDS - age)))


def mark_seen(session_key: str | None) -> None:
    """Note that a session is in use."""
    before = Now() - timedelta(seconds=SEEN_EVERY_SECONDS)
    OperatorSession.objects.filter(pk=stored(session_key), seen_at__lt=before).update(seen_at=Now())
