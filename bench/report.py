"""Results as JSON, and as tables."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.rig import Options, conditions
from bench.spread import Spread, spreads

FOLDER = Path(__file__).parent / "results"


class Results:
    """Figures of this invocation: scenario → system → runs."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._conditions = conditions(options)
        self._runs: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))

    def add(self, scenario: str, system: str, figures: Mapping[str, float], load_average: float) -> None:
        self._runs[scenario][system].append({**figures, "load_average": load_average})

    def write(self) -> list[Path]:
        """One JSON file a scenario; those of a quick look in a folder of their own. Returns their paths."""
        folder = FOLDER / ("quick" if self._options.quick else "full")
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for scenario, systems in self._runs.items():
            document = {"scenario": scenario, "conditions": self._conditions, "systems": systems}
            written.append(folder / f"{scenario}.json")
            written[-1].write_text(json.dumps(rounded(document), indent=1) + "\n")
        return written

    def tables(self) -> str:
        return "\n\n".join(table(scenario, systems) for scenario, systems in self._runs.items())


def table(scenario: str, systems: Mapping[str, list[dict[str, float]]]) -> str:
    """Every figure of a scenario, a column for each system."""
    made = {system: spreads(runs) for system, runs in systems.items()}
    names = dict.fromkeys(name for figures in made.values() for name in figures)
    lines = [f"| {scenario} | {' | '.join(made)} |", "|---" * (len(made) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(shown(figures.get(name)) for figures in made.values()) + " |" for name in names
    ]
    return "\n".join(lines)


def shown(figure: Spread | None) -> str:
    """`12.3 (11.9–14)`: the median, and the least and the most."""
    if figure is None:
        return ""
    if figure.least == figure.most:
        return number(figure.median)
    return f"{number(figure.median)} ({number(figure.least)}–{number(figure.most)})"


def number(value: float) -> str:
    """Three significant digits, and thousands with a comma."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def in_short(figures: Mapping[str, float]) -> str:
    """The figures without those of single processes."""
    return ", ".join(f"{name} {number(value)}" for name, value in figures.items() if ":" not in name)


def rounded(document: Any) -> Any:
    """Floats with four significant digits, at any depth."""
    if isinstance(document, float):
        return float(f"{document:.4g}")
    if isinstance(document, Mapping):
        return {key: rounded(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [rounded(value) for value in document]
    return document
