"""Who: workspaces, API keys."""

from django.apps import AppConfig


class WorkspacesConfig(AppConfig):
    name = "workspaces"

    def ready(self) -> None:
        from corsheaders.signals import check_request_enabled
        from django.core.signals import request_finished

        from workspaces import cors, usage

        check_request_enabled.connect(cors.is_allowed, dispatch_uid="workspaces.cors")
        request_finished.connect(usage.write_pending, dispatch_uid="workspaces.usage")
