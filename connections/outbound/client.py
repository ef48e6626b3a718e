"""The client: the one place from which every HTTP request to the outside leaves.

`send` has `guard` find and check the addresses, and dials one of them, or uses a socket that was kept. Below it stand a
transfer (one request on a libcurl handle), and the pool of handles with the sockets that they keep open.
"""

import contextlib
import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass
from ipaddress import ip_address

import pycurl
from cachetools import TTLCache

from connections.messages import (
    DELIVERY_BODY_LIMIT,
    USER_AGENT,
    LocalError,
    NetworkError,
    OutboundError,
    Request,
    RequestRefusedError,
    Response,
    ResponseReader,
    Room,
    Target,
    check_request,
    parse_url,
)
from connections.outbound.errors import could_not_send, explain, is_ours, no_connection_in_time
from connections.outbound.guard import Address, Policy, locate, refused_address

DEADLINE_SECONDS = 15.0
MAX_DEADLINE_SECONDS = 30.0
MAX_PINS = 8
"""Of a name with more addresses than this only the first are tried: the deadline leaves no time for the others."""
TLS_1_2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
"""Those that RFC 9325, section 4.2, recommends: forward secrecy and authenticated encryption, no CBC. TLS 1.3 has no
others."""

_QUICK_EXIT = 322  # CURLOPT_QUICK_EXIT; pycurl has no name for it
_SUBJECT_ALT_NAME = "X509v3 Subject Alternative Name"

Key = tuple[Hashable, str, str, int]
"""For whom a socket is kept, and to where: `pool_key`, scheme, host, port."""

logger = logging.getLogger("meshes.outbound")


def send(
    request: Request,
    *,
    deadline_seconds: float = DEADLINE_SECONDS,
    body_limit: int = DELIVERY_BODY_LIMIT,
    policy: Policy | None = None,
    pool_key: Hashable = None,
    room: Room | None = None,
) -> Response:
    """Send one request and return its answer, whatever the status; redirects are answers too.

    With a `pool_key` the socket is kept for a while, for the next request to the same place with the same key, and for
    no other; that request then looks no name up. Without one nothing is kept.

    The deadline (30 s at most; more is cut to that) spans lookup, connect, TLS, header and body. Of the body up to
    `body_limit` bytes are read, with a `room` only as far as there is room for a long answer; a longer one is cut and
    marked `truncated`. May be called from any number of threads.
    Raises OutboundError: the tree is drawn in `connections.messages`.
    """
    started = time.monotonic()
    until = started + min(deadline_seconds, MAX_DEADLINE_SECONDS)
    policy = policy or Policy.from_settings()
    check_request(request)
    try:
        target = parse_url(request.url)
        policy.check_target(target)
        transfer = Transfer(request, target, policy, until, ResponseReader(body_limit, room), pool_key)
        if not _send_on_kept(transfer):
            pins = locate(target, policy, until)
            if time.monotonic() >= until:
                raise no_connection_in_time()
            transfer.run(_pool.take(), pins)
    except RequestRefusedError as error:
        if error.cause == "address_refused":
            logger.info("refused: %s", error.detail)
        raise
    except LocalError as error:
        logger.error("the client failed: %s", error.detail)
        raise
    return transfer.answer.response(transfer.status, round((time.monotonic() - started) * 1000))


def _send_on_kept(transfer: "Transfer") -> bool:
    """Whether the answer came over a socket that was kept; else there is none, or the policy allows it no more.

    A socket that was closed before anything was sent is as good as none. One that broke afterwards is an error like on
    any other socket: the receiver may have acted.
    """
    if (key := transfer.key) is None:
        return False
    while (handle := _pool.take_kept(key)) is not None:
        if handle.kept is None or transfer.policy.refusal(ip_address(handle.kept.remote), transfer.target.port):
            handle.drop()
            _pool.put(handle)
            continue
        try:
            if transfer.run(handle):
                return True
        except NetworkError as error:
            if error.cause == "connection_lost" and error.status is None:
                _pool.shun(key)
            raise
    return False


class Transfer:
    """One request on one libcurl handle: its options, the callbacks, and what they saw.

    `until` is in the time of `time.monotonic`. Where a kept socket turns out to be closed, it is run once more.
    """

    def __init__(
        self, request: Request, target: Target, policy: Policy, until: float, answer: ResponseReader, pool_key: Hashable
    ) -> None:
        self.request, self.target, self.policy, self.until = request, target, policy, until
        self.key: Key | None = None if pool_key is None else (pool_key, target.scheme, target.host, target.port)
        self.answer = answer
        self.status = 0
        self._connected = False
        self._refusal: str | None = None
        self._broken: OSError | None = None
        self._is_unnamed = False  # whether its certificate has no subjectAltName, so that libcurl took its common name
        self._untaken: socket.socket | None = None
        self._local_port = 0

    def run(self, handle: "Handle", pins: tuple[Address, ...] = ()) -> bool:
        """Send over the socket that the handle has kept, or else to one of `pins`, and read the answer.

        False where the kept socket was closed before anything was sent. Raises OutboundError.
        """
        try:
            if not self._perform(handle, pins):
                return False
            self.status = handle.curl.getinfo(pycurl.RESPONSE_CODE)
            handle.kept = self._keep()
            return True
        finally:
            for opened in self._sockets:  # our copies of those that are not kept: pycurl works with duplicates
                opened.close()
            handle.curl.reset()
            if not self._is_unnamed:  # else its TLS session would be resumed, and a resumed one shows no certificate
                _pool.put(handle)

    def _perform(self, handle: "Handle", pins: tuple[Address, ...]) -> bool:
        try:
            self.prepare(handle, pins)
            self._curl.perform()
        except pycurl.error as error:
            if self._is_stale and not self._connected:
                return False
            if not self.answer.is_truncated:
                raise self._explain(*error.args) from None
        return True

    def _keep(self) -> "Kept | None":
        """What there is to keep now that the answer is read; libcurl has closed what may not be used again."""
        if self.key is None or self._curl.getinfo(pycurl.LASTSOCKET) == -1:
            return None
        used = next((each for each in self._sockets if each.getsockname()[1] == self._local_port), None)
        seconds = IDLE_SECONDS
        if (announced := self.answer.keep_alive_seconds) is not None:
            seconds = min(seconds, announced - MARGIN_SECONDS)
        if used is None or seconds <= 0:
            return None
        self._sockets.remove(used)
        now = time.monotonic()
        return Kept(self.key, self._curl.getinfo(pycurl.PRIMARY_IP), self._local_port, now, now + seconds, used)

    def prepare(self, handle: "Handle", pins: tuple[Address, ...]) -> None:
        """Take over what the handle has kept, and set all its options. Raises pycurl.error."""
        self._curl, self._pins = handle.curl, pins
        self._is_stale = False  # whether the receiver closed the kept socket, and certainly nothing of the request left
        self._kept, handle.kept = handle.kept, None
        self._sockets = [] if self._kept is None else [self._kept.socket]
        self._guard(handle.curl)
        self._choose_connection(handle)
        self._describe(handle.curl)

    def _guard(self, curl: pycurl.Curl) -> None:
        """Everything that is the same for every request: what the client refuses to do."""
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(_QUICK_EXIT, 1)
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int((self.until - time.monotonic()) * 1000)))
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS | (pycurl.PROTO_HTTP if self.policy.allow_http else 0))
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.NOPROXY, "*")
        curl.setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.SSL_VERIFYPEER, 1)
        curl.setopt(pycurl.SSL_VERIFYHOST, 2)
        curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        curl.setopt(pycurl.SSL_CIPHER_LIST, TLS_1_2_CIPHERS)
        curl.setopt(pycurl.CAINFO, self.policy.ca_file)
        curl.setopt(pycurl.OPT_CERTINFO, 1)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        curl.setopt(pycurl.SOCKOPTFUNCTION, self._take_socket)
        curl.setopt(pycurl.PREREQFUNCTION, self._before_request)
        curl.setopt(pycurl.HEADERFUNCTION, self.answer.take_header)
        curl.setopt(pycurl.WRITEFUNCTION, self.answer.take_body)

    def _choose_connection(self, handle: "Handle") -> None:
        """The socket that was kept, or a new one. A handle keeps one at a time, and TLS sessions for their owner.

        For a new one libcurl gets the addresses of the name, so that it looks nothing up; the last ones are taken back.
        TLS sessions at this place are not kept nor resumed where one of another owner may be kept.
        """
        curl, target, owner = handle.curl, self.target, self.key and self.key[0]
        curl.setopt(pycurl.MAXCONNECTS, 1)
        curl.setopt(pycurl.FRESH_CONNECT, self._kept is None)
        curl.setopt(pycurl.FORBID_REUSE, self.key is None)
        may_resume = owner is not None and handle.owners.setdefault((target.host, target.port), owner) == owner
        curl.setopt(pycurl.SSL_SESSIONID_CACHE, may_resume)
        if self._kept is None:
            entries = [f"-{handle.pinned}"] if handle.pinned else []
            handle.pinned = None
            if target.literal is None:
                handle.pinned = f"{target.host}:{target.port}"
                pins = (f"[{each}]" if each.version == 6 else str(each) for each in self._pins[:MAX_PINS])
                entries.append(f"{handle.pinned}:" + ",".join(pins))
            curl.setopt(pycurl.RESOLVE, entries)

    def _describe(self, curl: pycurl.Curl) -> None:
        """The request itself. libcurl's own Content-Type and Expect are taken out."""
        request = self.request
        curl.setopt(pycurl.URL, self.target.url)
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
            self._is_stale = True  # libcurl found the kept socket closed; a new dial begins with a look at the name
            return int(pycurl.SOCKET_BAD)
        self._note_untaken()
        family, kind, protocol, (text, *_) = address
        self._refusal = self._refuse(text) or self._refusal
        if self._refusal or purpose != pycurl.SOCKTYPE_IPCXN:
            return int(pycurl.SOCKET_BAD)
        try:
            self._untaken = socket.socket(family, kind, protocol)
        except OSError as error:
            self._broken = error if is_ours(error.errno) else self._broken
            return int(pycurl.SOCKET_BAD)
        self._sockets.append(self._untaken)
        return self._untaken

    def _take_socket(self, descriptor: int, purpose: int) -> int:
        """libcurl has its duplicate of the socket. Where there is no descriptor left for it, this is not called."""
        self._untaken = None
        return int(pycurl.SOCKOPT_OK)

    def _note_untaken(self) -> None:
        if self._untaken is not None:
            self._broken = OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def _before_request(self, remote: str, local: str, remote_port: int, local_port: int) -> int:
        """Connect and TLS are done; from here on bytes of the request leave."""
        self._local_port = local_port
        if self._kept is not None:  # whose address has just been held against the policy
            self._is_stale = (remote, local_port) != (self._kept.remote, self._kept.local_port)
            self._connected = not self._is_stale
        else:
            self._refusal = self._refuse(remote)
            self._is_unnamed = self.target.scheme == "https" and not self._is_named()
            self._connected = not self._refusal and not self._is_unnamed
        return int(pycurl.PREREQFUNC_OK if self._connected else pycurl.PREREQFUNC_ABORT)

    def _is_named(self) -> bool:
        """Whether the certificate has a subjectAltName, against which libcurl has held the host.

        Of a resumed session no certificate is shown: it was, when the session began. Without a key none is resumed.
        """
        chain = self._curl.getinfo(pycurl.INFO_CERTINFO)
        if not chain:
            return self.key is not None
        names = dict(chain[0]).get(_SUBJECT_ALT_NAME, "")
        return "DNS:" in names or "IP Address:" in names

    def _refuse(self, text: str) -> str | None:
        address = ip_address(text)
        refusal = self.policy.refusal(address, self.target.port)
        return refusal or (None if address in self._pins else "not the address checked")

    def _explain(self, code: int, text: str = "") -> OutboundError:
        if self._refusal:
            return refused_address(f"{self.target.host}: {self._refusal}")
        if self._is_unnamed:
            message = "The certificate of the server names no host: it has no subject alternative name (RFC 9525)."
            return NetworkError("tls", message, detail=f"{self.target.host}: a certificate without a subjectAltName")
        self._note_untaken()
        status = self._curl.getinfo(pycurl.RESPONSE_CODE)
        return explain(
            code,
            f"libcurl {code}: {text}",
            connected=self._connected,
            status=status if status >= 200 else None,
            verify_result=self._curl.getinfo(pycurl.SSL_VERIFYRESULT),
            headers_too_large=self.answer.headers_are_too_large,
            broken=self._broken,
            system_error=self._curl.getinfo(pycurl.OS_ERRNO),
        )


# --- handles between requests, and the sockets that they keep open for a while ---------------------------------------

IDLE_SECONDS = 30.0
"""How long a socket is kept unused, at most; a receiver that announces less (`Keep-Alive: timeout=5`) is believed."""
MARGIN_SECONDS = 1.0
"""So much before the receiver would close it, a socket is given up: else requests would meet it closing."""
MAX_HANDLES = 256
"""Idle handles of a process, and so its idle sockets. Each that has spoken TLS keeps 0.7 MB of parsed authorities."""
MAX_PLACES = 100
"""Places whose TLS sessions one handle may keep; then it is thrown away."""
SHUN_SECONDS = 600.0
"""How long nothing is kept for a place that closed a socket in the face of a request, or soon after an answer."""
SOON_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Kept:
    """An open socket: its ends (`remote` as libcurl writes it), its time, and our duplicate, by which it is closed."""

    key: Key
    remote: str
    local_port: int
    since: float
    until: float
    socket: socket.socket

    def is_silent(self) -> bool:
        """Whether the receiver has neither closed it nor sent what nobody asked for. libcurl looks only after a second
        or more (and then dials anew, which is not its to decide)."""
        try:
            self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False


class Handle:
    """A libcurl handle that is used again.

    `reset` before it is put back leaves the parsed CA file (4 ms of CPU a request), the pinned name, which the next
    dial removes, the socket, and TLS sessions; the last two are for their owner alone.
    """

    def __init__(self) -> None:
        self.curl = pycurl.Curl()
        self.pinned: str | None = None
        self.kept: Kept | None = None
        self.owners: dict[tuple[str, int], Hashable] = {}  # of the TLS sessions, by host and port

    def drop(self) -> None:
        """End the TCP connection that is kept, if there is one; libcurl finds its own duplicate dead."""
        if self.kept is not None:
            with contextlib.suppress(OSError):
                self.kept.socket.shutdown(socket.SHUT_RDWR)
            self.kept.socket.close()
            self.kept = None


class Pool:
    """The idle handles of a process, the latest last. While any keeps a socket, a thread closes those that are due.

    A socket is kept for one owner at one place: whoever asks for it names both, and gets none of another.
    """

    def __init__(self, max_handles: int = MAX_HANDLES) -> None:
        self._max_handles = max_handles
        self._idle: dict[Handle, None] = {}
        self._kept: dict[Key, list[Handle]] = {}
        self._shunned: TTLCache[Key, None] = TTLCache(maxsize=10_000, ttl=SHUN_SECONDS)
        self._lock = threading.Lock()
        self._closing: threading.Thread | None = None

    def take_kept(self, key: Key) -> Handle | None:
        """The handle whose socket was kept for this key last, unless its time is up or its receiver closed it."""
        with self._lock:
            while handles := self._kept.get(key):
                handle, now = handles[-1], time.monotonic()
                self._remove(handle)
                if handle.kept is not None and handle.kept.until > now:
                    if handle.kept.is_silent():
                        return handle
                    if now - handle.kept.since < SOON_SECONDS:
                        self._shunned[key] = None
                handle.drop()
                self._idle[handle] = None
        return None

    def take(self) -> Handle:
        """Any handle: one that keeps nothing, else a new one, else the one that has kept its socket for longest.

        Raises LocalError.
        """
        with self._lock:
            for handle in reversed(self._idle):
                if handle.kept is None:
                    del self._idle[handle]
                    return handle
            if len(self._idle) < self._max_handles:
                try:
                    return Handle()
                except (pycurl.error, MemoryError) as error:
                    raise could_not_send(f"no handle of libcurl: {error}") from None
            handle = next(iter(self._idle))
            self._remove(handle)
            handle.drop()
            return handle

    def put(self, handle: Handle) -> None:
        """Give a handle back, after its `reset`."""
        if len(handle.owners) >= MAX_PLACES:
            handle.drop()
            return
        with self._lock:
            if len(self._idle) >= self._max_handles:
                surplus = next(iter(self._idle))
                self._remove(surplus)
                surplus.drop()
            if handle.kept is not None and handle.kept.key in self._shunned:
                handle.drop()
            self._idle[handle] = None
            if handle.kept is not None:
                self._kept.setdefault(handle.kept.key, []).append(handle)
                if self._closing is None:
                    closing = threading.Thread(target=self._close_in_time, name="outbound-idle", daemon=True)
                    with contextlib.suppress(RuntimeError):  # no threads now: the receiver or the next request ends it
                        closing.start()
                        self._closing = closing

    def shun(self, key: Key) -> None:
        """Keep nothing there for a while: its receiver closes sockets and does not say so."""
        with self._lock:
            self._shunned[key] = None

    def _remove(self, handle: Handle) -> None:
        del self._idle[handle]
        if handle.kept is not None:
            siblings = self._kept[handle.kept.key]
            siblings.remove(handle)
            if not siblings:
                del self._kept[handle.kept.key]

    def _close_in_time(self) -> None:
        """The life of the closing thread: it ends when nothing is kept."""
        while True:
            time.sleep(MARGIN_SECONDS)
            with self._lock:
                self._close_overdue(time.monotonic())
                if not self._kept:
                    self._closing = None
                    return

    def _close_overdue(self, now: float) -> None:
        for handle in [each for each in self._idle if each.kept is not None and each.kept.until <= now]:
            self._remove(handle)
            handle.drop()
            self._idle[handle] = None


_pool = Pool()
_of_parents: list[Pool] = []
"""A child leaves its parent's handles alone: closing one would end the TLS connection that the parent goes on using."""


def _start_anew_after_fork() -> None:
    global _pool  # noqa: PLW0603 - replaced whole
    _of_parents.append(_pool)
    _pool = Pool()


os.register_at_fork(after_in_child=_start_anew_after_fork)
