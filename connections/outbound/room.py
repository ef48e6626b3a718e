"""A bound on the memory that long answers take: a process reads only a few at a time to their end."""

import threading
from types import TracebackType

DELIVERY_BODY_LIMIT = 64 * 1024
"""Bytes of an answer that need no place, and of any answer that are kept."""
PLACES = 16
"""Of long answers at once in a process; with 4 MB each they take at most 64 MB, and what reading them takes."""

_places = threading.BoundedSemaphore(PLACES)


class Room:
    """The one place that an attempt may take for its long answers, until it has been judged.

    Nobody waits for a place: without one an answer is cut, as if nothing after its first 64 KB had come.
    """

    def __init__(self) -> None:
        self._is_taken = False

    def take(self) -> bool:
        """Whether there is a place, now taken or taken before."""
        self._is_taken = self._is_taken or _places.acquire(blocking=False)
        return self._is_taken

    def __enter__(self) -> "Room":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_taken:
            self._is_taken = False
            _places.release()
