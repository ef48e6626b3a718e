"""Why there is no token, as verdicts on the attempt that needed one."""

from dataclasses import replace

from connections.messages import DoorFailed, OutboundError, Refused
from connections.providers.base import Outcome, Verdict, disabled, reauthorize, throttled

FIRST_REST_SECONDS = 5.0
LONGEST_REST_SECONDS = 300.0
"""After a failure of the token endpoint: twice as long each time."""

OURS = Verdict(
    Outcome.RETRY, "our_fault", "No token could be asked for, for a fault of ours.", is_ours=True, is_counted=False
)


class NoToken(Exception):  # noqa: N818 - named by what happened
    """No token was had; `.verdict` is what that means for an attempt."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.words)
        self.verdict = verdict

    @property
    def is_final(self) -> bool:
        """Only the owner can help."""
        return self.verdict.hold is not None


def ended(who: str, code: str = "") -> Verdict:
    """The authorization is over: nothing passes until the owner authorizes the connection again."""
    said = f" ({code})" if code else ""
    return reauthorize(
        f"{who} no longer accepts this connection's authorization{said}. Authorize it again.", "authorization_ended"
    )


def client_refused(who: str, code: str) -> Verdict:
    """The client is the customer's own, and nothing passes until it is mended, here or at its server."""
    words = f"{who} refuses the client ({code}). Check its id, its secret and the scope."
    return reauthorize(words, "authorization_ended")


def unavailable(words: str, seconds: float | None = None) -> Verdict:
    """No token for now: the connection rests a while, and nothing is lost, however often that happens."""
    return replace(throttled(words, "token_unavailable", seconds or FIRST_REST_SECONDS), is_counted=False)


def from_error(who: str, error: OutboundError) -> Verdict:
    """What an error of the door means on the way to a token endpoint."""
    if isinstance(error, Refused):
        return disabled(f"The token endpoint cannot be asked: {error.words}", "address_refused")
    if isinstance(error, DoorFailed):
        return OURS
    return unavailable(f"{who} gave no token: {error.words}")


def with_rest(verdict: Verdict, failures: int) -> Verdict:
    """The verdict with the rest that follows this many failures before it, or a longer one that was asked for."""
    if not verdict.throttled:
        return verdict
    rest = min(FIRST_REST_SECONDS * 2 ** min(failures, 10), LONGEST_REST_SECONDS)
    return replace(verdict, retry_after_seconds=max(rest, verdict.retry_after_seconds or 0.0))
