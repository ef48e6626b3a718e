"""Lists: by primary key, newest first; searched and filtered by what an index serves.

Every primary key is a UUIDv7 or a sequence, so its order is the order of time, and "older than this row" is one descent
of an index wherever the reader stands. `OFFSET` and `COUNT` would read what they skip and count. Nothing is searched
for with LIKE, and no filter offers a choice that has to be read from a large table first.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib.admin import SimpleListFilter
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db import OperationalError, connection, transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.text import capfirst
from psycopg2.errors import QueryCanceled

from meshes.console.display import plain
from meshes.kit import clock, ids
from workspaces.models import Workspace

LIST_TIMEOUT_MS = 5_000
"""A filter that no index serves ends here, with a word to the operator, and never occupies the database for long."""

if TYPE_CHECKING:
    _Paginator = Paginator[Any]
else:
    _Paginator = Paginator  # generic in the type stubs only


class UncountedPaginator(_Paginator):
    """For what asks a page of Django's admin for a paginator: it claims one page and counts nothing."""

    @property
    def count(self) -> int:
        return int(self.per_page)


class NewestFirst(ChangeList):
    """A list page between "newer" and "older", that stops a query which takes too long.

    The parameter `p` is `older.<primary key>` or `newer.<primary key>`; anything else is the first page.
    """

    older_query = newer_query = ""
    is_too_slow = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = capfirst(str(self.opts.verbose_name_plural))

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["-pk"]

    def get_results(self, request: HttpRequest) -> None:
        side, _, value = request.GET.get(PAGE_VAR, "").partition(".")
        queryset, pk = self.queryset, getattr(self.opts.pk, "target_field", self.opts.pk)
        try:
            if side == "newer":
                queryset = queryset.filter(pk__gt=pk.to_python(value)).order_by("pk")
            elif side == "older":
                queryset = queryset.filter(pk__lt=pk.to_python(value))
            else:
                side = ""
        except ValidationError:
            side = ""
        rows = self._read_in_time(queryset[: self.list_per_page + 1])
        has_more = len(rows) > self.list_per_page
        rows = rows[: self.list_per_page]
        if side == "newer":
            rows.reverse()
        if rows and (has_more or side == "newer"):
            self.older_query = self.get_query_string({PAGE_VAR: f"older.{rows[-1].pk}"})
        if rows and (has_more if side == "newer" else side):
            self.newer_query = self.get_query_string({PAGE_VAR: f"newer.{rows[0].pk}"})
        self.result_list = rows
        self.result_count = self.full_result_count = len(rows)
        self.show_full_result_count = self.can_show_all = self.multi_page = False
        self.show_admin_actions = bool(rows)

    def _read_in_time(self, queryset: QuerySet[Any]) -> list[Any]:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL statement_timeout = %s", [LIST_TIMEOUT_MS])
                rows = list(queryset)
                cursor.execute("SET LOCAL statement_timeout TO DEFAULT")
                return rows
        except OperationalError as error:
            if not isinstance(error.__cause__, QueryCanceled):
                raise
            self.is_too_slow = True
            return []

    @property
    def first_query(self) -> str:
        return self.get_query_string()


# --- what is typed into a search box --------------------------------------------------------------------------------


def narrow(queryset: QuerySet[Any], words: str, lookups: Mapping[str, str]) -> QuerySet[Any]:
    """The rows to which every word applies: an id, the external id of a workspace, or else an event type.

    `lookups` says by which field a word narrows the list: a TypeID prefix ("evt"), or "type" for an event type.
    """
    for word in words.split():
        prefix = word.rpartition("_")[0]
        found: dict[str, Any] = {}
        if prefix and (pk := ids.decode(prefix, word)) is not None:
            found = {lookups[prefix]: pk} if prefix in lookups else {}
        elif bare := ids.as_uuid(word):
            found = {"pk": bare}
        elif ids.WORKSPACE in lookups and (workspaces := workspace_ids(word)):
            found = {f"{lookups[ids.WORKSPACE]}__in": workspaces}
        elif "type" in lookups:
            found = {lookups["type"]: word}
        queryset = queryset.filter(**found) if found else queryset.none()
    return queryset


def workspace_ids(reference: str) -> list[uuid.UUID]:
    """The workspaces that an id or external id names: the live one, and deleted ones that had it before."""
    pk = ids.decode(ids.WORKSPACE, reference)
    if pk is not None:
        return [pk]
    if "\x00" in reference:
        return []
    return list(Workspace.objects.filter(external_id=reference).order_by().values_list("pk", flat=True)[:10])


# --- filters --------------------------------------------------------------------------------------------------------

Rows = QuerySet[Any]


class TextFilter(SimpleListFilter):
    """A filter by a value that is typed in."""

    template = "admin/operators/text_filter.html"
    placeholder: ClassVar[str] = ""
    narrow: ClassVar[Callable[[Rows, str], Rows]]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("", "")]  # without a lookup Django leaves a filter out

    def choices(self, changelist: ChangeList) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        others = changelist.get_filters_params()
        others.pop(self.parameter_name or "", None)
        yield {
            "value": self.value() or "",
            "others": [(key, value) for key, values in others.items() for value in values]
            + ([("q", changelist.query)] if changelist.query else []),
            "without": changelist.get_query_string(remove=[self.parameter_name or ""]),
        }

    def queryset(self, request: HttpRequest, queryset: Rows) -> Rows:
        value = (self.value() or "").strip().replace("\x00", "")
        return type(self).narrow(queryset, value) if value else queryset


def typed(title: str, parameter: str, placeholder: str, narrow: Callable[[Rows, str], Rows]) -> type[TextFilter]:
    named = {"title": title, "parameter_name": parameter, "placeholder": placeholder, "narrow": staticmethod(narrow)}
    return type("TypedFilter", (TextFilter,), named)


def by_text(title: str, lookup: str, placeholder: str) -> type[TextFilter]:
    """A filter by the exact value of a field."""
    return typed(title, lookup, placeholder, lambda rows, value: rows.filter(**{lookup: value}))


def by_id(title: str, prefix: str, lookup: str) -> type[TextFilter]:
    """A filter by the id of a row that the list's rows refer to."""

    def narrow_by_id(rows: Rows, value: str) -> Rows:
        pk = ids.decode(prefix, value)
        return rows.filter(**{lookup: pk}) if pk is not None else rows.none()

    return typed(title, title, f"{prefix}_…", narrow_by_id)


WorkspaceFilter = typed(
    "workspace",
    "workspace",
    "ws_… or external id",
    lambda rows, value: rows.filter(workspace_id__in=workspace_ids(value)),
)


def chosen(
    title: str, parameter: str, choices: Iterable[str] | Mapping[str, str], narrow: Callable[[Rows, str], Rows]
) -> type[SimpleListFilter]:
    """A filter by one of a few values, which `choices` may give labels."""
    labels = dict(choices) if isinstance(choices, Mapping) else {value: plain(value).capitalize() for value in choices}

    class ChosenFilter(SimpleListFilter):
        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
            return list(labels.items())

        def queryset(self, request: HttpRequest, queryset: Rows) -> Rows:
            value = self.value() or ""
            return narrow(queryset, value) if value in labels else queryset

    ChosenFilter.title, ChosenFilter.parameter_name = title, parameter
    return ChosenFilter


def by_condition(title: str, parameter: str, conditions: Mapping[str, Q]) -> type[SimpleListFilter]:
    """A filter by one of a few conditions."""
    return chosen(title, parameter, [*conditions], lambda rows, value: rows.filter(conditions[value]))


def by_choice(title: str, lookup: str, choices: Iterable[str]) -> type[SimpleListFilter]:
    """A filter by one of a few values of a field."""
    return by_condition(title, lookup, {value: Q(**{lookup: value}) for value in choices})


_PERIODS = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7)}


def first_id_of(period: timedelta) -> uuid.UUID:
    """The lowest UUIDv7 that a row of the time since then can have, so that only its partitions are read."""
    return uuid.UUID(int=int((clock.now() - period).timestamp() * 1000) << 80)


PeriodFilter = chosen(
    "time",
    "period",
    {"1h": "The last hour", "24h": "The last 24 hours", "7d": "The last 7 days"},
    lambda rows, period: rows.filter(pk__gte=first_id_of(_PERIODS[period])),
)
