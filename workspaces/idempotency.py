"""`Idempotency-Key` on the handlers of POST: a request that is sent twice is carried out once and answered twice.

    @once            the act and what is remembered of it are one transaction
    @once_prepared   the handler asks outside (a name, a sealed secret) first, and returns the act for that transaction
    @once_outside    the act calls the outside or commits in steps: its key is reserved before, in a commit of its own

Without the header each runs its handler as it is. `takes_idempotency_key` on the handler is what the OpenAPI document
goes by.

A key is known within a scope (the workspace, or the API key of the caller where a request is about none) and a path,
for 24 hours. It belongs to one body, known by its SHA-256; a body that may hold credentials by an HMAC, so that nobody
who reads the table can try what they might be. Only answers that accepted something are kept, and none with a secret:
a request that was refused may be sent again with the same key.
"""

import functools
import hashlib
import hmac
import re
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpResponse, HttpResponseBase
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from meshes.api.problems import Problem
from meshes.api.views import received_body
from workspaces.authentication import action_of
from workspaces.endpoints import Endpoint
from workspaces.models import IdempotencyRecord

HEADER = "Idempotency-Key"
KEPT_FOR = timedelta(hours=24)
RESERVED_FOR = timedelta(minutes=2)
"""How long a key waits for the answer to an act that commits by itself: none takes longer, so its process is lost."""
TWIN_SECONDS = 35.0
"""How long a twin waits for an act outside; the longest of them, a test with a new token, takes 30 s and a little."""
MOST_WAITING = 2
"""Twins of acts outside that may wait in one process: each has a thread that answers nobody else."""
_FORM = re.compile(r"[\x21-\x7e]{1,255}")

Act = Callable[[], HttpResponseBase]
Handler = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered. `text` is the JSON as sent, so that its repetition is the same to the byte."""

    status_code: int
    text: str


PENDING = Answer(0, "")
"""The request is being carried out: its key is reserved, and there is no answer yet."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A request as its key knows it. `body_hashes` are those by which its body may be kept, the newest first."""

    scope: uuid.UUID
    path: str
    key: str
    body_hashes: tuple[bytes, ...]


# --- the table ------------------------------------------------------------------------------------------------------


def stamp(scope: uuid.UUID, path: str, header: str, body: bytes, *, is_keyed: bool = False) -> Stamp:
    """The stamp of a request with this `Idempotency-Key` header. Raises Problem 400.

    `is_keyed` for bodies that may hold credentials. The key of the HMAC is one of FERNET_KEYS: while a rotation goes
    on, either is good; a body that was kept under a key that is gone counts as another body, so nothing is done twice.
    """
    if not _FORM.fullmatch(header):
        mistake = {"header": HEADER, "detail": "This is 1 to 255 visible ASCII characters.", "rule": "pattern"}
        raise Problem(400, errors=[mistake])
    if not is_keyed:
        return Stamp(scope, path, header, (hashlib.sha256(body).digest(),))
    said = b"\0".join([b"meshes idempotency", scope.bytes, path.encode(), header.encode(), body])
    return Stamp(scope, path, header, tuple(hmac.digest(key.encode(), said, "sha256") for key in settings.FERNET_KEYS))


def recall(asked: Stamp) -> Answer | None:
    """The answer that was given to this request before; None if there was none. Raises Problem 422 for another body."""
    lapsed = Q(created_at__lte=Now() - KEPT_FOR) | Q(status_code=0, created_at__lte=Now() - RESERVED_FOR)
    record = _kept(asked).exclude(lapsed).first()
    if record is None:
        return None
    if bytes(record.body_hash) not in asked.body_hashes:
        words = "This key was used for a request with another body. Send each request under a key of its own."
        mistake = {"header": HEADER, "detail": words, "rule": "reused"}
        title = "The Idempotency-Key belongs to another request"
        raise Problem(422, "idempotency-key-reused", title, errors=[mistake])
    return Answer(record.status_code, record.answer)


def remember(asked: Stamp, answer: Answer) -> Answer | None:
    """Keep the answer, within the caller's transaction; None if it is now kept, else the answer that stood before.

    Where another transaction is just keeping an answer for the same key, the unique index makes this one wait for its
    end. Raises as `recall` does.
    """
    values: list[Any] = [
        asked.scope, asked.path, asked.key, asked.body_hashes[0], answer.status_code, answer.text,
        KEPT_FOR.total_seconds(), RESERVED_FOR.total_seconds(),
    ]  # fmt: skip
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_INSERT, values)
            if cursor.rowcount == 1:
                return None
        if (earlier := recall(asked)) is not None:
            return earlier
        # The record lapsed or was removed between the two statements.


def claim(asked: Stamp) -> Answer | None:
    """Take the key for a request whose answer comes later, by `fulfil`; None if it is taken, else what stood before.

    Before an act, in its transaction: then a twin waits for the end of both, and a crash undoes both. Committed by
    itself for an act that commits by itself: then a twin finds PENDING, and a crash leaves the key reserved for two
    minutes. Raises as `recall` does.
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


_INSERT = """
INSERT INTO idempotency_records AS kept (scope, path, key, body_hash, status_code, answer, created_at)
VALUES (%s, %s, %s, %s, %s, to_jsonb(%s::text), clock_timestamp())
ON CONFLICT (scope, path, key) DO UPDATE SET body_hash = excluded.body_hash, status_code = excluded.status_code,
    answer = excluded.answer, created_at = excluded.created_at
WHERE kept.created_at <= clock_timestamp() - make_interval(secs => %s)
    OR (kept.status_code = 0 AND kept.created_at <= clock_timestamp() - make_interval(secs => %s))
"""


def expire(now: datetime, most: int = 10_000) -> int:
    """Delete up to `most` records older than 24 hours; how many went."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM idempotency_records WHERE id IN (SELECT id FROM idempotency_records WHERE created_at <= %s"
            " ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED)",
            [now - KEPT_FOR, most],
        )
        return int(cursor.rowcount)


# --- handlers -------------------------------------------------------------------------------------------------------


class ShownOnce(Response):
    """An answer with secrets: they are in this one, and null in its repetitions."""

    def __init__(self, data: Mapping[str, Any], secrets: Collection[str], status: int | None = None) -> None:
        super().__init__(data, status=status)
        self.secrets = secrets


class DryRun(Response):
    """An answer that tells what would be done. Nothing was, so it is not remembered: it may hold payloads."""


def once(handler: Handler) -> Any:
    return _taking(handler, lambda view, ask: _within(view, lambda: ask))


def once_prepared(handler: Handler) -> Any:
    return _taking(handler, _within)


def once_outside(handler: Handler) -> Any:
    def answer(view: Endpoint, act: Act) -> HttpResponseBase:
        asked = _stamp(view)
        if asked is None:
            return act()
        earlier = claim(asked)
        while earlier == PENDING:
            earlier = _wait(asked) or claim(asked)
        if earlier is not None:
            return send(earlier)
        try:
            response = act()
            _keep(asked, response)
        except BaseException:
            release(asked)
            raise
        return response

    return _marked(_taking(handler, answer), "is_outside")  # a twin may be told to come back


def takes_idempotency_key(handler: Handler) -> Any:
    """For a handler that looks after its key itself, by the functions below."""
    return _marked(handler, "takes_idempotency_key")


def _marked(handler: Any, mark: str) -> Any:
    setattr(handler, mark, True)
    return handler


def _taking(handler: Any, answer: Callable[[Any, Callable[[], Any]], HttpResponseBase]) -> Any:
    @functools.wraps(handler)
    def handle(view: Endpoint, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return answer(view, functools.partial(handler, view, request, *args, **kwargs))

    return takes_idempotency_key(handle)


def stamp_of(request: Request, scope: uuid.UUID, path: str, body: bytes, *, is_keyed: bool = False) -> Stamp | None:
    """The request's stamp; None without the header. Raises Problem 400."""
    header = request.headers.get(HEADER)
    return None if header is None else stamp(scope, path, header, body, is_keyed=is_keyed)


def send(answer: Answer) -> HttpResponse:
    return HttpResponse(answer.text, status=answer.status_code, content_type="application/json")


# --- in one transaction ---------------------------------------------------------------------------------------------


def _within(view: Endpoint, prepare: Callable[[], Act]) -> HttpResponseBase:
    asked = _stamp(view)
    if asked is None:
        return prepare()()
    if (earlier := recall(asked)) is not None:
        return send(earlier)
    act = prepare()
    with transaction.atomic():
        if (earlier := claim(asked)) is not None:
            return send(earlier)
        response = act()
        _keep(asked, response)
    return response


def _stamp(view: Endpoint) -> Stamp | None:
    if HEADER not in view.request.headers:
        return None
    scope, path = view.named_place()
    holds_credentials = action_of(view, view.request) in view.credential_actions
    return stamp_of(view.request, scope, path, received_body(view.request), is_keyed=holds_credentials)


def _keep(asked: Stamp, response: HttpResponseBase) -> None:
    if isinstance(response, DryRun):
        release(asked)
        return
    if not isinstance(response, Response):
        raise TypeError("Only answers of the API are remembered.")
    data = response.data
    if isinstance(response, ShownOnce) and response.secrets:
        data = {**data, **dict.fromkeys(response.secrets), "secret_shown": True}
    fulfil(asked, Answer(response.status_code, JSONRenderer().render(data).decode()))


# --- outside of one -------------------------------------------------------------------------------------------------

_waiting = threading.BoundedSemaphore(MOST_WAITING)


def _wait(asked: Stamp) -> Answer | None:
    """What the twin is answered; None where it came to nothing. Raises Problem 409 where that takes too long."""
    words = "A request under this Idempotency-Key is being carried out. Ask again for its answer."
    in_use = Problem(409, "idempotency-key-in-use", detail=words, headers={"Retry-After": "5"})
    if not _waiting.acquire(blocking=False):
        raise in_use
    try:
        ended = time.monotonic() + TWIN_SECONDS
        while (answer := recall(asked)) == PENDING:
            if time.monotonic() > ended:
                raise in_use
            time.sleep(0.1)
        return answer
    finally:
        _waiting.release()
