"""One conversation with a vendor: a token that is good, requests one after the other until an answer decides, and
their record without secrets. Deliveries, tests and lists of choices go this way; previews share its builder.

It touches the database through the steps that it is given alone, which renew tokens.
"""

import math
import time
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from connections import outbound
from connections.masking import Redactor
from connections.messages import DELIVERY_BODY_LIMIT, NetworkError, Request, Response, Room
from connections.oauth.refresh import DIRECT, Authorization, Need, Steps
from connections.providers.base import Exchange, Provider, Shipment, Verdict
from meshes.kit import ids
from meshes.kit.clock import Reading

MOST_CALLS = 5
"""Of one attempt; no action declares as many."""
STEP_BODY_BYTES = 4096
"""Of a step's request and of its answer as much is recorded."""
TOKEN_SECONDS = 15.0
"""For a new token, where one is needed, waiting for another worker's included."""
TOKEN_RESERVE_SECONDS = 5.0
"""Left after that for the request that needs it."""

Build = Callable[[Mapping[str, Any], Sequence[Exchange]], Request | Verdict | None]
"""The next request, by the credentials of this moment and the exchanges so far. None: the last answer decides, or there
is nothing to ask; a verdict is one on all of them. The same exchanges lead to the same request."""


@dataclass(slots=True)
class Call:
    """One request of a conversation, and its answer if one came."""

    request: Request
    response: Response | None = None


class Conversation:
    """Calls as they are made, one deadline of `seconds` over all but for what a new token takes.

    `credentials` are of the version that `need` names, and belong to `config`; tokens live by `clock`, PostgreSQL's.
    With `fresh_after_renewal` a call that is made again has the `seconds` anew. `until` (of the monotonic clock) ends
    everything. Sockets are kept for `pool_key`. `room` bounds what long answers take of the process's memory, until the
    last one is judged.
    """

    def __init__(
        self,
        provider: Provider,
        need: Need,
        config: Mapping[str, Any],
        credentials: Mapping[str, Any],
        clock: Reading,
        steps: Steps = DIRECT,
        *,
        seconds: float,
        until: float = math.inf,
        fresh_after_renewal: bool = False,
        pool_key: Hashable = None,
        room: Room | None = None,
    ) -> None:
        self.calls: list[Call] = []
        self._provider, self._version, self._opened = provider, need.version, credentials
        self._authorization: Authorization | None = None
        if provider.oauth is not None and provider.oauth.gives_tokens(config, credentials):
            self._authorization = Authorization(need, provider, config, credentials, clock, steps)
        self._seconds, self._until, self._fresh_after_renewal = seconds, until, fresh_after_renewal
        self._pool_key, self._room = pool_key, room

    def run(self, build: Build) -> Response | Verdict | None:
        """The answer that decides, or the provider's verdict on all of them; None where nothing was asked.

        A call whose token was refused is made again, once, with a new one. Raises NoTokenError, OutboundError, and what
        `build` raises.
        """
        if self._authorization is not None:
            self._authorization.prepare(self._token_until())
        ends_at = time.monotonic() + self._seconds
        exchanges: list[Exchange] = []
        response: Response | None = None
        following = build(self.credentials, exchanges)
        while isinstance(following, Request):
            response = self._call(following, ends_at)
            asked_at = time.monotonic()
            if self._authorization is not None and self._authorization.renew_after(response, self._token_until()):
                now = time.monotonic()
                ends_at = now + self._seconds if self._fresh_after_renewal else ends_at + now - asked_at
            else:
                exchanges.append(Exchange(following, response))
            following = build(self.credentials, exchanges)
            if isinstance(following, Request):  # of a long answer before it only what is recorded stays in memory
                self.calls[-1].response = response.cut(DELIVERY_BODY_LIMIT)
                if exchanges:
                    cut = exchanges[-1].response.cut(DELIVERY_BODY_LIMIT)
                    exchanges[-1] = replace(exchanges[-1], response=cut)
        return response if following is None else following

    @property
    def last(self) -> Call | None:
        return self.calls[-1] if self.calls else None

    @property
    def credentials(self) -> Mapping[str, Any]:
        """As they are at this moment."""
        return self._opened if self._authorization is None else self._authorization.credentials

    @property
    def version(self) -> int:
        """Of the credentials that the last call was made with."""
        return self._version if self._authorization is None else self._authorization.version

    def redactor(self) -> Redactor:
        """For the records of these calls: it knows every secret that was opened for them."""
        opened = [self._opened] if self._authorization is None else self._authorization.opened
        return Redactor({"opened": opened}, *(call.request for call in self.calls))

    def steps(self, redactor: Redactor) -> list[dict[str, Any]] | None:
        """Every call as it is recorded, where there were several."""
        return [_step(call, redactor) for call in self.calls] if len(self.calls) > 1 else None

    def _call(self, request: Request, ends_at: float) -> Response:
        left = min(ends_at, self._until) - time.monotonic()
        if left <= 0 or len(self.calls) == MOST_CALLS:
            raise NetworkError("timeout", "The calls of this attempt took too long together.")
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

    def _token_until(self) -> float:
        return min(time.monotonic() + TOKEN_SECONDS, self._until - TOKEN_RESERVE_SECONDS)


def _step(call: Call, redactor: Redactor) -> dict[str, Any]:
    """`{method, url, request_body, status, response_body}`; without an answer status and body are null."""
    response = call.response.cut(DELIVERY_BODY_LIMIT) if call.response else None
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


def shipment_of(
    provider: Provider,
    config: Mapping[str, Any],
    credentials: Mapping[str, Any],
    *,
    delivery_id: uuid.UUID,
    event_id: uuid.UUID,
    event_type: str,
    occurred_at: datetime,
    body: str,
    action: str,
    now: datetime,
    frozen: Mapping[str, Any] | None = None,
    attempt_number: int = 1,
    replay: str = "",
) -> Shipment:
    """What a provider builds a request from. `frozen`: as stored with a delivery; None: as the config is now."""
    return Shipment(
        delivery_id=ids.encode(ids.DELIVERY, delivery_id),
        event_id=ids.encode(ids.EVENT, event_id),
        event_type=event_type,
        occurred_at=occurred_at,
        body=body,
        action=action,
        config=config,
        frozen=provider.frozen_config(config) if frozen is None else frozen,
        credentials=credentials,
        attempt_number=attempt_number,
        now=now,
        replay=replay,
    )
