"""What every client of Meshes relies on, held over HTTP alone: see README.md."""

import pytest

THEMES = ("resources", "events", "deliveries", "vendors", "refusals", "pages")
pytest.register_assert_rewrite(*(f"tests.frozen.{theme}" for theme in (*THEMES, "world")))
