"""Which addresses a request may go to when no operator has widened the policy.

Sources: the IANA registries of special-purpose addresses (RFC 6890, RFC 8190), read as a list of what to refuse, and
the addresses at which clouds serve their virtual machines. `is_global` and `is_private` of the standard library are
no substitute: they let through NAT64, multicast or metadata addresses.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_GLOBAL_UNICAST = IPv6Network("2000::/3")

_EMBEDDING: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(net), why)
    for net, why in (
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::ffff:0:0:0/96", "IPv4-translated"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64, local use"),
        ("2001::/32", "Teredo"),
        ("2002::/16", "6to4"),
    )
)
"""Forms that carry an IPv4 address inside. No setting allows them: a wide IPv6 network would open all of IPv4."""

_REFUSED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(net), why)
    for net, why in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "Azure platform"),
        ("169.254.0.0/16", "link-local, cloud metadata"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112"),
        ("192.52.193.0/24", "multicast tunnelling"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "AS112"),
        ("198.18.0.0/15", "benchmark"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved, broadcast"),
        ("2001::/23", "protocol assignments: benchmark, ORCHID and others"),
        ("2001:db8::/32", "documentation"),
        ("2620:4f:8000::/48", "AS112"),
        ("3ffe::/16", "6bone, returned"),
        ("3fff::/20", "documentation"),
    )
)


@lru_cache(maxsize=4096)
def embedding_refusal(address: Address) -> str | None:
    """Why no setting can allow this address, or None."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return "scoped"
        return next((why for net, why in _EMBEDDING if address in net), None)
    return None


@lru_cache(maxsize=4096)
def default_refusal(address: Address) -> str | None:
    """Why an unwidened policy refuses this address, in a few words for the operator's log, or None."""
    if embedded := embedding_refusal(address):
        return embedded
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return "outside 2000::/3"
    return next((why for net, why in _REFUSED if address in net), None)
