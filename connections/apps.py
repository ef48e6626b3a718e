"""Where to: connections, their credentials, and the one door out."""

from django.apps import AppConfig


class ConnectionsConfig(AppConfig):
    name = "connections"

    def ready(self) -> None:
        from . import checks  # noqa: F401  (registers the system checks)
