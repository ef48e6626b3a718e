"""Asks the person at the keyboard for the present password again, before what an open session alone must not do."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from django import forms
from django.http import HttpRequest

from workspaces import limits, security_log

PASSWORD_FIELD = "operator_password"  # noqa: S105 - the name of a field
WRONG_PASSWORD = "This is not your present password."  # noqa: S105 - what is said of one

if TYPE_CHECKING:
    _Form = forms.Form
else:
    _Form = object


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

    @cached_property
    def changed_data(self) -> list[str]:
        return [name for name in super().changed_data if name != PASSWORD_FIELD]

    def is_password_needed(self) -> bool:
        return self.sensitive is None or bool(self.sensitive.intersection(self.changed_data))

    def clean(self) -> dict[str, Any] | None:
        cleaned: dict[str, Any] | None = super().clean()
        given = self.cleaned_data.get(PASSWORD_FIELD, "")
        if self.is_password_needed() and not is_present_password(self.request, given):
            self.add_error(PASSWORD_FIELD, WRONG_PASSWORD if given else "Give your own password for this change.")
        return cleaned
