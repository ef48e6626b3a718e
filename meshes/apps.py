"""Wiring."""

from django.apps import AppConfig


class MeshesConfig(AppConfig):
    name = "meshes"
