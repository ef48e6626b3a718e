"""What a key of `FERNET_KEYS` must be: URL-safe base64 of 32 bytes or more, with or without its `=`.

The vault's library derives its own key from the text, whatever it is. So another text still opens what it has sealed,
behind a key; as the first, which seals, no process starts with it.
"""

import base64
import binascii
import re
from collections.abc import Sequence

from django.core.exceptions import ImproperlyConfigured

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
    return len(_read(key)) >= KEY_BYTES


def is_strong(key: str) -> bool:
    """Whether the key may have been made at random: `AAAA…` was not."""
    return len(set(_read(key))) >= DISTINCT_BYTES


def _read(key: str) -> bytes:
    """The bytes of a key; none where the text is not one."""
    if not _BASE64URL.fullmatch(key):
        return b""
    text = key.rstrip("=")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""
