from datetime import UTC, datetime, timedelta

import pytest

from connections.providers.answers import seconds_until, shown
from tests.connections.providers.exchanges import reply

DATE = "Wed, 04 Mar 2026 05:06:07 GMT"
AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("moment", "seconds"), [(AT + 7, 7.0), (AT, 0.0), (AT - 100, 0.0), (AT + 999_999, 86_400.0), (1e10, 86_400.0)]
)
def test_a_moment_is_measured_by_the_answer_s_own_clock(moment, seconds):
    assert seconds_until(reply(date=DATE), moment) == seconds


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}])
def test_without_the_answer_s_clock_a_moment_is_measured_by_ours(headers):
    moment = (datetime.now(UTC) + timedelta(minutes=10)).timestamp()
    assert 590 < seconds_until(reply(**headers), moment) <= 600


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("  a\n  b\tc  ", "a b c"),
        ('value "  nia@example.com " is bad', 'value "  nia@example.com " is bad'),
        ('value "a\u00a0b\t" is\n bad', 'value "a\\xa0b\\t" is bad'),
        ("“ x  ” and ` y  `", "“ x  ” and ` y  `"),
        ("x" * 301, "x" * 299 + "…"),
    ],
)
def test_a_vendor_s_message_is_one_line_and_what_it_quotes_keeps_its_spaces(message, line):
    assert shown(message) == line
