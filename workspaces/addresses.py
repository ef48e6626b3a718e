"""Where a request comes from: the peer, or what a trusted proxy says of it."""

import ipaddress
from collections.abc import Mapping
from functools import cache
from typing import Any

from django.conf import settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV6_SITE_BITS = 64
"""What one subscriber of IPv6 has at least, and may change addresses within."""


def client_network(meta: Mapping[str, Any]) -> str:
    """What wrong keys are counted by: the client's IPv4 address, or its IPv6 network; empty on a Unix socket.

    From the peer, each address of `X-Forwarded-For` is believed, last to first, as long as the one before it is a
    trusted proxy's (`MESHES_TRUSTED_PROXIES`).
    """
    found = _parse(str(meta.get("REMOTE_ADDR", "")))
    claims = str(meta.get("HTTP_X_FORWARDED_FOR", "")).split(",")
    while claims and found is not None and _is_trusted(found):
        claimed = _parse(claims.pop())
        if claimed is None:
            break
        found = claimed
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, _IPV6_SITE_BITS), strict=False))
    return str(found or "")


def _parse(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_trusted(address: Address) -> bool:
    return any(address in network for network in _networks(tuple(settings.MESHES_TRUSTED_PROXIES)))


@cache
def _networks(texts: tuple[str, ...]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(text) for text in texts]
