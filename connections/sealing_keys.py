"""What a key of `FERNET_KEYS` must be: URL-safe base64 of 32 bytes or more, with or without its `=`.

The vault's library derives its own key from the text, whatever it is, so other texts work: they are no keys.
"""

import base64
import binascii
import re

KEY_BYTES = 32
DISTINCT_BYTES = 10
"""Of 32 random bytes fewer than this many different ones never occur (about once in 10^25)."""
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+={0,2}")


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
