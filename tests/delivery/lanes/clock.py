"""The scripts by a clock that a test sets: the same text, but for where it reads the time."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis import Redis

from delivery.lanes import control
from delivery.lanes.control import source

REAL = "redis.call('TIME')"
FAKE = "{redis.call('GET', 'test:seconds'), redis.call('GET', 'test:micros')}"
START = 1_800_000_000.0


class Clock:
    """The time of a server, in seconds since the epoch."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self.set(START)

    def set(self, seconds: float) -> None:
        self.micros = round(seconds * 1_000_000)
        whole, rest = divmod(self.micros, 1_000_000)
        self._client.mset({"test:seconds": whole, "test:micros": rest})

    def advance(self, seconds: float) -> None:
        """Negative: the clock is set back."""
        self.set(self.now + seconds)

    @property
    def now(self) -> float:
        return self.micros / 1_000_000


@contextmanager
def fake_clock() -> Iterator[None]:
    """Whatever is bound to scripts meanwhile goes by the clock of the test."""
    assert REAL in source("take")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "source", lambda name: source(name).replace(REAL, FAKE))
        yield
