"""Operators and their groups. Only superusers touch rights, passwords of others and superusers' rows; nobody his own.

Whoever changes what a sign-in rests on gives the own password again. No user is deleted: the log of what one did would
go too; a user that is not active cannot sign in.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.forms import SetPasswordForm, UserChangeForm, UserCreationForm
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters

from meshes.console.pages import WellFormedSelection
from meshes.console.signin import factors
from meshes.console.signin.asking import (
    PASSWORD_FIELD,
    WRONG_PASSWORD,
    AsksPassword,
    is_present_password,
    password_field,
)
from meshes.console.signin.forms import ConfirmForm
from meshes.console.signin.models import FirstPassword
from workspaces import security_log

if TYPE_CHECKING:
    _UserAdmin = UserAdmin[User]
    _UserChangeForm = UserChangeForm[User]
    _UserCreationForm = UserCreationForm[User]
    _SetPasswordForm = SetPasswordForm[User]
    _GroupForm = ModelForm[Group]
else:
    _UserAdmin, _UserChangeForm, _UserCreationForm = UserAdmin, UserChangeForm, UserCreationForm
    _SetPasswordForm, _GroupForm = SetPasswordForm, ModelForm

RIGHTS = ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")
"""Fields of a user that only superusers change, and nobody in the own row."""
FOR_SUPERUSERS = ("username", *RIGHTS)
PASSWORDS = ("password", "password1", "password2", "new_password1", "new_password2")
"""Names under which somebody may try to send a password to a form that takes none."""


class UserForm(AsksPassword, _UserChangeForm):
    operator_password = password_field(
        required=False, help_text="Needed for a change of name, e-mail address or rights."
    )
    sensitive = frozenset({"email", *FOR_SUPERUSERS})
    password = None  # type: ignore[assignment]  # Django's way to leave a field out: it is set on a page of its own


class NewUserForm(AsksPassword, _UserCreationForm):
    operator_password = password_field()


class NewPasswordForm(AsksPassword, _SetPasswordForm):
    """A password for somebody else."""

    operator_password = password_field()
    field_order = (PASSWORD_FIELD, "new_password1", "new_password2")

    def __init__(self, user: User, data: Any, *, request: HttpRequest) -> None:
        self.request = request
        super().__init__(user, data)


class GroupForm(AsksPassword, _GroupForm):
    operator_password = password_field()


class GuardedAdmin(WellFormedSelection):
    """Pages of what gives rights: no row is deleted in passing, and each refused change is recorded."""

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        return type(form.__name__, (form,), {"request": request})

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Only what the page's filters ask for: of others PostgreSQL refuses some, and some read names letter by
        letter."""
        asked = {f"{field}{end}" for field in self.list_filter for end in ("__exact", "__id__exact", "__isnull")}
        return lookup in asked

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        with self.recording_refusal(request, object_id):
            if request.method == "POST":
                self.refuse_more_than_asked(request, object_id)
            return super().changeform_view(request, object_id, form_url, extra_context)

    def refuse_more_than_asked(self, request: HttpRequest, object_id: str | None) -> None:
        """Raise PermissionDenied for a form that brings what its page does not offer."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        for user, changes in self.changed_rights(form, change):
            security_log.log_rights_change(request, user, changes)

    def changed_rights(self, form: Any, change: bool) -> Iterator[tuple[User, list[str]]]:
        """Whose rights a saved form has changed, and what of them."""
        raise NotImplementedError

    @contextmanager
    def recording_refusal(self, request: HttpRequest, object_id: str | None) -> Iterator[None]:
        try:
            yield
        except PermissionDenied:
            if request.method == "POST":
                security_log.log_refused_rights_change(request, f"{self.opts.model_name} {object_id or 'new'}")
            raise


class OperatorUserAdmin(GuardedAdmin, _UserAdmin):
    form = UserForm
    add_form = NewUserForm
    fieldsets = (
        (None, {"fields": ("username",)}),
        ("Personal info", {"fields": ("first_name", "last_name", "email")}),
        ("Permissions", {"fields": RIGHTS}),
        ("Important dates", {"fields": ("last_login", "date_joined")}),
        ("Confirm", {"fields": (PASSWORD_FIELD,)}),
    )
    add_fieldsets = ((None, {"classes": ("wide",), "fields": (PASSWORD_FIELD, "username", "password1", "password2")}),)
    change_form_template = "admin/operators/user.html"
    change_user_password_template = "admin/operators/set_password.html"  # noqa: S105 - a file

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        shown = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj):
            return shown
        return [part for part in shown if part[1]["fields"] != (PASSWORD_FIELD,)]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        fixed = ("last_login", "date_joined")
        if obj is None:
            return ()
        if not _is_superuser(request):
            return (*FOR_SUPERUSERS, *fixed)
        return (*RIGHTS, *fixed) if obj.pk == request.user.pk else fixed

    def has_add_permission(self, request: HttpRequest) -> bool:
        return _is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if _is_superuser(request) or not super().has_change_permission(request, obj):
            return _is_superuser(request)
        return obj is None or not (obj.is_superuser or obj.pk == request.user.pk)

    def refuse_more_than_asked(self, request: HttpRequest, object_id: str | None) -> None:
        if object_id is None:
            return
        is_own = unquote(object_id) == str(request.user.pk)
        guarded = (*FOR_SUPERUSERS, *PASSWORDS) if not _is_superuser(request) else RIGHTS if is_own else ()
        if any(name in request.POST for name in guarded):
            raise PermissionDenied

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if not change:
            note_first_password(obj)

    def changed_rights(self, form: Any, change: bool) -> Iterator[tuple[User, list[str]]]:
        changes = [name for name in form.changed_data if name in UserForm.sensitive] if change else ["added"]
        if changes:
            yield form.instance, changes

    @method_decorator(sensitive_post_parameters())
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Set the password of somebody else, who chooses another at the next sign-in."""
        user = self.get_object(request, unquote(id))
        if user is None:
            raise Http404
        with self.recording_refusal(request, id):
            if not _is_superuser(request):
                raise PermissionDenied
        if user.pk == request.user.pk:
            return HttpResponseRedirect(reverse("admin:password_change"))
        form = NewPasswordForm(user, request.POST if request.method == "POST" else None, request=request)
        if form.is_bound and form.is_valid():
            with transaction.atomic():
                form.save()
                note_first_password(user)
                self.log_change(request, user, "Password set.")
            security_log.log_password_change(request, user)
            messages.success(request, f"{user} has the new password, and chooses another at the next sign-in.")
            return HttpResponseRedirect(reverse("admin:auth_user_change", args=[user.pk]))
        context = self.admin_site.each_context(request) | {
            "title": f"Set the password of {user}",
            "opts": self.opts,
            "original": user,
            "form": form,
        }
        return TemplateResponse(request, self.change_user_password_template, context)

    def get_urls(self) -> list[URLPattern]:
        reset = self.admin_site.admin_view(self.reset_second_factor)
        return [path("<id>/second-factor/reset/", reset, name="auth_user_reset_second_factor"), *super().get_urls()]

    @method_decorator(sensitive_post_parameters())
    def reset_second_factor(self, request: HttpRequest, id: str) -> HttpResponse:
        """Let somebody in who has lost the second factor: it goes, and all sessions end."""
        user = self.get_object(request, unquote(id))
        with self.recording_refusal(request, id):
            if not _is_superuser(request) or (user is not None and user.pk == request.user.pk):
                raise PermissionDenied
        if user is None:
            raise Http404
        form = ConfirmForm(request.POST if request.method == "POST" else None, request=request)
        page = reverse("admin:auth_user_change", args=[user.pk])
        if form.is_bound and form.is_valid():
            if factors.reset(user):
                self.log_change(request, user, "Second factor reset.")
                security_log.log_second_factor_change(request, user, "removed")
                messages.success(request, f"The second factor of {user} is removed; all sessions have ended.")
            else:
                messages.warning(request, f"{user} has no second factor.")
            return HttpResponseRedirect(page)
        context = self.admin_site.each_context(request) | {
            "title": f"Reset the second factor of {user}",
            "opts": self.opts,
            "original": user,
            "form": form,
        }
        return TemplateResponse(request, "admin/operators/reset_second_factor.html", context)

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        is_others = _is_superuser(request) and unquote(object_id) != str(request.user.pk)
        shown = {"is_others": is_others} | (extra_context or {})
        return super().change_view(request, object_id, form_url, shown)


class OperatorGroupAdmin(GuardedAdmin, GroupAdmin):
    form = GroupForm
    fields = (PASSWORD_FIELD, "name", "permissions")
    delete_confirmation_template = "admin/operators/delete_group.html"

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self.fields if _is_superuser(request) else self.fields[1:]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return _is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_superuser(request)

    def changed_rights(self, form: Any, change: bool) -> Iterator[tuple[User, list[str]]]:
        if "permissions" in form.changed_data:
            for user in form.instance.user_set.all():
                yield user, [f"group {form.instance}"]

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        with self.recording_refusal(request, object_id):
            may = _is_superuser(request)
            if (
                may
                and request.method == "POST"
                and not is_present_password(request, request.POST.get(PASSWORD_FIELD, ""))
            ):
                messages.error(request, WRONG_PASSWORD)
                return HttpResponseRedirect(request.get_full_path())
            return super().delete_view(request, object_id, extra_context)

    def delete_model(self, request: HttpRequest, obj: Group) -> None:
        members = list(obj.user_set.all())
        super().delete_model(request, obj)
        for user in members:
            security_log.log_rights_change(request, user, [f"group {obj}"])


def note_first_password(user: User) -> None:
    """The user's password was chosen by a superuser."""
    FirstPassword.objects.update_or_create(user=user, defaults={"origin": FirstPassword.Origin.SUPERUSER})


def _is_superuser(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_superuser)
