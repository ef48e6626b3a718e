"""Where a request comes from: the peer, or what a trusted proxy says of it."""

import ipaddress
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from django.conf import settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV6_SITE_BITS = 64
"""What one subscriber of IPv6 has at least, and may change addresses within."""
_WITH_PORT = re.compile(r"\[(?P<six>[0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|(?P<four>[0-9.]+):[0-9]{1,5}")
"""As some proxies write it into `X-Forwarded-For`: an address in brackets, or one with its port."""


def client_address(meta: Mapping[str, Any]) -> str:
    """The client's address; empty on a Unix socket.

    From the peer, each address of `X-Forwarded-For` is believed, last to first, as long as the one before it is a
    trusted proxy's (`MESHES_TRUSTED_PROXIES`): the right-most that is not one of them is the client's. What is no
    address ends the search, and elements that are empty are passed over (RFC 9110, 5.6.1).
    """
    return str(_client(meta) or "")


def client_network(meta: Mapping[str, Any]) -> str:
    """What guesses are counted by: the client's IPv4 address, or its IPv6 network; empty on a Unix socket."""
    found = _client(meta)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, _IPV6_SITE_BITS), strict=False))
    return str(found or "")


def came_over_https(meta: Mapping[str, Any]) -> bool:
    """Whether a proxy that is believed says so in `X-Forwarded-Proto`: once `MESHES_TRUSTED_PROXIES` names proxies,
    those; before, whoever sends the request. Where it says several things, all must be https."""
    peer = _parse(str(meta.get("REMOTE_ADDR", "")))
    if settings.MESHES_TRUSTED_PROXIES and not (peer and _is_trusted(peer)):
        return False
    schemes = str(meta.get("HTTP_X_FORWARDED_PROTO", "")).split(",")
    return all(scheme.strip().lower() == "https" for scheme in schemes)


def _client(meta: Mapping[str, Any]) -> Address | None:
    found = _parse(str(meta.get("REMOTE_ADDR", "")))
    claims = [claim for claim in str(meta.get("HTTP_X_FORWARDED_FOR", "")).split(",") if claim.strip()]
    while claims and found is not None and _is_trusted(found):
        claimed = _parse(claims.pop())
        if claimed is None:
            break
        found = claimed
    return found


def _parse(text: str) -> Address | None:
    """An address without its port and zone; one of IPv4 that is mapped into IPv6, as what it is."""
    text = text.strip(" \t")
    if form := _WITH_PORT.fullmatch(text):
        text = form["six"] or form["four"]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_trusted(address: Address) -> bool:
    return any(address in network for network in _networks(tuple(settings.MESHES_TRUSTED_PROXIES)))


@cache
def _networks(texts: tuple[str, ...]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(text) for text in texts]
