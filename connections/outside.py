"""Requests to the outside from the threads that answer requests: few at a time, so that the others go on answering.

A vendor or receiver that hangs holds the thread that waits for it. At most a quarter of a web process's threads may be
in such a call, and one workspace has two of all of them at most. Workers and sweepers wait for nobody here.

A place is taken before anything changes and kept until the call has ended, also where the call comes after a commit.
"""

import math
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

from django.conf import settings

from meshes.api.problems import Problem
from workspaces import limits

AT_ONCE = 2
"""Calls of one kind of one workspace, over all processes."""
TURN_SECONDS = 120.0
"""Above what a call can take: two new tokens and two requests, 15 and 30 s at most each."""
RETRY_SECONDS = 5
"""What is asked of who came when all places were taken: about a vendor's usual deadline, shared by several."""


class OutsideBusyError(Problem):
    """503: this process has as many calls open as it may. 429: the workspace has, or has tested too often lately."""

    def __init__(self, status: int, detail: str, retry_after: int = RETRY_SECONDS) -> None:
        super().__init__(status, detail=detail, headers={"Retry-After": str(retry_after)})
        self.retry_after = retry_after


@cache
def _places() -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(max(1, settings.MESHES_WEB_THREADS // 4))


@contextmanager
def place() -> Iterator[None]:
    """One of this process's places for a call, or for several. Raises OutsideBusyError at once where none is free."""
    if not _places().acquire(blocking=False):
        raise OutsideBusyError(503, "Too many requests to vendors and receivers are open. Try again.")
    try:
        yield
    finally:
        _places().release()


_kept = threading.local()


@contextmanager
def keeping_places() -> Iterator[None]:
    """What this thread takes by `keep_place` is kept until the end of this, of the outermost where they are nested.

    Around a transaction whose hook calls the outside, so that the place outlasts the commit, however it ends.
    """
    if hasattr(_kept, "places"):
        yield
        return
    with ExitStack() as _kept.places:
        try:
            yield
        finally:
            del _kept.places


def keep_place() -> None:
    """Take a place, within `keeping_places`. Raises OutsideBusyError."""
    _kept.places.enter_context(place())


@contextmanager
def place_of(workspace_id: uuid.UUID, kind: str, message: str) -> Iterator[None]:
    """A place for a call of a workspace. Raises OutsideBusyError, which says `message` where the workspace has two."""
    with limits.turn(f"{kind}:{workspace_id}", AT_ONCE, TURN_SECONDS) as is_mine:
        if not is_mine:  # asked first, so that whoever floods takes no places from others
            raise OutsideBusyError(429, message)
        with place():
            yield


@contextmanager
def place_for_test(workspace_id: uuid.UUID) -> Iterator[None]:
    """A place for the test of a connection. Raises OutsideBusyError."""
    with place_of(workspace_id, "tests", f"{AT_ONCE} tests of this workspace are running. Wait for one to end."):
        if (wait := limits.take_test(workspace_id)) is not None:
            most = settings.MESHES_CONNECTION_TESTS
            message = f"A workspace may test its connections {most} times a minute."
            raise OutsideBusyError(429, message, math.ceil(wait))
        yield
