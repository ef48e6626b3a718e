"""The cap on what waits in one workspace: open deliveries, and events before their fan-out.

Nothing is counted per request. Each process keeps the number of each workspace it serves for a few seconds and adds to
it what it accepts itself, so that a cap is exact for one process and a few seconds late between several.
"""

import threading
import time
import uuid
from dataclasses import dataclass

from django.db import connection

RETRY_AFTER_SECONDS = 30
"""What a caller is told to wait: a backlog drains by deliveries, not by the second."""
FRESHEST_SECONDS, STALEST_SECONDS = 1.0, 15.0
"""How long a count is used: the shorter, the nearer it is to the cap."""
COUNTING_SHARE = 20
"""A count that took long is used for this many times as long, so that counting never takes over 5 % of anything."""
KEPT_WORKSPACES = 10_000


class BacklogFull(Exception):  # noqa: N818 - reads so where it is caught
    """The workspace has as much waiting as it may."""


@dataclass(slots=True)
class _Count:
    waiting: int
    fresh_until: float


_counts: dict[uuid.UUID, _Count] = {}
_unrouted: dict[uuid.UUID, int] = {}
_unrouted_fresh_until = 0.0
_lock = threading.Lock()


def admit(workspace_id: uuid.UUID, events: int, limit: int) -> None:
    """Let `events` more in. Raises BacklogFull where the workspace has `limit` or more waiting already."""
    count = _current(workspace_id, limit)
    with _lock:
        if count.waiting >= limit:
            raise BacklogFull
        count.waiting += events


def forget() -> None:
    """Count everything anew at the next request."""
    global _unrouted_fresh_until  # noqa: PLW0603  (one number per process)
    with _lock:
        _counts.clear()
        _unrouted_fresh_until = 0.0


def _current(workspace_id: uuid.UUID, limit: int) -> _Count:
    with _lock:
        count = _counts.get(workspace_id)
        if count is not None:
            if count.fresh_until > time.monotonic():
                return count
            count.fresh_until = time.monotonic() + STALEST_SECONDS  # one thread counts, the others go on
    began = time.monotonic()
    waiting = _count_deliveries(workspace_id, limit) + _count_unrouted().get(workspace_id, 0)
    ended = time.monotonic()
    room = max(0.0, 1 - waiting / limit) if limit > 0 else 0.0
    seconds = max(FRESHEST_SECONDS, STALEST_SECONDS * (room - 0.5) * 2, COUNTING_SHARE * (ended - began))
    fresh = _Count(waiting, ended + seconds)
    with _lock:
        if len(_counts) >= KEPT_WORKSPACES:
            _counts.clear()
        _counts[workspace_id] = fresh
    return fresh


def _count_deliveries(workspace_id: uuid.UUID, limit: int) -> int:
    """Open deliveries, counted no further than the limit, by the index on workspace and status."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE workspace_id = %s"
            " AND status IN ('pending', 'held') LIMIT %s) AS open",
            [workspace_id, limit],
        )
        return int(cursor.fetchone()[0])


def _count_unrouted() -> dict[uuid.UUID, int]:
    """Events before their fan-out, of all workspaces at once: `unrouted` is short, and has no index by workspace."""
    global _unrouted, _unrouted_fresh_until  # noqa: PLW0603  (one table per process)
    with _lock:
        if _unrouted_fresh_until > time.monotonic():
            return _unrouted
        _unrouted_fresh_until = time.monotonic() + STALEST_SECONDS
    began = time.monotonic()
    with connection.cursor() as cursor:
        cursor.execute("SELECT workspace_id, count(*) FROM unrouted GROUP BY workspace_id")
        counted: dict[uuid.UUID, int] = dict(cursor.fetchall())
    with _lock:
        _unrouted = counted
        _unrouted_fresh_until = time.monotonic() + max(FRESHEST_SECONDS, COUNTING_SHARE * (time.monotonic() - began))
    return counted
