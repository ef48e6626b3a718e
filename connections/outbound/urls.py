"""URLs, read once and written again, so that libcurl parses nothing that we have not."""

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote

import idna

from connections.outbound.errors import InvalidUrl

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
    """A URL taken apart. `host` is lower-case ASCII without a trailing dot; `literal` is set when it is an address."""

    scheme: str
    host: str
    port: int
    path: str
    literal: IPv4Address | IPv6Address | None

    @property
    def url(self) -> str:
        """The URL as libcurl gets it: the default port is left out, so that the Host header has none."""
        host = f"[{self.literal}]" if isinstance(self.literal, IPv6Address) else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def parse_url(url: str) -> Target:
    """Read an http or https URL. The fragment is dropped, as it is never sent.

    Raises InvalidUrl for anything that two programs might read differently: white space, control characters,
    backslashes, user names, odd spellings of IPv4 addresses (`127.1`, `0x7f.1`, `2130706433`), zone ids.
    """
    _check_characters(url)
    shape = _SHAPE.match(url)
    if shape is None or shape["scheme"].lower() not in DEFAULT_PORTS:
        raise InvalidUrl("The URL must start with https://.")
    scheme = shape["scheme"].lower()
    authority = shape["authority"]
    if "@" in authority:
        raise InvalidUrl("The URL must not contain a user name or password.")
    parts = _HOST_PORT.fullmatch(authority)
    if parts is None:
        raise InvalidUrl("The URL's host or port is not valid.")
    host, literal = _read_host(parts["host"])
    port = DEFAULT_PORTS[scheme] if parts["port"] is None else int(parts["port"])
    if not 0 < port < 65536:
        raise InvalidUrl("The URL's port must be a number from 1 to 65535.")
    target = Target(scheme, host, port, _encode_path(shape["path"], shape["query"] or ""), literal)
    if len(target.url) > MAX_URL_LENGTH:
        raise InvalidUrl(f"The URL must not be longer than {MAX_URL_LENGTH} characters.")
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
    except InvalidUrl:
        return url
    start = shape.start("authority")
    return url[:start] + host + url[start + len(parts["host"]) :]


def _check_characters(url: object) -> None:
    if not isinstance(url, str) or not url:
        raise InvalidUrl("The URL is missing.")
    if len(url) > MAX_URL_LENGTH:
        raise InvalidUrl(f"The URL must not be longer than {MAX_URL_LENGTH} characters.")
    if not url.isprintable() or " " in url or "\\" in url:
        raise InvalidUrl("The URL must not contain spaces, control characters or backslashes.")


def _encode_path(path: str, query: str) -> str:
    return quote((path or "/") + query, safe=_KEPT_IN_PATH)


def _read_host(text: str) -> tuple[str, IPv4Address | IPv6Address | None]:
    if text.startswith("["):
        return _read_ipv6(text[1:-1])
    host = _to_ascii(text.removesuffix("."))
    labels = host.split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        return _read_ipv4(host)
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidUrl("The URL's host is not a valid name.")
    return host, None


def _to_ascii(host: str) -> str:
    if host.isascii():
        return host.lower()
    if len(host) > 253:  # before the slow work: idna is worse than linear in the length
        raise InvalidUrl("The URL's host is not a valid name.")
    try:
        return idna.encode(unicodedata.normalize("NFC", host.lower()), strict=True).decode("ascii")
    except UnicodeError as error:
        raise InvalidUrl("The URL's host is not a valid name.") from error


def _read_ipv4(host: str) -> tuple[str, IPv4Address]:
    """A host whose last label is a number is an address to some parsers (WHATWG URL, 3.5), so it must be one."""
    try:
        return host, IPv4Address(host)
    except ValueError as error:
        raise InvalidUrl("The URL's IPv4 address must be four decimal numbers.") from error


def _read_ipv6(text: str) -> tuple[str, IPv6Address]:
    if "%" in text:
        raise InvalidUrl("The URL's IPv6 address must not have a zone.")
    try:
        address = IPv6Address(text)
    except ValueError as error:
        raise InvalidUrl("The URL's IPv6 address is not valid.") from error
    return str(address), address
