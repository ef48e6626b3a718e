"""The operators' site. Django reads this before any model, so that `admin.site` is `meshes.console.site`'s."""

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class OperatorsAdminConfig(AdminConfig):
    default_site = "meshes.console.site.OperatorsSite"


class ConsoleConfig(AppConfig):
    name = "meshes.console"

    def ready(self) -> None:
        from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed

        from meshes.console import logins

        user_logged_in.connect(logins.note_login, dispatch_uid="meshes.console.login")
        user_login_failed.connect(logins.note_failure, dispatch_uid="meshes.console.failed_login")
        user_logged_out.connect(logins.note_logout, dispatch_uid="meshes.console.logout")
