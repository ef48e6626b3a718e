"""Where requests may go: the default, and what an operator has widened."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Literal, Self

import certifi
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from connections.outbound.addresses import Address, Network, default_refusal, embedding_refusal
from connections.outbound.errors import RefusedAddress
from connections.outbound.names import LOCALHOST, is_localhost, system_lookup
from connections.outbound.urls import DEFAULT_PORTS, Target

Lookup = Callable[[str], Sequence[str]]
"""Gives the addresses of a host name, as text. May block; raises OSError when there are none."""


def default_ca_file() -> str:
    """The file of trusted authorities: `SSL_CERT_FILE` where an operator sets it, as for OpenSSL, else certifi's."""
    return os.environ.get("SSL_CERT_FILE") or certifi.where()


@dataclass(frozen=True, slots=True)
class Policy:
    """What the door lets through. The default is https on port 443 to public addresses.

    `allow_nets` adds the addresses of these networks and changes nothing for others. `allow_http` adds http, and with
    it http's port 80. `ports` replaces the set of ports; None is any port. `own_ports` are ports of this machine at
    which the stack itself listens: nothing widens the policy to them. `loopback_words` say how somebody who tries
    the stack lets it deliver to this machine; empty where nobody does. `ca_file` and `lookup` are seams for tests.
    """

    allow_nets: tuple[Network, ...] = ()
    allow_http: bool = False
    ports: frozenset[int] | None = frozenset({443})
    own_ports: frozenset[int] = frozenset()
    loopback_words: str = ""
    ca_file: str = field(default_factory=default_ca_file)
    lookup: Lookup = system_lookup

    @classmethod
    def of(
        cls,
        *,
        allow_nets: Iterable[str] = (),
        allow_http: bool = False,
        ports: Iterable[int] | Literal["*"] = (443,),
        own_ports: Iterable[int] = (),
        loopback_words: str = "",
    ) -> Self:
        """Build a policy from plain values. Raises ValueError for what is not a network or a port."""
        numbers = None if ports == "*" else frozenset(int(port) for port in ports)
        if numbers is not None and not all(0 < port < 65536 for port in numbers):
            raise ValueError("a port is a number from 1 to 65535")
        return cls(
            allow_nets=tuple(ip_network(net) for net in allow_nets),
            allow_http=allow_http,
            ports=numbers,
            own_ports=frozenset(own_ports),
            loopback_words=loopback_words,
        )

    @classmethod
    def from_settings(cls) -> "Policy":
        """The policy of `MESHES_OUTBOUND_ALLOW_NETS`, `_ALLOW_HTTP` and `_PORTS`. Raises ImproperlyConfigured."""
        ports = getattr(settings, "MESHES_OUTBOUND_PORTS", [443])
        return _policy(
            tuple(getattr(settings, "MESHES_OUTBOUND_ALLOW_NETS", ())),
            bool(getattr(settings, "MESHES_OUTBOUND_ALLOW_HTTP", False)),
            "*" if ports == "*" else tuple(ports),
            tuple(getattr(settings, "MESHES_OWN_PORTS", ())),
            getattr(settings, "MESHES_LOOPBACK_WORDS", ""),
            default_ca_file(),
        )

    def check_target(self, target: Target) -> None:
        """Raises RefusedAddress when the scheme or the port of a URL is not allowed."""
        local = ip_address(LOCALHOST) if is_localhost(target.host) else target.literal
        if local is not None and local.is_loopback:
            if target.port in self.own_ports:
                raise RefusedAddress("This port is the stack's own.", detail=f"port {target.port} is the stack's own")
            if self.loopback_words and self.refusal(local):
                raise RefusedAddress(self.loopback_words, detail="loopback")
        if target.scheme == "http" and not self.allow_http:
            raise RefusedAddress("The URL must start with https://.", detail="http is not allowed")
        is_http_default = target.scheme == "http" and target.port == DEFAULT_PORTS["http"]
        if self.ports is not None and target.port not in self.ports and not is_http_default:
            raise RefusedAddress("This port is not allowed.", detail=f"port {target.port} is not allowed")

    def refusal(self, address: Address, port: int = 0) -> str | None:
        """Why this address may not be dialled, in a few words for the operator's log, or None when it may."""
        if port in self.own_ports and address.is_loopback:
            return "the stack's own port"
        if embedded := embedding_refusal(address):
            return embedded
        if any(address in net for net in self.allow_nets):
            return None
        return default_refusal(address)


@lru_cache(maxsize=8)
def _policy(
    nets: tuple[str, ...],
    allow_http: bool,
    ports: tuple[int, ...] | Literal["*"],
    own_ports: tuple[int, ...],
    loopback_words: str,
    ca_file: str,
) -> Policy:
    try:
        policy = Policy.of(
            allow_nets=nets, allow_http=allow_http, ports=ports, own_ports=own_ports, loopback_words=loopback_words
        )
    except (ValueError, TypeError) as error:
        raise ImproperlyConfigured(f"MESHES_OUTBOUND_*: {error}") from error
    if not os.access(ca_file, os.R_OK):
        raise ImproperlyConfigured(f"SSL_CERT_FILE: cannot read {ca_file}")
    return policy
