"""Group commit: the threads of a process share batches, so that a database connection and an fsync are shared too.

Each thread submits an item and waits; one thread of the group's own runs the batch in one transaction; then all are
released. While one batch runs the next one gathers, so a lone item never waits for a timer.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from django.db import close_old_connections

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Waiting(Generic[Item, Answer]):
    __slots__ = ("answer", "done", "error", "item")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.done = threading.Event()
        self.answer: Answer | None = None
        self.error: Exception | None = None


class Group(Generic[Item, Answer]):
    """One kind of batch. `run` takes a list of items and returns as many answers, in their order.

    A batch that raises is run again item by item, so that a poisoned item hurts only itself; `submit` then raises what
    its own item raised.
    """

    def __init__(self, name: str, run: Callable[[list[Item]], Sequence[Answer]], most: int = 128) -> None:
        self._name, self._run, self._most = name, run, most
        self._waiting: deque[_Waiting[Item, Answer]] = deque()
        self._filled = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, item: Item) -> Answer:
        """Hand in one item and wait for its answer. Raises what `run` raised for it."""
        waiting: _Waiting[Item, Answer] = _Waiting(item)
        with self._filled:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name=f"group-{self._name}", daemon=True)
                self._thread.start()
            self._waiting.append(waiting)
            self._filled.notify()
        waiting.done.wait()
        if waiting.error is not None:
            raise waiting.error
        return waiting.answer  # type: ignore[return-value]  # set whenever there is no error

    def _serve(self) -> None:
        while True:
            with self._filled:
                while not self._waiting:
                    self._filled.wait()
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))]
            close_old_connections()
            self._run_batch(batch)
            for waiting in batch:
                waiting.done.set()

    def _run_batch(self, batch: list[_Waiting[Item, Answer]]) -> None:
        try:
            answers = self._run([waiting.item for waiting in batch])
            for waiting, answer in zip(batch, answers, strict=True):
                waiting.answer = answer
        except Exception as error:  # noqa: BLE001  (handed to the threads that wait)
            if len(batch) == 1:
                batch[0].error = error
                return
            logger.warning("%s: a batch of %d failed (%s); running its items one by one", self._name, len(batch), error)
            for waiting in batch:
                self._run_batch([waiting])
