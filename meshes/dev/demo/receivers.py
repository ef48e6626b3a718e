"""Customers' endpoints on loopback, each with its own temper. Each verifies the signature of every request it gets."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from standardwebhooks import Webhook, WebhookVerificationError

from meshes.dev.embedded import free_port

SLOW_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """One request that came, at a moment of the monotonic clock; written when it came (status 0) and when answered."""

    webhook_id: str
    at: float
    status: int
    verified: bool
    body: bytes


@dataclass
class Endpoint:
    """One endpoint. `secrets` are those of the connections that lead to it."""

    name: str
    temper: Callable[["Endpoint"], Awaitable[int]]
    listens: bool = True
    port: int = field(default_factory=free_port)
    secrets: list[str] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    requests: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/{self.name}"

    @property
    def arrived(self) -> dict[str, float]:
        """When each webhook-id was first answered 200."""
        first: dict[str, float] = {}
        for receipt in list(self.receipts):
            if receipt.status == 200:
                first.setdefault(receipt.webhook_id, receipt.at)
        return first


async def healthy(endpoint: Endpoint) -> int:
    """Answers at once."""
    return 200


async def slow(endpoint: Endpoint) -> int:
    """Answers after two seconds."""
    await asyncio.sleep(SLOW_SECONDS)
    return 200


async def flaky(endpoint: Endpoint) -> int:
    """Answers 503 twice, then is fine for ten requests, over and over."""
    return 503 if endpoint.requests % 12 in (1, 2) else 200


async def gone(endpoint: Endpoint) -> int:
    """Was taken down for good."""
    return 410


async def hung(endpoint: Endpoint) -> int:
    """Takes the request and never answers."""
    await asyncio.sleep(3600)
    return 0


class Receivers:
    """All endpoints, served by one thread. Use as a context."""

    def __init__(self, endpoints: list[Endpoint]) -> None:
        self._endpoints = endpoints
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="receivers", daemon=True)

    def __enter__(self) -> "Receivers":
        self._thread.start()
        for endpoint in self._endpoints:
            if endpoint.listens:
                self.open(endpoint)
        return self

    def __exit__(self, *error: object) -> None:
        for server in self._servers:
            self._loop.call_soon_threadsafe(server.close)
        asyncio.run_coroutine_threadsafe(_end_all(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def open(self, endpoint: Endpoint) -> None:
        """Begin to listen; for the dead one this is the mending."""
        starting = asyncio.start_server(lambda r, w: _serve(endpoint, r, w), "127.0.0.1", endpoint.port)
        self._servers.append(asyncio.run_coroutine_threadsafe(starting, self._loop).result(5))


async def _end_all() -> None:
    """End what still hangs."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        at = time.monotonic()
        endpoint.requests += 1
        verified = _verifies(endpoint, headers, body)
        receipt = Receipt(headers["webhook-id"], at, 0, verified, body)
        endpoint.receipts.append(receipt)
        status = await endpoint.temper(endpoint)
        endpoint.receipts.append(replace(receipt, status=status))
        writer.write(f"HTTP/1.1 {status} -\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".encode())
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
        pass  # the sender hung up: it had waited long enough; or the demo ends
    finally:
        writer.close()


def _verifies(endpoint: Endpoint, headers: dict[str, str], body: bytes) -> bool:
    for secret in endpoint.secrets:
        try:
            Webhook(secret).verify(body, headers)
        except WebhookVerificationError:
            continue
        return True
    return False
