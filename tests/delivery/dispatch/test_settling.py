"""What an attempt comes to, as pure functions: the delay before the next one, and the circuit breaker."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.dispatch.settling import (
    DEFAULT_SCHEDULE,
    LONGEST_RETRY_AFTER_SECONDS,
    Health,
    after_cool_down,
    after_failure,
    after_success,
    after_throttle,
    is_failing_for_days,
    next_delay,
    note_success,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


# --- the breaker ------------------------------------------------------------------------------------------------------


def fail(health, times):
    pauses = []
    for _ in range(times):
        health, pause = after_failure(health, NOW)
        pauses.append(pause)
    return health, pauses


def test_opens_at_the_fifth_failure_in_a_row():
    health, pauses = fail(Health(), 5)
    assert pauses == [None, None, None, None, timedelta(seconds=30)]
    assert (health.breaker, health.consecutive_failures, health.opened_times) == ("open", 5, 1)


def test_a_success_between_failures_starts_the_count_anew():
    health, _ = fail(Health(), 4)
    health, pauses = fail(after_success(health, NOW), 4)
    assert pauses == [None] * 4
    assert health.breaker == "closed"


def test_failures_that_were_under_way_when_it_opened_do_not_open_it_again():
    health, _ = fail(Health(), 5)
    later, pauses = fail(health, 3)
    assert pauses == [None] * 3
    assert later.opened_times == 1


@pytest.mark.parametrize(("opened_times", "seconds"), [(1, 60), (2, 120), (3, 240), (4, 480), (5, 900), (40, 900)])
def test_a_failed_probe_doubles_the_pause_up_to_fifteen_minutes(opened_times, seconds):
    probing = Health(breaker="half_open", consecutive_failures=5, opened_times=opened_times)
    health, pause = after_failure(probing, NOW)
    assert (health.breaker, health.opened_times, pause) == ("open", opened_times + 1, timedelta(seconds=seconds))


def test_a_probe_that_succeeds_closes_it():
    assert after_success(Health(breaker="half_open", consecutive_failures=9, opened_times=3), NOW) == Health(
        last_success_at=NOW
    )


def test_health_of_a_healthy_connection_is_not_written_again():
    healthy = Health(last_success_at=NOW)
    assert after_success(healthy, NOW + timedelta(hours=1)) is healthy


def test_the_newest_success_of_a_healthy_connection_is_noted_once_a_minute():
    healthy = Health(last_success_at=NOW)
    assert note_success(healthy, NOW + timedelta(seconds=59)) is healthy
    assert note_success(healthy, NOW + timedelta(seconds=60)) == Health(last_success_at=NOW + timedelta(seconds=60))


def test_a_success_keeps_when_the_last_failure_was():
    failed = Health(breaker="half_open", consecutive_failures=9, first_failure_at=NOW, last_failure_at=NOW)
    later = NOW + timedelta(hours=1)
    assert after_success(failed, later) == Health(last_failure_at=NOW, last_success_at=later)


def test_it_is_known_what_opened_it():
    opened, _ = fail(Health(), 5)
    assert opened.opened_by == "failures"
    assert after_throttle(Health(), NOW)[0].opened_by == "throttled"
    assert after_throttle(opened, NOW, 3600.0)[0].opened_by == "throttled"
    assert after_success(opened, NOW).opened_by == ""


def test_a_throttle_pauses_as_long_as_asked_and_leaves_a_probe():
    health, pause = after_throttle(Health(), NOW, 7.0)
    assert (health.breaker, pause) == ("open", timedelta(seconds=7))


def test_a_rest_leaves_a_probe_and_counts_no_failure():
    before = Health(consecutive_failures=4, first_failure_at=NOW, last_failure_at=NOW)
    health, pause = after_cool_down(before, 7.0)
    assert (health, pause) == (replace(before, breaker="open", opened_by="no_credentials"), timedelta(seconds=7))


def test_throttles_without_retry_after_pause_like_the_breaker():
    health, pause = after_throttle(Health(), NOW)
    assert pause == timedelta(seconds=30)
    again, longer = after_throttle(Health(breaker="half_open", opened_times=health.opened_times), NOW)
    assert (again.opened_times, longer) == (2, timedelta(seconds=60))


@pytest.mark.parametrize(
    ("first_days_ago", "last_days_ago", "failing"),
    [(5, 0, True), (4.9, 0, False), (6, 5.9, False), (6, 5.4, True), (30, 29.9, False)],
)
def test_disabled_after_five_days_of_failures_half_a_day_apart(first_days_ago, last_days_ago, failing):
    health = Health(
        first_failure_at=NOW - timedelta(days=first_days_ago), last_failure_at=NOW - timedelta(days=last_days_ago)
    )
    assert is_failing_for_days(health, NOW) is failing


def test_a_connection_without_failures_is_not_failing():
    assert is_failing_for_days(Health(), NOW) is False


# --- the delay --------------------------------------------------------------------------------------------------------


def exactly(low: float, high: float) -> float:
    return (low + high) / 2


@pytest.mark.parametrize(
    ("used", "delay"), [(1, 5), (2, 300), (3, 1800), (4, 7200), (5, 18_000), (6, 36_000), (7, 36_000), (8, None)]
)
def test_default_schedule_has_eight_attempts(used, delay):
    assert next_delay(None, used, spread=exactly) == delay


def test_own_schedule_replaces_the_default():
    assert next_delay([0, 0.5], 1, spread=exactly) == 0.5
    assert next_delay([0, 0.5], 2, spread=exactly) is None


def test_overload_waits_a_minute_with_the_default_schedule_only():
    assert next_delay(None, 1, overloaded=True, spread=exactly) == 60
    assert next_delay(None, 2, overloaded=True, spread=exactly) == 300
    assert next_delay([0, 2], 1, overloaded=True, spread=exactly) == 2


def test_retry_after_lengthens_and_never_shortens():
    assert next_delay(None, 1, retry_after_seconds=90, spread=exactly) == 90
    assert next_delay(None, 3, retry_after_seconds=90, spread=exactly) == 1800


def test_retry_after_is_honoured_up_to_a_day():
    assert next_delay(None, 1, retry_after_seconds=10**9, spread=exactly) == LONGEST_RETRY_AFTER_SECONDS


def test_retry_after_does_not_extend_a_schedule_that_is_used_up():
    assert next_delay([0], 1, retry_after_seconds=5, spread=exactly) is None


@given(st.integers(1, 7))
def test_jitter_stays_within_a_fifth(used):
    delay = next_delay(None, used)
    assert delay is not None
    assert 0.8 * DEFAULT_SCHEDULE[used] <= delay <= 1.2 * DEFAULT_SCHEDULE[used]
