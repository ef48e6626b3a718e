"""Services of Meshes in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from meshes.dev.stack import answers_ok
from tests.polling import eventually


@contextmanager
def serving(command: Sequence[str], port: int, path: str, environment: Mapping[str, str]) -> Iterator[str]:
    """A service by its arguments to Python, from when it answers on `path` until the end; its address."""
    process = subprocess.Popen([sys.executable, *command], env=os.environ | environment)
    try:
        eventually(lambda: answers_ok(port, path), 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
