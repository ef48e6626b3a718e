"""Calls of an HTTP API while a scenario is set up: keep-alive, several at once."""

import http.client
import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from bench.rig import BenchError

Item = TypeVar("Item")
CALLERS = 6


class Api:
    """One API under one key; safe for several threads."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key
        self._of_thread = threading.local()

    def post(self, path: str, document: Any = None) -> Any:
        return self.call("POST", path, {} if document is None else document)

    def get(self, path: str) -> Any:
        return self.call("GET", path, None)

    def call(self, method: str, path: str, document: Any) -> Any:
        """Raises BenchError, with the answer, unless it is a success."""
        body = None if document is None else json.dumps(document)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        client = self._client()
        try:
            client.request(method, f"/api/v1{path}", body, headers)
            answer = client.getresponse()
            content = answer.read()
        except (http.client.HTTPException, OSError) as error:
            client.close()
            raise BenchError(f"{method} {path}: {error!r}") from error
        if not 200 <= answer.status < 300:
            raise BenchError(f"{method} {path}: {answer.status} {content[:500].decode(errors='replace')}")
        return json.loads(content) if content else None

    def _client(self) -> http.client.HTTPConnection:
        if not hasattr(self._of_thread, "client"):
            self._of_thread.client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        client: http.client.HTTPConnection = self._of_thread.client
        return client


def at_once(act: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Do it to all, several at a time. Raises the first error."""
    with ThreadPoolExecutor(CALLERS) as pool:
        for done in [pool.submit(act, item) for item in items]:
            done.result()
