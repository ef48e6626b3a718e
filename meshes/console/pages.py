"""The base of every page: read-mostly, searched by ids, listed without counting, acted on with a record of it.

Operators who look at credentials, at the records about them, or at what events carried leave a record too.
"""

import functools
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.text import capfirst

from meshes.console import lists
from meshes.kit import ids
from workspaces.vault import access_log
from workspaces.vault.models import AccessRecord

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _ModelAdmin = admin.ModelAdmin

MOST_AT_ONCE = 1_000
"""Rows that one action takes at most; a larger set is a replay through the API, which is paced."""
ENDING = ("cancel", "revoke", "end")
"""Actions whose buttons warn by their colour."""
LOG = "access_log"
"""The kind of what was looked at where it was the log itself."""


def operator_name(request: HttpRequest) -> str:
    """The user as records of access name them: `operator ada`."""
    return f"operator {request.user.get_username()}"


def record_views(request: HttpRequest, seen: Iterable[AccessRecord]) -> None:
    """Record that the user sees these, each once. `seen` are records that say what was looked at, and no more."""
    once = {(each.workspace_id, each.owner_kind, each.owner_id, each.kind): each for each in seen}
    for each in once.values():
        each.actor, each.purpose = operator_name(request)[: access_log.MAX_ACTOR], "viewed in the admin"
    AccessRecord.objects.bulk_create(once.values())


def log_of(workspace_id: uuid.UUID | None) -> AccessRecord:
    """The records of one workspace (or of none) were looked at."""
    owner_id = workspace_id or uuid.UUID(int=0)
    return AccessRecord(workspace_id=workspace_id, owner_kind=LOG, owner_id=owner_id, kind=LOG, version=0)


def asks(question: str) -> Callable[[Any], Any]:
    """An action that is run once its user has answered this on a page, as it cannot be undone."""

    def wrap(run: Callable[[Any, HttpRequest, QuerySet[Any]], None]) -> Any:
        @functools.wraps(run)
        def asked(site: Any, request: HttpRequest, queryset: QuerySet[Any]) -> TemplateResponse | None:
            if "confirm" in request.POST:
                run(site, request, queryset)
                return None
            context = site.admin_site.each_context(request) | {
                "title": question,
                "opts": site.opts,
                "media": site.media,
                "rows": queryset[: site.list_per_page * 2],
                "action": run.__name__,
                "checkbox_name": helpers.ACTION_CHECKBOX_NAME,
            }
            return TemplateResponse(request, "admin/operators/confirm.html", context)

        return asked

    return wrap


class WellFormedSelection(_ModelAdmin):
    """Ids in a form of actions that no row can have select nothing; Django would answer 500."""

    def response_action(self, request: HttpRequest, queryset: QuerySet[Any], *options: Any) -> HttpResponse | None:
        form = request.POST.copy()
        well_formed = []
        for text in form.getlist(helpers.ACTION_CHECKBOX_NAME):
            with suppress(ValidationError):
                self.opts.pk.clean(text, None)
                well_formed += [text] if "\x00" not in text else []
        form.setlist(helpers.ACTION_CHECKBOX_NAME, well_formed)
        request.POST = form  # type: ignore[assignment]  # as Django's own pages do
        return super().response_action(request, queryset, *options)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """No row is deleted in passing."""
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions


class OperatorAdmin(WellFormedSelection):
    """Rows are looked at; none is added or deleted here, and none is edited unless a subclass says so."""

    prefix: ClassVar[str] = ""
    """The TypeID prefix of the rows; their pages are found by TypeID too."""
    lookups: ClassVar[Mapping[str, str]] = {}
    """See `lists.narrow`."""
    is_editable: ClassVar[bool] = False
    permission_model: ClassVar[str] = ""
    """Whose permissions count ("delivery.delivery"), where it is not the model's own."""
    viewed_kind: ClassVar[access_log.OwnerKind | None] = None
    """What the rows are in the access log, where a page shows what events carried, or words that may quote it."""
    quoting: ClassVar[str] = ""
    """The column of the list, if any, whose words may quote a payload."""

    ordering = ("-pk",)
    sortable_by = ()
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = lists.UncountedPaginator
    search_fields: ClassVar[tuple[str, ...]] = ("pk",)
    change_list_template = "admin/operators/change_list.html"
    change_form_template = "admin/operators/page.html"

    class Media:
        css = {"all": ["workspaces/admin.css"]}

    # --- who may, and who has looked ---------------------------------------------------------------------------------

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self.is_editable and self.has_operate_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._may(request, "view") or self._may(request, "change")

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whether the user may run this page's actions: the model's change permission."""
        return self._may(request, "change")

    def _may(self, request: HttpRequest, verb: str) -> bool:
        app, _, model = (self.permission_model or self.opts.label_lower).partition(".")
        return request.user.has_perm(f"{app}.{verb}_{model}")

    def seen(self, row: Any) -> list[AccessRecord]:
        """What somebody sees of credentials, or of the records about them, who sees this row in a list or as a page."""
        return []

    def _record_looks(self, request: HttpRequest, rows: Iterable[Any], quoting: Iterable[Any]) -> None:
        """Before anything is shown."""
        record_views(request, [each for row in rows for each in self.seen(row)])
        if self.viewed_kind:
            owners = {(row.workspace_id, self.viewed_kind, row.pk) for row in quoting}
            access_log.record_actions(owners, actor=operator_name(request), purpose="viewed")

    # --- lists -------------------------------------------------------------------------------------------------------

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return lists.NewestFirst

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        answer = super().changelist_view(request, extra_context)
        if "cl" in (getattr(answer, "context_data", None) or {}):
            rows = answer.context_data["cl"].result_list  # type: ignore[attr-defined]
            self._record_looks(request, rows, [row for row in rows if self.quoting and getattr(row, self.quoting)])
        return answer

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return lists.narrow(queryset, search_term, self.lookups) if self.search_fields else queryset, False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Only what the page offers: a filter of one's own making could read a whole table."""
        return any(lookup == getattr(offered, "parameter_name", None) for offered in self.list_filter)

    # --- pages -------------------------------------------------------------------------------------------------------

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        pk = ids.decode(self.prefix, object_id) if self.prefix else None
        return super().get_object(request, object_id if pk is None else str(pk), from_field)

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:
        """Back to the front page, by the id as it was typed, which is no UUID."""
        text = unquote(object_id)
        pk = ids.as_uuid(text)
        known_as = ids.encode(self.prefix, pk) if self.prefix and pk else text
        messages.warning(request, f"Nothing is known by {known_as!r}.")
        return HttpResponseRedirect(reverse("admin:index"))

    def page_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """What the page's own template shows."""
        return {}

    def buttons(self, request: HttpRequest, obj: Any) -> dict[str, str]:
        """Labels by action, of those that make sense for this row now."""
        return {}

    def render_change_form(
        self,
        request: HttpRequest,
        context: Any,
        add: Any = False,
        change: Any = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        if obj is not None:
            self._record_looks(request, [obj], [obj])
            allowed = self.get_actions(request)
            context |= {
                "buttons": [
                    {"url": reverse(f"{self._url}_act", args=[obj.pk, action]), "label": label,
                     "is_grave": action in ENDING}
                    for action, label in self.buttons(request, obj).items()
                    if action in allowed
                ],
                "public_id": ids.encode(self.prefix, obj.pk) if self.prefix else "",
                "title": capfirst(str(self.opts.verbose_name)),
                "subtitle": None,
                **self.page_context(request, obj),
            }  # fmt: skip
        return super().render_change_form(request, context, add, change, form_url, obj)

    # --- actions -----------------------------------------------------------------------------------------------------

    @property
    def _url(self) -> str:
        return f"admin:{self.opts.app_label}_{self.opts.model_name}"

    def get_urls(self) -> list[URLPattern]:
        act = self.admin_site.admin_view(self.act_on_one)
        name = f"{self._url}_act".removeprefix("admin:")
        return [path("<path:object_id>/do/<slug:action>/", act, name=name), *super().get_urls()]

    def act_on_one(self, request: HttpRequest, object_id: str, action: str) -> HttpResponse:
        """Run an action of the list on one row, from a button on its page."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_view_permission(request):
            raise PermissionDenied
        obj = self.get_object(request, object_id)
        if obj is None:
            raise Http404
        run = self.get_actions(request).get(action)
        if run is None:
            raise PermissionDenied
        answer: HttpResponse | None = run[0](self, request, self.get_queryset(request).filter(pk=obj.pk))
        return answer or HttpResponseRedirect(reverse(f"{self._url}_change", args=[obj.pk]))

    def selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """The rows of an action, `MOST_AT_ONCE` at most."""
        rows = list(queryset[: MOST_AT_ONCE + 1])
        if len(rows) > MOST_AT_ONCE:
            self.message_user(request, f"Only the first {MOST_AT_ONCE:,} were taken.", messages.WARNING)
        return rows[:MOST_AT_ONCE]

    def record(self, request: HttpRequest, changed: Iterable[Model], message: str) -> None:
        """Write to the admin's log that the user changed these rows. One statement, whatever the number."""
        if rows := list(changed):
            LogEntry.objects.log_actions(
                user_id=request.user.pk or 0, queryset=rows, action_flag=CHANGE, change_message=message
            )

    def report(self, request: HttpRequest, done: str, count: int, refused: Iterable[str]) -> None:
        """Say how many rows an action changed, and for what reason how many were left alone."""
        reasons = Counter(refused)
        if count:
            self.message_user(request, f"{count:,} {done}.", messages.SUCCESS)
        for reason, number in reasons.most_common():
            self.message_user(request, f"{number:,} left as they were: {reason}", messages.WARNING)
        if not count and not reasons:
            self.message_user(request, "Nothing was selected.", messages.WARNING)
