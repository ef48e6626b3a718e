"""How a sealed document is encrypted: two formats, told apart by how a token begins.

`FERNET`: a token of `fernet_fields`: AES-128-CBC and HMAC-SHA256 (encrypt then MAC) under a key that the library
derives by HKDF from an entry of `FERNET_KEYS`. What the document is bound to stands inside.

`AES-256-GCM`: `v2.<key id>.<base64url of salt, commitment, nonce, ciphertext and tag>`. Each document has a key of its
own, by HKDF-SHA256 from the entry and the salt, so no number of documents wears a key out (NIST SP 800-38D bounds
random nonces under one key to 2^32). The same derivation gives the commitment, by which a token shows which key made it
and opens under no other. What the document is bound to is associated data, and stands inside as well.

`MESHES_SEALING` says which one seals; both open.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from fernet_fields import EncryptedTextField

from workspaces.vault.models import SealedDocument

FERNET: Final = "FERNET"
AES_256_GCM: Final = "AES-256-GCM"
PREFIXES: Mapping[str, str] = {FERNET: "gAAAA", AES_256_GCM: "v2."}
"""How tokens of each format begin; Fernet's version and the upper bytes of its time, until the year 2106."""
GIVEN_UP = ""
"""The key id of a document that was emptied, as its key was lost."""
INFO = b"meshes: sealed document, AES-256-GCM"
SALT_BYTES, COMMITMENT_BYTES, NONCE_BYTES, KEY_BYTES, TAG_BYTES = 16, 16, 12, 32, 16
_CIPHERTEXT_AT = SALT_BYTES + COMMITMENT_BYTES + NONCE_BYTES

_FIELD: EncryptedTextField = SealedDocument._meta.get_field("document")


def format_of(token: bytes) -> str:
    return AES_256_GCM if token.startswith(PREFIXES[AES_256_GCM].encode()) else FERNET


def seal(content: bytes, binding: Mapping[str, Any]) -> bytes:
    """A token under the newest key, in the format of `MESHES_SEALING`. `binding` is what opening has to give again."""
    if settings.MESHES_SEALING == FERNET:
        return Fernet(sealing_keys()[0]).encrypt(content)
    salt, nonce, key_id = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES), newest_key_id()
    key, commitment = _derive(_FIELD.keys[0], salt)
    ciphertext = AESGCM(key).encrypt(nonce, content, _associated(key_id, binding))
    body = base64.urlsafe_b64encode(salt + commitment + nonce + ciphertext)
    return f"{PREFIXES[AES_256_GCM]}{key_id}.".encode() + body


def unseal(token: bytes, binding: Mapping[str, Any]) -> bytes:
    """The content of a token of either format. Raises InvalidToken where no key at hand made it, where it was changed,
    or, for AES-256-GCM, where it was sealed for another binding."""
    if format_of(token) == FERNET:
        sealing_keys()
        return bytes(_FIELD.fernet.decrypt(token))
    key_id, raw = _read(token)
    key = _checked(_texts().get(key_id), raw)
    nonce = raw[_CIPHERTEXT_AT - NONCE_BYTES : _CIPHERTEXT_AT]
    try:
        return AESGCM(key).decrypt(nonce, raw[_CIPHERTEXT_AT:], _associated(key_id, binding))
    except InvalidTag:
        raise InvalidToken from None


def is_made_by(key_id: str, token: bytes) -> bool:
    """Whether the key at hand with this id made the token. Nothing is decrypted: a Fernet token has a signature, the
    other a commitment."""
    try:
        if format_of(token) == FERNET:
            keys = {key_id_of(key): key for key in sealing_keys()}
            Fernet(keys[key_id]).extract_timestamp(token)
        else:
            named, raw = _read(token)
            _checked(_texts().get(key_id) if named == key_id else None, raw)
    except (InvalidToken, KeyError):
        return False
    return True


def newest_key_id() -> str:
    """The fingerprint of the key that seals: the first of `FERNET_KEYS`."""
    return key_id_of(sealing_keys()[0])


def key_ids() -> set[str]:
    """The fingerprints of all keys at hand."""
    return {key_id_of(key) for key in sealing_keys()}


def key_id_of(key: bytes) -> str:
    """The fingerprint by which a sealed document names its key; it does not lead back to the key."""
    return hashlib.sha256(b"meshes: id of a Fernet key\0" + key).hexdigest()[:16]


def sealing_keys() -> list[bytes]:
    """What `fernet_fields` derives from `FERNET_KEYS`, newest first. Raises ImproperlyConfigured where there are none:
    not every service has them."""
    keys: list[bytes] = _FIELD.fernet_keys
    if not keys:
        raise ImproperlyConfigured("FERNET_KEYS is not set in this service, which was to open or seal nothing.")
    return keys


def _texts() -> dict[str, str]:
    """The entries of `FERNET_KEYS` by the ids of their keys."""
    return {key_id_of(key): text for key, text in zip(sealing_keys(), _FIELD.keys, strict=True)}


def _derive(text: str, salt: bytes) -> tuple[bytes, bytes]:
    """A document's own key, and the commitment to it."""
    derived = HKDF(SHA256(), KEY_BYTES + COMMITMENT_BYTES, salt=salt, info=INFO).derive(text.encode())
    return derived[:KEY_BYTES], derived[KEY_BYTES:]


def _read(token: bytes) -> tuple[str, bytes]:
    """The key id and the bytes of an AES-256-GCM token. Raises InvalidToken."""
    _, key_id, body = [*token.decode("ascii", "replace").split(".", 2), "", ""][:3]
    try:
        raw = base64.b64decode(body, altchars="-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidToken from None
    if len(raw) < _CIPHERTEXT_AT + TAG_BYTES:
        raise InvalidToken
    return key_id, raw


def _checked(text: str | None, raw: bytes) -> bytes:
    """The document's key, whose commitment is in it. Raises InvalidToken."""
    if text is None:
        raise InvalidToken
    key, commitment = _derive(text, raw[:SALT_BYTES])
    if not hmac.compare_digest(commitment, raw[SALT_BYTES : SALT_BYTES + COMMITMENT_BYTES]):
        raise InvalidToken
    return key


def _associated(key_id: str, binding: Mapping[str, Any]) -> bytes:
    return json.dumps([PREFIXES[AES_256_GCM], key_id, dict(binding)], sort_keys=True).encode()
