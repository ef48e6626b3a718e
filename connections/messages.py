"""HTTP messages as plain values: URLs, requests, answers, and why there is no answer. All that a provider knows of the
network, and the one place from which everybody imports them.

    OutboundError               .message: a sentence for the tenant, .cause: one word, .detail: for the operator's log
    ├── RequestRefusedError     we will not send this; nothing left; trying again changes nothing
    │     invalid_url             the URL breaks a rule of form
    │     invalid_request         the method, a header or the body breaks a rule of form
    │     address_refused         the scheme, port or address is outside the policy
    ├── LocalError              our own fault (no descriptors, ports, threads, CA file); nothing left; try again
    │     our_fault
    └── NetworkError            .sent: may the receiver have acted? .status: of an answer that broke off
          unresolved              the name has no address                       sent is False
          dns_timeout             the name servers did not answer in time       sent is False
          unreachable             no connection                                 sent is False
          tls                     no trusted, encrypted connection              sent is False
          timeout                 the total deadline was over, at whatever stage
          connection_lost         the connection broke, or what came was not HTTP/1
          response_too_large      the headers, or the body in a `session`       sent is True

`.message` never holds an address that a name led to, the value of a header, nor a text of libcurl or of the operating
system.
"""

import json
import re
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

import idna

Cause = Literal[
    "invalid_url", "invalid_request", "address_refused", "our_fault", "unresolved", "dns_timeout", "unreachable", "tls",
    "timeout", "connection_lost", "response_too_large",
]  # fmt: skip


class OutboundError(Exception):
    """A request that was not answered. `str()` gives `.message`, which may be shown to a tenant; `.detail` may not."""

    def __init__(self, cause: Cause, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.cause: Cause = cause
        self.message = message
        self.detail = detail


class RequestRefusedError(OutboundError):
    """The request never leaves, and never will while it stays as it is."""


class LocalError(OutboundError):
    """The fault is this machine's. Nothing was sent, and it should cost the customer no attempt."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__("our_fault", message, detail=detail)


class NetworkError(OutboundError):
    """The network or the receiver failed; another try may succeed.

    `.sent` is False only when it is certain that not one byte of the request reached the receiver.
    `.status` is the status code of an answer that began and did not end, else None.
    """

    def __init__(
        self, cause: Cause, message: str, *, sent: bool = False, status: int | None = None, detail: str = ""
    ) -> None:
        super().__init__(cause, message, detail=detail)
        self.sent = sent
        self.status = status


# --- requests and answers --------------------------------------------------------------------------------------------

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
MAX_HEADER_BYTES = 32 * 1024
MAX_ANSWER_HEADER_BYTES = 64 * 1024
"""Over all header lines of an answer, with those of 1xx answers before it and trailers after it."""
USER_AGENT = "Meshes/0.1"

_RESERVED = frozenset(
    {
        "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection",
        "proxy-authorization", "proxy-authenticate", "te", "trailer", "upgrade", "expect", "accept-encoding",
        "http2-settings",
    }
)  # fmt: skip
"""Headers that belong to the connection or to libcurl: a caller who sets one could desynchronise the receiver."""

DELIVERY_BODY_LIMIT = 64 * 1024
"""Bytes of an answer that need no place in a Room, and of any answer that are kept."""
PLACES = 16
"""Of long answers at once in a process; with 4 MB each they take at most 64 MB, and what reading them takes."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?|")
_INTERIM = re.compile(rb"\S+\s+1\S\S(?:\s|\Z)")  # the status line of a 1xx answer
_KEEP_ALIVE_TIMEOUT = re.compile(rb"\btimeout\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
_ABORT = 0  # for libcurl, a callback that took fewer bytes than it was given ends the transfer


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a provider describes it. `repr` shows the method only: URLs, headers and bodies carry secrets.

    `omitted` are the mapping's fields that were left out, since the vendor would refuse the whole record for them, each
    with the reason.
    """

    method: str
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    omitted: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def omitted_fields(self, mask: Callable[[str], str]) -> list[dict[str, str]]:
        """`omitted` as it is recorded and shown, `{field, reason}`; `mask` takes secrets out of a text."""
        return [{"field": field, "reason": mask(reason)} for field, reason in self.omitted]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, whatever its status. Headers in order, as Latin-1 text; the body as it came, never decompressed.

    `truncated` says that the body was longer than the limit and the rest was not read.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    truncated: bool
    duration_ms: int

    def json(self) -> Any:
        """The body as JSON; None where it is not."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; empty where it is not."""
        document = self.json()
        return document if isinstance(document, dict) else {}

    def cut(self, most: int) -> "Response":
        """With that much of its body, for a record."""
        return self if len(self.body) <= most else replace(self, body=self.body[:most], truncated=True)


class ResponseReader:
    """The answer so far, as libcurl hands it over: header lines, then pieces of the body."""

    def __init__(self, body_limit: int, room: "Room | None" = None) -> None:
        self._body = bytearray()
        self.is_truncated = False
        self.headers_are_too_large = False
        self._lines: list[bytes] = []
        self._header_bytes = 0
        self._headers_end = False
        self._body_limit = body_limit
        self._room = room

    def take_header(self, line: bytes) -> int | None:
        self._header_bytes += len(line)
        if self._header_bytes > MAX_ANSWER_HEADER_BYTES:
            self.headers_are_too_large = True
            return _ABORT
        if self._headers_end:
            pass  # a trailer
        elif line.startswith(b"HTTP/"):
            self._lines = [line]
        elif line.strip(b"\r\n"):
            self._lines.append(line)
        else:
            self._headers_end = _INTERIM.match(self._lines[0] if self._lines else b"") is None
        return None

    def take_body(self, piece: bytes) -> int | None:
        if self._room is not None and len(self._body) + len(piece) > DELIVERY_BODY_LIMIT and not self._room.take():
            self._body_limit = min(self._body_limit, DELIVERY_BODY_LIMIT)
        left = self._body_limit - len(self._body)
        self._body += piece[:left]
        self.is_truncated = len(piece) > left
        return _ABORT if self.is_truncated else None

    def response(self, status: int, duration_ms: int) -> Response:
        """The answer, now complete. A line that continues the one before (RFC 9112, section 5.2) is joined to it."""
        pairs: list[tuple[str, list[str]]] = []
        for line in self._lines[1:]:
            text = line.decode("latin-1").rstrip("\r\n")
            if text[:1] in {" ", "\t"} and pairs:
                pairs[-1][1].append(text.strip())
            elif ":" in text:
                name, _, value = text.partition(":")
                pairs.append((name.strip(), [value.strip()]))
        headers = tuple((name, " ".join(lines)) for name, lines in pairs)
        return Response(status, headers, bytes(self._body), self.is_truncated, duration_ms)

    @property
    def keep_alive_seconds(self) -> int | None:
        """How long the receiver says that it keeps an idle connection (`Keep-Alive: timeout=5`), if it does."""
        for line in self._lines:
            if line[:11].lower() == b"keep-alive:" and (found := _KEEP_ALIVE_TIMEOUT.search(line)):
                return int(found[1])
        return None


_places = threading.BoundedSemaphore(PLACES)


class Room:
    """The one place that an attempt may take for its long answers, until it has been judged: a bound on memory.

    Nobody waits for a place: without one an answer is cut, as if nothing after its first 64 KB had come.
    """

    def __init__(self) -> None:
        self._is_taken = False

    def take(self) -> bool:
        """Whether there is a place, now taken or taken before."""
        self._is_taken = self._is_taken or _places.acquire(blocking=False)
        return self._is_taken

    def __enter__(self) -> "Room":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_taken:
            self._is_taken = False
            _places.release()


def check_request(request: Request) -> None:
    """Refuses a method, header or body that must not be sent (RFC 9110, sections 5.5 and 5.6.2): `invalid_request`."""
    if request.method not in METHODS:
        raise _invalid_request("The method is not one that can be sent.")
    if not isinstance(request.body, bytes):
        raise _invalid_request("The body must be bytes.")
    if request.body and request.method in {"GET", "HEAD"}:
        raise _invalid_request(f"A {request.method} request has no body.")
    for name, value in request.headers:
        if not isinstance(name, str) or not isinstance(value, str) or not _TOKEN.fullmatch(name):
            raise _invalid_request("A header's name or value is not valid.")
        if name.lower() in _RESERVED:
            raise _invalid_request(f"The header {name} cannot be set.")
        if not _VALUE.fullmatch(value):
            raise _invalid_request(f"The value of the header {name} has characters that cannot be sent.")
    if sum(len(name) + len(value) + 4 for name, value in request.headers) > MAX_HEADER_BYTES:
        raise _invalid_request(f"The headers must not be larger than {MAX_HEADER_BYTES // 1024} KB.")


def _invalid_request(message: str) -> RequestRefusedError:
    return RequestRefusedError("invalid_request", message)


# --- URLs, read once and written again, so that libcurl parses nothing that we have not ------------------------------

MAX_URL_LENGTH = 2048
DEFAULT_PORTS = {"https": 443, "http": 80}

_SHAPE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?")
_HOST_PORT = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_KEPT_IN_PATH = "!$%&'()*+,/:;=?@-._~[]"
"""What RFC 3986 allows in path and query, percent signs of what is encoded already, and brackets, which many send."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart. `host` is lower-case ASCII without a trailing dot; `literal` is set when it is an address.

    `path`, with the query, may hold a webhook's token or a key: `repr` leaves it out.
    """

    scheme: str
    host: str
    port: int
    path: str = field(repr=False)
    literal: IPv4Address | IPv6Address | None

    @property
    def url(self) -> str:
        """The URL as libcurl gets it: the default port is left out, so that the Host header has none."""
        host = f"[{self.literal}]" if isinstance(self.literal, IPv6Address) else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def parse_url(url: str) -> Target:
    """Read an http or https URL. The fragment is dropped, as it is never sent.

    Refuses (`invalid_url`) anything that two programs might read differently: white space, control characters,
    backslashes, user names, odd spellings of IPv4 addresses (`127.1`, `0x7f.1`, `2130706433`), zone ids.
    """
    if not isinstance(url, str) or not url:
        raise _invalid_url("The URL is missing.")
    if len(url) > MAX_URL_LENGTH:
        raise _invalid_url(f"The URL must not be longer than {MAX_URL_LENGTH} characters.")
    if not url.isprintable() or " " in url or "\\" in url:
        raise _invalid_url("The URL must not contain spaces, control characters or backslashes.")
    shape = _SHAPE.match(url)
    if shape is None or (scheme := shape["scheme"].lower()) not in DEFAULT_PORTS:
        raise _invalid_url("The URL must start with https://.")
    if "@" in shape["authority"]:
        raise _invalid_url("The URL must not contain a user name or password.")
    parts = _HOST_PORT.fullmatch(shape["authority"])
    if parts is None:
        raise _invalid_url("The URL's host or port is not valid.")
    host, literal = _read_host(parts["host"])
    port = DEFAULT_PORTS[scheme] if parts["port"] is None else int(parts["port"])
    if not 0 < port < 65536:
        raise _invalid_url("The URL's port must be a number from 1 to 65535.")
    path = quote((shape["path"] or "/") + (shape["query"] or ""), safe=_KEPT_IN_PATH)
    target = Target(scheme, host, port, path, literal)
    if len(target.url) > MAX_URL_LENGTH:
        raise _invalid_url(f"The URL must not be longer than {MAX_URL_LENGTH} characters.")
    return target


def with_ascii_host(url: str) -> str:
    """The URL with an international host name as punycode (`xn--…`), all else as it is.

    For the moment at which a URL is saved or shown: letters of one script that look like those of another (`аpple.com`
    with a Cyrillic а) deceive whoever reads them, and punycode looks like nothing. A host that is no name stays.
    """
    shape = None if url.isascii() else _SHAPE.match(url)
    parts = _HOST_PORT.fullmatch(shape["authority"]) if shape else None
    if shape is None or parts is None:
        return url
    try:
        host = _to_ascii(parts["host"])
    except RequestRefusedError:
        return url
    start = shape.start("authority")
    return url[:start] + host + url[start + len(parts["host"]) :]


def _read_host(text: str) -> tuple[str, IPv4Address | IPv6Address | None]:
    if text.startswith("["):
        if "%" in text:
            raise _invalid_url("The URL's IPv6 address must not have a zone.")
        try:
            address = IPv6Address(text[1:-1])
        except ValueError as error:
            raise _invalid_url("The URL's IPv6 address is not valid.") from error
        return str(address), address
    host = _to_ascii(text.removesuffix("."))
    labels = host.split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):  # an address to some parsers (WHATWG URL, 3.5), so it must be one
        try:
            return host, IPv4Address(host)
        except ValueError as error:
            raise _invalid_url("The URL's IPv4 address must be four decimal numbers.") from error
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _invalid_url("The URL's host is not a valid name.")
    return host, None


def _to_ascii(host: str) -> str:
    if host.isascii():
        return host.lower()
    try:
        if len(host) > 253:  # before the slow work: idna is worse than linear in the length
            raise UnicodeError
        return idna.encode(unicodedata.normalize("NFC", host.lower()), strict=True).decode("ascii")
    except UnicodeError as error:
        raise _invalid_url("The URL's host is not a valid name.") from error


def _invalid_url(message: str) -> RequestRefusedError:
    return RequestRefusedError("invalid_url", message)
