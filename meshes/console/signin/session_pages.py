"""Sessions of operators as a page: everybody sees and ends the own ones, superusers all."""

import re
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import logout
from django.core.paginator import Paginator
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from meshes.console import columns, display
from meshes.console.pages import Button, OperatorAdmin
from meshes.console.signin.forms import ConfirmForm
from meshes.console.signin.models import OperatorSession
from meshes.console.signin.sessions import stored
from workspaces import security_log

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
    list_display = ("show_user", "show_started", "show_seen", "address", "show_browser", "show_which")
    fields = list_display
    readonly_fields = fields
    list_select_related = ("user",)
    search_fields: ClassVar[tuple[str, ...]] = ()
    ordering = ("-seen_at",)
    paginator = Paginator  # type: ignore[assignment]  # they are few, and counted
    list_per_page = 200
    actions = ("end", "end_all_of_the_user")
    show_started = columns.moment("started_at", "signed in")
    show_seen = columns.moment("seen_at", "last seen")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ChangeList

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        title = "Sessions of operators" if request.user.is_superuser else "Your sessions"
        return super().changelist_view(request, {"title": title} | (extra_context or {}))

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        return queryset, False

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

    @admin.display(description="user")
    def show_user(self, session: OperatorSession) -> str:
        return display.page_link("auth.User", session.user_id, str(session.user))

    @admin.display(description="browser")
    def show_browser(self, session: OperatorSession) -> str:
        return browser_name(session.browser) or display.NOTHING

    def buttons(self, request: HttpRequest, obj: OperatorSession) -> list[Button]:
        return [
            Button("end", "End this session", is_grave=True),
            Button("end_all_of_the_user", "End all sessions of this user"),
        ]

    @admin.display(description="which")
    def show_which(self, session: OperatorSession) -> str:
        return display.badge("this one", "good") if getattr(session, "is_this_one", False) else ""

    @admin.action(description="End the selected sessions")
    def end(self, request: HttpRequest, queryset: QuerySet[OperatorSession]) -> HttpResponse | None:
        return self._end(request, queryset, queryset, "end", "End these sessions?")

    @admin.action(description="End all sessions of their users")
    def end_all_of_the_user(self, request: HttpRequest, queryset: QuerySet[OperatorSession]) -> HttpResponse | None:
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
    ) -> HttpResponse | None:
        rows = list(ended)
        is_own = stored(request.session.session_key) in {row.pk for row in rows}  # before it has a new key
        form = ConfirmForm(request.POST if "confirm" in request.POST else None, request=request)
        if not (form.is_bound and form.is_valid()):
            return self._ask(request, form, selected, ended, action, question)
        for user in {row.user for row in rows}:
            theirs = [row.pk for row in rows if row.user == user]
            number = OperatorSession.objects.end(pk__in=theirs) + int(is_own and user == request.user)
            security_log.log_ended_sessions(request, user, number)
        if is_own:
            logout(request)
            return HttpResponseRedirect(reverse("admin:login"))
        messages.success(request, f"{len(rows)} session{'s' if len(rows) != 1 else ''} ended.")
        return HttpResponseRedirect(reverse("admin:signin_operatorsession_changelist"))

    def _ask(
        self, request: HttpRequest, form: ConfirmForm, selected: Any, ended: Any, action: str, question: str
    ) -> TemplateResponse:
        context = self.admin_site.each_context(request) | {
            "title": question,
            "opts": self.opts,
            "media": self.media,
            "form": form,
            "selected": selected,
            "sessions": [(row, browser_name(row.browser)) for row in ended],
            "action": action,
        }
        return TemplateResponse(request, "admin/operators/end_sessions.html", context)
