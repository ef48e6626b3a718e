"""Pure reckoning over samples: percentiles, and the middle and spread of several runs."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of several runs, and how far apart they were."""

    median: float
    least: float
    most: float


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest-rank percentile. Raises ValueError of nothing."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no samples")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def spreads(runs: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Of each figure over several runs; a figure that only some runs have is taken over those."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: spread([run[name] for run in runs if name in run]) for name in names}
