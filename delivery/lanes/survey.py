"""The lanes of a ring that an operator asks for first, at a cost that does not grow with the number of lanes."""

from dataclasses import dataclass
from datetime import datetime

from delivery.lanes.control import Lanes, LaneStats, RingStats

MOST_LOOKED_AT = 2_000
"""Lanes among which the busiest are sought: those that have been busy for longest. As many sleepers are looked at."""


@dataclass(frozen=True, slots=True)
class NamedStats:
    lane: str
    stats: LaneStats


@dataclass(frozen=True, slots=True)
class Survey:
    """A ring at one moment: its figures, and a few lanes each."""

    ring: str
    stats: RingStats
    busiest: list[NamedStats]
    """By messages that wait, of the lanes that were looked at."""
    paused: list[NamedStats]
    """The first to end first."""
    oldest: list[NamedStats]
    """By the message that has waited longest."""
    is_whole: bool
    """Whether all busy and sleeping lanes were looked at."""


def survey(lanes: Lanes, ring: str, most: int) -> Survey:
    """Look at a ring, in five round trips. ``most`` lanes of each kind. Raises redis-py's errors."""
    stats = lanes.ring_stats(ring)
    busy = lanes.busy_for_longest(ring, MOST_LOOKED_AT)
    depths = lanes.depths(busy)
    asleep = lanes.asleep(ring, MOST_LOOKED_AT)
    by_depth = sorted(zip(busy, depths, strict=True), key=lambda found: -found[1])
    deepest = [lane for lane, depth in by_depth[:most] if depth]
    found = _look(lanes, {*deepest, *busy[:most], *asleep})
    return Survey(
        ring=ring,
        stats=stats,
        busiest=[found[lane] for lane in deepest],
        paused=[found[lane] for lane in asleep if found[lane].stats.paused_until][:most],
        oldest=sorted((found[lane] for lane in busy[:most] if found[lane].stats.oldest_at), key=_arrival),
        is_whole=stats.busy <= MOST_LOOKED_AT and stats.paused + stats.throttled <= MOST_LOOKED_AT,
    )


def _look(lanes: Lanes, names: set[str]) -> dict[str, NamedStats]:
    ordered = sorted(names)
    return {lane: NamedStats(lane, stats) for lane, stats in zip(ordered, lanes.stats_of(ordered), strict=True)}


def _arrival(named: NamedStats) -> datetime:
    assert named.stats.oldest_at is not None  # noqa: S101  (only such are sorted)
    return named.stats.oldest_at
