"""Operators, their groups and their sessions.

Only superusers touch rights, passwords of others and superusers' rows; nobody his own. Whoever changes what a sign-in
rests on gives the own password again. No user is deleted: the log of what one did would go too; a user that is not
active cannot sign in. Everybody sees and ends the own sessions, superusers all.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import logout
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.forms import SetPasswordForm, UserChangeForm, UserCreationForm
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters

from meshes.console import display
from meshes.console.display import column
from meshes.console.pages import OperatorAdmin, WellFormedSelection
from meshes.console.signin import factors
from meshes.console.signin.models import FirstPassword, OperatorSession
from meshes.console.signin.passwords import (
    PASSWORD_FIELD,
    WRONG_PASSWORD,
    AsksPassword,
    ConfirmForm,
    is_present_password,
    password_field,
)
from meshes.console.signin.sessions import stored
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

    def formfield_for_manytomany(self, db_field: Any, request: Any = None, **options: Any) -> Any:
        """Rights are given to what has a page."""
        if db_field.related_model is Permission:
            with_page = ContentType.objects.get_for_models(*self.admin_site._registry).values()
            options["queryset"] = Permission.objects.filter(content_type__in=with_page)
        return super().formfield_for_manytomany(db_field, request, **options)

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

    def get_urls(self) -> list[URLPattern]:
        reset = self.admin_site.admin_view(self.reset_second_factor)
        return [path("<id>/second-factor/reset/", reset, name="auth_user_reset_second_factor"), *super().get_urls()]

    @method_decorator(sensitive_post_parameters())
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Set the password of somebody else, who chooses another at the next sign-in."""
        user = self._somebody(request, id)
        if user.pk == request.user.pk:
            return HttpResponseRedirect(reverse("admin:password_change"))
        form = NewPasswordForm(user, request.POST if request.method == "POST" else None, request=request)
        if not (form.is_bound and form.is_valid()):
            return self._ask(request, user, form, "Set the password of", self.change_user_password_template)
        with transaction.atomic():
            form.save()
            note_first_password(user)
            self.log_change(request, user, "Password set.")
        security_log.log_password_change(request, user)
        messages.success(request, f"{user} has the new password, and chooses another at the next sign-in.")
        return HttpResponseRedirect(reverse("admin:auth_user_change", args=[user.pk]))

    @method_decorator(sensitive_post_parameters())
    def reset_second_factor(self, request: HttpRequest, id: str) -> HttpResponse:
        """Let somebody in who has lost the second factor: it goes, and all sessions end."""
        user = self._somebody(request, id, may_be_oneself=False)
        form = ConfirmForm(request.POST if request.method == "POST" else None, request=request)
        if not (form.is_bound and form.is_valid()):
            template = "admin/operators/reset_second_factor.html"
            return self._ask(request, user, form, "Reset the second factor of", template)
        if factors.reset(user):
            self.log_change(request, user, "Second factor reset.")
            security_log.log_second_factor_change(request, user, "removed")
            messages.success(request, f"The second factor of {user} is removed; all sessions have ended.")
        else:
            messages.warning(request, f"{user} has no second factor.")
        return HttpResponseRedirect(reverse("admin:auth_user_change", args=[user.pk]))

    def _somebody(self, request: HttpRequest, id: str, *, may_be_oneself: bool = True) -> User:
        """Whom only a superuser changes."""
        user: User | None = self.get_object(request, unquote(id))
        with self.recording_refusal(request, id):
            is_oneself = user is not None and user.pk == request.user.pk
            if not _is_superuser(request) or (is_oneself and not may_be_oneself):
                raise PermissionDenied
        if user is None:
            raise Http404
        return user

    def _ask(self, request: HttpRequest, user: User, form: Any, title: str, template: str) -> TemplateResponse:
        shown = {"title": f"{title} {user}", "opts": self.opts, "original": user, "form": form}
        return TemplateResponse(request, template, self.admin_site.each_context(request) | shown)

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
            is_asked = _is_superuser(request) and request.method == "POST"
            if is_asked and not is_present_password(request, request.POST.get(PASSWORD_FIELD, "")):
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


# --- sessions -------------------------------------------------------------------------------------------------------

BROWSERS = (("Edg", "Edge"), ("OPR", "Opera"), ("Firefox", "Firefox"), ("Chrome", "Chrome"), ("Safari", "Safari"))
"""By what stands in `User-Agent`, in the order in which to look: Edge says that it is Chrome, and Chrome Safari."""
SYSTEMS = (("Android", "Android"), ("iPhone", "iOS"), ("iPad", "iOS"), ("Windows", "Windows"), ("Mac OS", "macOS"),
           ("Linux", "Linux"))  # fmt: skip


def browser_name(text: str) -> str:
    """`Firefox on Linux`, or the text as it was sent where it is another's."""
    browser = next((name for mark, name in BROWSERS if re.search(rf"\b{mark}\w*/", text)), "")
    system = next((name for mark, name in SYSTEMS if mark in text), "")
    return " on ".join(part for part in (browser, system) if part) if browser else display.visible(text[:60])


class OperatorSessionAdmin(OperatorAdmin):
    list_display = fields = (
        column("user", lambda session: display.page_link("auth.user", session.user_id, str(session.user))),
        column("signed in (UTC)", "started_at", display.moment), column("last seen (UTC)", "seen_at", display.moment),
        "address", column("browser", "browser", lambda text: browser_name(text) or display.NOTHING),
        column("which", lambda row: display.badge("this one", "good") if row.is_this_one else ""),
    )  # fmt: skip
    list_select_related = ("user",)
    search_fields = ()
    ordering = ("-seen_at",)
    paginator = Paginator  # type: ignore[assignment]  # they are few, and counted
    list_per_page = 200
    actions = ("end", "end_all_of_the_user")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ChangeList

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        title = "Sessions of operators" if request.user.is_superuser else "Your sessions"
        return super().changelist_view(request, {"title": title} | (extra_context or {}))

    def has_module_permission(self, request: HttpRequest) -> bool:
        return True

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None or bool(request.user.is_superuser or obj.user_id == request.user.pk)

    def get_queryset(self, request: HttpRequest) -> QuerySet[OperatorSession]:
        """Without what the sessions hold; which of them asks."""
        is_this_one = Q(pk=stored(request.session.session_key))
        rows = OperatorSession.objects.live().filter(user__isnull=False).defer("session_data")
        rows = rows.annotate(is_this_one=ExpressionWrapper(is_this_one, BooleanField()))
        return rows if request.user.is_superuser else rows.filter(user__username=request.user.get_username())

    def buttons(self, request: HttpRequest, obj: OperatorSession) -> dict[str, str]:
        return {"end": "End this session", "end_all_of_the_user": "End all sessions of this user"}

    @admin.action(description="End the selected sessions")
    def end(self, request: HttpRequest, queryset: QuerySet[OperatorSession]) -> HttpResponse:
        return self._end(request, queryset, queryset, "end", "End these sessions?")

    @admin.action(description="End all sessions of their users")
    def end_all_of_the_user(self, request: HttpRequest, queryset: QuerySet[OperatorSession]) -> HttpResponse:
        users = list(queryset.values_list("user", flat=True).distinct())
        all_of_them = self.get_queryset(request).filter(user__in=users)
        return self._end(request, queryset, all_of_them, "end_all_of_the_user", "End all sessions of these users?")

    def _end(
        self,
        request: HttpRequest,
        selected: QuerySet[OperatorSession],
        ended: QuerySet[OperatorSession],
        action: str,
        question: str,
    ) -> HttpResponse:
        rows = list(ended)
        is_own = stored(request.session.session_key) in {row.pk for row in rows}  # before it has a new key
        form = ConfirmForm(request.POST if "confirm" in request.POST else None, request=request)
        if not (form.is_bound and form.is_valid()):
            shown = {"title": question, "opts": self.opts, "media": self.media, "form": form, "action": action}
            shown |= {"selected": selected, "sessions": [(row, browser_name(row.browser)) for row in ended]}
            context = self.admin_site.each_context(request) | shown
            return TemplateResponse(request, "admin/operators/end_sessions.html", context)
        for user in {row.user for row in rows}:
            theirs = [row.pk for row in rows if row.user == user]
            number = OperatorSession.objects.end(pk__in=theirs) + int(is_own and user == request.user)
            security_log.log_ended_sessions(request, user, number)
        if is_own:
            logout(request)
            return HttpResponseRedirect(reverse("admin:login"))
        messages.success(request, f"{len(rows)} session{'s' if len(rows) != 1 else ''} ended.")
        return HttpResponseRedirect(reverse("admin:signin_operatorsession_changelist"))
