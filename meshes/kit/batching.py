"""Group commit: the threads of a process share batches, so that a database connection and an fsync are shared too.

Each thread submits an item and waits; one thread of the group's own runs the batch in one transaction; then all are
released. While one batch runs the next one gathers, so an item that comes alone waits for no timer. Under load, which
is to say after a batch of several, the next one gathers a few milliseconds longer.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from django.db import Error, close_old_connections

from meshes.kit.database_faults import passes

logger = logging.getLogger(__name__)

CHECKED_SECONDS = 1.0
"""How long a database connection that was found alive is trusted: under load no batch pays for asking."""

GATHER_SECONDS = 0.004
"""After a batch of several the next one gathers for so long: under load half as many statements."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def rows_of(template: str, rows: Sequence[Sequence[Any]]) -> tuple[str, list[Any]]:
    """The rows of a VALUES list: its text, one `template` such as `(%s::uuid, %s)` a row, and its parameters."""
    return ", ".join([template] * len(rows)), [value for row in rows for value in row]


class _Waiting(Generic[Item, Answer]):
    """An item whose thread waits. `done` is locked until there is an answer: a bare lock, the cheapest way to wait."""

    __slots__ = ("answer", "done", "error", "item")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.done = threading.Lock()
        self.done.acquire()
        self.answer: Answer | None = None
        self.error: Exception | None = None


class Group(Generic[Item, Answer]):
    """One kind of batch. `run` takes a list of items and returns as many answers, in their order.

    A batch that raises is run again item by item, so that a poisoned item hurts only itself; `submit` then raises what
    its own item raised. So is a lone item whose database connection was lost: `run` must bear being run twice.
    """

    def __init__(self, name: str, run: Callable[[list[Item]], Sequence[Answer]], most: int = 128) -> None:
        self._name, self._run, self._most = name, run, most
        self._waiting: SimpleQueue[_Waiting[Item, Answer]] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._checked_at = 0.0

    def submit(self, item: Item) -> Answer:
        """Hand in one item and wait for its answer. Raises what `run` raised for it."""
        waiting: _Waiting[Item, Answer] = _Waiting(item)
        self._waiting.put(waiting)
        if self._thread is None or not self._thread.is_alive():
            with self._starting:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._serve, name=f"group-{self._name}", daemon=True)
                    self._thread.start()
        waiting.done.acquire()
        if waiting.error is not None:
            raise waiting.error
        return waiting.answer  # type: ignore[return-value]  # set whenever there is no error

    def _serve(self) -> None:
        while True:
            batch = [self._waiting.get()]
            with suppress(Empty):
                while len(batch) < self._most:
                    batch.append(self._waiting.get_nowait())
            if time.monotonic() - self._checked_at > CHECKED_SECONDS:
                close_old_connections()
                self._checked_at = time.monotonic()
            self._run_batch(batch)
            for waiting in batch:
                waiting.done.release()
            if len(batch) > 1:
                time.sleep(GATHER_SECONDS)

    def _run_batch(self, batch: list[_Waiting[Item, Answer]]) -> None:
        try:
            self._answer(batch)
        except Exception as error:  # noqa: BLE001  (handed to the threads that wait)
            close_old_connections()  # one that was lost is replaced
            if len(batch) == 1 and not (isinstance(error, Error) and passes(error)):
                batch[0].error = error
                return
            logger.warning("%s: a batch of %d failed (%s); running its items one by one", self._name, len(batch), error)
            for waiting in batch:
                try:
                    self._answer([waiting])
                except Exception as error:  # noqa: BLE001  (handed to the thread that waits)
                    waiting.error = error

    def _answer(self, batch: list[_Waiting[Item, Answer]]) -> None:
        answers = self._run([waiting.item for waiting in batch])
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.answer = answer
