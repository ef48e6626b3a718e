"""What the tests of connections share."""

import base64
import hashlib
from collections.abc import Callable, Iterator

import pytest
from django.conf import settings as project

from connections.models import SealedDocument
from tests.receivers import Receiver, receiver
from tests.workspaces.callers import caller

project.STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # WhiteNoise warns where it is missing


@pytest.fixture
def loopback(settings):
    """Requests may go to 127.0.0.1 over plain HTTP."""
    settings.MESHES_OUTBOUND_ALLOW_NETS = ["127.0.0.0/8"]
    settings.MESHES_OUTBOUND_ALLOW_HTTP = True
    settings.MESHES_OUTBOUND_PORTS = "*"


@pytest.fixture
def endpoint(loopback) -> Iterator[Receiver]:
    """A receiver that answers 200."""
    with receiver() as here:
        yield here


@pytest.fixture
def api(db):
    """A caller with all rights over all workspaces."""
    return caller()


def key_named(name: str) -> str:
    """A key as `FERNET_KEYS` has it, the same for the same name."""
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode()


@pytest.fixture
def use_keys(settings) -> Iterator[Callable[..., None]]:
    """Give the process other encryption keys, as a restart with another FERNET_KEYS would: `use_keys("new", "old")`."""

    def use(*names: str) -> None:
        settings.FERNET_KEYS = [key_named(name) for name in names]
        _forget_keys()

    yield use
    _forget_keys()


def _forget_keys() -> None:
    """The field reads the setting once; what it made of it goes."""
    field = SealedDocument._meta.get_field("document")
    for made in ("keys", "fernet_keys", "fernet"):
        field.__dict__.pop(made, None)
