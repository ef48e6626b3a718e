"""The calls of one attempt: with a token that is good, one after the other as the provider says, until one decides."""

import time
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

from connections import outbound
from connections.masking import Redactor
from connections.messages import Request, Response
from connections.oauth.refresh import Authorization
from connections.providers.base import Exchange, Provider, Shipment, Verdict

MOST_CALLS = 5
"""Of one attempt; no action declares as many."""
STEP_BODY_BYTES = 4096
"""Of a step's request and of its answer as much is recorded."""
TOKEN_SECONDS = 15.0
"""For a new token, where one is needed, waiting for another worker's included."""
TOKEN_RESERVE_SECONDS = 5.0
"""Left after that for the request that needs it."""


@dataclass(slots=True)
class Call:
    """One request of an attempt, and its answer if one came."""

    request: Request
    response: Response | None = None


class Conversation:
    """An attempt's calls as they are made, one deadline of `seconds` over all but for what a new token takes.

    `until` (of the monotonic clock) ends everything. Sockets are kept for `pool_key`. `room` bounds what long answers
    take of the process's memory, until the last one is judged.
    """

    def __init__(
        self,
        provider: Provider,
        authorization: Authorization,
        shipment: Shipment,
        *,
        seconds: float,
        until: float,
        pool_key: Hashable,
        room: outbound.Room,
    ) -> None:
        self.calls: list[Call] = []
        self._provider, self._authorization, self._shipment = provider, authorization, shipment
        self._seconds, self._until, self._pool_key, self._room = seconds, until, pool_key, room

    def run(self) -> Response | Verdict:
        """The answer that decides, or the provider's verdict on all of them.

        A call whose token was refused is made again, once, with a new one. Raises Unsendable, NoTokenError and
        OutboundError.
        """
        self._authorization.prepare(self._token_until())
        ends_at = time.monotonic() + self._seconds
        exchanges: list[Exchange] = []
        following = self._next(exchanges)
        while isinstance(following, Request):
            response = self._call(following, ends_at)
            asked_at = time.monotonic()
            if self._authorization.renew_after(response, self._token_until()):
                ends_at += time.monotonic() - asked_at
            else:
                exchanges.append(Exchange(following, response))
            following = self._next(exchanges)
            if isinstance(following, Request):
                self._shorten(exchanges)
        return response if following is None else following

    @property
    def last(self) -> Call | None:
        return self.calls[-1] if self.calls else None

    @property
    def version(self) -> int:
        """Of the credentials that the last call was made with."""
        return self._authorization.version

    def redactor(self) -> Redactor:
        """For the records of these calls: it knows every secret that was opened for them."""
        return Redactor({"opened": self._authorization.opened}, *(call.request for call in self.calls))

    def steps(self, redactor: Redactor) -> list[dict[str, Any]] | None:
        """Every call as it is recorded, where there were several."""
        return [_step(call, redactor) for call in self.calls] if len(self.calls) > 1 else None

    def _next(self, exchanges: list[Exchange]) -> Request | Verdict | None:
        """The same exchanges lead to the same request, with the token of this moment."""
        if self._shipment.credentials is not self._authorization.credentials:
            self._shipment = replace(self._shipment, credentials=self._authorization.credentials)
        provider, shipment = self._provider, self._shipment
        return provider.follow(shipment, exchanges) if exchanges else provider.prepare(shipment)

    def _call(self, request: Request, ends_at: float) -> Response:
        left = min(ends_at, self._until) - time.monotonic()
        if left <= 0 or len(self.calls) == MOST_CALLS:
            raise outbound.DeadlineExceeded("The calls of this attempt took too long together.", sent=False)
        call = Call(self._provider.fitting(request))
        self.calls.append(call)
        call.response = outbound.send(
            request,
            deadline_seconds=left,
            body_limit=self._provider.answer_bytes,
            pool_key=self._pool_key,
            room=self._room,
        )
        return call.response

    def _shorten(self, exchanges: list[Exchange]) -> None:
        """Of a long answer that has led to the next call only what is recorded stays in memory."""
        last = self.calls[-1]
        if last.response is not None:
            last.response = last.response.cut(outbound.DELIVERY_BODY_LIMIT)
        if exchanges:
            exchanges[-1] = replace(exchanges[-1], response=exchanges[-1].response.cut(outbound.DELIVERY_BODY_LIMIT))

    def _token_until(self) -> float:
        return min(time.monotonic() + TOKEN_SECONDS, self._until - TOKEN_RESERVE_SECONDS)


def _step(call: Call, redactor: Redactor) -> dict[str, Any]:
    """`{method, url, request_body, status, response_body}`; without an answer status and body are null."""
    response = call.response.cut(outbound.DELIVERY_BODY_LIMIT) if call.response else None
    answered = redactor.body(response.body, is_cut=response.truncated) if response else None
    return {
        "method": call.request.method,
        "url": redactor.url(call.request.url),
        "request_body": _excerpt(redactor.body(call.request.body)),
        "status": response.status if response else None,
        "response_body": None if answered is None else _excerpt(answered),
    }


def _excerpt(body: bytes) -> str:
    return body[:STEP_BODY_BYTES].decode("utf-8", "replace").replace("\x00", "\ufffd")
