"""Makes `admin.site` the operators' site; a module of its own, because Django reads it before any model."""

from django.contrib.admin.apps import AdminConfig


class OperatorsAdminConfig(AdminConfig):
    default_site = "meshes.console.site.OperatorsSite"
