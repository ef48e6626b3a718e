"""The tables of docs/performance.md, written between its markers from the results that are on disk."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.goals import GOALS, Medians
from bench.report import FOLDER, number, table
from bench.rig import ROOT
from bench.spread import spreads

PAGE = ROOT / "docs" / "performance.md"
SCALING = ROOT / "docs" / "scaling.md"
REACHES = (1_000, 10_000)
"""Deliveries a second for which cores are reckoned."""
ORDER = ("throughput", "latency", "isolation", "ingest", "lanes", "idle", "dear", "backlog", "history", "start")

Document = Mapping[str, Any]


def write(folder: Path = FOLDER / "full", page: Path = PAGE, scaling: Path = SCALING) -> None:
    """Renew the pages' tables; what stands outside the markers stays."""
    documents = {name: json.loads((folder / f"{name}.json").read_text()) for name in ORDER if _is_there(folder, name)}
    text = page.read_text()
    for marker, content in {"goals": goal_table(documents), "figures": all_tables(documents, folder)}.items():
        text = between(text, marker, content)
    page.write_text(text)
    if "throughput" in documents:
        table_of_cores = core_table(medians(documents["throughput"])["meshes"])
        scaling.write_text(between(scaling.read_text(), "cores", table_of_cores))


def _is_there(folder: Path, name: str) -> bool:
    return (folder / f"{name}.json").exists()


def between(text: str, marker: str, content: str) -> str:
    """Replace what stands between the two comments of a marker. Raises ValueError where they are missing."""
    begin, end = f"<!-- bench:{marker} -->", f"<!-- /bench:{marker} -->"
    made, count = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{content}\n{end}", text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"the page has {count} markers {begin}")
    return made


def medians(document: Document) -> Medians:
    return {
        system: {name: figure.median for name, figure in spreads(runs).items()}
        for system, runs in document["systems"].items()
    }


def goal_table(documents: Mapping[str, Document]) -> str:
    """A row for each goal that was measured."""
    lines = ["| scenario | figure | goal | measured | classic | in-request | |", "|---|---|---|---|---|---|---|"]
    for goal in GOALS:
        if goal.scenario not in documents:
            continue
        of_systems = medians(documents[goal.scenario])
        try:
            figure = goal.figure(of_systems)
        except KeyError:
            continue
        others = [_of_another(goal.figure, of_systems, system) for system in ("classic", "in-request")]
        mark = "✓" if goal.reached(figure) else "**short**"
        cells = (goal.scenario, goal.words, goal.bound_words, number(figure) + goal.unit, *others, mark)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def core_table(figures: Mapping[str, float]) -> str:
    """What each process spends on a delivery, measured, and the cores that this makes at larger rates, reckoned."""
    heads = " | ".join(f"cores for {reach:,}/s (reckoned)" for reach in REACHES)
    lines = [f"| process | ms of CPU per delivery (measured) | deliveries/s of one core (reckoned) | {heads} |"]
    lines.append("|---" * (3 + len(REACHES)) + "|")
    prefix = "cpu_ms_at_5"
    parts = {name.partition(":")[2]: spent for name, spent in figures.items() if name.startswith(f"{prefix}:")}
    for name, spent in [*sorted(parts.items(), key=lambda part: -part[1]), ("**all**", figures[prefix])]:
        cores = " | ".join(number(spent * reach / 1000) for reach in REACHES)
        lines.append(f"| {name} | {number(spent)} | {number(1000 / spent) if spent else '–'} | {cores} |")
    return "\n".join(lines)


def _of_another(figure: Any, of_systems: Medians, system: str) -> str:
    """The same figure of a baseline."""
    if system not in of_systems:
        return ""
    try:
        return number(figure({"meshes": of_systems[system], "classic": of_systems["classic"]}))
    except KeyError:
        return ""


def all_tables(documents: Mapping[str, Document], folder: Path) -> str:
    """Each scenario's figures with the conditions under which they were made."""
    parts = []
    for name, document in documents.items():
        systems = {
            system: [{figure: value for figure, value in run.items() if figure != "load_average"} for run in runs]
            for system, runs in document["systems"].items()
        }
        loads = [run["load_average"] for runs in document["systems"].values() for run in runs]
        parts.append(f"### {name}\n\n{conditions(document, loads)}\n\n{table(name, systems)}")
        if (folder / f"{name}.png").exists():
            parts.append(f"![{name}](../bench/results/full/{name}.png)")
    return "\n\n".join(parts)


def conditions(document: Document, loads: list[float]) -> str:
    of = document["conditions"]
    most = max(len(runs) for runs in document["systems"].values())
    return (
        f"{of['at'][:10]}, {of['commit']}, {of['cores']} cores ({of['cpu']}), {of['memory_gb']} GB, Python {of['python']};"  # noqa: E501
        f" {most} run{'s' if most > 1 else ''}; load average before each: {number(min(loads))} to {number(max(loads))}."
    )
