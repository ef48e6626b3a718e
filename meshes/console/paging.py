"""Lists by primary key, newest first, a page at a time: no page asks how many rows there are.

Every primary key is a UUIDv7 or a sequence, so its order is the order of time, and "older than this row" is one descent
of an index wherever the reader stands. `OFFSET` and `COUNT` would read what they skip and count.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db import OperationalError, connection, transaction
from django.db.models import Field, Model, QuerySet
from django.http import HttpRequest
from django.utils.text import capfirst
from psycopg2.errors import QueryCanceled

LIST_TIMEOUT_MS = 5_000
"""A filter that no index serves ends here, with a word to the operator, and never occupies the database for long."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page begins: on which side of which row."""

    is_newer: bool
    pk: Any

    @classmethod
    def read(cls, text: str, field: "Field[Any, Any]") -> "Position | None":
        """`older.<primary key>` or `newer.<primary key>`; anything else is the first page."""
        side, _, value = text.partition(".")
        if side not in {"older", "newer"}:
            return None
        try:
            return cls(side == "newer", field.to_python(value))
        except ValidationError:
            return None


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
    """A list page between "newer" and "older", that stops a query which takes too long."""

    older_query = ""
    newer_query = ""
    is_too_slow = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = capfirst(str(self.opts.verbose_name_plural))

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["-pk"]

    def get_results(self, request: HttpRequest) -> None:
        pk = self.opts.pk
        position = Position.read(request.GET.get(PAGE_VAR, ""), getattr(pk, "target_field", pk))
        rows = self._read(position)
        has_more = len(rows) > self.list_per_page
        rows = rows[: self.list_per_page]
        if position is not None and position.is_newer:
            rows.reverse()
            self._link(rows, has_newer=has_more, has_older=True)
        else:
            self._link(rows, has_newer=position is not None, has_older=has_more)
        self.result_list = rows
        self.result_count = self.full_result_count = len(rows)
        self.show_full_result_count = self.can_show_all = self.multi_page = False
        self.show_admin_actions = bool(rows)

    def _read(self, position: Position | None) -> list[Model]:
        queryset = self.queryset
        if position is not None and position.is_newer:
            queryset = queryset.filter(pk__gt=position.pk).order_by("pk")
        elif position is not None:
            queryset = queryset.filter(pk__lt=position.pk)
        try:
            return read_in_time(queryset[: self.list_per_page + 1], LIST_TIMEOUT_MS)
        except TooSlow:
            self.is_too_slow = True
            return []

    def _link(self, rows: list[Model], *, has_newer: bool, has_older: bool) -> None:
        if rows and has_older:
            self.older_query = self.get_query_string({PAGE_VAR: f"older.{rows[-1].pk}"})
        if rows and has_newer:
            self.newer_query = self.get_query_string({PAGE_VAR: f"newer.{rows[0].pk}"})

    @property
    def first_query(self) -> str:
        return self.get_query_string()


class TooSlow(Exception):  # noqa: N818 - names what happened
    """A query was stopped, because no index serves it."""


def read_in_time(queryset: QuerySet[Any], timeout_ms: int) -> list[Any]:
    """The rows of a query. Raises TooSlow where the database needs longer than that."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = %s", [timeout_ms])
            rows = list(queryset)
            cursor.execute("SET LOCAL statement_timeout TO DEFAULT")
            return rows
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise TooSlow from error
        raise
