"""What becomes of an event whose fan-out failed: it waits and is tried again for ever, or it is set aside.

A try is counted only where a worker was lost, which is to say where a claim takes over a lapsed lease. A worker that is
alive and could not write hands its lease back, uncounted. An event is set aside where it has lost five workers, or
where it fails alone while others pass; a person sends it on again.
"""

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cachetools import FIFOCache
from django.db import Error, connection, transaction

from meshes.kit.batching import rows_of
from meshes.kit.database_faults import Fault, describe, fault_of

logger = logging.getLogger(__name__)

MOST_LOSSES = 5
"""Workers that the fan-out of one event may lose: it is then more likely the cause than a victim."""
RETRY_SECONDS = (1.0, 30.0)
"""Between tries of an event that could not be written: the first delay, and the longest."""
ALONE_AFTER = 3
"""Failures after which an event is taken to fail alone where nothing else was routed meanwhile, nor failed."""
MOST_SUSPECTS = 10_000
MOST_AT_ONCE = 10_000
"""Events that one call routes again."""

WORKERS_LOST, REFUSED, TIMEOUT, ERROR = "workers_lost", "refused", "timeout", "error"
"""Causes: five workers were lost; PostgreSQL refuses the rows; they take it too long; an error in Meshes itself."""
NOT_RECORDED = "not_recorded"
"""What was set aside before causes were recorded."""
CAUSES = (WORKERS_LOST, REFUSED, TIMEOUT, ERROR, NOT_RECORDED)
LOST_WORDS = f"{MOST_LOSSES} workers were lost while they routed it"


class Claim(NamedTuple):
    """An event and the lease under which one worker routes it."""

    event_id: uuid.UUID
    lease_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the fan-out of a claimed event came to nothing. `cause` is empty where it is tried again by itself."""

    claim: Claim
    cause: str
    detail: str


class Suspects:
    """Whether an event fails alone while others pass, as far as this process sees."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passed_at = float("-inf")
        self._failed: FIFOCache[uuid.UUID, tuple[float, float, int]] = FIFOCache(MOST_SUSPECTS)
        """Of each event that has failed: when first, when last, how often."""

    def note_passed(self, event_ids: Sequence[uuid.UUID]) -> None:
        if not event_ids:
            return
        with self._lock:
            self._passed_at = time.monotonic()
            for event_id in event_ids if self._failed else ():
                self._failed.pop(event_id, None)

    def fails_alone(self, event_id: uuid.UUID, began_at: float) -> bool:
        """Note a failure of what `began_at` (of the monotonic clock), and say whether it is the event's own.

        It is where another event was routed since it failed for the first time, or where it has failed three times and
        no other has failed since. Where all fail alike, none of them is to blame.
        """
        with self._lock:
            first_at, _, times = self._failed.get(event_id, (began_at, 0.0, 0))
            self._failed[event_id] = (first_at, time.monotonic(), times + 1)
            others_pass = self._passed_at >= first_at
            others_fail = any(last >= first_at for key, (_, last, _) in self._failed.items() if key != event_id)
            is_alone = others_pass or (times + 1 >= ALONE_AFTER and not others_fail)
            if is_alone:
                del self._failed[event_id]
            return is_alone


suspects = Suspects()


def judge(claim: Claim, error: BaseException, began_at: float) -> Failure:
    """Whose fault it is that a claimed event was not routed. An event that is set aside is logged as an error, once."""
    fault, words = fault_of(error), describe(error)
    is_its_own = fault in (Fault.ITEM, Fault.CANCELED) and suspects.fails_alone(claim.event_id, began_at)
    if not isinstance(error, Error) and fault is not Fault.PASSING:
        logger.error("fan-out of event %s failed", claim.event_id, exc_info=error)
        words = f"an error in Meshes itself ({words}); its log has it, under the event's id"
    if not is_its_own:
        logger.warning("event %s is not routed for now: %s", claim.event_id, words)
        return Failure(claim, "", words)
    logger.error("event %s is set aside: it fails alone, by %s", claim.event_id, words)
    cause = TIMEOUT if fault is Fault.CANCELED else REFUSED if isinstance(error, Error) else ERROR
    return Failure(claim, cause, words)


HAND_BACK = """
UPDATE unrouted u SET lease_id = NULL, failures = u.failures + 1, cause = r.cause, detail = r.detail,
    lease_until = clock_timestamp()
        + make_interval(secs => least(%s, %s * 2 ^ least(u.failures, 20)) * (0.8 + 0.4 * random())),
    poisoned_at = CASE WHEN r.cause <> '' THEN clock_timestamp() END
FROM (VALUES {rows}) AS r (event_id, lease_id, cause, detail)
WHERE u.event_id = r.event_id AND u.lease_id = r.lease_id
RETURNING u.event_id
"""
TAKE_BACK = f"""
UPDATE unrouted u SET tries = greatest(u.tries - 1, 0),
    poisoned_at = CASE WHEN u.cause <> '{WORKERS_LOST}' THEN u.poisoned_at END,
    cause = CASE WHEN u.cause <> '{WORKERS_LOST}' THEN u.cause ELSE '' END
WHERE u.event_id = ANY(%s)
"""


def hand_back(failures: Sequence[Failure]) -> list[None]:
    """End these leases early, uncounted: the events wait, longer each time, or are set aside.

    A lease that was not ours any more had lapsed, and the worker that took it over counted a loss. We live: that loss
    is taken back. May be run twice.
    """
    rows, parameters = rows_of(
        "(%s::uuid, %s::uuid, %s, %s)", sorted((*each.claim, each.cause, each.detail) for each in failures)
    )
    first, longest = RETRY_SECONDS
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(HAND_BACK.format(rows=rows), [longest, first, *parameters])
        ended = {row[0] for row in cursor.fetchall()}
        if taken := sorted({each.claim.event_id for each in failures} - ended):
            cursor.execute(TAKE_BACK, [taken])
    return [None] * len(failures)


def set_aside_lost() -> int:
    """Set aside the events whose fan-out has just lost its fifth worker; how many. Each is logged as an error, once."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE unrouted SET poisoned_at = clock_timestamp(), tries = tries + 1, lease_id = NULL, cause = %s,"
            " detail = %s WHERE poisoned_at IS NULL AND lease_id IS NOT NULL AND lease_until < clock_timestamp()"
            " AND tries + 1 >= %s RETURNING event_id",
            [WORKERS_LOST, LOST_WORDS, MOST_LOSSES],
        )
        lost = [row[0] for row in cursor.fetchall()]
    for event_id in lost:
        logger.error("event %s is set aside: %s", event_id, LOST_WORDS)
    return len(lost)


COUNT_BY_CAUSE = f"""
SELECT CASE WHEN cause = '' THEN '{NOT_RECORDED}' ELSE cause END, count(*)
FROM (SELECT cause FROM unrouted WHERE poisoned_at IS NOT NULL LIMIT %s) AS aside GROUP BY 1 ORDER BY 1
"""
"""By the index `unrouted_set_aside`. Rows of before their cause was recorded have none."""


def count_by_cause(most: int) -> dict[str, int]:
    """How many events are set aside, by cause, counted no further than `most`."""
    with connection.cursor() as cursor:
        cursor.execute(COUNT_BY_CAUSE, [most])
        return dict(cursor.fetchall())


ROUTE_AGAIN = """
UPDATE unrouted u SET poisoned_at = NULL, tries = 0, failures = 0, lease_id = NULL, lease_until = NULL, cause = '',
    detail = ''
WHERE u.event_id IN (SELECT event_id FROM unrouted WHERE poisoned_at IS NOT NULL AND {which} LIMIT %s)
    AND u.poisoned_at IS NOT NULL
RETURNING u.workspace_id, u.event_id
"""


def route_again(event_ids: Sequence[uuid.UUID]) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """Send events on that were set aside. Returns `(workspace id, event id)` of those that were, to wake up."""
    return _route_again("event_id = ANY(%s)", list(event_ids))


def route_all_again(workspace_id: uuid.UUID | None) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """The same for all of a workspace, or of all workspaces, 10,000 at a time."""
    return _route_again("%s::uuid IS NULL OR workspace_id = %s", workspace_id, workspace_id)


def _route_again(which: str, *values: Any) -> list[tuple[uuid.UUID, uuid.UUID]]:
    with connection.cursor() as cursor:
        cursor.execute(ROUTE_AGAIN.format(which=f"({which})"), [*values, MOST_AT_ONCE])
        return list(cursor.fetchall())
