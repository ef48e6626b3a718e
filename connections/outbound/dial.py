"""One request on one libcurl handle, to addresses that are already checked, or on a socket that was kept."""

import errno
import os
import socket
import time
from dataclasses import dataclass
from ipaddress import ip_address

import pycurl

from connections.outbound.addresses import Address
from connections.outbound.errors import OutboundError, RefusedAddress, TlsFailed
from connections.outbound.faults import UNNAMED_WORDS, Fault, explain, is_ours
from connections.outbound.keeping import IDLE_SECONDS, MARGIN_SECONDS, Handle, Kept, Key, idle_handles
from connections.outbound.messages import USER_AGENT, Request
from connections.outbound.policy import Policy
from connections.outbound.reading import Reading, Stop
from connections.outbound.room import Room
from connections.outbound.urls import Target

MAX_PINS = 8
"""Of a name with more addresses than this only the first are tried: the deadline leaves no time for the others."""

_QUICK_EXIT = 322  # CURLOPT_QUICK_EXIT; pycurl has no name for it
_SUBJECT_ALT_NAME = "X509v3 Subject Alternative Name"


@dataclass(frozen=True, slots=True)
class Call:
    """Everything that one request needs. `until` is in the time of `time.monotonic`.

    `key` is None where no socket may be kept. `pins` are the addresses that may be dialled; none where a socket is
    used again.
    """

    request: Request
    target: Target
    policy: Policy
    until: float
    body_limit: int
    key: Key | None = None
    pins: tuple[Address, ...] = ()
    room: Room | None = None


TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
"""Those that RFC 9325, section 4.2, recommends: forward secrecy and authenticated encryption, no CBC. TLS 1.3 has no
others."""


class Stale(Exception):  # noqa: N818 - reads so where it is caught
    """A kept socket was closed by the receiver. It is certain that nothing of the request was sent."""


def dial(call: Call) -> tuple[int, Reading]:
    """Send the request over a new connection and read the answer: its status code, and what was read.

    Raises OutboundError.
    """
    return _perform(_Attempt(call), idle_handles().take())


def send_on(handle: Handle, call: Call) -> tuple[int, Reading]:
    """The same over the socket that the handle has kept. Raises Stale, and OutboundError."""
    attempt = _Attempt(call, handle.kept)
    handle.kept = None
    return _perform(attempt, handle)


def _perform(attempt: "_Attempt", handle: Handle) -> tuple[int, Reading]:
    try:
        answer = attempt.perform(handle)
        handle.kept = attempt.keep(handle.curl)
        return answer
    finally:
        attempt.close_sockets()
        handle.curl.reset()
        if not attempt.is_unnamed:  # else its TLS session would be resumed, and a resumed one shows no certificate
            idle_handles().put(handle)


class _Attempt:
    """The callbacks of one request, and what they saw."""

    def __init__(self, call: Call, kept: Kept | None = None) -> None:
        self.call = call
        self.reading = Reading(call.body_limit, call.room)
        self.connected = False
        self.refusal: str | None = None
        self.broken: OSError | None = None
        self.is_unnamed = False
        """Whether the server's certificate has no subjectAltName, so that libcurl took its common name."""
        self._curl: pycurl.Curl | None = None
        self._untaken: socket.socket | None = None
        self._kept = kept
        self._stale = False
        self._local_port = 0
        self._sockets: list[socket.socket] = [] if kept is None else [kept.socket]

    def perform(self, handle: Handle) -> tuple[int, Reading]:
        curl = self._curl = handle.curl
        try:
            self._guard(curl)
            self._choose_connection(handle)
            self._describe(curl)
            curl.perform()
        except pycurl.error as error:
            if self._stale and not self.connected:
                raise Stale from None
            if self.reading.stopped is not Stop.BODY_FULL:
                raise self._explain(curl, *error.args) from None
        return curl.getinfo(pycurl.RESPONSE_CODE), self.reading

    def keep(self, curl: pycurl.Curl) -> Kept | None:
        """What there is to keep now that the answer is read; libcurl has closed what may not be used again."""
        key = self.call.key
        if key is None or curl.getinfo(pycurl.LASTSOCKET) == -1:
            return None
        used = next((each for each in self._sockets if each.getsockname()[1] == self._local_port), None)
        seconds = IDLE_SECONDS
        if (announced := self.reading.keep_alive_seconds) is not None:
            seconds = min(seconds, announced - MARGIN_SECONDS)
        if used is None or seconds <= 0:
            return None
        self._sockets.remove(used)
        remote, now = curl.getinfo(pycurl.PRIMARY_IP), time.monotonic()
        return Kept(key, ip_address(remote), remote, self._local_port, now, now + seconds, used)

    def close_sockets(self) -> None:
        """Close our copies of the sockets that are not kept: pycurl works with duplicates."""
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
        curl.setopt(pycurl.SSL_VERIFYPEER, 1)
        curl.setopt(pycurl.SSL_VERIFYHOST, 2)
        curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        curl.setopt(pycurl.SSL_CIPHER_LIST, TLS_1_2_CIPHERS)
        curl.setopt(pycurl.CAINFO, policy.ca_file)
        curl.setopt(pycurl.OPT_CERTINFO, 1)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        curl.setopt(pycurl.SOCKOPTFUNCTION, self._take_socket)
        curl.setopt(pycurl.PREREQFUNCTION, self._before_request)
        curl.setopt(pycurl.HEADERFUNCTION, self.reading.take_header)
        curl.setopt(pycurl.WRITEFUNCTION, self.reading.take_body)

    def _choose_connection(self, handle: Handle) -> None:
        """The socket that was kept, or a new one. A handle keeps one at a time, and TLS sessions for their owner."""
        curl, key = handle.curl, self.call.key
        curl.setopt(pycurl.MAXCONNECTS, 1)
        curl.setopt(pycurl.FRESH_CONNECT, self._kept is None)
        curl.setopt(pycurl.FORBID_REUSE, key is None)
        curl.setopt(pycurl.SSL_SESSIONID_CACHE, key is not None and handle.may_resume(key))
        if self._kept is None:
            self._pin(handle)

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
        if self._kept is not None:
            self._stale = True  # libcurl found the kept socket closed; a new dial begins with a look at the name
            return int(pycurl.SOCKET_BAD)
        self._note_untaken()
        family, kind, protocol, (text, *_) = address
        self.refusal = self._refuse(text) or self.refusal
        if self.refusal or purpose != pycurl.SOCKTYPE_IPCXN:
            return int(pycurl.SOCKET_BAD)
        try:
            opened = socket.socket(family, kind, protocol)
        except OSError as error:
            self.broken = error if is_ours(error.errno) else self.broken
            return int(pycurl.SOCKET_BAD)
        self._sockets.append(opened)
        self._untaken = opened
        return opened

    def _take_socket(self, descriptor: int, purpose: int) -> int:
        """libcurl has its duplicate of the socket. Where there is no descriptor left for it, this is not called."""
        self._untaken = None
        return int(pycurl.SOCKOPT_OK)

    def _note_untaken(self) -> None:
        if self._untaken is not None:
            self.broken = OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def _before_request(self, remote: str, local: str, remote_port: int, local_port: int) -> int:
        """Connect and TLS are done; from here on bytes of the request leave."""
        self._local_port = local_port
        if self._kept is not None:  # whose address the door has just held against the policy
            self._stale = (remote, local_port) != (self._kept.remote, self._kept.local_port)
            self.connected = not self._stale
            return int(pycurl.PREREQFUNC_ABORT if self._stale else pycurl.PREREQFUNC_OK)
        self.refusal = self._refuse(remote)
        self.is_unnamed = self.call.target.scheme == "https" and not self._is_named()
        if self.refusal or self.is_unnamed:
            return int(pycurl.PREREQFUNC_ABORT)
        self.connected = True
        return int(pycurl.PREREQFUNC_OK)

    def _is_named(self) -> bool:
        """Whether the certificate has a subjectAltName, against which libcurl has held the host.

        Of a resumed session no certificate is shown: it was, when the session began. Without a key none is resumed.
        """
        chain = self._curl.getinfo(pycurl.INFO_CERTINFO) if self._curl is not None else []
        if not chain:
            return self.call.key is not None
        names = dict(chain[0]).get(_SUBJECT_ALT_NAME, "")
        return "DNS:" in names or "IP Address:" in names

    def _refuse(self, text: str) -> str | None:
        address = ip_address(text)
        refusal = self.call.policy.refusal(address, self.call.target.port)
        return refusal or (None if address in self.call.pins else "not the address checked")

    def _explain(self, curl: pycurl.Curl, code: int, text: str = "") -> OutboundError:
        if self.refusal:
            return RefusedAddress("This address is not allowed.", detail=f"{self.call.target.host}: {self.refusal}")
        if self.is_unnamed:
            return TlsFailed(UNNAMED_WORDS, detail=f"{self.call.target.host}: a certificate without a subjectAltName")
        self._note_untaken()
        status = curl.getinfo(pycurl.RESPONSE_CODE)
        fault = Fault(
            code=code,
            detail=f"libcurl {code}: {text}",
            connected=self.connected,
            status=status if status >= 200 else None,
            verify_result=curl.getinfo(pycurl.SSL_VERIFYRESULT),
            stopped=self.reading.stopped,
            broken=self.broken,
            system_error=curl.getinfo(pycurl.OS_ERRNO),
        )
        return explain(fault)
