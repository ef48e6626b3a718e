"""The logger `meshes.security`: who got in and who did not, who changed whose rights, and from which address.

    login_failed user="ada" address="203.0.113.7"
    refused kind="401 unknown" address="203.0.113.7" key="key_01m7…" count=30

A line is one word for what happened, then pairs whose values are JSON in ASCII: no value can begin a line of its own.
No line holds a password, a code, a key or a token, nor what was typed as a user's name where there is no such user: it
may have been a password.
"""

import atexit
import ipaddress
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from django.conf import settings
from django.contrib import auth
from django.http import HttpRequest

if TYPE_CHECKING:  # Flower, which has no database, asks for addresses here
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

logger = logging.getLogger("meshes.security")

NO_SUCH_USER = "(no such user)"
OTHERS = "(others)"
WINDOW_SECONDS = 60.0
"""Refusals of the API are gathered for so long: a flood is a line a minute for each address, key and kind."""
MOST_GATHERED = 1_000
"""Combinations of a minute that are told apart; what exceeds them counts as of others."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Person: TypeAlias = "AbstractBaseUser | AnonymousUser | None"

# --- from where -----------------------------------------------------------------------------------------------------

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
    peer = _parse_address(str(meta.get("REMOTE_ADDR", "")))
    if settings.MESHES_TRUSTED_PROXIES and not (peer and _is_trusted(peer)):
        return False
    schemes = str(meta.get("HTTP_X_FORWARDED_PROTO", "")).split(",")
    return all(scheme.strip().lower() == "https" for scheme in schemes)


def _client(meta: Mapping[str, Any]) -> Address | None:
    found = _parse_address(str(meta.get("REMOTE_ADDR", "")))
    claims = [claim for claim in str(meta.get("HTTP_X_FORWARDED_FOR", "")).split(",") if claim.strip()]
    while claims and found is not None and _is_trusted(found):
        claimed = _parse_address(claims.pop())
        if claimed is None:
            break
        found = claimed
    return found


def _parse_address(text: str) -> Address | None:
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
    return any(address in _network(text) for text in settings.MESHES_TRUSTED_PROXIES)


_network = cache(ipaddress.ip_network)


# --- what happened --------------------------------------------------------------------------------------------------


def log_login(request: HttpRequest | None, user: Person) -> None:
    """All factors that are asked for were right."""
    _write(logging.INFO, "login_succeeded", request, user=_name(user))


def log_failed_login(request: HttpRequest | None, username: str) -> None:
    """A password was tried, and wrong; or whoever it belongs to may not log in."""
    known = username.isprintable() and auth.get_user_model().objects.filter(username=username).exists()
    _write(logging.WARNING, "login_failed", request, user=username if known else NO_SUCH_USER)


def log_logout(request: HttpRequest | None, user: Person) -> None:
    _write(logging.INFO, "logged_out", request, user=_name(user))


def log_second_factor(request: HttpRequest | None, user: Person, *, passed: bool, kind: str = "totp") -> None:
    """A code was given. `kind`: `totp` or `recovery_code`."""
    level, word = (logging.INFO, "succeeded") if passed else (logging.WARNING, "failed")
    _write(level, f"second_factor_{word}", request, user=_name(user), kind=kind)


def log_second_factor_change(request: HttpRequest | None, user: Person, change: str) -> None:
    """`change`: `added`, `removed`, `recovery_codes_made`."""
    _write(logging.WARNING, "second_factor_changed", request, user=_name(user), change=change, by=_by(request))


def log_password_confirmation(request: HttpRequest | None, user: Person, *, passed: bool) -> None:
    """The present password was asked for again, before something that needs it."""
    level, word = (logging.INFO, "confirmed") if passed else (logging.WARNING, "not_confirmed")
    _write(level, f"password_{word}", request, user=_name(user))


def log_password_change(request: HttpRequest | None, user: Person) -> None:
    _write(logging.WARNING, "password_changed", request, user=_name(user), by=_by(request))


def log_rights_change(request: HttpRequest | None, user: Person, changes: Sequence[str]) -> None:
    """`changes`: names of fields or of permissions, `is_superuser` or `+delivery.view_event`."""
    _write(logging.WARNING, "rights_changed", request, user=_name(user), changes=list(changes), by=_by(request))


def log_refused_rights_change(request: HttpRequest, target: str) -> None:
    """Somebody tried to change rights, or a user, and may not. `target`: whose page it was, `user 7`."""
    _write(logging.WARNING, "rights_change_refused", request, user=_name(request.user), target=target)


def log_ended_sessions(request: HttpRequest | None, user: Person, number: int) -> None:
    """Sessions of a user were ended from outside them; `user` is None where they were everybody's."""
    _write(logging.WARNING, "sessions_ended", request, user=_name(user), count=number, by=_by(request))


def _write(level: int, word: str, request: HttpRequest | None, **facts: Any) -> None:
    if request is not None:
        facts["address"] = client_address(request.META)
    logger.log(level, "%s %s", word, " ".join(f"{name}={json.dumps(value)}" for name, value in facts.items()))


def _name(user: Person) -> str:
    return user.get_username() if user is not None else ""


def _by(request: HttpRequest | None) -> str:
    return _name(getattr(request, "user", None)) if request is not None else "(command)"


# --- refusals that a flood can repeat -------------------------------------------------------------------------------

_gathered: Counter[tuple[str, str, str, str]] = Counter()
"""Refusals of one window by address, `key` or `user` or nothing, its name, and kind. A timer that the first one of them
starts writes them, and so does the process's end."""
_lock = threading.Lock()


def count_refusal(meta: Mapping[str, Any], kind: str, *, key: str = "", user: str = "") -> None:
    """Something was refused that a flood can repeat. `kind` is one of few; `key` (its public id) and `user` exist."""
    who, name = ("key", key) if key else ("user", user) if user else ("", "")
    refused = (client_network(meta), who, name, kind)
    with _lock:
        is_first = not _gathered
        _gathered[refused if refused in _gathered or len(_gathered) < MOST_GATHERED else (OTHERS, "", "", kind)] += 1
    if is_first:
        timer = threading.Timer(WINDOW_SECONDS, write_refusals)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # no thread is to be had: that is no reason to fail a request
            write_refusals()


@atexit.register
def write_refusals() -> None:
    """Write what was gathered, now."""
    with _lock:
        counts = dict(_gathered)
        _gathered.clear()
    for (address, who, name, kind), count in counts.items():
        facts = {"kind": kind, "address": address} | ({who: name} if who else {}) | {"count": count}
        _write(logging.WARNING, "refused", None, **facts)
