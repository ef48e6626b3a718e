from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from connections.messages import LocalError, NetworkError, RequestRefusedError, Response
from connections.providers.answers import retry_after
from connections.providers.verdicts import Outcome, Verdict, read_answer


def answer(status: int, **headers: str) -> Response:
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Response(status=status, headers=pairs, body=b"", truncated=False, duration_ms=1)


def outcome_of(status: int) -> Outcome:
    if 200 <= status <= 299:
        return Outcome.DELIVERED
    if status in {400, 413, 415, 422}:
        return Outcome.REJECTED
    if status in {401, 410}:
        return Outcome.BROKEN
    return Outcome.RETRY


def test_every_status_has_its_verdict():
    verdicts = {status: read_answer(answer(status)) for status in range(100, 600)}
    assert {status: verdict.outcome for status, verdict in verdicts.items()} == {s: outcome_of(s) for s in verdicts}
    assert [status for status, verdict in verdicts.items() if verdict.throttled] == [429]
    assert [status for status, verdict in verdicts.items() if verdict.hold] == [401, 410]
    assert [status for status, verdict in verdicts.items() if not verdict.words] == list(range(200, 300))


@pytest.mark.parametrize(("status", "hold"), [(401, "needs_reauth"), (410, "disabled")])
def test_what_breaks_a_connection_says_how(status, hold):
    assert read_answer(answer(status)).hold == hold


def test_a_redirect_says_that_it_is_not_followed():
    verdict = read_answer(answer(308, location="https://example.com/new"))
    assert (verdict.outcome, verdict.error_class) == (Outcome.RETRY, "redirect")
    assert verdict.words == "The receiver answers with a redirect (308), which is not followed. Set the new URL."


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NetworkError("unresolved", "w"), (Outcome.RETRY, "unresolved", None)),
        (NetworkError("unreachable", "w"), (Outcome.RETRY, "unreachable", None)),
        (NetworkError("tls", "w"), (Outcome.RETRY, "tls", None)),
        (NetworkError("timeout", "w", sent=False), (Outcome.RETRY, "timeout", None)),
        (NetworkError("timeout", "w", sent=True), (Outcome.UNCERTAIN, "timeout", None)),
        (NetworkError("connection_lost", "w", sent=False), (Outcome.RETRY, "connection_lost", None)),
        (NetworkError("connection_lost", "w", sent=True), (Outcome.UNCERTAIN, "connection_lost", None)),
        (NetworkError("response_too_large", "w", sent=True), (Outcome.UNCERTAIN, "response_too_large", None)),
        (RequestRefusedError("address_refused", "w"), (Outcome.BROKEN, "address_refused", "disabled")),
        (RequestRefusedError("invalid_url", "w"), (Outcome.BROKEN, "address_refused", "disabled")),
        (RequestRefusedError("invalid_request", "w"), (Outcome.REJECTED, "invalid_request", None)),
    ],
)
def test_every_error_of_the_client_has_its_verdict(error, expected):
    verdict = read_answer(error)
    assert (verdict.outcome, verdict.error_class, verdict.hold) == expected
    assert verdict.words == "w"


def test_a_fault_of_ours_is_marked():
    verdict = read_answer(LocalError("no file descriptors", detail="EMFILE"))
    assert (verdict.outcome, verdict.is_ours) == (Outcome.RETRY, True)
    assert "EMFILE" not in verdict.words


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "120"}, 120.0),
        ({"Retry_After": " 7 "}, 7.0),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after": "999999999"}, 86_400.0),
        ({"retry_after": "9" * 400}, None),
        ({"retry_after": "-5"}, None),
        ({"retry_after": "1.5"}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": ""}, None),
        ({"retry_after": "Wed, 21 Oct 2026 07:30:00 GMT", "date": DATE}, 120.0),
        ({"retry_after": "Wed, 21 Oct 2026 07:00:00 GMT", "date": DATE}, 0.0),
        ({"retry_after": "Fri, 21 Oct 2033 07:28:00 GMT", "date": DATE}, 86_400.0),
        ({"retry_after": "Wed, 99 Oct 2026 07:28:00 GMT", "date": DATE}, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(headers, seconds):
    assert retry_after(answer(503, **headers)) == seconds


def test_a_date_without_the_receiver_s_clock_counts_from_now():
    later = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    seconds = retry_after(answer(503, retry_after=later))
    assert seconds is not None
    assert 590 < seconds <= 600


def test_a_429_pauses_the_lane_for_as_long_as_it_asks():
    assert read_answer(answer(429, retry_after="30")) == Verdict(
        Outcome.RETRY, "rate_limited", "The receiver asks for fewer requests (429).", 30.0, None, True
    )


@pytest.mark.parametrize("status", [500, 503, 404, 302])
def test_retry_after_holds_for_whatever_is_tried_again(status):
    assert read_answer(answer(status, retry_after="30")).retry_after_seconds == 30.0
