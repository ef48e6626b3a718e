"""Trouble on demand: answers in place of the vendor's, silence, and limits on requests."""

import math
import re
import time
from dataclasses import dataclass, field
from enum import StrEnum

from meshes.dev.vendors.messages import Answer


class Silence(StrEnum):
    """Ways to leave a caller without an answer."""

    HANG = "HANG"
    """Nothing happens until the server stops, or `release` is called; then the connection closes."""
    DROP = "DROP"
    """The connection closes at once; nothing was done."""
    LOSE_ANSWER = "LOSE_ANSWER"
    """The vendor does as it was asked, and the connection closes before its answer."""


@dataclass
class Fault:
    """What becomes of the next `times` calls whose path contains a match of `path`; without one, of the API's calls."""

    effect: Answer | Silence
    times: int
    path: str

    def meets(self, path: str, is_api: bool) -> bool:
        return re.search(self.path, path) is not None if self.path else is_api


@dataclass
class Window:
    """A fixed window: so many requests, then none until it ends. The next request after its end begins another."""

    requests: int
    seconds: float
    count: int = 0
    began: float = field(default_factory=time.monotonic)

    def take(self) -> bool:
        """Count one request; whether the vendor lets it in."""
        if self.rest <= 0:
            self.began, self.count = time.monotonic(), 0
        self.count += 1
        return self.count <= self.requests

    @property
    def remaining(self) -> int:
        return max(0, self.requests - self.count)

    @property
    def rest(self) -> float:
        """Seconds until the window ends."""
        return self.began + self.seconds - time.monotonic()

    @property
    def reset(self) -> str:
        """For a header: whole seconds until the window ends, one at least."""
        return str(max(1, math.ceil(self.rest)))
