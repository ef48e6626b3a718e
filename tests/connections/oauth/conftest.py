"""What the tests of authorizations share: a vendor on loopback, in the place of every provider's own."""

from collections.abc import Iterator
from typing import Any

import pytest

from connections import providers
from connections.apps import install_providers
from connections.oauth.tokens import Client
from tests.connections.oauth.vendor import CLIENT_ID, CLIENT_SECRET, Vendor, serving
from workspaces.vault.secret import Secret

EXTRA = ["instanced", "rotating"]


@pytest.fixture
def integrations(settings) -> Iterator[None]:
    """The providers of these tests, beside those that are installed."""
    settings.MESHES_PROVIDERS = [*settings.MESHES_PROVIDERS, *(f"tests.connections.oauth.{name}" for name in EXTRA)]
    install_providers()
    yield
    settings.MESHES_PROVIDERS = settings.MESHES_PROVIDERS[: -len(EXTRA)]
    install_providers()


@pytest.fixture
def vendor(loopback, integrations, settings, monkeypatch) -> Iterator[Vendor]:
    """The vendor, whose app the installation has for every provider."""
    settings.MESHES_OAUTH_CLIENTS = dict.fromkeys(
        ["hubspot", "instanced", "rotating"], Client(CLIENT_ID, Secret(CLIENT_SECRET))
    )
    with serving() as vendor:
        for slug in ("hubspot", "instanced", "rotating"):
            monkeypatch.setattr(providers.get(slug), "override", vendor.url)
        yield vendor


@pytest.fixture
def clean_log(caplog) -> Iterator[Any]:
    """All that is logged; whatever a test does, no secret of the vendor's is in it."""
    caplog.set_level("DEBUG")
    yield caplog
    assert "canary-" not in caplog.text
