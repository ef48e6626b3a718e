"""Requests and answers, as plain values."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from connections.outbound.errors import InvalidRequest

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
MAX_HEADER_BYTES = 32 * 1024
USER_AGENT = "Meshes/0.1"

_RESERVED = frozenset(
    {
        "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection",
        "proxy-authorization", "proxy-authenticate", "te", "trailer", "upgrade", "expect", "accept-encoding",
        "http2-settings",
    }
)  # fmt: skip
"""Headers that belong to the connection or to libcurl: a caller who sets one could desynchronise the receiver."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?|")


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

    def cut(self, most: int) -> "Response":
        """With that much of its body, for a record."""
        return self if len(self.body) <= most else replace(self, body=self.body[:most], truncated=True)


def check_request(request: Request) -> None:
    """Raises InvalidRequest for a method, header or body that must not be sent (RFC 9110, sections 5.5 and 5.6.2)."""
    if request.method not in METHODS:
        raise InvalidRequest("The method is not one that can be sent.")
    if not isinstance(request.body, bytes):
        raise InvalidRequest("The body must be bytes.")
    if request.body and request.method in {"GET", "HEAD"}:
        raise InvalidRequest(f"A {request.method} request has no body.")
    for name, value in request.headers:
        _check_header(name, value)
    if sum(len(name) + len(value) + 4 for name, value in request.headers) > MAX_HEADER_BYTES:
        raise InvalidRequest(f"The headers must not be larger than {MAX_HEADER_BYTES // 1024} KB.")


def _check_header(name: str, value: str) -> None:
    if not isinstance(name, str) or not isinstance(value, str) or not _TOKEN.fullmatch(name):
        raise InvalidRequest("A header's name or value is not valid.")
    if name.lower() in _RESERVED:
        raise InvalidRequest(f"The header {name} cannot be set.")
    if not _VALUE.fullmatch(value):
        raise InvalidRequest(f"The value of the header {name} has characters that cannot be sent.")
