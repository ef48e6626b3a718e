"""Where to: connections, their credentials, and the one client through which requests leave."""

from django.apps import AppConfig
from django.conf import settings

from connections import providers


class ConnectionsConfig(AppConfig):
    name = "connections"

    def ready(self) -> None:
        from . import checks  # noqa: F401  (registers the system checks)

        install_providers()


def install_providers() -> None:
    """Those that the settings name."""
    providers.install(settings.MESHES_PROVIDERS, settings.MESHES_VENDOR_URLS, settings.MESHES_PUBLIC_URL)
