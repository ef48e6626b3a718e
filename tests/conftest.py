"""Property tests try the same examples in every run, so that a change is judged by itself; `make faults` varies."""

import os

from hypothesis import settings

settings.register_profile("same every time", derandomize=True)
if not os.environ.get("MESHES_FAULT_ROUNDS"):
    settings.load_profile("same every time")
