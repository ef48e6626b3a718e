"""The delay before the next attempt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.dispatch.retry import DEFAULT_SCHEDULE, LONGEST_RETRY_AFTER_SECONDS, next_delay


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
