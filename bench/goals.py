"""What is aimed at, and whether it was reached: pure reckoning over medians."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Medians = Mapping[str, Mapping[str, float]]
"""System → figure → median."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal. `figure` takes the medians of `scenario`, and may raise KeyError where something was not measured."""

    scenario: str
    words: str
    figure: Callable[[Medians], float]
    bound: float
    at_most: bool = False
    unit: str = ""

    @property
    def bound_words(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:,.10g}{self.unit}"

    def reached(self, figure: float) -> bool:
        return figure <= self.bound if self.at_most else figure >= self.bound


def _of(name: str) -> Callable[[Medians], float]:
    return lambda medians: medians["meshes"][name]


def _times_classic(name: str) -> Callable[[Medians], float]:
    return lambda medians: medians["meshes"][name] / medians["classic"][name]


def flatness(medians: Medians) -> float:
    """The slowest rate over all numbers of queues, as a share of that with one."""
    prefix = "tasks_per_second_at_"
    rates = {name: rate for name, rate in medians["lanes"].items() if name.startswith(prefix)}
    return min(rates.values()) / rates[f"{prefix}1"]


def _idle_cost(medians: Medians) -> float:
    return medians["meshes"]["cpu_ms_a_second"] - medians["meshes"]["cpu_ms_a_second_without"]


def _linearity(medians: Medians) -> float:
    return medians["meshes"]["second_half_per_second"] / medians["meshes"]["first_half_per_second"]


GOALS = (
    Goal("throughput", "deliveries/s, 1 destination an event", _of("deliveries_per_second_at_1"), 1_000),
    Goal("throughput", "deliveries/s, 5 destinations an event", _of("deliveries_per_second_at_5"), 1_000),
    Goal("throughput", "deliveries/s, 50 destinations an event", _of("deliveries_per_second_at_50"), 1_000),
    Goal("throughput", "times classic, 5 destinations", _times_classic("deliveries_per_second_at_5"), 5),
    Goal("ingest", "events/s, one by one", _of("single_events_per_second"), 800),
    Goal("ingest", "events/s, in bulk", _of("bulk_events_per_second"), 8_000),
    Goal("latency", "POST to receiver at rest, p50", _of("p50_ms"), 12, True, " ms"),
    Goal("latency", "POST to receiver at rest, p99", _of("p99_ms"), 30, True, " ms"),
    *(
        Goal("isolation", f"p99 beside {words}, ÷ p99 without", _of(f"{trouble}_ratio"), 1.2, True)
        for trouble, words in (
            ("hung", "hung endpoints"), ("dead", "dead ones"), ("drip", "dripping ones"), ("flood", "a flood"),
            ("429", "ones answering 429"),
        )
    ),
    *(
        Goal("dear", f"p99 beside {words} at the limit, ÷ p99 without", _of(f"{kind}_ratio"), 1.5, True)
        for kind, words in (
            ("arrays", "filters of arrays"), ("regex", "regular expressions"), ("mapping", "mappings"),
            ("not_or", "filters of $not and $or"),
        )
    ),
    Goal("lanes", "slowest rate of any number of queues, ÷ that of one", flatness, 0.85),
    Goal("idle", "bytes in Valkey for idle connections", _of("valkey_bytes"), 0, True),
    Goal("idle", "CPU for idle connections, ms a second", _idle_cost, 10, True),
    Goal("backlog", "rate of the second half, ÷ that of the first", _linearity, 0.85),
    Goal("backlog", "wake-ups of 10,000 due deliveries, the last one late by", _of("all_seconds_late"), 1, True, " s"),
    Goal("history", "deliveries/s with many stored attempts, ÷ with few", _of("deliveries_per_second_ratio"), 0.9),
    Goal("history", "events/s with many stored attempts, ÷ with few", _of("events_per_second_ratio"), 0.9),
    Goal("start", "`make up`, cold, to the first delivery", _of("first_delivery_seconds"), 8, True, " s"),
)  # fmt: skip
