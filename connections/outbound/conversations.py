"""`requests` on top of the door, for conversations with vendors: OAuth, verification, live options."""

from collections.abc import Mapping
from http import HTTPStatus
from io import BytesIO
from typing import Any

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers

from connections.outbound.door import DEADLINE_SECONDS, send
from connections.outbound.errors import InvalidRequest, ResponseTooLarge
from connections.outbound.messages import USER_AGENT, Request, Response
from connections.outbound.policy import Policy

CONVERSATION_BODY_LIMIT = 4 * 1024 * 1024

_SET_BY_THE_DOOR = frozenset({"content-length", "connection", "accept-encoding"})


def session(deadline_seconds: float = DEADLINE_SECONDS, *, policy: Policy | None = None) -> requests.Session:
    """A `requests.Session` that goes through the door and nowhere else.

    Each request has a total deadline, which a single number as `timeout` may shorten. No redirects, whatever
    `allow_redirects` says; no cookies kept; nothing from the environment. `verify`, `cert` and `proxies` that would
    change how a connection is made are refused. Errors are those of `connections.outbound.errors`, those of
    `requests` itself for a malformed request included (InvalidRequest); a body over 4 MB is ResponseTooLarge.
    """
    made = _Session()
    made.trust_env = False
    made.headers = CaseInsensitiveDict({"User-Agent": USER_AGENT, "Accept": "*/*"})
    made.adapters.clear()
    adapter = _DoorAdapter(deadline_seconds, policy)
    for prefix in ("https://", "http://", ""):  # the last for whatever else, which the door refuses
        made.mount(prefix, adapter)
    return made


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        try:
            return super().prepare_request(request)
        except (requests.RequestException, ValueError, TypeError) as error:
            # The error's own text may quote a header or a URL, and with it a secret.
            raise InvalidRequest("The request is not well formed.", detail=type(error).__name__) from None


class _DoorAdapter(BaseAdapter):
    def __init__(self, deadline_seconds: float, policy: Policy | None) -> None:
        super().__init__()
        self._deadline_seconds = deadline_seconds
        self._policy = policy

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        if verify is not True or cert is not None or proxies:
            raise InvalidRequest("Verification, client certificates and proxies cannot be chosen per request.")
        deadline = self._deadline_seconds
        if isinstance(timeout, int | float):
            deadline = min(deadline, timeout)
        answer = send(
            _to_request(request), deadline_seconds=deadline, body_limit=CONVERSATION_BODY_LIMIT, policy=self._policy
        )
        if answer.truncated:
            limit = f"{CONVERSATION_BODY_LIMIT // 1024 // 1024} MB"
            raise ResponseTooLarge(f"The answer is larger than {limit}.", sent=True, status=answer.status)
        return _to_requests_response(answer, request)

    def close(self) -> None:
        """Nothing is kept open."""


def _to_request(prepared: requests.PreparedRequest) -> Request:
    body = prepared.body or b""
    if isinstance(body, str):
        body = body.encode()
    if not isinstance(body, bytes):
        raise InvalidRequest("The body must be bytes or text, not a stream.")
    headers = tuple(
        (_to_text(name), _to_text(value))
        for name, value in prepared.headers.items()
        if _to_text(name).lower() not in _SET_BY_THE_DOOR
    )
    return Request(prepared.method or "", prepared.url or "", headers, body)


def _to_text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _to_requests_response(answer: Response, request: requests.PreparedRequest) -> requests.Response:
    headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()
    for name, value in answer.headers:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    response = requests.Response()
    response.status_code = answer.status
    response.reason = HTTPStatus(answer.status).phrase if answer.status in _KNOWN_STATUSES else ""
    response.headers = headers
    response.encoding = get_encoding_from_headers(headers)
    response.url = request.url or ""
    response.request = request
    response.raw = BytesIO(answer.body)
    _fill(response, answer.body)
    return response


_KNOWN_STATUSES = frozenset(status.value for status in HTTPStatus)


def _fill(response: Any, body: bytes) -> None:
    """`requests` has no public way to give a response its body; these two attributes are what its own pickling sets."""
    response._content = body
    response._content_consumed = True
