"""The public API as a customer's backend uses it. Requests leave through the outbound client, as all do here."""

import json
import time
from typing import Any

from connections import outbound
from connections.messages import Request, Response

LOOPBACK = outbound.Policy.of(allow_nets=["127.0.0.0/8"], allow_http=True, ports="*")
_BODY_LIMIT = 8 * 1024 * 1024


class ApiError(Exception):
    """The API answered something else than a success; the message holds the problem it told."""


class Api:
    """One API key's view. Raises ApiError, and the outbound client's errors."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = f"{url}/api/v1", key

    def get(self, path: str) -> Any:
        return self._send("GET", path)

    def post(self, path: str, document: Any = None) -> Any:
        return self._send("POST", path, {} if document is None else document)

    def patch(self, path: str, document: Any) -> Any:
        return self._send("PATCH", path, document)

    def all(self, path: str) -> list[Any]:
        """Every item of a list, page by page."""
        items: list[Any] = []
        cursor = ""
        while True:
            mark = "&" if "?" in path else "?"
            page = self.get(f"{path}{mark}limit=200{cursor}")
            items += page["data"]
            if page["next"] is None:
                return items
            cursor = f"&cursor={page['next']}"

    def _send(self, method: str, path: str, document: Any = None) -> Any:
        headers = [("authorization", f"Bearer {self._key}"), ("accept", "application/json")]
        body = b""
        if document is not None:
            headers.append(("content-type", "application/json"))
            body = json.dumps(document).encode()
        request = Request(method, self._url + path, tuple(headers), body)
        response = _answer_to(request)
        if response.status == 429:  # a fast machine asks more often than one key may
            time.sleep(float({name.lower(): value for name, value in response.headers}.get("retry-after", 1)))
            response = _answer_to(request)
        if not 200 <= response.status < 300:
            raise ApiError(f"{method} {path}: {response.status} {response.body[:2000].decode(errors='replace')}")
        return json.loads(response.body) if response.body else None


def _answer_to(request: Request) -> Response:
    return outbound.send(request, deadline_seconds=10, body_limit=_BODY_LIMIT, policy=LOOPBACK)
