"""How fast passwords and codes may be guessed: buckets per user and per address, shared by all processes.

A guess takes a token before it is tried, and a right one puts it back. Where there is none left it is not tried, and
whoever made it is told how long to wait: some seconds at first, after many wrong ones the longer time of a bucket by
the hour, and never more. Nobody is locked out by somebody else's guesses:

* one address has a fifth of what a user's bucket holds, so that the user still gets in from another one;
* a browser in which that user has logged in before keeps a cookie that says so, and has a bucket of its own.
"""

import hashlib
import secrets
from collections.abc import Callable
from typing import Literal

from django.conf import settings
from django.core import signing
from django.http import HttpRequest

from workspaces import addresses, limits, security_log
from workspaces.buckets import Bucket, per_hour, per_minute

Kind = Literal["password", "code", "confirmation"]
"""A password at the login; a code of the second factor; the present password of who is logged in."""

HOURS_SHARE: dict[Kind, int] = {"password": 10, "code": 3, "confirmation": 10}
"""What may be guessed wrong in an hour, as a multiple of `MESHES_WRONG_PASSWORDS`, which is by the minute."""
ADDRESSES = 5
"""A user's buckets hold what those of so many addresses do."""
DEVICE_SECONDS = 365 * 86_400
DEVICE_SALT = "workspaces.guesses.device"


class TooManyGuessesError(Exception):
    """A guess was not tried. `seconds`: after which the next one is."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


def try_guess(request: HttpRequest, kind: Kind, username: str, is_right: Callable[[], bool]) -> bool:
    """Whether a guess is right, by `is_right`. Raises TooManyGuessesError without asking it."""
    buckets = _buckets(request, kind, username)
    if (wait := limits.take_guess(buckets)) is not None:
        security_log.count_refusal(request.META, f"429 {kind}")
        raise TooManyGuessesError(wait)
    if right := is_right():
        limits.put_back_guess(buckets)
    return right


def make_device_cookie(username: str) -> str:
    """For a browser in which this user has just logged in."""
    return signing.TimestampSigner(salt=DEVICE_SALT).sign(f"{secrets.token_urlsafe(16)}.{_digest(username)}")


def _buckets(request: HttpRequest, kind: Kind, username: str) -> dict[str, Bucket]:
    if kind != "password":  # whoever asks has logged in, or knows the password
        return _of(kind, f"user:{_digest(username)}", 1)
    if device := _device_of(request, username):
        return _of(kind, f"device:{device}", 1)
    network = addresses.client_network(request.META)
    return _of(kind, f"address:{network}", 1) | _of(kind, f"user:{_digest(username)}", ADDRESSES)


def _of(kind: Kind, whose: str, times: int) -> dict[str, Bucket]:
    number = float(settings.MESHES_WRONG_PASSWORDS * times)
    name = f"meshes:guesses:{kind}:{whose}"
    return {
        f"{name}:minute": per_minute(number),
        f"{name}:hour": per_hour(number * HOURS_SHARE[kind]),
    }


def _device_of(request: HttpRequest, username: str) -> str | None:
    """Which of this user's browsers this is; None where its cookie does not prove that it is one."""
    try:
        cookie = request.COOKIES.get(settings.MESHES_DEVICE_COOKIE_NAME, "")
        text = signing.TimestampSigner(salt=DEVICE_SALT).unsign(cookie, max_age=DEVICE_SECONDS)
    except signing.BadSignature:
        return None
    device, _, digest = text.partition(".")
    return device if digest == _digest(username) else None


def _digest(username: str) -> str:
    return hashlib.sha256(username.encode("utf-8", "surrogatepass")).hexdigest()[:32]
