"""What the tests of the pipeline share."""

import pytest

from delivery.events import intake
from tests.delivery.api import Caller, account


@pytest.fixture
def api(db) -> Caller:
    """In the place of the one of all tests: a caller of a process that has counted no backlog yet."""
    intake._counts.clear()
    return account()
