"""`requests` on top of the client, for conversations with vendors: OAuth, verification, live options."""

from collections.abc import Mapping
from http import HTTPStatus

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers

from connections.messages import USER_AGENT, NetworkError, Request, RequestRefusedError
from connections.outbound.client import DEADLINE_SECONDS, send
from connections.outbound.guard import Policy

SESSION_BODY_LIMIT = 4 * 1024 * 1024

_SET_BY_THE_CLIENT = frozenset({"content-length", "connection", "accept-encoding"})
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def session(deadline_seconds: float = DEADLINE_SECONDS, *, policy: Policy | None = None) -> requests.Session:
    """A `requests.Session` that goes through the client and nowhere else.

    Each request has a total deadline, which a single number as `timeout` may shorten. No redirects, whatever
    `allow_redirects` says; no cookies kept; nothing from the environment. `verify`, `cert` and `proxies` that would
    change how a connection is made are refused. Errors are those of `connections.messages`, those of `requests` itself
    for a malformed request included (`invalid_request`); a body over 4 MB is `response_too_large`. The `raw` of an
    answer is our Response.
    """
    made = _Session()
    made.trust_env = False
    made.headers = CaseInsensitiveDict({"User-Agent": USER_AGENT, "Accept": "*/*"})
    made.adapters.clear()
    adapter = _ClientAdapter(deadline_seconds, policy)
    for prefix in ("https://", "http://", ""):  # the last for whatever else, which the client refuses
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
            detail = type(error).__name__
            raise RequestRefusedError("invalid_request", "The request is not well formed.", detail=detail) from None


class _ClientAdapter(BaseAdapter):
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
            message = "Verification, client certificates and proxies cannot be chosen per request."
            raise RequestRefusedError("invalid_request", message)
        body = (request.body or b"") if not isinstance(request.body, str) else request.body.encode()
        if not isinstance(body, bytes):
            raise RequestRefusedError("invalid_request", "The body must be bytes or text, not a stream.")
        pairs = [(_to_text(name), _to_text(value)) for name, value in request.headers.items()]
        headers = tuple(pair for pair in pairs if pair[0].lower() not in _SET_BY_THE_CLIENT)
        answer = send(
            Request(request.method or "", request.url or "", headers, body),
            deadline_seconds=min(
                self._deadline_seconds, timeout if isinstance(timeout, int | float) else self._deadline_seconds
            ),
            body_limit=SESSION_BODY_LIMIT,
            policy=self._policy,
        )
        if answer.truncated:
            message = f"The answer is larger than {SESSION_BODY_LIMIT // 1024 // 1024} MB."
            raise NetworkError("response_too_large", message, sent=True, status=answer.status)
        response = requests.Response()
        response.status_code, response.reason = answer.status, _PHRASES.get(answer.status, "")
        for name, value in answer.headers:
            response.headers[name] = f"{response.headers[name]}, {value}" if name in response.headers else value
        response.encoding = get_encoding_from_headers(response.headers)
        response.url, response.request = request.url or "", request
        # `requests` has no public way to give a response its body; these are what its own pickling sets.
        vars(response).update(raw=answer, _content=answer.body, _content_consumed=True)
        return response

    def close(self) -> None:
        """Nothing is kept open."""


def _to_text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
