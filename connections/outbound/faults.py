"""From what libcurl says to an error of ours."""

import errno
from dataclasses import dataclass

import pycurl

from connections.outbound.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    DoorFailed,
    InvalidUrl,
    OutboundError,
    ResolveFailed,
    ResponseTooLarge,
    TlsFailed,
)
from connections.outbound.reading import MAX_ANSWER_HEADER_BYTES, Stop


@dataclass(frozen=True, slots=True)
class Fault:
    """A transfer that failed: libcurl's code and text, and what the callbacks saw.

    `status` is that of an answer that began; `system_error` the errno of the last connect that failed, else 0.
    """

    code: int
    detail: str
    connected: bool
    status: int | None
    verify_result: int
    stopped: Stop | None
    broken: OSError | None
    system_error: int = 0


_OUR_ERRNOS = frozenset(
    {
        errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM,
        errno.EADDRNOTAVAIL, errno.EADDRINUSE,  # no local port is free
        errno.ENETDOWN,
    }
)  # fmt: skip
"""What the operating system says where this machine has run out of something; no receiver has a part in it."""


def is_ours(number: int | None) -> bool:
    """Whether an errno tells of this machine's own lack."""
    return number in _OUR_ERRNOS


_OURS = frozenset(
    {
        pycurl.E_FAILED_INIT,
        pycurl.E_OUT_OF_MEMORY,
        pycurl.E_BAD_FUNCTION_ARGUMENT,
        pycurl.E_UNKNOWN_OPTION,
        pycurl.E_NOT_BUILT_IN,
        pycurl.E_SSL_CACERT_BADFILE,
        pycurl.E_INTERFACE_FAILED,
    }
)

_TLS = frozenset(
    {
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_CIPHER,
        pycurl.E_SSL_ISSUER_ERROR,
        pycurl.E_SSL_INVALIDCERTSTATUS,
        pycurl.E_USE_SSL_FAILED,
    }
)

_TOO_LARGE = 100
"""CURLE_TOO_LARGE, which pycurl does not name: libcurl's own limit for one header line."""

_NOT_HTTP = frozenset({pycurl.E_UNSUPPORTED_PROTOCOL, pycurl.E_HTTP2, pycurl.E_BAD_CONTENT_ENCODING, 8})
"""8 is CURLE_WEIRD_SERVER_REPLY, which pycurl names after FTP."""

_CERTIFICATE_WORDS = {
    1: "The certificate of the server is not valid for this host name.",  # libcurl's own check
    9: "The certificate of the server is not valid yet.",
    10: "The certificate of the server has expired.",
    18: "The certificate of the server is self-signed.",
    19: "The certificate of the server is signed by an authority that is not trusted.",
    20: "The certificate of the server is signed by an authority that is not trusted, or its chain is incomplete.",
    21: "The certificate of the server is signed by an authority that is not trusted, or its chain is incomplete.",
}
"""By OpenSSL's X509_V_ERR_ codes (openssl-verification-options(1))."""

UNNAMED_WORDS = "The certificate of the server names no host: it has no subject alternative name (RFC 9525)."


def explain(fault: Fault) -> OutboundError:
    """The error of a failed transfer. Decides by libcurl's code and by how far the transfer came, never by its text."""
    is_starved = not fault.connected and is_ours(fault.system_error)
    if fault.broken is not None or fault.code in _OURS or is_starved:
        return DoorFailed("The request could not be sent, through no fault of the receiver.", detail=fault.detail)
    if fault.code == pycurl.E_URL_MALFORMAT:
        return InvalidUrl("The URL is not valid.", detail=fault.detail)
    if fault.stopped is Stop.HEADERS_TOO_LARGE or fault.code == _TOO_LARGE:
        words = f"The headers of the answer are larger than {MAX_ANSWER_HEADER_BYTES // 1024} KB."
        return ResponseTooLarge(words, sent=True, status=fault.status, detail=fault.detail)
    if fault.code == pycurl.E_OPERATION_TIMEDOUT:
        return DeadlineExceeded(_late(fault), sent=fault.connected, status=fault.status, detail=fault.detail)
    if fault.connected:
        return ConnectionLost(_lost(fault), sent=True, status=fault.status, detail=fault.detail)
    return _explain_unconnected(fault)


def _explain_unconnected(fault: Fault) -> OutboundError:
    if fault.code in _TLS:
        return TlsFailed(_tls(fault), detail=fault.detail)
    if fault.code == pycurl.E_COULDNT_RESOLVE_HOST:
        return ResolveFailed("The host name could not be found.", detail=fault.detail)
    return ConnectFailed("The server could not be reached: it accepts no connection.", detail=fault.detail)


def _late(fault: Fault) -> str:
    if not fault.connected:
        return "No connection could be made in the time allowed."
    if fault.status is None:
        return "The request was sent, but no answer came in the time allowed."
    return (
        f"The server began to answer with status {fault.status}, but the answer was not complete in the time allowed."
    )


def _lost(fault: Fault) -> str:
    if fault.status is not None:
        return f"The server began to answer with status {fault.status}, but the answer broke off or was not valid HTTP."
    if fault.code in _NOT_HTTP:
        return "The server's answer was not valid HTTP."
    return "The server closed the connection without an answer."


def _tls(fault: Fault) -> str:
    if fault.code != pycurl.E_PEER_FAILED_VERIFICATION:
        return "No secure connection could be made: the TLS handshake failed."
    return _CERTIFICATE_WORDS.get(fault.verify_result, "The certificate of the server is not trusted.")
