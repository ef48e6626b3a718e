"""`Idempotency-Key`: a request that is sent twice is carried out once and answered twice.

A key is known within a scope (the workspace, or the API key of the caller where a request is about none) and a path,
for 24 hours. It belongs to one body, known by its SHA-256; a body that may hold credentials by an HMAC, so that nobody
who reads the table can try what they might be. Only answers that accepted something are kept, and none with a secret:
a request that was refused may be sent again with the same key.
"""

import hashlib
import hmac
import re
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from workspaces.models import IdempotencyRecord

KEPT_FOR = timedelta(hours=24)
RESERVED_FOR = timedelta(minutes=2)
"""How long a key waits for the answer to an act that commits by itself: none takes longer, so its process is lost."""
_FORM = re.compile(r"[\x21-\x7e]{1,255}")


class IdempotencyError(Exception):
    """IdempotencyError
    ├── InvalidKey   the header is not 1 to 255 visible ASCII characters
    └── KeyReused    the key belongs to a request with another body
    """


class InvalidKey(IdempotencyError):  # noqa: N818 - reads so where it is caught
    pass


class KeyReused(IdempotencyError):  # noqa: N818 - reads so where it is caught
    pass


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered. `text` is the JSON as sent, so that its repetition is the same to the byte."""

    status_code: int
    text: str

    @property
    def is_pending(self) -> bool:
        """The request is being carried out: its key is reserved, and there is no answer yet."""
        return self.status_code == 0


PENDING = Answer(0, "")


@dataclass(frozen=True, slots=True)
class Stamp:
    """A request as its key knows it. `body_hashes` are those by which its body may be kept, the newest first."""

    scope: uuid.UUID
    path: str
    key: str
    body_hashes: tuple[bytes, ...]


def stamp(scope: uuid.UUID, path: str, header: str, body: bytes, *, is_keyed: bool = False) -> Stamp:
    """The stamp of a request with this `Idempotency-Key` header. Raises InvalidKey.

    `is_keyed` for bodies that may hold credentials. The key of the HMAC is one of FERNET_KEYS: while a rotation goes
    on, either is good; a body that was kept under a key that is gone counts as another body, so nothing is done twice.
    """
    if not _FORM.fullmatch(header):
        raise InvalidKey
    if not is_keyed:
        return Stamp(scope, path, header, (hashlib.sha256(body).digest(),))
    said = b"\0".join([b"meshes idempotency", scope.bytes, path.encode(), header.encode(), body])
    return Stamp(scope, path, header, tuple(hmac.digest(key.encode(), said, "sha256") for key in settings.FERNET_KEYS))


def recall(asked: Stamp) -> Answer | None:
    """The answer that was given to this request before; None if there was none. Raises KeyReused."""
    lapsed = Q(created_at__lte=Now() - KEPT_FOR) | Q(status_code=0, created_at__lte=Now() - RESERVED_FOR)
    record = _kept(asked).exclude(lapsed).first()
    if record is None:
        return None
    if bytes(record.body_hash) not in asked.body_hashes:
        raise KeyReused
    return Answer(record.status_code, record.answer)


def remember(asked: Stamp, answer: Answer) -> Answer | None:
    """Keep the answer, within the caller's transaction; None if it is now kept, else the answer that stood before.

    Where another transaction is just keeping an answer for the same key, the unique index makes this one wait for its
    end. Raises KeyReused.
    """
    while not _insert(asked, answer):
        earlier = recall(asked)
        if earlier is not None:
            return earlier
        # The record lapsed or was removed between the two statements.
    return None


def claim(asked: Stamp) -> Answer | None:
    """Take the key for a request whose answer comes later, by `fulfil`; None if it is taken, else what stood before.

    Before an act, in its transaction: then a twin waits for the end of both, and a crash undoes both. Committed by
    itself for an act that commits by itself: then a twin finds PENDING, and a crash leaves the key reserved for two
    minutes. Raises KeyReused.
    """
    return remember(asked, PENDING)


def fulfil(asked: Stamp, answer: Answer) -> None:
    """Keep the answer to a request whose key is claimed."""
    _kept(asked).filter(status_code=0).update(status_code=answer.status_code, answer=answer.text)


def release(asked: Stamp) -> None:
    """Give a claimed key back: what was asked came to nothing that is kept."""
    _kept(asked).filter(status_code=0).delete()


def _kept(asked: Stamp) -> QuerySet[IdempotencyRecord]:
    return IdempotencyRecord.objects.filter(scope=asked.scope, path=asked.path, key=asked.key)


def _insert(asked: Stamp, answer: Answer) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO idempotency_records AS kept (scope, path, key, body_hash, status_code, answer, created_at)"
            " VALUES (%s, %s, %s, %s, %s, to_jsonb(%s::text), clock_timestamp())"
            " ON CONFLICT (scope, path, key) DO UPDATE SET body_hash = excluded.body_hash,"
            " status_code = excluded.status_code, answer = excluded.answer, created_at = excluded.created_at"
            " WHERE kept.created_at <= clock_timestamp() - make_interval(secs => %s)"
            " OR (kept.status_code = 0 AND kept.created_at <= clock_timestamp() - make_interval(secs => %s))",
            [
                asked.scope, asked.path, asked.key, asked.body_hashes[0], answer.status_code, answer.text,
                KEPT_FOR.total_seconds(), RESERVED_FOR.total_seconds(),
            ],
        )  # fmt: skip
        return bool(cursor.rowcount == 1)


def expire(now: datetime, most: int = 10_000) -> int:
    """Delete up to `most` records older than 24 hours; how many went."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM idempotency_records WHERE id IN (SELECT id FROM idempotency_records WHERE created_at <= %s"
            " ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED)",
            [now - KEPT_FOR, most],
        )
        return int(cursor.rowcount)
