"""Wait for a condition with a deadline; tests never sleep and hope."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = float(os.environ.get("MESHES_TEST_PATIENCE") or 3)
"""How many times longer than on a machine at rest a test waits for what it expects. A test that passes waits no longer
than it takes; this is what a machine with other work needs, and MESHES_TEST_PATIENCE=10 what a worse one does."""


def patient(seconds: float) -> float:
    """A time limit that a machine with other work keeps too: of a subprocess, or of a request to a stack."""
    return seconds * PATIENCE


def eventually(condition: Callable[[], T], seconds: float = 10.0) -> T:
    """The first truthy answer of ``condition``. Raises AssertionError when the deadline passes without one.

    ``seconds`` are those of a machine at rest.
    """
    deadline = time.monotonic() + patient(seconds)
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"still not so after {patient(seconds)} s: {condition}"
        time.sleep(0.02)
    return answer
