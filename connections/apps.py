"""Where to: connections, their credentials, and the one door out."""

from django.apps import AppConfig


class ConnectionsConfig(AppConfig):
    name = "connections"

    def ready(self) -> None:
        from workspaces.signals import keys_used

        from . import checks, vault  # noqa: F401  (registers the system checks)

        keys_used.connect(vault.record_uses, dispatch_uid="workspaces.vault.vault")
