"""`Idempotency-Key` on the handlers of POST: asked twice, done once, answered twice.

    @once            the act and what is remembered of it are one transaction
    @once_prepared   the handler asks outside (a name, a sealed secret) first, and returns the act for that transaction
    @once_outside    the act calls the outside or commits in steps: its key is reserved before, in a commit of its own

Without the header each runs its handler as it is. `takes_idempotency_key` on the handler is what the OpenAPI document
goes by. The table, its scopes and hashes are `workspaces.idempotency`.
"""

import functools
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.db import transaction
from django.http import HttpResponse, HttpResponseBase
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from meshes.api.bodies import received_body
from meshes.api.problems import Problem
from workspaces import idempotency
from workspaces.endpoints import Endpoint
from workspaces.idempotency import Answer, InvalidKey, KeyReused, Stamp

HEADER = "Idempotency-Key"
TWIN_SECONDS = 35.0
"""How long a twin waits for an act outside; the longest of them, a test with a new token, takes 30 s and a little."""
MOST_WAITING = 2
"""Twins of acts outside that may wait in one process: each has a thread that answers nobody else."""

Act = Callable[[], HttpResponseBase]
Handler = Callable[..., Any]


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
    return _marked(_taking(handler, _outside), "is_outside")  # a twin may be told to come back


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


def stamp_of(request: Request, scope: UUID, path: str, body: bytes, *, is_keyed: bool = False) -> Stamp | None:
    """The request's stamp; None without the header. Raises Problem 400."""
    header = request.headers.get(HEADER)
    if header is None:
        return None
    try:
        return idempotency.stamp(scope, path, header, body, is_keyed=is_keyed)
    except InvalidKey:
        mistake = {"header": HEADER, "detail": "This is 1 to 255 visible ASCII characters.", "rule": "pattern"}
        raise Problem(400, errors=[mistake]) from None


@contextmanager
def refusing_reuse() -> Iterator[None]:
    """KeyReused as the problem that it is to the caller."""
    try:
        yield
    except KeyReused:
        words = "This key was used for a request with another body. Send each request under a key of its own."
        mistake = {"header": HEADER, "detail": words, "rule": "reused"}
        title = "The Idempotency-Key belongs to another request"
        raise Problem(422, "idempotency-key-reused", title, errors=[mistake]) from None


def send(answer: Answer) -> HttpResponse:
    return HttpResponse(answer.text, status=answer.status_code, content_type="application/json")


# --- in one transaction ---------------------------------------------------------------------------------------------


def _within(view: Endpoint, prepare: Callable[[], Act]) -> HttpResponseBase:
    stamp = _stamp(view)
    if stamp is None:
        return prepare()()
    with refusing_reuse():
        if (earlier := idempotency.recall(stamp)) is not None:
            return send(earlier)
        act = prepare()
        with transaction.atomic():
            if (earlier := idempotency.claim(stamp)) is not None:
                return send(earlier)
            response = act()
            _keep(stamp, response)
    return response


def _stamp(view: Endpoint) -> Stamp | None:
    if HEADER not in view.request.headers:
        return None
    scope, path = view.named_place()
    body = received_body(view.request)
    return stamp_of(view.request, scope, path, body, is_keyed=view.holds_credentials())


def _keep(stamp: Stamp, response: HttpResponseBase) -> None:
    if isinstance(response, DryRun):
        idempotency.release(stamp)
        return
    if not isinstance(response, Response):
        raise TypeError("Only answers of the API are remembered.")
    data = response.data
    if isinstance(response, ShownOnce) and response.secrets:
        data = {**data, **dict.fromkeys(response.secrets), "secret_shown": True}
    idempotency.fulfil(stamp, Answer(response.status_code, JSONRenderer().render(data).decode()))


# --- outside of one -------------------------------------------------------------------------------------------------

_waiting = threading.BoundedSemaphore(MOST_WAITING)


def _outside(view: Endpoint, act: Act) -> HttpResponseBase:
    stamp = _stamp(view)
    if stamp is None:
        return act()
    with refusing_reuse():
        earlier = idempotency.claim(stamp)
        while earlier is not None and earlier.is_pending:
            earlier = _wait(stamp) or idempotency.claim(stamp)
    if earlier is not None:
        return send(earlier)
    try:
        response = act()
        _keep(stamp, response)
    except BaseException:
        idempotency.release(stamp)
        raise
    return response


def _wait(stamp: Stamp) -> Answer | None:
    """What the twin is answered; None where it came to nothing. Raises Problem 409 where that takes too long."""
    if not _waiting.acquire(blocking=False):
        raise _in_use()
    try:
        ended = time.monotonic() + TWIN_SECONDS
        while (answer := idempotency.recall(stamp)) is not None and answer.is_pending:
            if time.monotonic() > ended:
                raise _in_use()
            time.sleep(0.1)
        return answer
    finally:
        _waiting.release()


def _in_use() -> Problem:
    words = "A request under this Idempotency-Key is being carried out. Ask again for its answer."
    return Problem(409, "idempotency-key-in-use", detail=words, headers={"Retry-After": "5"})
