"""The second factor: time-based codes (RFC 6238), and recovery codes where the app that shows them is lost.

Each code counts once, whichever process it is given to: a row says so, and is written by a conditional statement.
"""

import base64
import hashlib
import hmac
import json
import logging
import secrets
from typing import Any, Literal
from urllib.parse import quote, urlencode

import segno
from cryptography.fernet import InvalidToken
from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet
from django.utils.safestring import SafeString
from django_otp.oath import hotp

from meshes.console.signin.models import Authenticator, OperatorSession, RecoveryCode
from meshes.kit import clock
from workspaces.vault import sealing

logger = logging.getLogger(__name__)

STEP_SECONDS, DIGITS = 30, 6
SECRET_BYTES = 20
"""160 bits: RFC 4226, section 4."""
RECOVERY_CODES, RECOVERY_BYTES = 10, 20
"""160 bits each: a digest without salt is enough of what nobody guesses."""
ISSUER = "Meshes"

Kind = Literal["totp", "recovery_code"]


class SecretUnreadableError(Exception):
    """The secret of an authenticator does not open: its key is missing among `FERNET_KEYS`, or it is another user's."""


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


def seal_secret(user: User, secret: bytes) -> str:
    """The secret bound to its user: a row that is copied to another user's opens nothing."""
    document = _binding(user.pk) | {"secret": base64.b32encode(secret).decode()}
    return sealing.seal(json.dumps(document).encode(), _binding(user.pk)).decode()


def open_secret(user: User, sealed: str) -> bytes:
    """Raises SecretUnreadableError."""
    try:
        document = json.loads(sealing.unseal(sealed.encode(), _binding(user.pk)))
    except InvalidToken:
        raise SecretUnreadableError("it does not decrypt with the keys at hand") from None
    if (document["kind"], document["user"]) != ("totp", user.pk):
        raise SecretUnreadableError("it was sealed for another user")
    return base64.b32decode(document["secret"])


def _binding(user_id: Any) -> dict[str, Any]:
    return {"kind": "totp", "user": user_id}


def to_reseal() -> QuerySet[Authenticator]:
    """The authenticators whose secrets the newest key has not sealed in the present format."""
    prefix = sealing.PREFIXES[settings.MESHES_SEALING]
    rows: QuerySet[Authenticator] = Authenticator.objects.all()
    return rows.exclude(key_id=sealing.newest_key_id(), secret__startswith=prefix)


def reseal_secrets() -> list[str]:
    """Seal them with the newest key; the names of the users whose secrets do not open, which are left as they are."""
    unreadable = []
    for row in to_reseal().select_related("user").order_by("pk"):
        try:
            sealed = seal_secret(row.user, open_secret(row.user, row.secret))
        except SecretUnreadableError:
            unreadable.append(row.user.get_username())
            continue
        unchanged = Authenticator.objects.filter(pk=row.pk, secret=row.secret)
        unchanged.update(secret=sealed, key_id=sealing.newest_key_id())
    return unreadable


def secret_text(secret: bytes) -> str:
    """As a person types it, in groups of four."""
    text = base64.b32encode(secret).decode()
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4))


def qr_code(user: User, secret: bytes, host: str) -> SafeString:
    """What an app scans, as SVG without a style: `otpauth://totp/Meshes:ada@host?…`."""
    account = quote(f"{ISSUER}:{user.get_username()}@{host}", safe=":@")
    query = urlencode({"secret": base64.b32encode(secret).decode(), "issuer": ISSUER})
    image = segno.make(f"otpauth://totp/{account}?{query}", error="m", micro=False)
    return SafeString(image.svg_inline(scale=5, border=4, dark="#000", light="#fff"))


def present_step() -> int:
    return int(clock.database_now().timestamp()) // STEP_SECONDS


def matching_step(secret: bytes, code: str) -> int | None:
    """The time step whose code this is: the present one, or the one before it, for who types slowly."""
    present = present_step()
    for step in (present, present - 1):
        right = str(hotp(secret, step, DIGITS)).zfill(DIGITS)
        if hmac.compare_digest(right.encode(), code.encode()):
            return step
    return None


def authenticator_of(user: User) -> Authenticator | None:
    found: Authenticator | None = Authenticator.objects.filter(user=user, confirmed=True).first()
    return found


def use_code(user: User, text: str) -> Kind | None:
    """Take a code of the user, once: which kind it was; None for a wrong one, and for one that was used."""
    code = "".join(character for character in text if character.isalnum()).lower()
    authenticator = authenticator_of(user)
    if authenticator is None:
        return None
    if len(code) != DIGITS:
        digest = hashlib.sha256(code.encode()).digest()
        return "recovery_code" if RecoveryCode.objects.filter(user=user, digest=digest).delete()[0] else None
    try:
        step = matching_step(open_secret(user, authenticator.secret), code)
    except SecretUnreadableError as error:
        logger.error("the authenticator of %s does not open: %s; see docs/admin.md", user.get_username(), error)
        return None
    if step is None:
        return None
    is_first = Authenticator.objects.filter(pk=authenticator.pk, last_step__lt=step).update(last_step=step)
    return "totp" if is_first else None


def add(user: User, secret: bytes, step: int, *, is_first: bool = False) -> list[str] | None:
    """Make this the user's authenticator; its recovery codes. `step`: of the code that was given.

    In the place of another one; where it is to be the first, nothing is done and the answer is None instead: who has
    given a password alone replaces nothing that another browser has set up meanwhile.
    """
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if is_first and authenticator_of(user):
            return None
        remove(user)
        Authenticator.objects.create(
            user=user,
            name="app",
            confirmed=True,
            secret=seal_secret(user, secret),
            key_id=sealing.newest_key_id(),
            last_step=step,
        )
        return make_recovery_codes(user)


def make_recovery_codes(user: User) -> list[str]:
    """New codes in the place of all older ones."""
    codes = [base64.b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode().lower() for _ in range(RECOVERY_CODES)]
    with transaction.atomic():
        RecoveryCode.objects.filter(user=user).delete()
        RecoveryCode.objects.bulk_create(
            RecoveryCode(user=user, digest=hashlib.sha256(code.encode()).digest()) for code in codes
        )
    return ["-".join(code[i : i + 4] for i in range(0, len(code), 4)) for code in codes]


def remove(user: User) -> bool:
    """Whether there was one."""
    RecoveryCode.objects.filter(user=user).delete()
    return bool(Authenticator.objects.filter(user=user).delete()[0])


def reset(user: User) -> bool:
    """Remove the second factor of somebody who has lost it, and end all sessions; whether there was one."""
    with transaction.atomic():
        had_one = remove(user)
        OperatorSession.objects.end(user=user)
    return had_one
