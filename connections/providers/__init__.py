"""The providers that are installed: one module each, whose `PROVIDER` is the instance."""

from collections.abc import Iterable, Mapping
from importlib import import_module

from connections.providers.base import Provider

_INSTALLED: dict[str, Provider] = {}


def install(modules: Iterable[str], urls: Mapping[str, str], public_url: str) -> None:
    """Have these and no others. `urls` stand for the hosts of the vendors with these slugs."""
    _INSTALLED.clear()
    for path in modules:
        provider: Provider = import_module(path).PROVIDER
        provider.override, provider.public_url = urls.get(provider.slug, ""), public_url.rstrip("/")
        _INSTALLED[provider.slug] = provider


def get(slug: str) -> Provider:
    """The provider. Raises KeyError."""
    return _INSTALLED[slug]


def all() -> list[Provider]:
    """All providers, in the order of the setting."""
    return list(_INSTALLED.values())
