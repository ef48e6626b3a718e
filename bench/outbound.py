"""The outbound client: threads that each send for themselves, against one curl-multi I/O thread for all of them.

    python -m bench.outbound [--requests 6000] [--runs 3] [--delay-ms 20] [--json bench/results/outbound.json]

Both send the same POST, as large as a signed webhook, with the client's own options, from 32, 64 and 128 threads (a
Celery pool has its threads in either case) to 50 destinations on a receiver in a process of its own, which answers
after a delay. The ways take turns; of each the median is shown. CPU is that of this process, per request.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import queue
import select
import socket
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pycurl

from connections.messages import Request, ResponseReader, parse_url
from connections.outbound import Policy, send
from connections.outbound.client import Handle, Transfer
from meshes.dev.children import stop_on_signals

POLICY = Policy.of(allow_nets=["127.0.0.0/8"], allow_http=True, ports="*")
HEADERS = (("content-type", "application/json"), ("webhook-id", "dlv_0"), ("webhook-signature", "v1,abc"))
BODY = json.dumps({"type": "lead.created", "data": {"email": "ada@example.com", "text": "x" * 300}}).encode()
DESTINATIONS = 50


@dataclass(frozen=True, slots=True)
class Figure:
    way: str
    threads: int
    requests_per_second: float
    cpu_us: float


class Multi:
    """One I/O thread for all transfers of a process: `send` hands one in and waits for its end."""

    def __init__(self) -> None:
        self._multi = pycurl.CurlMulti()
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = socket.socketpair()
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._new: queue.SimpleQueue[tuple[Transfer, Handle, threading.Lock]] = queue.SimpleQueue()
        self._running: dict[pycurl.Curl, tuple[Any, threading.Lock]] = {}
        self._free: list[Handle] = []
        self._timeout = 1.0
        self._asleep = False
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, 512)
        threading.Thread(target=self._serve, daemon=True).start()

    def send(self, transfer: Transfer) -> None:
        done = threading.Lock()
        done.acquire()
        handle = self._free.pop() if self._free else Handle()
        self._new.put((transfer, handle, done))
        if self._asleep:
            self._wake_write.send(b"x")
        done.acquire()
        handle.curl.reset()
        self._free.append(handle)

    def _watch(self, event: int, fd: int, multi: Any, data: Any) -> None:
        wanted = {pycurl.POLL_IN: select.EPOLLIN, pycurl.POLL_OUT: select.EPOLLOUT, pycurl.POLL_INOUT: 5}
        try:
            if event == pycurl.POLL_REMOVE:
                self._epoll.unregister(fd)
            else:
                self._epoll.modify(fd, wanted[event])
        except FileNotFoundError:
            if event != pycurl.POLL_REMOVE:
                self._epoll.register(fd, wanted[event])

    def _set_timer(self, milliseconds: int) -> None:
        self._timeout = 1.0 if milliseconds < 0 else milliseconds / 1000

    def _serve(self) -> None:
        while True:
            self._asleep = self._new.empty()
            events = self._epoll.poll(self._timeout if self._asleep else 0)
            self._asleep = False
            for fd, event in events:
                if fd == self._wake_read.fileno():
                    self._wake_read.recv(4096)
                    continue
                mask = (event & select.EPOLLIN and pycurl.CSELECT_IN) | (event & select.EPOLLOUT and pycurl.CSELECT_OUT)
                self._multi.socket_action(fd, mask or pycurl.CSELECT_IN)
            if not events:
                self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            self._start_new()
            self._release_done()

    def _start_new(self) -> None:
        while not self._new.empty():
            transfer, handle, done = self._new.get()
            transfer.prepare(handle, (ip_address("127.0.0.1"),))
            handle.curl.setopt(pycurl.FRESH_CONNECT, 0)
            handle.curl.setopt(pycurl.MAXCONNECTS, 512)
            self._running[handle.curl] = (transfer, done)
            self._multi.add_handle(handle.curl)
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def _release_done(self) -> None:
        _, good, bad = self._multi.info_read()
        assert not bad, bad
        for curl in good:
            transfer, done = self._running.pop(curl)
            assert curl.getinfo(pycurl.RESPONSE_CODE) == 200
            self._multi.remove_handle(curl)
            for opened in transfer._sockets:
                opened.close()
            done.release()


def receive(port: int, delay_seconds: float) -> None:
    """The receiver's process: 200 to every request, after the delay."""

    class Answering(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.waiting = transport, b""

        def data_received(self, data: bytes) -> None:
            self.waiting += data
            _, found, body = self.waiting.partition(b"\r\n\r\n")
            if found and len(body) >= len(BODY):
                self.waiting = b""
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                asyncio.get_running_loop().call_later(delay_seconds, self.transport.write, answer)

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", port, backlog=1024)
        await server.serve_forever()

    asyncio.run(serve())


def transfer_of(base: str, number: int) -> Transfer:
    place = number % DESTINATIONS
    target = parse_url(f"{base}/{place}")
    request = Request("POST", target.url, HEADERS, BODY)
    return Transfer(request, target, POLICY, time.monotonic() + 15, ResponseReader(65536), ("workspace", place))


def measure(way: str, threads: int, requests: int, run: Callable[[int], Any]) -> Figure:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(threads * 4)))
        wall, cpu = time.perf_counter(), time.process_time()
        list(pool.map(run, range(requests)))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Figure(way, threads, requests / wall, cpu / requests * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--delay-ms", type=float, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    receiver = multiprocessing.Process(target=receive, args=(port, options.delay_ms / 1000), daemon=True)
    receiver.start()
    time.sleep(0.5)
    base, multi, figures = f"http://127.0.0.1:{port}", Multi(), []

    def by_client(number: int) -> None:
        url = f"{base}/{number % DESTINATIONS}"
        pool_key = ("workspace", number % DESTINATIONS)
        send(Request("POST", url, HEADERS, BODY), policy=POLICY, pool_key=pool_key)

    ways: dict[str, Callable[[int], Any]] = {
        "threads": by_client,
        "multi": lambda number: multi.send(transfer_of(base, number)),
    }
    stop_on_signals()
    try:
        for _, threads, way in itertools.product(range(options.runs), (32, 64, 128), ways):
            figures.append(measure(way, threads, options.requests, ways[way]))
            print(figures[-1], flush=True)
    finally:
        receiver.kill()
    show(figures, options.json)


def show(figures: list[Figure], file: Path | None) -> None:
    medians = []
    for threads, way in itertools.product((32, 64, 128), ("threads", "multi")):
        these = [each for each in figures if (each.threads, each.way) == (threads, way)]
        rate = statistics.median(each.requests_per_second for each in these)
        medians.append(Figure(way, threads, round(rate), round(statistics.median(each.cpu_us for each in these))))
    for each in medians:
        print(f"{each.way:8} {each.threads:4} threads: {each.requests_per_second:6.0f}/s, {each.cpu_us:4.0f} µs CPU")
    if file:
        file.write_text(json.dumps({"cpus": os.cpu_count(), "figures": [asdict(each) for each in medians]}, indent=1))


if __name__ == "__main__":
    main()
