"""What the tests of the pipeline share."""

import pytest

from tests.receivers import receiver


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
