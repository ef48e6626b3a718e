"""From what libcurl and the operating system say to an error of ours; the tree is drawn in `connections.messages`."""

import errno

import pycurl

from connections.messages import (
    MAX_ANSWER_HEADER_BYTES,
    Cause,
    LocalError,
    NetworkError,
    OutboundError,
    RequestRefusedError,
)

_OUR_ERRNOS = frozenset(
    {
        errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM,
        errno.EADDRNOTAVAIL, errno.EADDRINUSE,  # no local port is free
        errno.ENETDOWN,
    }
)  # fmt: skip
"""What the operating system says where this machine has run out of something; no receiver has a part in it."""

_OURS = frozenset(
    {
        pycurl.E_FAILED_INIT, pycurl.E_OUT_OF_MEMORY, pycurl.E_BAD_FUNCTION_ARGUMENT, pycurl.E_UNKNOWN_OPTION,
        pycurl.E_NOT_BUILT_IN, pycurl.E_SSL_CACERT_BADFILE, pycurl.E_INTERFACE_FAILED,
    }
)  # fmt: skip

_TLS = frozenset(
    {
        pycurl.E_SSL_CONNECT_ERROR, pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CERTPROBLEM, pycurl.E_SSL_CIPHER,
        pycurl.E_SSL_ISSUER_ERROR, pycurl.E_SSL_INVALIDCERTSTATUS, pycurl.E_USE_SSL_FAILED,
    }
)  # fmt: skip

_TOO_LARGE = 100
"""CURLE_TOO_LARGE, which pycurl does not name: libcurl's own limit for one header line."""

_NOT_HTTP = frozenset({pycurl.E_UNSUPPORTED_PROTOCOL, pycurl.E_HTTP2, pycurl.E_BAD_CONTENT_ENCODING, 8})
"""8 is CURLE_WEIRD_SERVER_REPLY, which pycurl names after FTP."""

_CERTIFICATE_MESSAGES = {
    1: "The certificate of the server is not valid for this host name.",  # libcurl's own check
    9: "The certificate of the server is not valid yet.",
    10: "The certificate of the server has expired.",
    18: "The certificate of the server is self-signed.",
    19: "The certificate of the server is signed by an authority that is not trusted.",
    20: "The certificate of the server is signed by an authority that is not trusted, or its chain is incomplete.",
    21: "The certificate of the server is signed by an authority that is not trusted, or its chain is incomplete.",
}
"""By OpenSSL's X509_V_ERR_ codes (openssl-verification-options(1))."""


def is_ours(number: int | None) -> bool:
    """Whether an errno tells of this machine's own lack."""
    return number in _OUR_ERRNOS


def could_not_send(detail: str) -> LocalError:
    return LocalError("The request could not be sent, through no fault of the receiver.", detail=detail)


def no_connection_in_time(detail: str = "") -> NetworkError:
    return NetworkError("timeout", "No connection could be made in the time allowed.", detail=detail)


def explain(
    code: int,
    detail: str,
    *,
    connected: bool,
    status: int | None = None,
    verify_result: int = 0,
    headers_too_large: bool = False,
    broken: OSError | None = None,
    system_error: int = 0,
) -> OutboundError:
    """The error of a failed transfer. Decides by libcurl's code and by how far the transfer came, never by its text.

    `status` is that of an answer that began; `broken` why this machine could open no socket; `system_error` the errno
    of the last connect that failed, else 0.
    """
    if broken is not None or code in _OURS or (not connected and is_ours(system_error)):
        return could_not_send(detail)
    if code == pycurl.E_URL_MALFORMAT:
        return RequestRefusedError("invalid_url", "The URL is not valid.", detail=detail)
    if headers_too_large or code == _TOO_LARGE:
        message = f"The headers of the answer are larger than {MAX_ANSWER_HEADER_BYTES // 1024} KB."
        return NetworkError("response_too_large", message, sent=True, status=status, detail=detail)
    if connected:
        return NetworkError(*_explain_answer(code, status), sent=True, status=status, detail=detail)
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return no_connection_in_time(detail)
    return NetworkError(*_explain_connection(code, verify_result), detail=detail)


def _explain_answer(code: int, status: int | None) -> tuple[Cause, str]:
    """Why a request that was sent has no complete answer."""
    began = f"The server began to answer with status {status}, but the answer"
    if code == pycurl.E_OPERATION_TIMEDOUT:
        if status is None:
            return "timeout", "The request was sent, but no answer came in the time allowed."
        return "timeout", f"{began} was not complete in the time allowed."
    if status is not None:
        return "connection_lost", f"{began} broke off or was not valid HTTP."
    if code in _NOT_HTTP:
        return "connection_lost", "The server's answer was not valid HTTP."
    return "connection_lost", "The server closed the connection without an answer."


def _explain_connection(code: int, verify_result: int) -> tuple[Cause, str]:
    if code == pycurl.E_PEER_FAILED_VERIFICATION:
        return "tls", _CERTIFICATE_MESSAGES.get(verify_result, "The certificate of the server is not trusted.")
    if code in _TLS:
        return "tls", "No secure connection could be made: the TLS handshake failed."
    if code == pycurl.E_COULDNT_RESOLVE_HOST:
        return "unresolved", "The host name could not be found."
    return "unreachable", "The server could not be reached: it accepts no connection."
