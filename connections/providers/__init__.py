"""The providers that `MESHES_PROVIDERS` names: one module each, whose `PROVIDER` is the instance."""

from functools import cache
from importlib import import_module

from django.conf import settings

from connections.providers.base import Provider


class UnknownProvider(LookupError):  # noqa: N818 - names what was looked up
    """No provider has this slug."""


def get(slug: str) -> Provider:
    """The provider. Raises UnknownProvider."""
    try:
        return _registry()[slug]
    except KeyError:
        raise UnknownProvider(slug) from None


def all() -> list[Provider]:
    """All providers, in the order of the setting."""
    return list(_registry().values())


@cache
def _registry() -> dict[str, Provider]:
    found = {}
    for path in settings.MESHES_PROVIDERS:
        provider = import_module(path).PROVIDER
        provider.override = settings.MESHES_VENDOR_URLS.get(provider.slug, "")
        provider.public_url = settings.MESHES_PUBLIC_URL.rstrip("/")
        found[provider.slug] = provider
    return found
