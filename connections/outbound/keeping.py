"""Handles of libcurl between requests, and the sockets that they keep open for a while.

A socket is kept for one owner at one place: whoever asks for it names both, and gets none of another. What is kept is
checked again before it is used (`door`), and used only if it is the very socket that was kept (`dial`).
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

import pycurl

from connections.outbound.addresses import Address
from connections.outbound.errors import DoorFailed

IDLE_SECONDS = 30.0
"""How long a socket is kept unused, at most; a receiver that announces less (`Keep-Alive: timeout=5`) is believed."""
MARGIN_SECONDS = 1.0
"""So much before the receiver would close it, a socket is given up: else requests would meet it closing."""
MOST_HANDLES = 256
"""Idle handles of a process, and so its idle sockets. Each that has spoken TLS keeps 0.7 MB of parsed authorities."""
MOST_PLACES = 100
"""Places whose TLS sessions one handle may keep; then it is thrown away."""


SHUN_SECONDS = 600.0
"""How long nothing is kept for a place that closed a socket in the face of a request, or soon after an answer."""
SOON_SECONDS = 2.0
MOST_SHUNNED = 10_000


class Key(NamedTuple):
    """For whom a socket is kept, and to where."""

    owner: Hashable
    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Kept:
    """An open socket: its two ends, its time, and our duplicate of it, by which it can be closed from outside.

    `remote` is the address as libcurl writes it.
    """

    key: Key
    address: Address
    remote: str
    local_port: int
    since: float
    until: float
    socket: socket.socket

    def is_silent(self) -> bool:
        """Whether the receiver has neither closed it nor sent what nobody asked for. libcurl looks only after a second
        or more (and then dials anew, which is not its to decide)."""
        try:
            self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Ends the TCP connection; libcurl finds its own duplicate dead."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Handle:
    """A libcurl handle that is used again.

    `reset` before it is put back leaves the parsed CA file (4 ms of CPU a request), the pinned name, which the next
    dial removes, the socket, and TLS sessions; the last two are for their owner alone.
    """

    def __init__(self) -> None:
        self.curl = pycurl.Curl()
        self.pinned: str | None = None
        self.kept: Kept | None = None
        self._sessions: dict[tuple[str, int], Hashable] = {}

    def may_resume(self, key: Key) -> bool:
        """Whether TLS sessions at this place may be kept and resumed: not where one of another owner may be kept."""
        return self._sessions.setdefault((key.host, key.port), key.owner) == key.owner

    @property
    def is_worn(self) -> bool:
        return len(self._sessions) >= MOST_PLACES

    def drop(self) -> None:
        """Close the socket that is kept, if there is one."""
        if self.kept is not None:
            self.kept.close()
            self.kept = None


class Handles:
    """The idle handles of a process, the latest last. While any keeps a socket, a thread closes those that are due."""

    def __init__(self, most: int = MOST_HANDLES) -> None:
        self._most = most
        self._idle: dict[Handle, None] = {}
        self._kept: dict[Key, list[Handle]] = {}
        self._shunned: dict[Key, float] = {}
        self._lock = threading.Lock()
        self._closing: threading.Thread | None = None

    def take_kept(self, key: Key) -> Handle | None:
        """The handle whose socket was kept for this key last, unless its time is up or its receiver closed it."""
        with self._lock:
            handles = self._kept.get(key)
            while handles:
                handle = handles[-1]
                self._remove(handle)
                if handle.kept is not None and self._is_usable(handle.kept, time.monotonic()):
                    return handle
                handle.drop()
                self._idle[handle] = None
        return None

    def _is_usable(self, kept: Kept, now: float) -> bool:
        if kept.until <= now:
            return False
        is_silent = kept.is_silent()
        if not is_silent and now - kept.since < SOON_SECONDS:
            self._shun(kept.key)
        return is_silent

    def take(self) -> Handle:
        """Any handle: one that keeps nothing, else a new one, else the one that has kept its socket for longest."""
        with self._lock:
            for handle in reversed(self._idle):
                if handle.kept is None:
                    del self._idle[handle]
                    return handle
            if len(self._idle) < self._most:
                return _new_handle()
            handle = next(iter(self._idle))
            self._remove(handle)
        handle.drop()
        return handle

    def put(self, handle: Handle) -> None:
        """Give a handle back, after its `reset`."""
        if handle.is_worn:
            handle.drop()
            return
        surplus = None
        with self._lock:
            if len(self._idle) >= self._most:
                surplus = next(iter(self._idle))
                self._remove(surplus)
            if handle.kept is not None and self._shunned.get(handle.kept.key, 0.0) > time.monotonic():
                handle.drop()
            self._idle[handle] = None
            if handle.kept is not None:
                self._kept.setdefault(handle.kept.key, []).append(handle)
                self._ensure_closing()
        if surplus is not None:
            surplus.drop()

    def shun(self, key: Key) -> None:
        """Keep nothing there for a while: its receiver closes sockets and does not say so."""
        with self._lock:
            self._shun(key)

    def _shun(self, key: Key) -> None:
        if len(self._shunned) >= MOST_SHUNNED:
            self._shunned.clear()
        self._shunned[key] = time.monotonic() + SHUN_SECONDS

    def count_kept(self) -> int:
        """How many sockets are kept."""
        with self._lock:
            return sum(len(handles) for handles in self._kept.values())

    def _remove(self, handle: Handle) -> None:
        del self._idle[handle]
        if handle.kept is not None:
            siblings = self._kept[handle.kept.key]
            siblings.remove(handle)
            if not siblings:
                del self._kept[handle.kept.key]

    def _ensure_closing(self) -> None:
        """Without a thread what is kept stays until the next request or its receiver ends it."""
        if self._closing is None:
            closing = threading.Thread(target=self._close_in_time, name="outbound-idle", daemon=True)
            with contextlib.suppress(RuntimeError):  # the system gives no threads now
                closing.start()
                self._closing = closing

    def _close_in_time(self) -> None:
        """The life of the closing thread: it ends when nothing is kept."""
        while True:
            time.sleep(MARGIN_SECONDS)
            with self._lock:
                self._close_overdue(time.monotonic())
                if not self._kept:
                    self._closing = None
                    return

    def _close_overdue(self, now: float) -> None:
        overdue = [handle for handles in self._kept.values() for handle in handles if _is_overdue(handle, now)]
        for handle in overdue:
            self._remove(handle)
            handle.drop()
            self._idle[handle] = None


def _new_handle() -> Handle:
    """Raises DoorFailed."""
    try:
        return Handle()
    except (pycurl.error, MemoryError) as error:
        words = "The request could not be sent, through no fault of the receiver."
        raise DoorFailed(words, detail=f"no handle of libcurl: {error}") from None


def _is_overdue(handle: Handle, now: float) -> bool:
    return handle.kept is not None and handle.kept.until <= now


_handles = Handles()
_of_parents: list[Handles] = []
"""A child leaves its parent's handles alone: closing one would end the TLS connection that the parent goes on using."""


def idle_handles() -> Handles:
    """Those of this process."""
    return _handles


def _start_anew_after_fork() -> None:
    global _handles  # noqa: PLW0603 - the one state of this module, replaced whole
    _of_parents.append(_handles)
    _handles = Handles()


os.register_at_fork(after_in_child=_start_anew_after_fork)
