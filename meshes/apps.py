"""Wiring."""

from django.apps import AppConfig


class MeshesConfig(AppConfig):
    name = "meshes"

    def ready(self) -> None:
        from meshes import (
            celery,  # noqa: F401  (every process that publishes needs the lanes' transport)
            checks,
        )

        checks.warn_of_weak_settings()
