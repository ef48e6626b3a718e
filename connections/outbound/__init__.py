"""The one door through which every HTTP request to the outside leaves.

`send` for deliveries, `session` for conversations with vendors, `check_url` for the moment at which a URL is saved.
Reading order: `urls` (text to parts), `names` (name to addresses), `addresses` and `policy` (which are allowed),
`keeping` (sockets between requests), `dial` (the request on the wire), `reading` (the answer), `faults` and `errors`
(what can go wrong), `door` (the steps together), `conversations` (`requests` on top).
"""

from connections.outbound.conversations import session
from connections.outbound.door import check_url, send
from connections.outbound.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    DoorFailed,
    InvalidRequest,
    InvalidUrl,
    NetworkError,
    OutboundError,
    Refused,
    RefusedAddress,
    ResolveFailed,
    ResolveTimedOut,
    ResponseTooLarge,
    TlsFailed,
)
from connections.outbound.messages import Request, Response
from connections.outbound.policy import Policy
from connections.outbound.room import DELIVERY_BODY_LIMIT, Room
from connections.outbound.urls import with_ascii_host

__all__ = [
    "DELIVERY_BODY_LIMIT",
    "ConnectFailed",
    "ConnectionLost",
    "DeadlineExceeded",
    "DoorFailed",
    "InvalidRequest",
    "InvalidUrl",
    "NetworkError",
    "OutboundError",
    "Policy",
    "Refused",
    "RefusedAddress",
    "Request",
    "ResolveFailed",
    "ResolveTimedOut",
    "Response",
    "ResponseTooLarge",
    "Room",
    "TlsFailed",
    "check_url",
    "send",
    "session",
    "with_ascii_host",
]
