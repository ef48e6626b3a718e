"""What every client of Meshes relies on, held over HTTP alone: see README.md."""

import pytest

pytest.register_assert_rewrite("tests.frozen.stories", "tests.frozen.refusals", "tests.frozen.world")
