"""The steps of a sign-in and their pages: the password, then the second factor, or setting one up.

Nobody is signed in before the last. Between the steps the session holds who has given the right password, and
`request.user` is nobody. It gets a new key at each step, and the password is good for `PENDING_SECONDS`.
"""

from datetime import timedelta
from typing import Any

import django_otp
from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.forms import AdminPasswordChangeForm
from django.contrib.auth import login, update_session_auth_hash
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView, PasswordChangeView
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.crypto import constant_time_compare
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters

from meshes.console.signin import factors
from meshes.console.signin.models import Authenticator, FirstPassword, OperatorSession, RecoveryCode
from meshes.console.signin.passwords import WRONG_PASSWORD, ConfirmForm, is_present_password
from meshes.console.signin.sessions import describe, stored
from meshes.kit import clock
from workspaces import limits, security_log

PENDING = "signin.pending"
PENDING_SECONDS = 600
FIRST_PASSWORD = "signin.first_password"  # noqa: S105 - the name of a value
"""In a session: whose choice the present password was (`FirstPassword.Origin`)."""
NEW_SECRET = "signin.new_secret"  # noqa: S105 - the name of a value
"""In a session: the secret that is being set up, sealed."""
MAY_SET_UP = "signin.may_set_up"
"""In a session: when (by PostgreSQL's clock) password and code were given, after which for `PENDING_SECONDS` a second
factor may be set up anew."""
WRONG_CODE = "This code is not right, or was used before. Wait for the next one, or give another recovery code."


# --- how far a sign-in is -------------------------------------------------------------------------------------------


def needs_second_factor(user: Any) -> bool:
    """Whether this user signs in with more than a password: all where the setting says so, else who has set it up."""
    return bool(settings.MESHES_SECOND_FACTOR or factors.authenticator_of(user))


def is_complete(request: HttpRequest) -> bool:
    """Whether all that is needed of who is signed in has been given."""
    user: Any = request.user
    return bool(user.is_authenticated and (getattr(user, "otp_device", None) or not needs_second_factor(user)))


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


# --- the password ---------------------------------------------------------------------------------------------------


class PasswordStep(LoginView):
    """The first step, and the only one of who needs no second factor."""

    next_page = "admin:index"

    def form_valid(self, form: Any) -> HttpResponse:
        user, destination = form.get_user(), self.get_success_url()
        if not needs_second_factor(user):
            finish(self.request, user)
            return HttpResponseRedirect(destination)
        self.request.session.flush()
        self.request.session[PENDING] = {
            "user": user.pk,
            "backend": user.backend,
            "hash": user.get_session_auth_hash(),
            "destination": destination,
        }
        return redirect("admin:second_factor")


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


@method_decorator(sensitive_post_parameters(), name="dispatch")
class OwnPasswordChange(PasswordChangeView):
    form_class = OwnPasswordForm

    def get_form_kwargs(self) -> dict[str, Any]:
        return super().get_form_kwargs() | {"request": self.request}

    def form_valid(self, form: Any) -> HttpResponse:
        """All other sessions of the user end; this one gets a new key."""
        form.save()
        self.request.session.pop(FIRST_PASSWORD, None)
        update_session_auth_hash(self.request, form.user)
        security_log.log_password_change(self.request, form.user)
        return HttpResponseRedirect(self.get_success_url())


@never_cache
def away(request: HttpRequest) -> HttpResponse:
    """What stands on the screen in the place of a page whose session has ended; it looks at no session."""
    back, index = request.GET.get("next", ""), reverse("admin:index")
    is_ours = back.startswith(index) and url_has_allowed_host_and_scheme(back, allowed_hosts=None)
    return render(request, "meshes/away.html", {"back": back if is_ours else index})


# --- the second factor ----------------------------------------------------------------------------------------------


def code_field(help_text: str, **attributes: Any) -> forms.CharField:
    attributes |= {"autocomplete": "one-time-code", "class": "vTextField", "spellcheck": "false"}
    widget = forms.TextInput(attrs=attributes | {"autocapitalize": "off"})
    return forms.CharField(label="Code", max_length=60, widget=widget, help_text=help_text)


ANY_CODE = "Six digits from your app, or one of your recovery codes."


class CodeForm(forms.Form):
    code = code_field(ANY_CODE, autofocus=True)


class FirstCodeForm(forms.Form):
    code = code_field("The six digits that the app shows now.")


class FactorForm(ConfirmForm):
    """Before a second factor is changed: the password and, where there is one already, a code."""

    code = code_field(ANY_CODE)


def use_code(request: HttpRequest, user: User, code: str) -> bool:
    """Take a code, no faster than may be guessed. Raises TooManyGuessesError, which is answered 429."""
    kind = limits.try_guess(request, "code", user.get_username(), lambda: factors.use_code(user, code))
    security_log.log_second_factor(request, user, passed=bool(kind), kind=kind or "code")
    return bool(kind)


@never_cache
@csrf_protect
@sensitive_post_parameters()
def second_factor(request: HttpRequest) -> HttpResponse:
    """The second step."""
    user = pending_user(request)
    if user is None:
        return redirect("admin:login")
    device = factors.authenticator_of(user)
    if device is None:
        return redirect("admin:set_up_second_factor")
    form = CodeForm(request.POST if request.method == "POST" else None)
    if form.is_bound and form.is_valid():
        if use_code(request, user, form.cleaned_data["code"]):
            return HttpResponseRedirect(finish(request, user, device))
        form.add_error("code", WRONG_CODE)
    return _page(request, "second_factor", "Second step", form=form, person=user)


@never_cache
@csrf_protect
@sensitive_post_parameters()
def set_up_second_factor(request: HttpRequest) -> HttpResponse:
    """Show a new secret, and make it the second factor once a code of it is given; then recovery codes, this once."""
    user = _who_may_set_up(request)
    if user is None:
        return redirect("admin:own_signin" if admin.site.has_permission(request) else "admin:login")
    try:
        secret = factors.open_secret(user, request.session[NEW_SECRET])
    except (KeyError, factors.SecretUnreadableError):
        secret = factors.new_secret()
        request.session[NEW_SECRET] = factors.seal_secret(user, secret)
    form = FirstCodeForm(request.POST if request.method == "POST" else None)
    if form.is_bound and form.is_valid():
        code = form.cleaned_data["code"].replace(" ", "")
        step = limits.try_guess(request, "code", user.get_username(), lambda: factors.matching_step(secret, code))
        if step is not None:
            return _confirm_factor(request, user, secret, step)
        form.add_error("code", "This is not the code that the app shows now. Is the clock of its device right?")
    shown = {"image": factors.qr_code(user, secret, request.get_host()), "secret": factors.secret_text(secret)}
    return _page(request, "set_up_second_factor", "Set up the second factor", form=form, person=user, **shown)


def _who_may_set_up(request: HttpRequest) -> User | None:
    """Who has just given the password and has no second factor, or is signed in and has given both again."""
    if user := pending_user(request):
        return None if factors.authenticator_of(user) else user
    given_at = request.session.get(MAY_SET_UP, 0.0) if admin.site.has_permission(request) else 0.0
    is_recent = clock.database_now().timestamp() - given_at < PENDING_SECONDS
    return User.objects.get(username=request.user.get_username()) if is_recent else None


def _confirm_factor(request: HttpRequest, user: User, secret: bytes, step: int) -> HttpResponse:
    is_first = pending_user(request) is not None
    codes = factors.add(user, secret, step, is_first=is_first)
    if codes is None:
        return redirect("admin:second_factor")
    for name in (NEW_SECRET, MAY_SET_UP):
        request.session.pop(name, None)
    device = factors.authenticator_of(user)
    if is_first:
        destination = finish(request, user, device)
    else:
        django_otp.login(request, device)
        request.session.cycle_key()
        destination = reverse("admin:own_signin")
    end_others(request, user)
    security_log.log_second_factor_change(request, user, "added")
    return _page(request, "recovery_codes", "Recovery codes", codes=codes, destination=destination)


def end_others(request: HttpRequest, user: User) -> None:
    """End all other sessions of a user, whose second factor has changed."""
    OperatorSession.objects.filter(user=user).exclude(pk=stored(request.session.session_key)).delete()


@sensitive_post_parameters()
def own_signin(request: HttpRequest) -> HttpResponse:
    """An operator's own second factor and recovery codes: set up, set up anew, removed."""
    user = User.objects.get(username=request.user.get_username())
    device = factors.authenticator_of(user)
    form = FactorForm(request.POST if request.method == "POST" else None, request=request)
    if device is None:
        del form.fields["code"]
    if form.is_bound and form.is_valid():
        if device is None or use_code(request, user, form.cleaned_data["code"]):
            return _change_factor(request, user, request.POST.get("change", ""))
        form.add_error("code", WRONG_CODE)
    return _page(
        request,
        "own_signin",
        "Account security",
        form=form,
        device=device,
        codes_left=RecoveryCode.objects.filter(user=user).count(),
        may_remove=device is not None and not settings.MESHES_SECOND_FACTOR,
    )


def _change_factor(request: HttpRequest, user: User, change: str) -> HttpResponse:
    has_factor = factors.authenticator_of(user) is not None
    if change == "codes" and has_factor:
        codes = factors.make_recovery_codes(user)
        security_log.log_second_factor_change(request, user, "recovery_codes_made")
        return _page(request, "recovery_codes", "Recovery codes", codes=codes, destination=reverse("admin:own_signin"))
    if change == "remove" and has_factor and not settings.MESHES_SECOND_FACTOR:
        factors.remove(user)
        request.session.pop(django_otp.DEVICE_ID_SESSION_KEY, None)
        end_others(request, user)
        security_log.log_second_factor_change(request, user, "removed")
        messages.success(request, "The second factor was removed. All your other sessions have ended.")
        return redirect("admin:own_signin")
    request.session[MAY_SET_UP] = clock.database_now().timestamp()
    request.session.pop(NEW_SECRET, None)
    return redirect("admin:set_up_second_factor")


def _page(request: HttpRequest, template: str, title: str, **shown: Any) -> TemplateResponse:
    context = admin.site.each_context(request) | {"title": title} | shown
    return TemplateResponse(request, f"admin/operators/{template}.html", context)
