"""Where requests may go: the policy, the addresses that it allows, and those that a name leads to.

The default is https on port 443 to public addresses. Sources: the IANA registries of special-purpose addresses (RFC
6890, RFC 8190), read as a list of what to refuse, and the addresses at which clouds serve their virtual machines.
`is_global` and `is_private` of the standard library are no substitute: they let through NAT64, multicast or metadata
addresses.
"""

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, Self

import certifi
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from connections.messages import DEFAULT_PORTS, LocalError, NetworkError, RequestRefusedError, Target, parse_url
from connections.outbound.errors import is_ours

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Lookup = Callable[[str], Sequence[str]]
"""Gives the addresses of a host name, as text. May block; raises OSError when there are none."""

LOCALHOST = "127.0.0.1"

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
def _refuse_special(address: Address) -> tuple[str | None, bool]:
    """Why an unwidened policy refuses this address, in a few words, or None; and whether no setting can allow it."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return "scoped", True
        if embedded := next((why for net, why in _EMBEDDING if address in net), None):
            return embedded, True
        if address not in _GLOBAL_UNICAST:
            return "outside 2000::/3", False
    return next((why for net, why in _REFUSED if address in net), None), False


def is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def system_lookup(host: str) -> list[str]:
    """The addresses of a name, in the order in which the system would try them. Raises OSError when there are none.

    Every name is looked up as absolute, with a final dot, so that no search domain is added to it, and no short name
    of `/etc/hosts` is found. `localhost` is this machine (RFC 6761, section 6.3), whatever the system says.
    """
    if is_localhost(host):
        return [LOCALHOST]
    records = socket.getaddrinfo(f"{host}.".encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(record[4][0]) for record in records))


def default_ca_file() -> str:
    """The file of trusted authorities: `SSL_CERT_FILE` where an operator sets it, as for OpenSSL, else certifi's."""
    return os.environ.get("SSL_CERT_FILE") or certifi.where()


@dataclass(frozen=True, slots=True)
class Policy:
    """What the client lets through. The default is https on port 443 to public addresses.

    `allow_nets` adds the addresses of these networks and changes nothing for others. `allow_http` adds http, and with
    it http's port 80. `ports` replaces the set of ports; None is any port. `own_ports` are ports of this machine at
    which the stack itself listens: nothing widens the policy to them. `loopback_message` says how somebody who tries
    the stack lets it deliver to this machine; empty where nobody does. `ca_file` and `lookup` are seams for tests.
    """

    allow_nets: tuple[Network, ...] = ()
    allow_http: bool = False
    ports: frozenset[int] | None = frozenset({443})
    own_ports: frozenset[int] = frozenset()
    loopback_message: str = ""
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
        loopback_message: str = "",
    ) -> Self:
        """Build a policy from plain values. Raises ValueError for what is not a network or a port."""
        numbers = None if ports == "*" else frozenset(int(port) for port in ports)
        if numbers is not None and not all(0 < port < 65536 for port in numbers):
            raise ValueError("a port is a number from 1 to 65535")
        nets = tuple(ip_network(net) for net in allow_nets)
        return cls(nets, allow_http, numbers, frozenset(own_ports), loopback_message)

    @classmethod
    def from_settings(cls) -> "Policy":
        """The policy of `MESHES_OUTBOUND_ALLOW_NETS`, `_ALLOW_HTTP` and `_PORTS`. Raises ImproperlyConfigured."""
        ports = settings.MESHES_OUTBOUND_PORTS
        return _policy(
            tuple(settings.MESHES_OUTBOUND_ALLOW_NETS),
            settings.MESHES_OUTBOUND_ALLOW_HTTP,
            "*" if ports == "*" else tuple(ports),
            tuple(settings.MESHES_OWN_PORTS),
            settings.MESHES_LOOPBACK_WORDS,
            default_ca_file(),
        )

    def check_target(self, target: Target) -> None:
        """Refuses (`address_refused`) a URL whose scheme or port is not allowed."""
        local = _address_of(target)
        if local is not None and local.is_loopback:
            if target.port in self.own_ports:
                raise refused_address(f"port {target.port} is the stack's own", "This port is the stack's own.")
            if self.loopback_message and self.refusal(local):
                raise refused_address("loopback", self.loopback_message)
        if target.scheme == "http" and not self.allow_http:
            raise refused_address("http is not allowed", "The URL must start with https://.")
        is_http_default = target.scheme == "http" and target.port == DEFAULT_PORTS["http"]
        if self.ports is not None and target.port not in self.ports and not is_http_default:
            raise refused_address(f"port {target.port} is not allowed", "This port is not allowed.")

    def refusal(self, address: Address, port: int = 0) -> str | None:
        """Why this address may not be dialled, in a few words for the operator's log, or None when it may."""
        if port in self.own_ports and address.is_loopback:
            return "the stack's own port"
        why, is_absolute = _refuse_special(address)
        return None if not is_absolute and any(address in net for net in self.allow_nets) else why


@lru_cache(maxsize=8)
def _policy(
    nets: tuple[str, ...],
    allow_http: bool,
    ports: tuple[int, ...] | Literal["*"],
    own_ports: tuple[int, ...],
    loopback_message: str,
    ca_file: str,
) -> Policy:
    try:
        policy = Policy.of(
            allow_nets=nets, allow_http=allow_http, ports=ports, own_ports=own_ports, loopback_message=loopback_message
        )
    except (ValueError, TypeError) as error:
        raise ImproperlyConfigured(f"MESHES_OUTBOUND_*: {error}") from error
    if not os.access(ca_file, os.R_OK):
        raise ImproperlyConfigured(f"SSL_CERT_FILE: cannot read {ca_file}")
    return policy


def check_url(url: str, *, policy: Policy | None = None) -> None:
    """Refuses what the URL itself says: its form, scheme, port, and an address or `localhost` as its host.

    For the moment at which a URL is saved. Names are looked up when they are dialled and not before, so that whoever
    saves one learns nothing about the names that are known here.
    """
    policy = policy or Policy.from_settings()
    target = parse_url(url)
    policy.check_target(target)
    if (address := _address_of(target)) is not None:
        _check_addresses(target, policy, [address])


def locate(target: Target, policy: Policy, until: float) -> tuple[Address, ...]:
    """The addresses to dial: all that the name has, provided that the policy, which has let the target pass
    (`check_target`), allows every one of them.

    `until` is in the time of `time.monotonic`. Raises OutboundError.
    """
    if target.literal is not None:
        _check_addresses(target, policy, [target.literal])
        return (target.literal,)
    addresses: list[Address] = []
    for text in find_addresses(policy.lookup, target.host, until - time.monotonic()):
        try:
            addresses.append(ip_address(text))
        except ValueError:
            raise refused_address(f"{target.host}: unreadable record {text!r}") from None
    _check_addresses(target, policy, addresses)
    return tuple(addresses)


def _address_of(target: Target) -> Address | None:
    """Where the URL itself says it."""
    return ip_address(LOCALHOST) if is_localhost(target.host) else target.literal


def _check_addresses(target: Target, policy: Policy, addresses: Iterable[Address]) -> None:
    for address in addresses:
        if why := policy.refusal(address, target.port):
            raise refused_address(f"{target.host}: {address} ({why})")


def refused_address(detail: str, message: str = "This address is not allowed.") -> RequestRefusedError:
    return RequestRefusedError("address_refused", message, detail=detail)


# --- names to addresses, in bounded time -----------------------------------------------------------------------------

LOOKUP_SECONDS = 5.0
"""How long a request waits for its name, at most: so much of its deadline is left to try the addresses in."""
MAX_LOOKUPS = 256
LOOKUP_DESCRIPTORS = 8
"""So many file descriptors a lookup may have open at once: a library and its file, or a socket for each name server."""
LOOKUP_IDLE_SECONDS = 10.0
"""How long a thread waits for another lookup before it ends."""

_Found = tuple[str, ...] | LocalError
"""Empty when there is no address, LocalError where it could not be asked."""


class Lookups:
    """The lookups under way in a process, and the threads that run them.

    `getaddrinfo` cannot be interrupted, so it runs in other threads and the caller waits only until its deadline. A
    thread whose caller has gone ends when the system's resolver gives up (by default after 10 to 30 seconds). Two rules
    keep such threads from piling up. A name that is being looked up is joined, not looked up twice, so a hung name
    holds one thread however often it is dialled. And the threads are limited, to more than a process has senders, so
    that hung names take no more than the slots of their own deliveries; at the limit a caller waits, again until its
    deadline, and then the fault is ours. The threads are daemons: none delays the end of the process.
    """

    def __init__(self, limit: int = MAX_LOOKUPS) -> None:
        self._slots = threading.Semaphore(limit)
        self._lock = threading.Lock()
        self._under_way: dict[tuple[Lookup, str], Future[_Found]] = {}
        self._handed_over: queue.SimpleQueue[tuple[Lookup, str]] = queue.SimpleQueue()
        self._idle_threads = 0

    def find(self, find: Lookup, host: str, seconds: float) -> tuple[str, ...]:
        """The addresses of a host, at least one. Raises LocalError and NetworkError: `dns_timeout` after `seconds`."""
        until = time.monotonic() + seconds
        answer = self._join_or_start((find, host), seconds)
        try:
            found = answer.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            message = "The host name could not be looked up in the time allowed."
            raise NetworkError("dns_timeout", message, detail=f"lookup of {host}") from None
        if isinstance(found, LocalError):
            raise _could_not_ask(found.detail)  # one of its own for each caller that waited
        if not found:
            raise NetworkError("unresolved", "The host name could not be found.", detail=f"{host} has no address")
        return found

    def _join_or_start(self, name: tuple[Lookup, str], seconds: float) -> Future[_Found]:
        with self._lock:
            if answer := self._under_way.get(name):
                return answer
        if not self._slots.acquire(timeout=max(0.0, seconds)):
            raise _could_not_ask("so many lookups hang that there is no place for another")
        with self._lock:
            if answer := self._under_way.get(name):
                self._slots.release()
                return answer
            answer = self._under_way[name] = Future()
            reuse = self._idle_threads > 0
            self._idle_threads -= reuse
        if reuse:
            self._handed_over.put(name)
            return answer
        try:
            threading.Thread(target=self._work, args=(name,), name="outbound-lookup", daemon=True).start()
        except RuntimeError:
            error = _could_not_ask("the system gives no threads")
            self._finish(name, error, idle_threads=0)
            raise error from None
        return answer

    def _work(self, first: tuple[Lookup, str]) -> None:
        """The life of a thread: lookups, as long as they come."""
        name: tuple[Lookup, str] | None = first
        while name is not None:
            found: _Found = _could_not_ask("the lookup broke")
            survived = False
            find, host = name
            try:
                found = tuple(find(host))
                survived = True
            except (OSError, UnicodeError) as error:
                found = _judge(error)
                survived = True
            finally:
                self._finish(name, found, idle_threads=int(survived))
            name = self._wait_for_next()

    def _finish(self, name: tuple[Lookup, str], found: _Found, *, idle_threads: int) -> None:
        """Counts the thread as idle before the answer is out, so that the next lookup finds it."""
        with self._lock:
            answer = self._under_way.pop(name)
            self._idle_threads += idle_threads
        self._slots.release()
        answer.set_result(found)

    def _wait_for_next(self) -> tuple[Lookup, str] | None:
        try:
            return self._handed_over.get(timeout=LOOKUP_IDLE_SECONDS)
        except queue.Empty:
            with self._lock:
                if self._idle_threads > 0:
                    self._idle_threads -= 1
                    return None
            return self._handed_over.get()  # somebody counted on this thread in that very moment


def _judge(error: OSError | UnicodeError) -> _Found:
    """No address, or, where this machine had no means to ask, a fault of ours.

    Without file descriptors the system's resolver reads none of its files and opens no socket, and then says that there
    is no such name.
    """
    number = getattr(error, "errno", None)
    if number == socket.EAI_MEMORY if isinstance(error, socket.gaierror) else is_ours(number):
        return _could_not_ask(str(error))
    with ExitStack() as opened:
        try:
            for _ in range(LOOKUP_DESCRIPTORS):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return _could_not_ask("no file descriptors are left")
    return ()


def _could_not_ask(detail: str) -> LocalError:
    return LocalError("The host name could not be looked up, through no fault of the receiver.", detail=detail)


_lookups = Lookups()


def find_addresses(find: Lookup, host: str, seconds: float) -> tuple[str, ...]:
    """`Lookups.find` of this process, for at most LOOKUP_SECONDS."""
    return _lookups.find(find, host, min(seconds, LOOKUP_SECONDS))


def _forget_after_fork() -> None:
    """A child has none of its parent's threads, and would wait for their lookups and their lock in vain."""
    global _lookups  # noqa: PLW0603 - replaced whole
    _lookups = Lookups()


os.register_at_fork(after_in_child=_forget_after_fork)
