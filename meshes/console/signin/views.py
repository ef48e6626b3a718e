"""The pages of a sign-in, and the page on which operators look after their own."""

from contextlib import suppress
from typing import Any

import django_otp
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView, PasswordChangeView
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters

from meshes.console.signin import factors, steps
from meshes.console.signin.forms import CodeForm, FactorForm, FirstCodeForm, OwnPasswordForm
from meshes.console.signin.models import OperatorSession, RecoveryCode
from meshes.console.signin.sessions import stored
from meshes.kit import clock
from workspaces import limits, security_log

NEW_SECRET = "signin.new_secret"  # noqa: S105 - the name of a value
"""In a session: the secret that is being set up, sealed."""
MAY_SET_UP = "signin.may_set_up"
"""In a session: when (by PostgreSQL's clock) password and code were given, after which for `PENDING_SECONDS` a second
factor may be set up anew."""
WRONG_CODE = "This code is not right, or was used before. Wait for the next one, or give another recovery code."


class PasswordStep(LoginView):
    """The first step."""

    next_page = "admin:index"

    def form_valid(self, form: Any) -> HttpResponse:
        return HttpResponseRedirect(steps.after_password(self.request, form.get_user(), self.get_success_url()))


@method_decorator(sensitive_post_parameters(), name="dispatch")
class OwnPasswordChange(PasswordChangeView):
    form_class = OwnPasswordForm

    def get_form_kwargs(self) -> dict[str, Any]:
        return super().get_form_kwargs() | {"request": self.request}

    def form_valid(self, form: Any) -> HttpResponse:
        """All other sessions of the user end; this one gets a new key."""
        form.save()
        self.request.session.pop(steps.FIRST_PASSWORD, None)
        update_session_auth_hash(self.request, form.user)
        security_log.log_password_change(self.request, form.user)
        return HttpResponseRedirect(self.get_success_url())


def use_code(request: HttpRequest, user: User, code: str) -> bool:
    """Take a code, no faster than may be guessed. Raises TooManyGuessesError, which is answered 429."""
    kinds: list[factors.Kind] = []

    def is_right() -> bool:
        kinds.extend(kind for kind in [factors.use_code(user, code)] if kind)
        return bool(kinds)

    passed = limits.try_guess(request, "code", user.get_username(), is_right)
    security_log.log_second_factor(request, user, passed=passed, kind=kinds[0] if kinds else "code")
    return passed


@never_cache
def away(request: HttpRequest) -> HttpResponse:
    """What stands on the screen in the place of a page whose session has ended; it looks at no session."""
    back, index = request.GET.get("next", ""), reverse("admin:index")
    is_ours = back.startswith(index) and url_has_allowed_host_and_scheme(back, allowed_hosts=None)
    return render(request, "meshes/away.html", {"back": back if is_ours else index})


@never_cache
@csrf_protect
@sensitive_post_parameters()
def second_factor(request: HttpRequest) -> HttpResponse:
    """The second step."""
    user = steps.pending_user(request)
    if user is None:
        return redirect("admin:login")
    device = factors.authenticator_of(user)
    if device is None:
        return redirect("admin:set_up_second_factor")
    form = CodeForm(request.POST if request.method == "POST" else None)
    if form.is_bound and form.is_valid():
        if use_code(request, user, form.cleaned_data["code"]):
            return HttpResponseRedirect(steps.finish(request, user, device))
        form.add_error("code", WRONG_CODE)
    return _page(request, "second_factor", "Second step", form=form, person=user)


@never_cache
@csrf_protect
@sensitive_post_parameters()
def set_up_second_factor(request: HttpRequest) -> HttpResponse:
    """Show a new secret, and make it the second factor once a code of it is given; then recovery codes, this once."""
    user = _who_may_set_up(request)
    if user is None:
        is_in = admin.site.has_permission(request)
        return redirect("admin:own_signin" if is_in else "admin:login")
    secret = _secret_being_set_up(request, user)
    form = FirstCodeForm(request.POST if request.method == "POST" else None)
    if form.is_bound and form.is_valid():
        step = _first_step(request, user, secret, form.cleaned_data["code"])
        if step is not None:
            try:
                return _confirm_factor(request, user, secret, step)
            except factors.AlreadySetUpError:
                return redirect("admin:second_factor")
        form.add_error("code", "This is not the code that the app shows now. Is the clock of its device right?")
    return _page(
        request,
        "set_up_second_factor",
        "Set up the second factor",
        form=form,
        person=user,
        image=factors.qr_code(user, secret, request.get_host()),
        secret=factors.secret_text(secret),
    )


def _who_may_set_up(request: HttpRequest) -> User | None:
    """Who has just given the password and has no second factor, or is signed in and has given both again."""
    if user := steps.pending_user(request):
        return None if factors.authenticator_of(user) else user
    given_at = request.session.get(MAY_SET_UP, 0.0) if admin.site.has_permission(request) else 0.0
    is_recent = clock.database_now().timestamp() - given_at < steps.PENDING_SECONDS
    return User.objects.get(username=request.user.get_username()) if is_recent else None


def _secret_being_set_up(request: HttpRequest, user: User) -> bytes:
    with suppress(KeyError, factors.SecretUnreadable):
        return factors.open_secret(user, request.session[NEW_SECRET])
    secret = factors.new_secret()
    request.session[NEW_SECRET] = factors.seal_secret(user, secret)
    return secret


def _first_step(request: HttpRequest, user: User, secret: bytes, code: str) -> int | None:
    steps_found: list[int] = []

    def is_right() -> bool:
        step = factors.matching_step(secret, code.replace(" ", ""))
        steps_found.extend([] if step is None else [step])
        return bool(steps_found)

    return steps_found[0] if limits.try_guess(request, "code", user.get_username(), is_right) else None


def _confirm_factor(request: HttpRequest, user: User, secret: bytes, step: int) -> HttpResponse:
    is_first = steps.pending_user(request) is not None
    codes = factors.add(user, secret, step, is_first=is_first)
    for name in (NEW_SECRET, MAY_SET_UP):
        request.session.pop(name, None)
    device = factors.authenticator_of(user)
    if is_first:
        destination = steps.finish(request, user, device)
    else:
        django_otp.login(request, device)
        request.session.cycle_key()
        destination = reverse("admin:own_signin")
    end_others(request, user)
    security_log.log_second_factor_change(request, user, "added")
    return _page(request, "recovery_codes", "Recovery codes", codes=codes, destination=destination)


def end_others(request: HttpRequest, user: User) -> int:
    """End all other sessions of a user, whose second factor or password has changed."""
    others = OperatorSession.objects.filter(user=user).exclude(pk=stored(request.session.session_key))
    return others.delete()[0]


@sensitive_post_parameters()
def own_signin(request: HttpRequest) -> HttpResponse:
    """An operator's own second factor and recovery codes: set up, set up anew, removed."""
    user = User.objects.get(username=request.user.get_username())
    device = factors.authenticator_of(user)
    form = FactorForm(
        request.POST if request.method == "POST" else None, request=request, has_factor=device is not None
    )
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
