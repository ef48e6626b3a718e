"""What a process does once, before its first work, so that no request and no delivery waits for it."""

import gc

from delivery.lanes import publishing
from workspaces.vault import stored_keys


def warm_up() -> None:
    """Load what is otherwise loaded on first use, and spare the garbage collector what lives as long as the process: a
    full collection of it stops every thread for a tenth of a second. Tell of keys that are missing."""
    publishing.prepare()
    stored_keys.tell_unopenable()
    gc.collect()
    gc.freeze()
