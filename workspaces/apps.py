"""Who: workspaces, API keys."""

from django.apps import AppConfig


class WorkspacesConfig(AppConfig):
    name = "workspaces"
