"""Token buckets, and their arithmetic in memory. Needs no settings: Flower has none."""

import threading
import time
from dataclasses import dataclass

MIN_BURST = 10.0
"""The least a bucket holds: with a rate of one a second, a handful at once is no flood."""
MOST_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Bucket:
    """`rate` tokens a second, of which at most `burst` are kept."""

    rate: float
    burst: float


def per_second(rate: float) -> Bucket:
    return Bucket(rate, max(rate, MIN_BURST))


def per_minute(number: float) -> Bucket:
    return Bucket(number / 60, number)


def per_hour(number: float) -> Bucket:
    return Bucket(number / 3600, number)


class LocalBuckets:
    """Buckets of this process by their names."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, buckets: dict[str, Bucket], count: int) -> float | None:
        now = time.monotonic()
        with self._lock:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            left = {name: self._left(name, bucket, now) for name, bucket in buckets.items()}
            wait = max((min(count, each.burst) - left[name]) / each.rate for name, each in buckets.items())
            if wait > 0:
                return wait
            for name in buckets:
                self._kept[name] = left[name] - count, now
        return None

    def _left(self, name: str, bucket: Bucket, now: float) -> float:
        tokens, at = self._kept.get(name, (bucket.burst, now))
        return min(bucket.burst, tokens + (now - at) * bucket.rate)
