"""The sign-in of operators: second factors, sessions, first passwords."""

from django.apps import AppConfig


class SigninConfig(AppConfig):
    name = "meshes.console.signin"
    label = "signin"
    verbose_name = "Sign-in"

    def ready(self) -> None:
        from meshes.console.signin import ending

        ending.connect()
