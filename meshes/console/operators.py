"""The admin's own log, as a page: who changed what here; and the pages of operators themselves."""

from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django.utils.html import format_html

from meshes.console import columns, display
from meshes.console.pages import OperatorAdmin
from meshes.console.signin.models import OperatorSession
from meshes.console.signin.session_pages import OperatorSessionAdmin
from meshes.console.signin.users import OperatorGroupAdmin, OperatorUserAdmin

admin.site.unregister([User, Group])
admin.site.register(User, OperatorUserAdmin)
admin.site.register(Group, OperatorGroupAdmin)
admin.site.register(OperatorSession, OperatorSessionAdmin)


@admin.register(LogEntry)
class LogEntryAdmin(OperatorAdmin):
    list_display = ("show_when", "user", "content_type", "show_row", "show_message")
    list_select_related = ("user", "content_type")
    search_fields: ClassVar[tuple[str, ...]] = ()
    fields = list_display
    readonly_fields = fields
    show_when = columns.moment("action_time", "when")

    @admin.display(description="row")
    def show_row(self, entry: LogEntry) -> str:
        url = entry.get_admin_url()
        return format_html('<a href="{}">{}</a>', url, entry.object_repr) if url else entry.object_repr

    @admin.display(description="what")
    def show_message(self, entry: LogEntry) -> str:
        return entry.get_change_message() or display.NOTHING

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        return queryset, False
