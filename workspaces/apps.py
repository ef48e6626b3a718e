"""Who: workspaces, API keys."""

from django.apps import AppConfig


class WorkspacesConfig(AppConfig):
    name = "workspaces"

    def ready(self) -> None:
        from corsheaders.signals import check_request_enabled
        from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
        from django.core.signals import request_finished

        from meshes.console import logins
        from workspaces import cors, usage

        check_request_enabled.connect(cors.is_allowed, dispatch_uid="workspaces.cors")
        request_finished.connect(usage.write_pending, dispatch_uid="workspaces.usage")
        user_logged_in.connect(logins.note_login, dispatch_uid="workspaces.login")
        user_login_failed.connect(logins.note_failure, dispatch_uid="workspaces.failed_login")
        user_logged_out.connect(logins.note_logout, dispatch_uid="workspaces.logout")
