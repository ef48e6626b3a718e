"""One conversation with a vendor: a token that is good, requests one after the other until an answer decides, and
their record without secrets. Deliveries, tests and lists of choices go this way; previews share its builder.

It touches the database through the steps that it is given alone, which renew tokens.
"""

import base64
import html
import json
import math
import re
import time
import traceback
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit, urlunsplit

from connections import outbound
from connections.messages import DELIVERY_BODY_LIMIT, NetworkError, Request, Response, Room, with_ascii_host
from connections.oauth.refresh import DIRECT, Authorization, Need, Steps
from connections.providers.base import Exchange, Provider, Shipment, Verdict
from meshes.kit import ids
from meshes.kit.clock import Reading
from workspaces.vault.secret import MASK, Secret

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

    def redactor(self) -> "Redactor":
        """For the records of these calls: it knows every secret that was opened for them."""
        opened = [self._opened] if self._authorization is None else self._authorization.opened
        return Redactor({"opened": opened}, *(call.request for call in self.calls))

    def steps(self, redactor: "Redactor") -> list[dict[str, Any]] | None:
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


def _step(call: Call, redactor: "Redactor") -> dict[str, Any]:
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


# --- without secrets ------------------------------------------------------------------------------------------------

SHORTEST_NEEDLE = 6
"""Secrets below this length are not searched for in texts: they would take ordinary words out with them."""

SHORTEST_PART = 16
"""Parts of a secret URL from this length are searched for by themselves: vendors quote the token in a webhook's URL."""

_MASK_BYTES = MASK.encode()
_CUT = "…"
"""Where a text was cut, which may have left the beginning of a secret."""
_SECRET_NAME = re.compile(r"authorization|cookie|token|secret|api-?key|password|credential|session", re.IGNORECASE)


class QuotedSecretError(Exception):
    """Stands for an exception whose text quoted a secret; `str()` is its traceback, masked."""


class Redactor:
    """Knows the secrets of one attempt and replaces them wherever they appear, also JSON- or URL-encoded.

    That is in what is written down: the request as it was sent, the answer, which may quote it, and errors.
    """

    def __init__(self, credentials: Mapping[str, Any], *requests: Request) -> None:
        """`credentials` as the vault opened them; `requests` for what was made of them, such as a Basic header."""
        secrets = set(_leaves(credentials))
        for request in requests:
            secrets |= {value.rpartition(" ")[2] for name, value in request.headers if _is_secret_name(name)}
        secrets |= {part for secret in secrets for part in _parts_of_url(secret)}
        needles = {form for secret in secrets if len(secret) >= SHORTEST_NEEDLE for form in _forms(secret)}
        self._needles = sorted(needles, key=len, reverse=True)
        self._byte_needles = [needle.encode() for needle in self._needles]

    def text(self, text: str) -> str:
        for needle in self._needles:
            text = text.replace(needle, MASK)
        if _CUT in text:
            *cut, rest = text.split(_CUT)
            text = _CUT.join([*(self._without_beginning(part) for part in cut), rest])
        return text

    def body(self, body: bytes, *, is_cut: bool = False) -> bytes:
        """`is_cut`: the body was longer, so its end may be the beginning of a secret."""
        for needle in self._byte_needles:
            body = body.replace(needle, _MASK_BYTES)
        if is_cut and (kept := _length_without_beginning(body, self._byte_needles)) < len(body):
            return body[:kept] + _MASK_BYTES
        return body

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """An exception that quotes a secret, in its own text or that of its causes, leaves as QuotedSecretError."""
        try:
            yield
        except Exception as error:
            if any(self.text(said) != said for said in _said_by(error)):
                raise QuotedSecretError(self.trace(error)) from None
            raise

    def trace(self, error: BaseException) -> str:
        """The traceback of an error, for a log."""
        return self.text("".join(traceback.format_exception(error)))

    def _without_beginning(self, text: str) -> str:
        kept = _length_without_beginning(text, self._needles)
        return text[:kept] + MASK if kept < len(text) else text

    def headers(self, headers: Iterable[tuple[str, str]]) -> list[list[str]]:
        """Pairs of name and value as a record keeps them: `Authorization: Bearer ••••`, `Set-Cookie: ••••`."""
        return [
            [name, _mask_value(name, value) if _is_secret_name(name) else self.text(value)] for name, value in headers
        ]

    def url(self, url: str) -> str:
        """The URL with every value of its query masked: readers of attempts need not know them, and many are keys.

        Its host is shown as punycode.
        """
        url = with_ascii_host(self.text(url))
        if "?" not in url:
            return url
        parts = urlsplit(url)
        query = "&".join(quote(name) + "=" + MASK for name, _ in parse_qsl(parts.query, keep_blank_values=True))
        return urlunsplit(parts._replace(query=query))


def _leaves(value: Any) -> Iterable[str]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)


def _said_by(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield "".join(traceback.format_exception_only(error))
        error = error.__cause__ or error.__context__


def _length_without_beginning(text: Any, needles: Iterable[Any]) -> int:
    """How much of a cut text (or of bytes) stays when it ends with the first characters of a needle."""
    for needle in needles:
        for length in range(min(len(needle) - 1, len(text)), SHORTEST_NEEDLE - 1, -1):
            if text.endswith(needle[:length]):
                return len(text) - length
    return len(text)


def _parts_of_url(secret: str) -> set[str]:
    """Of a secret that is a URL: path and query, the last name in the path, each value in the query."""
    scheme, _, rest = secret.partition("://")
    if scheme not in ("https", "http"):
        return set()
    path_and_query = rest.partition("/")[2]
    path, _, query = path_and_query.partition("?")
    parts = {path_and_query, path, path.rstrip("/").rpartition("/")[2], *(value for _, value in parse_qsl(query))}
    return {part for part in parts if len(part) >= SHORTEST_PART}


def _forms(secret: str) -> set[str]:
    """The secret as it is, on one line, and as JSON, Python, URLs, HTML and base64 write it."""
    return {
        secret,
        secret.removeprefix("whsec_"),
        " ".join(secret.split()),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        quote(secret, safe=""),
        quote_plus(secret),
        html.escape(secret),
        base64.b64encode(secret.encode()).decode(),
    }


@lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _mask_value(name: str, value: str) -> str:
    scheme, space, _ = value.partition(" ")
    return f"{scheme} {MASK}" if space and name.lower().endswith("authorization") else MASK
