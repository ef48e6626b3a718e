"""Names to addresses, in bounded time.

`getaddrinfo` cannot be interrupted, so it runs in other threads and the caller waits only until its deadline, and for
at most LOOKUP_SECONDS. A thread whose caller has gone ends when the system's resolver gives up (by default after 10 to
30 seconds). Two rules keep such threads from piling up. A name that is being looked up is joined, not looked up twice,
so a hung name holds one thread however often it is dialled. And the threads are limited, to more than a process has
senders, so that hung names take no more than the slots of their own deliveries; at the limit a caller waits, again
until its deadline, and then the fault is ours. The threads are daemons: none delays the end of the process.
"""

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from connections.outbound.errors import DoorFailed, ResolveFailed, ResolveTimedOut
from connections.outbound.faults import is_ours

LOOKUP_SECONDS = 5.0
"""How long a request waits for its name, at most: so much of its deadline is left to try the addresses in."""
MAX_LOOKUPS = 256
LOOKUP_DESCRIPTORS = 8
"""So many file descriptors a lookup may have open at once: a library and its file, or a socket for each name server."""
IDLE_SECONDS = 10.0
"""How long a thread waits for another lookup before it ends."""


LOCALHOST = "127.0.0.1"


def system_lookup(host: str) -> list[str]:
    """The addresses of a name, in the order in which the system would try them. Raises OSError when there are none.

    Every name is looked up as absolute, with a final dot, so that no search domain is added to it, and no short name
    of `/etc/hosts` is found. `localhost` is this machine (RFC 6761, section 6.3), whatever the system says.
    """
    if is_localhost(host):
        return [LOCALHOST]
    records = socket.getaddrinfo(f"{host}.".encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(record[4][0]) for record in records))


def is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


Find = Callable[[str], Sequence[str]]


@dataclass(slots=True, eq=False)
class _Lookup:
    """One lookup under way. Its answer is empty when there is no address, DoorFailed where it could not be asked."""

    find: Find
    host: str
    answer: "Future[tuple[str, ...] | DoorFailed]" = field(default_factory=Future)


class Lookups:
    """The lookups under way in a process, and the threads that run them."""

    def __init__(self, limit: int = MAX_LOOKUPS) -> None:
        self._places = threading.Semaphore(limit)
        self._lock = threading.Lock()
        self._under_way: dict[tuple[Find, str], _Lookup] = {}
        self._handed_over: queue.SimpleQueue[_Lookup] = queue.SimpleQueue()
        self._idle_threads = 0

    def find(self, find: Find, host: str, seconds: float) -> tuple[str, ...]:
        """The addresses of a host, at least one.

        Raises ResolveFailed, DoorFailed, and ResolveTimedOut after `seconds`.
        """
        until = time.monotonic() + seconds
        lookup = self._join_or_start(find, host, seconds)
        try:
            found = lookup.answer.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            words = "The host name could not be looked up in the time allowed."
            raise ResolveTimedOut(words, detail=f"lookup of {host}") from None
        if isinstance(found, DoorFailed):
            raise DoorFailed(found.words, detail=found.detail)  # one of its own for each caller that waited
        if not found:
            raise ResolveFailed("The host name could not be found.", detail=f"{host} has no address")
        return found

    def _join_or_start(self, find: Find, host: str, seconds: float) -> _Lookup:
        with self._lock:
            if running := self._under_way.get((find, host)):
                return running
        if not self._places.acquire(timeout=max(0.0, seconds)):
            raise _failed("so many lookups hang that there is no place for another")
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
            error = _failed("the system gives no threads")
            self._finish(lookup, error, idle_threads=0)
            raise error from None

    def _work(self, first: _Lookup) -> None:
        """The life of a thread: lookups, as long as they come."""
        lookup: _Lookup | None = first
        while lookup is not None:
            found: tuple[str, ...] | DoorFailed = _failed("the lookup broke")
            survived = False
            try:
                found = tuple(lookup.find(lookup.host))
                survived = True
            except (OSError, UnicodeError) as error:
                found = _judge(error)
                survived = True
            finally:
                self._finish(lookup, found, idle_threads=int(survived))
            lookup = self._wait_for_next()

    def _finish(self, lookup: _Lookup, found: tuple[str, ...] | DoorFailed, *, idle_threads: int) -> None:
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


def _judge(error: OSError | UnicodeError) -> tuple[str, ...] | DoorFailed:
    """No address, or, where this machine had no means to ask, a fault of ours.

    Without file descriptors the system's resolver reads none of its files and opens no socket, and then says that there
    is no such name.
    """
    number = getattr(error, "errno", None)
    if number == socket.EAI_MEMORY if isinstance(error, socket.gaierror) else is_ours(number):
        return _failed(str(error))
    return _failed("no file descriptors are left") if _lacks_descriptors() else ()


def _lacks_descriptors() -> bool:
    opened: list[int] = []
    try:
        opened += [os.open(os.devnull, os.O_RDONLY) for _ in range(LOOKUP_DESCRIPTORS)]
    except OSError:
        return True
    finally:
        for each in opened:
            os.close(each)
    return False


def _failed(detail: str) -> DoorFailed:
    return DoorFailed("The host name could not be looked up, through no fault of the receiver.", detail=detail)


_lookups = Lookups()


def find_addresses(find: Find, host: str, seconds: float) -> tuple[str, ...]:
    """`Lookups.find` of this process, for at most LOOKUP_SECONDS."""
    return _lookups.find(find, host, min(seconds, LOOKUP_SECONDS))


def _forget_after_fork() -> None:
    """A child has none of its parent's threads, and would wait for their lookups and their lock in vain."""
    global _lookups  # noqa: PLW0603 - the one state of this module, replaced whole
    _lookups = Lookups()


os.register_at_fork(after_in_child=_forget_after_fork)
