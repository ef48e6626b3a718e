"""What every vendor of analytics must hold, by the tables of its own tests."""

import pytest

from connections.messages import NetworkError
from connections.providers.base import NotAuthorized, Outcome
from tests.connections.providers import test_amplitude, test_ga4, test_mixpanel, test_posthog, test_segment
from tests.connections.providers.exchanges import order, reply

VENDORS = {
    test_amplitude: "api_key", test_ga4: "api_secret", test_mixpanel: "project_token", test_posthog: "api_key",
    test_segment: "write_key",
}  # fmt: skip
"""The tests of each, and its one credential."""
TESTS = pytest.mark.parametrize("tests", VENDORS, ids=lambda tests: tests.PROVIDER.slug)
CODES = {
    "imported", "not_imported", "not_accepted", "quota_limited", "invalid_api_key", "silenced", "not_ingested",
    "daily_quota", "throttled_person",
}  # fmt: skip


@pytest.mark.parametrize(
    ("tests", "answer"), [(tests, answer) for tests in VENDORS for answer in tests.ANSWERS],
    ids=lambda each: str(each[0]) if isinstance(each, tuple) else each.PROVIDER.slug,
)  # fmt: skip
def test_answers_say_what_is_to_be_done(tests, answer):
    status, body, outcome, hold, error_class, fix = answer
    verdict = tests.PROVIDER.classify(reply(status, body), "track")
    assert (verdict.outcome, verdict.hold, verdict.error_class) == (outcome, hold, error_class)
    assert fix in verdict.words


@TESTS
def test_every_declared_error_is_tested(tests):
    assert set(tests.PROVIDER.answers) - CODES - {408, 409, 423, 425} <= {row[0] for row in tests.ANSWERS}


@TESTS
def test_without_a_key_nothing_is_built(tests):
    config = tests.CONFIG if tests is test_ga4 else None
    with pytest.raises(NotAuthorized, match=VENDORS[tests]):
        tests.PROVIDER.build_request(order(tests.PROVIDER, "track", tests.TRACKED, {}, config))


@TESTS
def test_there_is_no_test(tests):
    assert tests.PROVIDER.build_test(tests.track()) is None
    assert "offers no check" in tests.PROVIDER.test
    assert ("whatever the write key" in tests.PROVIDER.test) == (tests is test_segment)


@TESTS
def test_a_lost_answer_may_be_repeated_where_doubles_are_dropped(tests):
    assert {action.idempotent for action in tests.PROVIDER.actions} == {tests is not test_ga4}
    lost = NetworkError("connection_lost", "w", sent=True)
    assert tests.PROVIDER.classify(lost, "track").outcome == Outcome.UNCERTAIN


@pytest.mark.parametrize("tests", [test_posthog, test_segment], ids=lambda tests: tests.PROVIDER.slug)
def test_retry_after_rests_the_lane(tests):
    verdict = tests.PROVIDER.classify(reply(429, "", retry_after="9"), "track")
    assert (verdict.throttled, verdict.retry_after_seconds) == (True, 9.0)
