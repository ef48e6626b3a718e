"""Filters of list pages. None of them offers a choice that has to be read from a large table first."""

import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.contrib.admin import SimpleListFilter
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest

from meshes.console.finding import workspace_ids
from meshes.kit import clock, ids


class TextFilter(SimpleListFilter):
    """A filter by a value that is typed in. Subclasses write `narrow`."""

    template = "admin/operators/text_filter.html"
    placeholder: ClassVar[str] = ""

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

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip().replace("\x00", "")
        return self.narrow(queryset, value) if value else queryset

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        raise NotImplementedError


class WorkspaceFilter(TextFilter):
    title = "workspace"
    parameter_name = "workspace"
    placeholder = "ws_… or external id"

    def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        found = workspace_ids(value)
        return queryset.filter(workspace_id=found[0]) if len(found) == 1 else queryset.filter(workspace_id__in=found)


class PeriodFilter(SimpleListFilter):
    """By the moment in the primary key (UUIDv7), so that only the partitions of that time are read."""

    title = "time"
    parameter_name = "period"
    periods: ClassVar = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7)}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1h", "The last hour"), ("24h", "The last 24 hours"), ("7d", "The last 7 days")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        period = self.periods.get(self.value() or "")
        return queryset.filter(pk__gte=first_id_at(clock.now() - period)) if period else queryset


def first_id_at(moment: datetime) -> uuid.UUID:
    """The lowest id that a row of this moment, or a later one, can have."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)


def by_id(title: str, parameter: str, prefix: str, lookup: str) -> type[TextFilter]:
    """A filter by the id of a row that the list's rows refer to."""

    class ByIdFilter(TextFilter):
        placeholder = f"{prefix}_…"

        def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
            pk = ids.decode(prefix, value)
            return queryset.filter(**{lookup: pk}) if pk is not None else queryset.none()

    ByIdFilter.title, ByIdFilter.parameter_name = title, parameter
    return ByIdFilter


def by_choice(title: str, lookup: str, choices: Iterable[str]) -> type[SimpleListFilter]:
    """A filter by one of a few values of a field."""
    offered = list(choices)

    class ByChoiceFilter(SimpleListFilter):
        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
            return [(value, value.replace("_", " ").capitalize()) for value in offered]

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            return queryset.filter(**{lookup: self.value()}) if self.value() in offered else queryset

    ByChoiceFilter.title, ByChoiceFilter.parameter_name = title, lookup
    return ByChoiceFilter


def by_text(title: str, lookup: str, hint: str) -> type[TextFilter]:
    """A filter by the exact value of a field."""

    class ByTextFilter(TextFilter):
        placeholder = hint

        def narrow(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
            return queryset.filter(**{lookup: value})

    ByTextFilter.title, ByTextFilter.parameter_name = title, lookup
    return ByTextFilter
