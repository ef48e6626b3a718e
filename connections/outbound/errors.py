# ruff: noqa: N818 - an error is named by what happened, and the tree says that it is one
"""What can go wrong at the door.

    OutboundError                 .words: a sentence for the tenant, .detail: for the operator's log
    ├── Refused                   we will not send this; nothing left; trying again changes nothing
    │   ├── InvalidUrl            the URL breaks a rule of form
    │   ├── InvalidRequest        the method or a header breaks a rule of form
    │   └── RefusedAddress        the scheme, port or address is outside the policy
    ├── DoorFailed                our own fault (no descriptors, ports, threads, CA file); nothing left; try again
    └── NetworkError              .sent: may the receiver have acted? .status: of an answer that broke off
        ├── ResolveFailed         the name has no address                       sent is False
        ├── ResolveTimedOut       the name servers did not answer in time       sent is False
        ├── ConnectFailed         no connection                                 sent is False
        ├── TlsFailed             no trusted, encrypted connection              sent is False
        ├── DeadlineExceeded      the time was up, at whatever stage
        ├── ConnectionLost        the connection broke, or what came was not HTTP
        └── ResponseTooLarge      the headers, or the body of a conversation    sent is True

`.words` never holds an address that a name led to, nor a text of libcurl or of the operating system.
"""


class OutboundError(Exception):
    """A request that was not answered. `str()` gives `.words`, which may be shown to a tenant; `.detail` may not."""

    def __init__(self, words: str, *, detail: str = "") -> None:
        super().__init__(words)
        self.words = words
        self.detail = detail


class Refused(OutboundError):
    """The request never leaves, and never will while it stays as it is."""


class InvalidUrl(Refused):
    """`.words` says which rule the URL breaks."""


class InvalidRequest(Refused):
    """`.words` says which rule the method, a header or the body breaks; it names no header's value."""


class RefusedAddress(Refused):
    """The policy forbids the destination. `.words` says nothing about where a name led."""


class DoorFailed(OutboundError):
    """The fault is ours. Nothing was sent, and it should cost the customer no attempt."""


class NetworkError(OutboundError):
    """The network or the receiver failed; another try may succeed.

    `.sent` is False only when it is certain that not one byte of the request reached the receiver.
    `.status` is the status code of an answer that began and did not end, else None.
    """

    def __init__(self, words: str, *, sent: bool = False, status: int | None = None, detail: str = "") -> None:
        super().__init__(words, detail=detail)
        self.sent = sent
        self.status = status


class ResolveFailed(NetworkError):
    """The host name has no address, or its name servers failed."""


class ResolveTimedOut(NetworkError):
    """The name servers gave no answer within the deadline of a lookup, or in what was left of the request's."""


class ConnectFailed(NetworkError):
    """Nobody accepted the connection."""


class TlsFailed(NetworkError):
    """No TLS connection with a certificate that we trust."""


class DeadlineExceeded(NetworkError):
    """The total deadline passed, over lookup, connect, TLS, sending, header and body together."""


class ConnectionLost(NetworkError):
    """The receiver broke off, or answered something that is not HTTP/1."""


class ResponseTooLarge(NetworkError):
    """The answer is larger than we take."""
