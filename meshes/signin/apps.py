"""The sign-in of operators: second factors, sessions, first passwords."""

from django.apps import AppConfig


class SigninConfig(AppConfig):
    name = "meshes.signin"
    label = "signin"
    verbose_name = "Sign-in"

    def ready(self) -> None:
        from meshes.signin import ending

        ending.connect()
