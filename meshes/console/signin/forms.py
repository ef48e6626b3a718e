"""What the pages of a sign-in ask for."""

from typing import Any

from django import forms
from django.contrib.admin.forms import AdminPasswordChangeForm
from django.http import HttpRequest

from meshes.console.signin.asking import WRONG_PASSWORD, AsksPassword, is_present_password, password_field


def code_field(label: str, **options: Any) -> forms.CharField:
    attributes = {
        "autocomplete": "one-time-code",
        "class": "vTextField",
        "spellcheck": "false",
        "autocapitalize": "off",
    }
    return forms.CharField(label=label, max_length=60, widget=forms.TextInput(attrs=attributes), **options)


class CodeForm(forms.Form):
    code = code_field("Code", help_text="Six digits from your app, or one of your recovery codes.")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["code"].widget.attrs["autofocus"] = True


class FirstCodeForm(forms.Form):
    code = code_field("Code", help_text="The six digits that the app shows now.")


class FactorForm(AsksPassword, forms.Form):
    """Before a second factor is changed: the password and, where there is one already, a code."""

    operator_password = password_field()
    code = code_field("Code", help_text="Six digits from your app, or one of your recovery codes.")

    def __init__(self, *args: Any, has_factor: bool, **options: Any) -> None:
        self.request = options.pop("request")
        super().__init__(*args, **options)
        if not has_factor:
            del self.fields["code"]


class ConfirmForm(AsksPassword, forms.Form):
    """The password alone, before what needs it again."""

    operator_password = password_field()

    def __init__(self, *args: Any, **options: Any) -> None:
        self.request = options.pop("request")
        super().__init__(*args, **options)


class OwnPasswordForm(AdminPasswordChangeForm):
    """A new password for oneself, other than the present one, which is asked for."""

    def __init__(self, *args: Any, request: HttpRequest, **options: Any) -> None:
        self.request = request
        super().__init__(*args, **options)

    def clean_old_password(self) -> str:
        password: str = self.cleaned_data["old_password"]
        if not is_present_password(self.request, password):
            raise forms.ValidationError(WRONG_PASSWORD)
        return password

    def clean_new_password1(self) -> str:
        password: str = self.cleaned_data["new_password1"]
        if password == self.cleaned_data.get("old_password"):
            raise forms.ValidationError("This is your present password.")
        return password
