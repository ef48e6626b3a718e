"""The folder in which `make up` keeps its secrets, state and data, as far as the settings read it.

Imports nothing of Django: `meshes.dev` makes the secrets before the settings are loaded.
"""

import os
from collections.abc import Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
RUN_ID = "MESHES_RUN_ID"
"""The environment variable by which every process of one run is known, also after its supervisor was killed."""


def data_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """MESHES_DATA_DIR, or ``.meshes`` beside manage.py."""
    return Path(environment.get("MESHES_DATA_DIR") or PROJECT / ".meshes")


def parse_variables(text: str) -> dict[str, str]:
    """The lines ``NAME=value`` of a file such as ``stack.env``."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
