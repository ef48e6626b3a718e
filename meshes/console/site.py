"""The operators' site: models in the order in which an operator thinks, an overview, and a way to any id."""

import functools
from typing import Any

from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth import logout
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import SimpleTemplateResponse, TemplateResponse
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

from meshes.console import overview
from meshes.console.display import PAGES
from meshes.console.lists import workspace_ids
from meshes.console.signin import steps
from meshes.kit import clock, ids
from meshes.kit.clock import snapshot
from meshes.kit.ids import as_uuid
from workspaces.models import Workspace

GROUPS = {
    "Tenants": ("workspaces.Workspace", "workspaces.ApiKey"),
    "Destinations": ("connections.Connection", "connections.OAuthGrant", "connections.OAuthApp", "delivery.Rule"),
    "Traffic": ("delivery.Event", "delivery.Delivery", "delivery.DeadLetter", "delivery.Replay", "delivery.Unrouted"),
    "Records": ("connections.AccessRecord", "delivery.Attempt"),
    "Operators": ("auth.User", "auth.Group", "signin.OperatorSession", "admin.LogEntry"),
}
"""All that has a page, in the order in which an operator thinks."""

LANES = {"conn": PAGES[ids.CONNECTION], "fanout": PAGES[ids.WORKSPACE]}
"""By the first part of a lane's name, what its second part is the UUID of."""


class OperatorsSite(admin.AdminSite):
    site_header = "Meshes"
    site_title = "Meshes"
    index_title = "Overview"
    index_template = "admin/operators_index.html"
    site_url = "/api/docs"

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """Every page is of one moment, its rendering included. Looking at credentials writes a record, in it."""
        inner = super().admin_view(view, cacheable)

        @functools.wraps(inner)
        def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            if step := self.unfinished_step(request):
                return HttpResponseRedirect(step)
            if request.method not in {"GET", "HEAD"}:
                return inner(request, *args, **kwargs)
            with snapshot(is_read_only=False):
                response = inner(request, *args, **kwargs)
                return response.render() if isinstance(response, SimpleTemplateResponse) else response

        return answer

    def get_urls(self) -> list[URLPattern | URLResolver]:
        return [
            path("find/", self.admin_view(self.find), name="find"),
            path("away/", steps.away, name="away"),
            path("second-factor/", steps.second_factor, name="second_factor"),
            path("second-factor/set-up/", steps.set_up_second_factor, name="set_up_second_factor"),
            path("sign-in/", self.admin_view(steps.own_signin), name="own_signin"),
            *super().get_urls(),
        ]

    # --- signing in --------------------------------------------------------------------------------------------------

    def has_permission(self, request: HttpRequest) -> bool:
        return super().has_permission(request) and steps.is_complete(request)

    def unfinished_step(self, request: HttpRequest) -> str | None:
        """Where to finish a sign-in before any page: the second factor, or a password that must be changed."""
        if not self.has_permission(request):
            return reverse("admin:second_factor") if steps.pending_user(request) else None
        free = (reverse("admin:password_change"), reverse("admin:logout"))
        if steps.must_change_password(request) and request.path not in free:
            return reverse("admin:password_change")
        return None

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        is_in = request.user.is_authenticated
        return super().each_context(request) | {
            "has_first_password": is_in and steps.FIRST_PASSWORD in request.session,
            "must_change_password": is_in and steps.must_change_password(request),
        }

    @method_decorator(never_cache)
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        index = reverse("admin:index")
        if request.method == "GET" and self.has_permission(request):
            return HttpResponseRedirect(index)
        if request.user.is_authenticated and not self.has_permission(request):
            logout(request)  # of a session that was begun when less was needed
        context = self.each_context(request) | {
            "title": "Log in",
            "subtitle": None,
            "app_path": request.get_full_path(),
            "username": request.user.get_username(),
            "next": request.POST.get("next") or request.GET.get("next") or index,
        }
        page = steps.PasswordStep.as_view(
            extra_context=context | (extra_context or {}),
            authentication_form=AdminAuthenticationForm,
            template_name="admin/login.html",
        )
        return page(request)

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        page = steps.OwnPasswordChange.as_view(
            success_url=reverse("admin:password_change_done"),
            extra_context=self.each_context(request) | (extra_context or {}),
        )
        return page(request)

    def autocomplete_view(self, request: HttpRequest) -> HttpResponse:
        """No field of a form here is completed, so rows are not listed past their own pages."""
        raise Http404

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """Models by what they are to an operator; what no group names keeps its app."""
        stock = super().get_app_list(request, app_label)
        if app_label is not None:
            return stock
        found = {f"{app['app_label']}.{model['object_name']}": model for app in stock for model in app["models"]}
        listed: list[dict[str, Any]] = []
        for name, members in GROUPS.items():
            if models := [found.pop(member) for member in members if member in found]:
                slug = name.lower()
                url = f"{reverse('admin:index', current_app=self.name)}#{slug}"
                listed.append(
                    {"name": name, "app_label": slug, "app_url": url, "has_module_perms": True, "models": models}
                )
        others = [app | {"models": [each for each in app["models"] if each in found.values()]} for app in stock]
        return listed + [app for app in others if app["models"]]

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        shown = overview.tiles(clock.database_now()) if request.user.has_perm("delivery.view_delivery") else []
        return super().index(request, {**(extra_context or {}), "tiles": shown})

    def find(self, request: HttpRequest) -> HttpResponse:
        """Go to the page of an id, also of a bare UUID or a lane's name, or of the workspace with an external id."""
        text = request.GET.get("id", "").strip()
        prefix = text.rpartition("_")[0]
        pk = ids.decode(prefix, text) if prefix in PAGES else None
        if pk is not None:
            return HttpResponseRedirect(reverse(f"admin:{PAGES[prefix]}_change", args=[pk]))
        if page := self._page_of_uuid(request, text):
            return HttpResponseRedirect(page)
        may_see = self.get_model_admin(Workspace).has_view_permission(request)
        if may_see and (named := workspace_ids(text)):
            return HttpResponseRedirect(reverse("admin:workspaces_workspace_change", args=[named[0]]))
        messages.warning(request, f"Nothing is known by {text!r}." if text else "Give an id to go to.")
        return HttpResponseRedirect(reverse("admin:index"))

    def _page_of_uuid(self, request: HttpRequest, text: str) -> str | None:
        """The page of a row with this UUID that the user may see; `conn.` or `fanout.` before it make a lane's name."""
        kind, _, bare = text.rpartition(".")
        pages = [LANES[kind]] if kind in LANES else list(PAGES.values()) if not kind else []
        pk = as_uuid(bare)
        for page in pages if pk is not None else ():
            model = apps.get_model(page.replace("_", ".", 1))
            may_see = self.get_model_admin(model).has_view_permission(request)
            if may_see and model._default_manager.filter(pk=pk).exists():
                return reverse(f"admin:{page}_change", args=[pk])
        return None
