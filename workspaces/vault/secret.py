"""A string that does not show itself, and what a key of `FERNET_KEYS` must be.

Such a key is URL-safe base64 of 32 bytes or more, with or without its `=`. The vault's library derives its own key from
the text, whatever it is. So another text still opens what it has sealed, behind a key; as the first, which seals, no
process starts with it.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from typing import NoReturn

from django.core.exceptions import ImproperlyConfigured

MASK = "••••"
HINT_MIN_LENGTH = 12
"""Below this length the last four characters would be too large a part of the secret to show."""


class Secret:
    """A credential in memory. Every way of printing it gives `••••`; only `reveal()` gives the text.

    Equality takes constant time and holds between secrets only. A secret is not hashable, and it refuses to be
    pickled, so it cannot travel in a task's arguments or rest in a cache. `json.dumps` refuses it too.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        """Raises TypeError, without naming the value, when it is not a string."""
        if not isinstance(value, str):
            raise TypeError("a Secret holds a str")
        self.__value = value

    def reveal(self) -> str:
        return self.__value

    def masked_hint(self) -> str:
        """`••••1234` when the secret is long enough to show its last four characters, else `••••`."""
        return MASK + self.__value[-4:] if len(self.__value) >= HINT_MIN_LENGTH else MASK

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self.__value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (each.reveal().encode("utf-8", "surrogatepass") for each in (self, other))
        return hmac.compare_digest(mine, theirs)

    __hash__ = None  # type: ignore[assignment]  # the protocol's own way to say unhashable

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "Secret":
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is not pickled")


KEY_BYTES = 32
DISTINCT_BYTES = 10
"""Of 32 random bytes fewer than this many different ones never occur (about once in 10^25)."""
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+={0,2}")


def refuse_unsound(keys: Sequence[str]) -> None:
    """Raise ImproperlyConfigured where the first is no key: what it sealed would be as weak as the text is short."""
    if not is_well_formed(keys[0]):
        raise ImproperlyConfigured(
            "The first of FERNET_KEYS must be URL-safe base64 of 32 random bytes or more. Put a new key in front:"
            " `python3 -c 'import secrets; print(secrets.token_urlsafe(32))'`. What the present text has sealed still"
            " opens while it stands behind a key."
        )


def is_well_formed(key: str) -> bool:
    return len(_key_bytes(key)) >= KEY_BYTES


def is_strong(key: str) -> bool:
    """Whether the key may have been made at random: `AAAA…` was not."""
    return len(set(_key_bytes(key))) >= DISTINCT_BYTES


def _key_bytes(key: str) -> bytes:
    """The bytes of a key; none where the text is not one."""
    if not _BASE64URL.fullmatch(key):
        return b""
    text = key.rstrip("=")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""
