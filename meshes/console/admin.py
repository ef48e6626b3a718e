"""What the site shows: Django looks here. Each module below registers its pages; the site's own log is here."""

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.utils.html import format_html

from meshes.console import connections, deliveries, display, workspaces  # noqa: F401
from meshes.console.display import column
from meshes.console.pages import OperatorAdmin
from meshes.console.signin.models import OperatorSession
from meshes.console.signin.users import OperatorGroupAdmin, OperatorSessionAdmin, OperatorUserAdmin

admin.site.unregister([User, Group])
admin.site.register(User, OperatorUserAdmin)
admin.site.register(Group, OperatorGroupAdmin)
admin.site.register(OperatorSession, OperatorSessionAdmin)


@admin.register(LogEntry)
class LogEntryAdmin(OperatorAdmin):
    """Who changed what here."""

    list_display = (
        column("when (UTC)", "action_time", display.moment), "user", "content_type", "row",
        column("what", lambda entry: entry.get_change_message() or display.NOTHING),
    )  # fmt: skip
    list_select_related = ("user", "content_type")
    search_fields = ()
    fields = list_display

    def row(self, entry: LogEntry) -> str:
        url = entry.get_admin_url()
        return format_html('<a href="{}">{}</a>', url, entry.object_repr) if url else entry.object_repr
