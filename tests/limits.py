"""What a full volume does, without one: a process whose files may not grow. Needs no rights and no other volume."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def files_may_have(size: int) -> Iterator[None]:
    """Inside, this process and what it starts write no file beyond so many bytes: OSError "File too large".

    Python ignores the signal that comes with it; the limit is lifted at the end, for this process.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
