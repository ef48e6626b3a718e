"""The logger `meshes.security`: who got in and who did not, and who changed whose rights, with the client's address.

    login_failed user="ada" address="203.0.113.7"
    refused kind="401 unknown" address="203.0.113.7" key="key_01m7…" count=30

A line is one word for what happened, then pairs whose values are JSON in ASCII: no value can begin a line of its own.
No line holds a password, a code, a key or a token, nor what was typed as a user's name where there is no such user: it
may have been a password.
"""

import atexit
import json
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest

from workspaces import addresses

logger = logging.getLogger("meshes.security")

NO_SUCH_USER = "(no such user)"
OTHERS = "(others)"
WINDOW_SECONDS = 60.0
"""Refusals of the API are gathered for so long: a flood is a line a minute for each address, key and kind."""
MOST_GATHERED = 1_000
"""Combinations of a minute that are told apart; what exceeds them counts as of others."""

Person = AbstractBaseUser | AnonymousUser | None


def log_login(request: HttpRequest | None, user: Person) -> None:
    """All factors that are asked for were right."""
    _write(logging.INFO, "login_succeeded", request, user=_name(user))


def log_failed_login(request: HttpRequest | None, username: str) -> None:
    """A password was tried, and wrong; or whoever it belongs to may not log in."""
    known = username.isprintable() and User.objects.filter(username=username).exists()
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


def count_refusal(meta: Mapping[str, Any], kind: str, *, key: str = "", user: str = "") -> None:
    """Something was refused that a flood can repeat. `kind` is one of few; `key` (its public id) and `user` exist."""
    whose = ("key", key) if key else ("user", user) if user else ("", "")
    _gathered.add(_Refused(addresses.client_network(meta), *whose, kind))


def write_refusals() -> None:
    """Write what was gathered, now."""
    _gathered.write()


def _write(level: int, word: str, request: HttpRequest | None, **facts: Any) -> None:
    if request is not None:
        facts["address"] = addresses.client_address(request.META)
    _write_pairs(level, word, facts)


def _write_pairs(level: int, word: str, facts: Mapping[str, Any]) -> None:
    logger.log(level, "%s %s", word, _pairs(facts))


def _pairs(facts: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={json.dumps(value)}" for name, value in facts.items())


def _name(user: Person) -> str:
    return user.get_username() if user is not None else ""


def _by(request: HttpRequest | None) -> str:
    return _name(getattr(request, "user", None)) if request is not None else "(command)"


class _Refused(NamedTuple):
    address: str
    who: str
    """`key`, `user` or empty."""
    name: str
    kind: str


class _Refusals:
    """Counts of one window; a timer that the first refusal of it starts writes them, and so does the process's end."""

    def __init__(self) -> None:
        self._counts: Counter[_Refused] = Counter()
        self._lock = threading.Lock()

    def add(self, what: _Refused) -> None:
        with self._lock:
            is_first = not self._counts
            if what not in self._counts and len(self._counts) >= MOST_GATHERED:
                what = _Refused(OTHERS, "", "", what.kind)
            self._counts[what] += 1
        if is_first:
            timer = threading.Timer(WINDOW_SECONDS, self.write)
            timer.daemon = True
            try:
                timer.start()
            except RuntimeError:  # no thread is to be had: that is no reason to fail a request
                self.write()

    def write(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, Counter()
        for what, count in counts.items():
            who = {what.who: what.name} if what.who else {}
            facts = {"kind": what.kind, "address": what.address} | who | {"count": count}
            _write_pairs(logging.WARNING, "refused", facts)


_gathered = _Refusals()
atexit.register(_gathered.write)
