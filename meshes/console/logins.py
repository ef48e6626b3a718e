"""Logging in: passwords are tried no faster than `workspaces.limits` allows, and what comes of it is logged."""

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import User
from django.http import HttpRequest

from workspaces import limits, security_log

NEW_DEVICE = "meshes.new_device"
"""In `request.META`, the value of the cookie that the answer is to set."""


class GuardedBackend(ModelBackend):
    """Django's, with a limit on wrong passwords. Raises TooManyGuessesError, whichever form asked."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> User | None:
        if request is None or username is None or password is None:
            return super().authenticate(request, username, password, **kwargs)
        found: list[User] = []

        def is_right() -> bool:
            if user := super(GuardedBackend, self).authenticate(request, username, password, **kwargs):
                found.append(user)
            return bool(found)

        return found[0] if limits.try_guess(request, "password", username, is_right) else None


def note_login(sender: Any, request: HttpRequest | None, user: AbstractBaseUser, **_: Any) -> None:
    """Receiver of `user_logged_in`."""
    security_log.log_login(request, user)
    if request is not None:
        request.META[NEW_DEVICE] = limits.make_device_cookie(user.get_username())


def note_failure(sender: Any, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    """Receiver of `user_login_failed`."""
    security_log.log_failed_login(request, str(credentials.get("username", "")))


def note_logout(sender: Any, request: HttpRequest | None, user: AbstractBaseUser | None, **_: Any) -> None:
    """Receiver of `user_logged_out`, which is also sent where nobody was logged in."""
    if user is not None:
        security_log.log_logout(request, user)
