"""One request on one libcurl handle, to addresses that are already checked."""

import errno
import os
import socket
import time
from collections import deque
from dataclasses import dataclass
from ipaddress import ip_address

import pycurl

from connections.outbound.addresses import Address
from connections.outbound.errors import OutboundError, RefusedAddress
from connections.outbound.faults import Fault, explain
from connections.outbound.messages import USER_AGENT, Request
from connections.outbound.policy import Policy
from connections.outbound.reading import Reading, Stop
from connections.outbound.urls import Target

MAX_PINS = 8
"""Of a name with more addresses than this only the first are tried: the deadline leaves no time for the others."""

_QUICK_EXIT = 322  # CURLOPT_QUICK_EXIT; pycurl has no name for it
_OUR_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Handle:
    """A libcurl handle that is used again.

    Its connections are not, nor is anything of a request: `reset` before it is put back leaves only the parsed CA file
    (4 ms of CPU a request) and the pinned name, which the next request removes.
    """

    def __init__(self) -> None:
        self.curl = pycurl.Curl()
        self.pinned: str | None = None


_idle: deque[Handle] = deque(maxlen=128)
"""Handles that nobody uses, last in, first out, so that no more are kept warm than are needed at once."""

os.register_at_fork(after_in_child=_idle.clear)


@dataclass(frozen=True, slots=True)
class Call:
    """Everything that one dial needs. `until` is in the time of `time.monotonic`."""

    request: Request
    target: Target
    pins: tuple[Address, ...]
    policy: Policy
    until: float
    body_limit: int


def dial(call: Call) -> tuple[int, Reading]:
    """Send the request and read the answer: its status code, and what was read. Raises OutboundError."""
    try:
        handle = _idle.pop()
    except IndexError:
        handle = Handle()
    attempt = _Attempt(call)
    try:
        return attempt.perform(handle)
    finally:
        attempt.close_sockets()
        handle.curl.reset()
        _idle.append(handle)


class _Attempt:
    """The callbacks of one dial, and what they saw."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.reading = Reading(call.body_limit)
        self.connected = False
        self.refusal: str | None = None
        self.broken: OSError | None = None
        self._sockets: list[socket.socket] = []

    def perform(self, handle: Handle) -> tuple[int, Reading]:
        curl = handle.curl
        try:
            self._guard(curl)
            self._pin(handle)
            self._describe(curl)
            curl.perform()
        except pycurl.error as error:
            if self.reading.stopped is not Stop.BODY_FULL:
                raise self._explain(curl, *error.args) from None
        return curl.getinfo(pycurl.RESPONSE_CODE), self.reading

    def close_sockets(self) -> None:
        """Close our copies of the sockets: pycurl works with duplicates."""
        for opened in self._sockets:
            opened.close()

    def _guard(self, curl: pycurl.Curl) -> None:
        """Everything that is the same for every request: what the door refuses to do."""
        policy = self.call.policy
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(_QUICK_EXIT, 1)
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int((self.call.until - time.monotonic()) * 1000)))
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS | (pycurl.PROTO_HTTP if policy.allow_http else 0))
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.NOPROXY, "*")
        curl.setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.FRESH_CONNECT, 1)
        curl.setopt(pycurl.FORBID_REUSE, 1)
        curl.setopt(pycurl.SSL_VERIFYPEER, 1)
        curl.setopt(pycurl.SSL_VERIFYHOST, 2)
        curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        curl.setopt(pycurl.SSL_SESSIONID_CACHE, 0)
        curl.setopt(pycurl.CAINFO, policy.ca_file)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        curl.setopt(pycurl.PREREQFUNCTION, self._before_request)
        curl.setopt(pycurl.HEADERFUNCTION, self.reading.take_header)
        curl.setopt(pycurl.WRITEFUNCTION, self.reading.take_body)

    def _pin(self, handle: Handle) -> None:
        """Give libcurl the addresses of the name, so that it looks nothing up, and take back those of the last one."""
        target = self.call.target
        entries = [f"-{handle.pinned}"] if handle.pinned else []
        handle.pinned = None
        if target.literal is None:
            handle.pinned = f"{target.host}:{target.port}"
            pins = self.call.pins[:MAX_PINS]
            entries.append(f"{handle.pinned}:" + ",".join(f"[{a}]" if a.version == 6 else str(a) for a in pins))
        handle.curl.setopt(pycurl.RESOLVE, entries)

    def _describe(self, curl: pycurl.Curl) -> None:
        """The request itself. libcurl's own Content-Type and Expect are taken out."""
        request = self.call.request
        curl.setopt(pycurl.URL, self.call.target.url)
        curl.setopt(pycurl.PATH_AS_IS, 1)
        curl.setopt(pycurl.USERAGENT, USER_AGENT)
        lines = [f"{name}: {value}" if value else f"{name};" for name, value in request.headers]
        if not any(name.lower() == "content-type" for name, _ in request.headers):
            lines.append("Content-Type:")
        curl.setopt(pycurl.HTTPHEADER, [*lines, "Expect:"])
        if request.method == "HEAD":
            curl.setopt(pycurl.NOBODY, 1)
            return
        if request.body or request.method in {"POST", "PUT", "PATCH"}:
            curl.setopt(pycurl.POST, 1)
            curl.setopt(pycurl.POSTFIELDS, request.body)
        curl.setopt(pycurl.CUSTOMREQUEST, request.method)

    def _open_socket(self, purpose: int, address: tuple[int, int, int, tuple[str, int]]) -> "socket.socket | int":
        """The last check, on the very address that is about to be dialled."""
        family, kind, protocol, (text, *_) = address
        self.refusal = self._refuse(text) or self.refusal
        if self.refusal or purpose != pycurl.SOCKTYPE_IPCXN:
            return int(pycurl.SOCKET_BAD)
        try:
            opened = socket.socket(family, kind, protocol)
        except OSError as error:
            self.broken = error if error.errno in _OUR_ERRNOS else self.broken
            return int(pycurl.SOCKET_BAD)
        self._sockets.append(opened)
        return opened

    def _before_request(self, remote: str, local: str, remote_port: int, local_port: int) -> int:
        """Connect and TLS are done; from here on bytes of the request leave."""
        self.refusal = self._refuse(remote)
        if self.refusal:
            return int(pycurl.PREREQFUNC_ABORT)
        self.connected = True
        return int(pycurl.PREREQFUNC_OK)

    def _refuse(self, text: str) -> str | None:
        address = ip_address(text)
        return self.call.policy.refusal(address) or (None if address in self.call.pins else "not the address checked")

    def _explain(self, curl: pycurl.Curl, code: int, text: str = "") -> OutboundError:
        if self.refusal:
            return RefusedAddress("This address is not allowed.", detail=f"{self.call.target.host}: {self.refusal}")
        status = curl.getinfo(pycurl.RESPONSE_CODE)
        fault = Fault(
            code=code,
            detail=f"libcurl {code}: {text}",
            connected=self.connected,
            status=status if status >= 200 else None,
            verify_result=curl.getinfo(pycurl.SSL_VERIFYRESULT),
            stopped=self.reading.stopped,
            broken=self.broken,
        )
        return explain(fault)
