"""`Idempotency-Key`: a request that is sent twice is carried out once and answered twice.

A key is known within a scope (the workspace, or the API key where an account key posts in bulk) and a path, for 24
hours. It belongs to one body, known by its SHA-256. Only answers that accepted something are kept: a request that was
refused may be sent again with the same key.
"""

import hashlib
import re
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection
from django.db.models.functions import Now

from delivery.models import IdempotencyRecord

KEPT_FOR = timedelta(hours=24)
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


@dataclass(frozen=True, slots=True)
class Stamp:
    """A request as its key knows it."""

    scope: uuid.UUID
    path: str
    key: str
    body_hash: bytes


def stamp(scope: uuid.UUID, path: str, header: str, body: bytes) -> Stamp:
    """The stamp of a request with this `Idempotency-Key` header. Raises InvalidKey."""
    if not _FORM.fullmatch(header):
        raise InvalidKey
    return Stamp(scope, path, header, hashlib.sha256(body).digest())


def recall(asked: Stamp) -> Answer | None:
    """The answer that was given to this request before; None if there was none. Raises KeyReused."""
    record = IdempotencyRecord.objects.filter(
        scope=asked.scope, path=asked.path, key=asked.key, created_at__gt=Now() - KEPT_FOR
    ).first()
    if record is None:
        return None
    if bytes(record.body_hash) != asked.body_hash:
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


def _insert(asked: Stamp, answer: Answer) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO idempotency_records AS kept (scope, path, key, body_hash, status_code, answer, created_at)"
            " VALUES (%s, %s, %s, %s, %s, to_jsonb(%s::text), clock_timestamp())"
            " ON CONFLICT (scope, path, key) DO UPDATE SET body_hash = excluded.body_hash,"
            " status_code = excluded.status_code, answer = excluded.answer, created_at = excluded.created_at"
            " WHERE kept.created_at <= clock_timestamp() - make_interval(secs => %s)",
            [
                asked.scope,
                asked.path,
                asked.key,
                asked.body_hash,
                answer.status_code,
                answer.text,
                KEPT_FOR.total_seconds(),
            ],
        )
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
