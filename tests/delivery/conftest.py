"""What the tests of the pipeline share."""

import pytest
from django.conf import settings

from delivery.events import backlog
from tests.delivery.api import Caller, account
from tests.receivers import receiver

settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # WhiteNoise warns where it is missing


@pytest.fixture
def loopback(settings):
    """Deliveries may go to 127.0.0.1 over plain HTTP."""
    settings.MESHES_OUTBOUND_ALLOW_NETS = ["127.0.0.0/8"]
    settings.MESHES_OUTBOUND_ALLOW_HTTP = True
    settings.MESHES_OUTBOUND_PORTS = "*"


@pytest.fixture
def endpoint(loopback):
    """A receiver that answers 200."""
    with receiver() as here:
        yield here


@pytest.fixture
def api(db) -> Caller:
    """A caller with all rights over all workspaces, of a process that has counted no backlog yet."""
    backlog.forget()
    return account()
