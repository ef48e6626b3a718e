"""Names to addresses, in bounded time.

`getaddrinfo` cannot be interrupted, so it runs in other threads and the caller waits only until its deadline. A
thread whose caller has gone ends when the system's resolver gives up (by default after 10 to 30 seconds). Two rules
keep such threads from piling up. A name that is being looked up is joined, not looked up twice, so a hung name holds
one thread however often it is dialled. And the threads are limited, to more than a process has senders, so that hung
names take no more than the slots of their own deliveries; at the limit a caller waits, again until its deadline. The
threads are daemons: none delays the end of the process.
"""

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from connections.outbound.errors import DeadlineExceeded, DoorFailed, ResolveFailed

MAX_LOOKUPS = 256
IDLE_SECONDS = 10.0
"""How long a thread waits for another lookup before it ends."""


def system_lookup(host: str) -> list[str]:
    """The addresses of a name, in the order in which the system would try them. Raises OSError when there are none.

    A name with a full stop is looked up as absolute, with a final dot, so that no search domain is added to it.
    """
    name = f"{host}." if "." in host else host
    records = socket.getaddrinfo(name.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(record[4][0]) for record in records))


Find = Callable[[str], Sequence[str]]


@dataclass(slots=True, eq=False)
class _Lookup:
    """One lookup under way. Its answer is empty when there is no address."""

    find: Find
    host: str
    answer: "Future[tuple[str, ...]]" = field(default_factory=Future)


class Lookups:
    """The lookups under way in a process, and the threads that run them."""

    def __init__(self, limit: int = MAX_LOOKUPS) -> None:
        self._places = threading.Semaphore(limit)
        self._lock = threading.Lock()
        self._under_way: dict[tuple[Find, str], _Lookup] = {}
        self._handed_over: queue.SimpleQueue[_Lookup] = queue.SimpleQueue()
        self._idle_threads = 0

    def find(self, find: Find, host: str, seconds: float) -> tuple[str, ...]:
        """The addresses of a host, at least one. Raises ResolveFailed, or DeadlineExceeded after `seconds`."""
        until = time.monotonic() + seconds
        lookup = self._join_or_start(find, host, seconds)
        try:
            found = lookup.answer.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            raise _too_slow(host) from None
        if not found:
            raise ResolveFailed("The host name could not be found.", detail=f"{host} has no address")
        return found

    def _join_or_start(self, find: Find, host: str, seconds: float) -> _Lookup:
        with self._lock:
            if running := self._under_way.get((find, host)):
                return running
        if not self._places.acquire(timeout=max(0.0, seconds)):
            raise _too_slow(host)
        with self._lock:
            if running := self._under_way.get((find, host)):
                self._places.release()
                return running
            lookup = self._under_way[find, host] = _Lookup(find, host)
            reuse = self._idle_threads > 0
            self._idle_threads -= reuse
        if reuse:
            self._handed_over.put(lookup)
        else:
            self._start_thread(lookup)
        return lookup

    def _start_thread(self, lookup: _Lookup) -> None:
        try:
            threading.Thread(target=self._work, args=(lookup,), name="outbound-lookup", daemon=True).start()
        except RuntimeError:
            self._finish(lookup, (), idle_threads=0)
            raise DoorFailed("The host name could not be looked up.", detail="the system gives no threads") from None

    def _work(self, first: _Lookup) -> None:
        """The life of a thread: lookups, as long as they come."""
        lookup: _Lookup | None = first
        while lookup is not None:
            found: tuple[str, ...] = ()
            survived = False
            try:
                found = tuple(lookup.find(lookup.host))
                survived = True
            except (OSError, UnicodeError):
                survived = True  # the empty answer says that there is no address
            finally:
                self._finish(lookup, found, idle_threads=int(survived))
            lookup = self._wait_for_next()

    def _finish(self, lookup: _Lookup, found: tuple[str, ...], *, idle_threads: int) -> None:
        """Counts the thread as idle before the answer is out, so that the next lookup finds it."""
        with self._lock:
            del self._under_way[lookup.find, lookup.host]
            self._idle_threads += idle_threads
        self._places.release()
        lookup.answer.set_result(found)

    def _wait_for_next(self) -> _Lookup | None:
        try:
            return self._handed_over.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            with self._lock:
                if self._idle_threads > 0:
                    self._idle_threads -= 1
                    return None
            return self._handed_over.get()  # somebody counted on this thread in that very moment


def _too_slow(host: str) -> DeadlineExceeded:
    return DeadlineExceeded("The host name could not be looked up in the time allowed.", detail=f"lookup of {host}")


_lookups = Lookups()


def find_addresses(find: Find, host: str, seconds: float) -> tuple[str, ...]:
    """`Lookups.find` of this process."""
    return _lookups.find(find, host, seconds)


def _forget_after_fork() -> None:
    """A child has none of its parent's threads, and would wait for their lookups and their lock in vain."""
    global _lookups  # noqa: PLW0603 - the one state of this module, replaced whole
    _lookups = Lookups()


os.register_at_fork(after_in_child=_forget_after_fork)
