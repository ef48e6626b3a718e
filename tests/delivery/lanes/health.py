"""What `lua/health.lua` knows of lanes that are slow or fail, as pure functions that the scripts must agree with."""

from dataclasses import dataclass

WEIGHT = 0.3
ENTER_SECONDS, LEAVE_SECONDS = 2.0, 1.0
ENTER_FAILURES, LEAVE_FAILURES = 0.5, 0.25
FORGET_SECONDS, FORGET_FAILURES = 0.5, 0.05
KEEP_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a lane: averages that favour what is recent (exponentially weighted)."""

    seconds: float = 0.0
    """How long its messages take."""
    failures: float = 0.0
    """The share of them that fails."""
    is_troubled: bool = False


HEALTHY = Health()


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
