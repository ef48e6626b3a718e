"""Sessions of operators, kept under a hash of the key that their cookie holds: a dump of the table logs nobody in.

A session ends after `MESHES_SESSION_IDLE_SECONDS` without a request, and `MESHES_SESSION_SECONDS` after the sign-in
whatever happens; PostgreSQL's clock says when. A new key (with each step of the sign-in, and with a new password)
starts no new time for a session that already had a user. All sessions of a user end at once with a new password,
without the right to sign in, or with fewer rights.
"""

import hashlib
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import Group, User
from django.contrib.auth.password_validation import validate_password
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.base import CreateError, UpdateError
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.db.models.signals import m2m_changed, post_save, pre_delete, pre_save
from django.dispatch import receiver
from django.http import HttpRequest

from meshes.console.signin.models import FirstPassword, OperatorSession
from meshes.kit import clock
from workspaces import limits, security_log

SEEN_EVERY_SECONDS = 30
"""A session in use is written to so seldom."""
BROWSER_LENGTH = 300
NEW_DEVICE = "meshes.new_device"
"""In `request.META`, the value of the cookie that the answer is to set."""


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


# --- sessions in use ------------------------------------------------------------------------------------------------


def mark_seen(session_key: str) -> None:
    before = Now() - timedelta(seconds=SEEN_EVERY_SECONDS)
    OperatorSession.objects.filter(pk=stored(session_key), seen_at__lt=before).update(seen_at=Now())


def seconds_left(session: Any) -> int:
    """In how many seconds a session that is in use now ends, without another request."""
    idle: int = settings.MESHES_SESSION_IDLE_SECONDS
    began = OperatorSession.objects.filter(pk=stored(session.session_key)).values_list("started_at", flat=True).first()
    if began is None:
        return 0
    age = (clock.database_now() - began).total_seconds()
    return max(0, min(idle, int(settings.MESHES_SESSION_SECONDS - age)))


# --- sign-ins are logged; sessions end with what they rested on -----------------------------------------------------

FLAGS = ("is_active", "is_staff", "is_superuser")


@receiver(user_logged_in)
def log_login(request: HttpRequest | None, user: User, **_: Any) -> None:
    security_log.log_login(request, user)
    if request is not None:
        request.META[NEW_DEVICE] = limits.make_device_cookie(user.get_username())


@receiver(user_login_failed)
def log_failed_login(credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    security_log.log_failed_login(request, str(credentials.get("username", "")))


@receiver(user_logged_out)
def log_logout(request: HttpRequest | None, user: User | None, **_: Any) -> None:
    """The signal is also sent where nobody was logged in."""
    if user is not None:
        security_log.log_logout(request, user)


@receiver(pre_save, sender=User)
def check_password_and_note_lost_flags(instance: User, raw: bool = False, **_: Any) -> None:
    """Raises ValidationError for a password that was set and may not be one, on whichever path."""
    password = instance._password  # type: ignore[attr-defined]  # Django's own: what was set, and not saved yet
    if password is not None and not raw:
        validate_password(password, instance)
    before = User.objects.filter(pk=instance.pk).values(*FLAGS).first() or {}
    instance._loses_flags = any(had and not getattr(instance, flag) for flag, had in before.items())  # type: ignore[attr-defined]


@receiver(post_save, sender=User)
def end_sessions_of_changed_user(instance: User, **_: Any) -> None:
    """A hash that Django renews at a sign-in is no new password: `_password` is the one that was set."""
    is_new_password = instance._password is not None  # type: ignore[attr-defined]  # Django's own
    if is_new_password:
        FirstPassword.objects.filter(user=instance).delete()
    if is_new_password or instance._loses_flags:  # type: ignore[attr-defined]
        OperatorSession.objects.end(user=instance)


@receiver(pre_delete, sender=Group)
def end_sessions_of_members(instance: Group, **_: Any) -> None:
    OperatorSession.objects.end(user__groups=instance)


@receiver(m2m_changed, sender=User.groups.through)
@receiver(m2m_changed, sender=User.user_permissions.through)
@receiver(m2m_changed, sender=Group.permissions.through)
def end_sessions_with_fewer_rights(instance: Any, action: str, pk_set: set[Any] | None, model: Any, **_: Any) -> None:
    """Rights that were given end nothing; `pk_set` is None where all of them are taken."""
    if action not in {"post_remove", "pre_clear"}:
        return
    if isinstance(instance, User):
        OperatorSession.objects.end(user=instance)
    elif model is User and pk_set is not None:  # taken from these
        OperatorSession.objects.end(user__in=pk_set)
    elif isinstance(instance, Group):
        OperatorSession.objects.end(user__groups=instance)
    elif model is User:  # a permission, from all who have it
        OperatorSession.objects.end(user__user_permissions=instance)
    elif pk_set is not None:  # a permission, from these groups
        OperatorSession.objects.end(user__groups__in=pk_set)
    else:
        OperatorSession.objects.end(user__groups__permissions=instance)
