"""What the tests of the vault share."""

import pytest

from tests.workspaces.callers import caller


@pytest.fixture
def api(db):
    """A caller with all rights over all workspaces."""
    return caller()
