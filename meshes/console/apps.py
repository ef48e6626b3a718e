"""The operators' site. Django reads this before any model, so that `admin.site` is `meshes.console.site`'s."""

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class OperatorsAdminConfig(AdminConfig):
    default_site = "meshes.console.site.OperatorsSite"


class ConsoleConfig(AppConfig):
    name = "meshes.console"


class SigninConfig(AppConfig):
    name = "meshes.console.signin"
    label = "signin"
    verbose_name = "Sign-in"

    def ready(self) -> None:
        from meshes.console.signin import sessions  # noqa: F401  # its receivers
