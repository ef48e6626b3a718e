"""What an answer means for a delivery: outcomes, verdicts, and the reading of HTTP that holds unless a provider knows
better. docs/webhooks.md has the table in words, with the reasons."""

from dataclasses import dataclass, replace
from enum import StrEnum

from connections.messages import LocalError, NetworkError, OutboundError, RequestRefusedError, Response
from connections.providers.answers import retry_after


class Outcome(StrEnum):
    DELIVERED = "delivered"
    RETRY = "retry"
    """A fault of theirs or ours that may pass: try again by the schedule."""
    REJECTED = "rejected"
    """This payload will never pass: dead at once."""
    BROKEN = "broken"
    """The connection is unusable: recorded, not counted, and its deliveries are held."""
    UNCERTAIN = "uncertain"
    """The request left and no answer came: retried where the action is idempotent."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one answer means.

    `error_class` is a short name, `words` a sentence that a tenant understands; both are empty when delivered.
    `retry_after_seconds` is what the receiver asked for, 0 to 86,400. `hold` is the status that a BROKEN connection
    gets: `disabled` or `needs_reauth`. `throttled` pauses the whole lane. `is_ours` marks a fault of Meshes itself,
    which says nothing of the destination's health. `rest_seconds` rests the lane whatever the outcome: for so long
    nothing is left of the vendor's limit, by its headers. `is_counted` is false where the attempt ended before there
    was a token to send it with, or for a fault of ours that passes by itself: it takes nothing of the delivery's
    schedule.
    """

    outcome: Outcome
    error_class: str = ""
    words: str = ""
    retry_after_seconds: float | None = None
    hold: str | None = None
    throttled: bool = False
    is_ours: bool = False
    rest_seconds: float | None = None
    is_counted: bool = True


ERROR_CLASSES = (
    "address_refused", "ambiguous", "archived", "authorization_ended", "blocked", "client_error", "compliance",
    "concurrent", "conflict", "connection_lost", "contact_moved", "contact_not_found", "credential_error",
    "credential_refused", "daily_limit", "dns_timeout", "duplicate", "fatal_error", "forbidden", "forgotten", "gone",
    "internal_error", "invalid_request", "key_missing", "locked", "monthly_limit", "moving", "no_api", "no_audience",
    "not_authorized", "org_locked", "our_fault", "payload_gone", "person_gone", "plan", "quota_limited", "raced",
    "rate_limited", "rate_limited_globally", "redirect", "rejected", "response_too_large", "retired", "server_error",
    "timeout", "tls", "token_unavailable", "unauthorized", "unexpected_status", "unpaid", "unproven", "unreachable",
    "unreadable_answer", "unresolved", "unsendable", "vendor_error", "worker_lost", "wrong_region",
)  # fmt: skip
"""All that an attempt may have, in order, and so all that lists can be searched for."""


def rejected(words: str, error_class: str = "rejected") -> Verdict:
    """This payload will never pass."""
    return Verdict(Outcome.REJECTED, error_class, words)


def reauthorize(words: str, error_class: str = "unauthorized") -> Verdict:
    """Nothing passes until the owner gives other credentials, or more permissions."""
    return Verdict(Outcome.BROKEN, error_class, words, hold="needs_reauth")


def disabled(words: str, error_class: str = "gone") -> Verdict:
    """Nothing passes until a person changes something other than the credentials."""
    return Verdict(Outcome.BROKEN, error_class, words, hold="disabled")


def retry(words: str, error_class: str = "server_error", seconds: float | None = None) -> Verdict:
    """It may pass later; not before so many seconds."""
    return Verdict(Outcome.RETRY, error_class, words, seconds)


def throttled(words: str, error_class: str = "rate_limited", seconds: float | None = None) -> Verdict:
    """The vendor asks for fewer requests: the whole lane rests, for so many seconds if given."""
    return Verdict(Outcome.RETRY, error_class, words, seconds, throttled=True)


NOT_BEGUN = frozenset({501, 503, 505, 507, 508, 511, 521, 523, 525, 526, 529, 530})
"""Errors of a server by which it says that it did not take the request, or never got it (RFC 9110, section 15.6; those
above 511 are Cloudflare's). Of all others of 500 and above it may have acted before it failed."""


def uncertain(words: str, error_class: str = "server_error") -> Verdict:
    """It may have been done, or not; tried again where twice has the effect of once."""
    return Verdict(Outcome.UNCERTAIN, error_class, words)


def with_known_end(verdict: Verdict, response: Response, name: str) -> Verdict:
    """The verdict on a call that is not idempotent: uncertain instead of retry, where nobody knows how it ended."""
    is_open = response.status >= 500 and response.status not in NOT_BEGUN
    if verdict.outcome != Outcome.RETRY or verdict.throttled or not is_open:
        return verdict
    _, quote, message = verdict.words.partition(f" {name}: “")
    words = f"{name} broke off ({response.status}): it may have been done, or not.{quote}{message}"
    return replace(verdict, outcome=Outcome.UNCERTAIN, words=words)


def of_repeatable(verdict: Verdict, answer: object) -> Verdict:
    """The verdict on an answered call that may be made again: retry instead of uncertain, however it ended."""
    is_open = verdict.outcome == Outcome.UNCERTAIN and isinstance(answer, Response)
    return replace(verdict, outcome=Outcome.RETRY) if is_open else verdict


_BY_STATUS = {
    400: rejected("The receiver says that this request is malformed (400)."),
    413: rejected("The receiver says that this request is too large (413)."),
    415: rejected("The receiver does not take this kind of content (415)."),
    422: rejected("The receiver says that it cannot process this payload (422)."),
    401: reauthorize(
        "The receiver does not accept the credentials (401). Replace them, then resume or test the connection."
    ),
    410: disabled("The receiver says that this address is gone for good (410)."),
    403: retry("The receiver refuses access (403). Check its firewall and its permissions.", "client_error"),
    404: retry("The receiver has nothing at this address (404). Check the URL.", "client_error"),
    405: retry(
        "The receiver does not take this method at this address (405). Check the method and the URL.", "client_error"
    ),
    408: retry("The receiver waited too long for the request (408).", "client_error"),
    421: retry("The receiver does not answer for this host name (421). Check the URL.", "client_error"),
    429: throttled("The receiver asks for fewer requests (429)."),
}
"""Of these only answers about the body are rejections: it stays the same, byte for byte, over all attempts, so another
attempt changes nothing."""


def read_answer(answer: Response | OutboundError) -> Verdict:
    """The verdict on any status 100 to 599 and any error of the client, by HTTP alone."""
    return read_error(answer) if isinstance(answer, OutboundError) else read_status(answer)


def read_status(response: Response) -> Verdict:
    """2xx is success, and nothing else is: a redirect is not followed."""
    status = response.status
    if 200 <= status <= 299:
        return Verdict(Outcome.DELIVERED)
    if status in _BY_STATUS:
        verdict = _BY_STATUS[status]
    elif 300 <= status <= 399:
        words = f"The receiver answers with a redirect ({status}), which is not followed. Set the new URL."
        verdict = retry(words, "redirect")
    elif 400 <= status <= 499:
        verdict = retry(f"The receiver refuses the request ({status}).", "client_error")
    elif status >= 500:
        verdict = retry(f"The receiver has an error of its own ({status}).")
    else:
        verdict = retry(f"The receiver's answer is not a final one ({status}).", "unexpected_status")
    wait = retry_after(response) if verdict.outcome == Outcome.RETRY else None
    return replace(verdict, retry_after_seconds=wait)


def read_error(error: OutboundError) -> Verdict:
    """Nothing that we refuse to send is tried again; of what was sent without an answer nobody knows the end."""
    if isinstance(error, RequestRefusedError):
        if error.cause == "invalid_request":
            return Verdict(Outcome.REJECTED, "invalid_request", error.message)
        return Verdict(Outcome.BROKEN, "address_refused", error.message, hold="disabled")
    if isinstance(error, LocalError):
        words = "The request could not be sent for a fault of ours."
        return Verdict(Outcome.RETRY, "our_fault", words, is_ours=True, is_counted=False)
    outcome = Outcome.UNCERTAIN if isinstance(error, NetworkError) and error.sent else Outcome.RETRY
    return Verdict(outcome, error.cause, error.message)
