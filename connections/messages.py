"""Requests, answers and what can go wrong between them, as plain values: all that a provider knows of the network."""

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
from connections.outbound.messages import USER_AGENT, Request, Response

__all__ = [
    "USER_AGENT",
    "ConnectFailed",
    "ConnectionLost",
    "DeadlineExceeded",
    "DoorFailed",
    "InvalidRequest",
    "InvalidUrl",
    "NetworkError",
    "OutboundError",
    "Refused",
    "RefusedAddress",
    "Request",
    "ResolveFailed",
    "ResolveTimedOut",
    "Response",
    "ResponseTooLarge",
    "TlsFailed",
]
