"""Who: workspaces, API keys."""

from django.apps import AppConfig


class WorkspacesConfig(AppConfig):
    name = "workspaces"

    def ready(self) -> None:
        from corsheaders.signals import check_request_enabled
        from django.core.signals import request_finished

        from workspaces import authentication, keys

        check_request_enabled.connect(authentication.is_cors_allowed, dispatch_uid="workspaces.authentication")
        request_finished.connect(keys.write_uses, dispatch_uid="workspaces.keys")
