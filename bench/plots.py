"""PNG plots of results."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.spread import Spread, spreads

PLOTTED = {
    "throughput": ("deliveries per second", {
        "deliveries_per_second_at_1": "1 destination", "deliveries_per_second_at_5": "5",
        "deliveries_per_second_at_50": "50",
    }),
    "latency": ("ms from POST to receiver", {"p50_ms": "p50", "p99_ms": "p99"}),
    "isolation": ("p99 beside trouble ÷ p99 without", {
        "hung_ratio": "hung", "dead_ratio": "dead", "drip_ratio": "dripping", "flood_ratio": "flood",
        "429_ratio": "429",
    }),
    "ingest": ("events per second", {"single_events_per_second": "single", "bulk_events_per_second": "bulk"}),
    "lanes": ("tasks per second", {
        "tasks_per_second_at_1": "1 queue", "tasks_per_second_at_100": "100", "tasks_per_second_at_10000": "10,000",
        "tasks_per_second_at_100000": "100,000",
    }),
    "history": ("per second", {
        "few_deliveries_per_second": "deliveries, few", "many_deliveries_per_second": "deliveries, many",
        "few_events_per_second": "events, few", "many_events_per_second": "events, many",
    }),
}  # fmt: skip
"""By scenario: what the axis says, and the bars."""
WIDEST = 20.0
"""Where one bar is so many times another, the axis is logarithmic."""


def draw(results: Sequence[Path]) -> None:
    """A plot beside each file of results that has one."""
    import matplotlib as mpl

    mpl.use("Agg")
    for path in results:
        document = json.loads(path.read_text())
        if document["scenario"] in PLOTTED:
            _draw(path, {system: spreads(runs) for system, runs in document["systems"].items()}, document["scenario"])


def _draw(path: Path, systems: Mapping[str, Mapping[str, Spread]], scenario: str) -> None:
    from matplotlib import pyplot

    label, bars = PLOTTED[scenario]
    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    width, highest, lowest = 0.8 / len(systems), 0.0, float("inf")
    for index, (system, figures) in enumerate(systems.items()):
        there = [(place, figures[name]) for place, name in enumerate(bars) if name in figures]
        heights = [figure.median for _, figure in there]
        spans = [[f.median - f.least for _, f in there], [f.most - f.median for _, f in there]]
        axes.bar([place + index * width for place, _ in there], heights, width, label=system, yerr=spans, capsize=2)
        highest, lowest = max([highest, *heights]), min([lowest, *heights])
    if highest > WIDEST * lowest:
        axes.set_yscale("log")
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(bars))], list(bars.values()))
    axes.set_ylabel(label)
    axes.legend(frameon=False, ncols=len(systems), loc="lower left", bbox_to_anchor=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path.with_suffix(".png"), dpi=120)
    pyplot.close(figure)
