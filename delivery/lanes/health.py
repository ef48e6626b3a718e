"""Which lanes are in trouble: slow ones and failing ones, which share a small part of every worker's slots.

Pure functions, and the numbers behind them. `lua/health.lua` does the same beside the lane, with the same numbers; it
keeps a lane's health while it is worth keeping, so a healthy lane has none.
"""

from dataclasses import dataclass
from typing import Final

WEIGHT: Final = 0.3
"""Of the latest message in the averages: one that takes 7 s, or two failures in a row, are trouble."""

ENTER_SECONDS: Final = 2.0
LEAVE_SECONDS: Final = 1.0
ENTER_FAILURES: Final = 0.5
LEAVE_FAILURES: Final = 0.25
"""A lane is in trouble from above the one until below the other, so that it does not flutter."""

FORGET_SECONDS: Final = 0.5
FORGET_FAILURES: Final = 0.05
"""Below these a lane's health is not worth keeping."""

KEEP_SECONDS: Final = 900
"""A lane of which nothing was heard for so long counts as healthy again."""


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a lane: averages that favour what is recent (exponentially weighted)."""

    seconds: float = 0.0
    """How long its messages take."""
    failures: float = 0.0
    """The share of them that fails."""
    is_troubled: bool = False


HEALTHY: Final = Health()


def after(health: Health, seconds: float, is_failure: bool) -> Health:
    """The health after one more message, which took so long and failed or not."""
    latency = health.seconds + WEIGHT * (seconds - health.seconds)
    failures = health.failures + WEIGHT * (float(is_failure) - health.failures)
    if is_in_trouble(latency, failures, health.is_troubled):
        return Health(latency, failures, True)
    if latency < FORGET_SECONDS and failures < FORGET_FAILURES:
        return HEALTHY
    return Health(latency, failures)


def is_in_trouble(seconds: float, failures: float, was: bool) -> bool:
    """Whether a lane with these averages is in trouble, given whether it was."""
    if was:
        return seconds > LEAVE_SECONDS or failures > LEAVE_FAILURES
    return seconds > ENTER_SECONDS or failures > ENTER_FAILURES


def lua_numbers() -> str:
    """The numbers above as the scripts know them."""
    names = [name for name, value in globals().items() if name.isupper() and isinstance(value, (int, float))]
    return "".join(f"local {name} = {globals()[name]!r}\n" for name in names)
