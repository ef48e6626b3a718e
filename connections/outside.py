"""Requests to the outside from the threads that answer requests: few at a time, so that the others go on answering.

A vendor or receiver that hangs holds the thread that waits for it. At most a quarter of a web process's threads may be
in such a call, and one workspace has two of all of them at most. Workers and sweepers wait for nobody here.
"""

import math
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from django.conf import settings

from workspaces import limits

AT_ONCE = 2
"""Calls of one kind of one workspace, over all processes."""
TURN_SECONDS = 120.0
"""Above what a call can take: two new tokens and two requests, 15 and 30 s at most each."""
RETRY_SECONDS = 5
"""What is asked of who came when all places were taken: about a vendor's usual deadline, shared by several."""


class OutsideBusyError(Exception):
    """OutsideBusyError
    ├── NoPlace       this process has as many calls open as it may
    └── TooManyCalls  the workspace has, or has made too many tests in the last minute
    """

    def __init__(self, words: str, retry_after: int) -> None:
        super().__init__(words)
        self.retry_after = retry_after


class NoPlace(OutsideBusyError):  # noqa: N818 - named by what happened
    def __init__(self) -> None:
        super().__init__("Too many requests to vendors and receivers are open. Try again.", RETRY_SECONDS)


class TooManyCalls(OutsideBusyError):  # noqa: N818 - named by what happened
    pass


@contextmanager
def place(wait_seconds: float = 0.0) -> Iterator[None]:
    """One of this process's places for a call. Raises NoPlace, after waiting for one where that is asked for."""
    if not _places().acquire(timeout=wait_seconds):
        raise NoPlace
    try:
        yield
    finally:
        _places().release()


@contextmanager
def place_of(workspace_id: uuid.UUID, kind: str, words: str) -> Iterator[None]:
    """A place for a call of a workspace. Raises OutsideBusyError; TooManyCalls says `words`."""
    with limits.turn(f"{kind}:{workspace_id}", AT_ONCE, TURN_SECONDS) as is_mine:
        if not is_mine:  # asked first, so that whoever floods takes no places from others
            raise TooManyCalls(words, RETRY_SECONDS)
        with place():
            yield


@contextmanager
def place_for_test(workspace_id: uuid.UUID) -> Iterator[None]:
    """A place for the test of a connection. Raises OutsideBusyError."""
    with place_of(workspace_id, "tests", f"{AT_ONCE} tests of this workspace are running. Wait for one to end."):
        if (wait := limits.take_test(workspace_id)) is not None:
            most = settings.MESHES_CONNECTION_TESTS
            raise TooManyCalls(f"A workspace may test its connections {most} times a minute.", math.ceil(wait))
        yield


@cache
def _places() -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(max(1, settings.MESHES_WEB_THREADS // 4))
