"""When the next attempt is made: a pure function of a schedule, what was used of it, and what was asked for."""

import random
from collections.abc import Callable, Sequence

DEFAULT_SCHEDULE: tuple[float, ...] = (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 10 * 3600)
"""Seconds before each attempt; eight attempts over about 28 hours. A connection may bring its own."""
JITTER = 0.2
"""The delay is spread by ±20 %, so that deliveries that failed together do not return together."""
CALM_SECONDS = 60.0
"""With the default schedule the least wait after a 429 or a timeout: both say that the receiver has too much to do."""
LONGEST_RETRY_AFTER_SECONDS = 24 * 3600.0


def next_delay(
    schedule: Sequence[float] | None,
    used: int,
    *,
    retry_after_seconds: float | None = None,
    overloaded: bool = False,
    spread: Callable[[float, float], float] = random.uniform,
) -> float | None:
    """Seconds until the next attempt, or None where the schedule is used up.

    `schedule` is the connection's own (None: the default), `used` counts the attempts that have been made of it, the
    one that just failed included. `overloaded` is true after a 429 or a timeout. `Retry-After` is honoured up to 24 h
    and never shortens the wait.
    """
    steps = DEFAULT_SCHEDULE if schedule is None else schedule
    if used >= len(steps):
        return None
    delay = steps[used] * spread(1 - JITTER, 1 + JITTER)
    if overloaded and schedule is None:
        delay = max(delay, CALM_SECONDS)
    return max(delay, min(retry_after_seconds or 0.0, LONGEST_RETRY_AFTER_SECONDS))
