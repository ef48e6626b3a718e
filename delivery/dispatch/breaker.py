"""The circuit breaker of a connection, as pure functions over its health.

It opens after five failures in a row and pauses the lane for 30 s. When that time is over, one delivery is let through
(`half_open`): if it succeeds the breaker closes, if it fails it opens again for twice as long, up to 15 minutes.
Only attempts that ended `retry` or `uncertain` count as failures.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
OPENS_AFTER = 5
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(minutes=15)
DISABLES_AFTER = timedelta(days=5)
DISABLES_SPREAD = timedelta(hours=12)
"""First and last failure must lie this far apart, so that two failures around a quiet week disable nothing."""
FAILURES, THROTTLED, NO_CREDENTIALS = "failures", "throttled", "no_credentials"
"""What opened it: failures in a row, a 429, or that the credentials could not be used: no token, or no key."""
SUCCESS_KEPT_FOR = timedelta(minutes=1)
"""How old `last_success_at` of a healthy connection may become: one write a minute, whatever it delivers."""


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a connection's recent attempts; a row of `connection_health`."""

    breaker: str = CLOSED
    consecutive_failures: int = 0
    opened_times: int = 0
    first_failure_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_success_at: datetime | None = None
    opened_by: str = ""
    """Why the breaker is not closed; empty while it is."""


def after_success(health: Health, now: datetime) -> Health:
    """One success closes the breaker. A healthy connection's row stays as it is: health is written on change only."""
    if health.breaker == CLOSED and not health.consecutive_failures and health.last_success_at is not None:
        return health
    return Health(last_failure_at=health.last_failure_at, last_success_at=now)


def note_success(health: Health, now: datetime) -> Health:
    """`after_success`, and the moment itself where the one that is kept has become old."""
    after = after_success(health, now)
    if after.last_success_at is not None and now - after.last_success_at >= SUCCESS_KEPT_FOR:
        return replace(after, last_success_at=now)
    return after


def after_failure(health: Health, now: datetime) -> tuple[Health, timedelta | None]:
    """The health after one more failure, and the pause that the lane now takes, if the breaker opened."""
    failed = replace(
        health,
        consecutive_failures=health.consecutive_failures + 1,
        first_failure_at=health.first_failure_at or now,
        last_failure_at=now,
    )
    if health.breaker == OPEN:
        return failed, None  # a delivery that left before the breaker opened
    if health.breaker == CLOSED and failed.consecutive_failures < OPENS_AFTER:
        return failed, None
    return _open(failed, FAILURES), _pause(health)


def after_throttle(health: Health, now: datetime, retry_after_seconds: float | None = None) -> tuple[Health, timedelta]:
    """The health and the pause after a 429: the lane rests as long as the receiver asked, then one probe follows."""
    throttled = replace(
        health,
        consecutive_failures=health.consecutive_failures + 1,
        first_failure_at=health.first_failure_at or now,
        last_failure_at=now,
    )
    asked = timedelta(seconds=retry_after_seconds) if retry_after_seconds else None
    open_now = replace(throttled, opened_by=THROTTLED) if health.breaker == OPEN else _open(throttled, THROTTLED)
    return open_now, asked or _pause(health)


def after_rest(health: Health, seconds: float | None) -> tuple[Health, timedelta]:
    """The health and the pause where there was nothing to try with: one probe follows, and no failure is counted."""
    return replace(health, breaker=OPEN, opened_by=NO_CREDENTIALS), timedelta(seconds=seconds) if seconds else _pause(
        health
    )


def _open(health: Health, by: str) -> Health:
    return replace(health, breaker=OPEN, opened_times=health.opened_times + 1, opened_by=by)


def _pause(health: Health) -> timedelta:
    return min(FIRST_PAUSE * (1 << min(health.opened_times, 10)), LONGEST_PAUSE)


def is_failing_for_days(health: Health, now: datetime) -> bool:
    """Whether the connection has failed, without one success, for so long that it is disabled."""
    first, last = health.first_failure_at, health.last_failure_at
    if first is None or last is None:
        return False
    return now - first >= DISABLES_AFTER and last - first >= DISABLES_SPREAD
