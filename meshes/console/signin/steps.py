"""The steps of a sign-in: the password, then the second factor, or setting one up. Nobody is signed in before the last.

Between the steps the session holds who has given the right password, and `request.user` is nobody. It gets a new key
at each step, and the password is good for `PENDING_SECONDS`.
"""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import reverse
from django.utils.crypto import constant_time_compare

from meshes.console.signin import factors
from meshes.console.signin.models import Authenticator, FirstPassword, OperatorSession
from meshes.console.signin.sessions import describe, stored

PENDING = "signin.pending"
PENDING_SECONDS = 600
FIRST_PASSWORD = "signin.first_password"  # noqa: S105 - the name of a value
"""In a session: whose choice the present password was (`FirstPassword.Origin`)."""


def needs_second_factor(user: Any) -> bool:
    """Whether this user signs in with more than a password: all where the setting says so, else who has set it up."""
    return bool(settings.MESHES_SECOND_FACTOR or factors.authenticator_of(user))


def is_complete(request: HttpRequest) -> bool:
    """Whether all that is needed of who is signed in has been given."""
    user: Any = request.user
    return bool(user.is_authenticated and (getattr(user, "otp_device", None) or not needs_second_factor(user)))


def after_password(request: HttpRequest, user: User, destination: str) -> str:
    """Go on after a right password: where to. Signs in where there is no further step."""
    if not needs_second_factor(user):
        finish(request, user)
        return destination
    request.session.flush()
    request.session[PENDING] = {
        "user": user.pk,
        "backend": user.backend,
        "hash": user.get_session_auth_hash(),
        "destination": destination,
    }
    return reverse("admin:second_factor")


def pending_user(request: HttpRequest) -> User | None:
    """Who has given the right password a short while ago, and nothing else yet."""
    pending = request.session.get(PENDING)
    if not pending:
        return None
    since = Now() - timedelta(seconds=PENDING_SECONDS)
    sessions = OperatorSession.objects.filter(pk=stored(request.session.session_key), started_at__gt=since)
    user = User.objects.filter(pk=pending["user"], is_active=True, is_staff=True).first()
    if user is None or not sessions.exists():
        return None
    if not constant_time_compare(pending["hash"], user.get_session_auth_hash()):
        return None
    user.backend = pending["backend"]
    return user


def finish(request: HttpRequest, user: User, device: Authenticator | None = None) -> str:
    """Sign in: all that is needed was given, by `device` the second factor. Where to go. The session gets a new key."""
    destination: str = request.session.pop(PENDING, {}).get("destination", "")
    user.otp_device = device  # type: ignore[attr-defined]  # django_otp marks the session by it
    was_in = request.user.is_authenticated
    login(request, user)
    if was_in:
        request.session.cycle_key()  # which Django does where nobody was
    if first := FirstPassword.objects.filter(user=user).first():
        request.session[FIRST_PASSWORD] = first.origin
    describe(request)
    return destination or reverse("admin:index")


def must_change_password(request: HttpRequest) -> bool:
    """One that a superuser chose is good for one sign-in; that of `make up` for more, where there is no https."""
    origin = request.session.get(FIRST_PASSWORD)
    return origin == FirstPassword.Origin.SUPERUSER or bool(origin and settings.SESSION_COOKIE_SECURE)
