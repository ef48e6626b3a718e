"""How long a search may take, and how many a key may make at a time.

No search may keep PostgreSQL busy for long: a filter that hardly anything matches can mean a look at everything. A
search that no index serves takes a turn: its key has `MESHES_SEARCHES` at a time, so that whoever searches leaves
threads, and PostgreSQL's time, to those that post events.
"""

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from django.conf import settings
from django.db import OperationalError, connection, transaction
from psycopg2.errors import QueryCanceled

from meshes.api.problems import Problem
from workspaces import limits

SEARCH_SECONDS = 10.0
WAIT_SECONDS = 1.0
"""How long a search that no index serves waits for its turn."""
TURN_SECONDS = 60.0
"""When the turn of a process that was lost lapses: above what the few queries of one search may take."""
RETRY_SECONDS = 2
NARROWER = "Wait for one to end, or name what an index serves; docs/api.md has the list."
NO_THREAD = "Too many searches that no index serves are running. Try again, or name what an index serves."
BOUND = """
SELECT set_config('statement_timeout', %s, true), set_config('max_parallel_workers_per_gather', '0', true)
"""
"""A search has one core at most."""
TOO_WIDE = "It was looked for longer than is allowed. Name a workspace, a status, or a shorter time from … to."


@contextmanager
def bounded_search(unindexed_by: uuid.UUID | None = None) -> Iterator[None]:
    """Queries inside end after `SEARCH_SECONDS` each. Raises Problem 422 then.

    For a search that no index serves, `unindexed_by` is the key that asks: it then also waits for its turn. Raises
    Problem 429 where that does not come, and 503 where this process has no thread left for it.
    """
    with nullcontext() if unindexed_by is None else _turn_of(unindexed_by):
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(BOUND, [str(int(SEARCH_SECONDS * 1000))])
                yield
                cursor.execute("SET LOCAL statement_timeout TO DEFAULT")
        except OperationalError as error:
            if isinstance(error.__cause__, QueryCanceled):
                raise Problem(422, "search-too-wide", "The search is too wide", TOO_WIDE) from error
            raise


@contextmanager
def _turn_of(key_id: uuid.UUID) -> Iterator[None]:
    """One of the key's turns, over all processes, and one of this process's threads for searches."""
    most = settings.MESHES_SEARCHES
    with _thread_for(key_id, most), limits.turn(f"searches:{key_id}", most, TURN_SECONDS, WAIT_SECONDS) as is_mine:
        if not is_mine:
            raise _too_many(most)
        yield


_lock = threading.Lock()
_threads: Counter[uuid.UUID] = Counter()
"""Of this process, those that are in a search or wait for its turn, by key."""


@contextmanager
def _thread_for(key_id: uuid.UUID, most: int) -> Iterator[None]:
    """Of one key as many wait in a process as may search; searches of all keys have half of its threads."""
    with _lock:
        if _threads[key_id] >= 2 * most:
            raise _too_many(most)
        if _threads.total() >= max(1, settings.MESHES_WEB_THREADS // 2):
            raise Problem(503, detail=NO_THREAD, headers={"Retry-After": str(RETRY_SECONDS)})
        _threads[key_id] += 1
    try:
        yield
    finally:
        with _lock:
            _threads[key_id] -= 1
            if not _threads[key_id]:
                del _threads[key_id]


def _too_many(most: int) -> Problem:
    words = f"{most} searches of this key that no index serves are running. {NARROWER}"
    return Problem(429, detail=words, headers={"Retry-After": str(RETRY_SECONDS)})
