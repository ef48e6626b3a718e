"""Through here every request to the outside leaves: read the URL, find the addresses, check each, dial."""

import logging
import time
from collections.abc import Hashable, Iterable
from dataclasses import replace
from ipaddress import ip_address

from connections.outbound.addresses import Address
from connections.outbound.dial import Call, Stale, dial, send_on
from connections.outbound.errors import ConnectionLost, DeadlineExceeded, DoorFailed, RefusedAddress
from connections.outbound.keeping import Handle, Key, idle_handles
from connections.outbound.messages import Request, Response, check_request
from connections.outbound.names import LOCALHOST, find_addresses, is_localhost
from connections.outbound.policy import Policy
from connections.outbound.reading import Reading, Stop
from connections.outbound.room import DELIVERY_BODY_LIMIT, Room
from connections.outbound.urls import Target, parse_url

DEADLINE_SECONDS = 15.0
MAX_DEADLINE_SECONDS = 30.0

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
    Raises OutboundError: see `connections.outbound.errors`.
    """
    started = time.monotonic()
    until = started + min(deadline_seconds, MAX_DEADLINE_SECONDS)
    policy = policy or Policy.from_settings()
    check_request(request)
    try:
        target = parse_url(request.url)
        key = None if pool_key is None else Key(pool_key, target.scheme, target.host, target.port)
        call = Call(request, target, policy, until, body_limit, key, room=room)
        status, reading = _send_on_kept(call) or _dial(call)
    except RefusedAddress as error:
        logger.info("refused: %s", error.detail)
        raise
    except DoorFailed as error:
        logger.error("the door failed: %s", error.detail)
        raise
    return Response(
        status=status,
        headers=reading.headers,
        body=reading.body,
        truncated=reading.stopped is Stop.BODY_FULL,
        duration_ms=round((time.monotonic() - started) * 1000),
    )


def _send_on_kept(call: Call) -> tuple[int, Reading] | None:
    """The answer over a socket that is kept for this, or None: there is none, or the policy allows it no more.

    A socket that was closed before anything was sent is as good as none. One that broke afterwards is an error like on
    any other socket: the receiver may have acted.
    """
    if call.key is None:
        return None
    call.policy.check_target(call.target)
    handles = idle_handles()
    while (handle := handles.take_kept(call.key)) is not None:
        if (answer := _try(handle, call, call.key)) is not None:
            return answer
    return None


def _try(handle: Handle, call: Call, key: Key) -> tuple[int, Reading] | None:
    handles, kept = idle_handles(), handle.kept
    if kept is None or call.policy.refusal(kept.address, call.target.port) is not None:
        handle.drop()
        handles.put(handle)
        return None
    try:
        return send_on(handle, call)
    except Stale:
        return None
    except ConnectionLost as error:
        if error.status is None:
            handles.shun(key)
        raise


def _dial(call: Call) -> tuple[int, Reading]:
    pins = _locate(call.target, call.policy, call.until)
    if time.monotonic() >= call.until:
        raise DeadlineExceeded("No connection could be made in the time allowed.")
    return dial(replace(call, pins=pins))


def check_url(url: str, *, policy: Policy | None = None) -> None:
    """Raises Refused for what the URL itself says: its form, scheme, port, and an address or `localhost` as its host.

    For the moment at which a URL is saved. Names are looked up when they are dialled and not before, so that whoever
    saves one learns nothing about the names that are known here.
    """
    policy = policy or Policy.from_settings()
    target = parse_url(url)
    policy.check_target(target)
    if target.literal is not None:
        _check_addresses(target, policy, [target.literal])
    elif is_localhost(target.host):
        _check_addresses(target, policy, [ip_address(LOCALHOST)])


def _locate(target: Target, policy: Policy, until: float) -> tuple[Address, ...]:
    """The addresses to dial: all that the name has, provided that the policy allows every one of them."""
    policy.check_target(target)
    if target.literal is not None:
        addresses: tuple[Address, ...] = (target.literal,)
    else:
        found = find_addresses(policy.lookup, target.host, until - time.monotonic())
        addresses = tuple(_read_record(target.host, text) for text in found)
    _check_addresses(target, policy, addresses)
    return addresses


def _check_addresses(target: Target, policy: Policy, addresses: Iterable[Address]) -> None:
    for address in addresses:
        if why := policy.refusal(address, target.port):
            raise RefusedAddress("This address is not allowed.", detail=f"{target.host}: {address} ({why})")


def _read_record(host: str, text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise RefusedAddress("This address is not allowed.", detail=f"{host}: unreadable record {text!r}") from None
