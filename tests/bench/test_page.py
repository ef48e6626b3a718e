import json

import pytest

from bench import page
from bench.goals import GOALS, flatness
from bench.report import number, rounded, shown
from bench.spread import Spread

CONDITIONS = {
    "at": "2026-01-02T03:04:05Z",
    "commit": "abc",
    "cores": 2,
    "cpu": "Fast",
    "memory_gb": 8,
    "python": "3.11",
}


def document(scenario, **systems):
    runs = {system: [figures | {"load_average": 0.5}] for system, figures in systems.items()}
    return {"scenario": scenario, "conditions": CONDITIONS, "systems": runs}


def test_what_stands_between_the_markers_is_replaced_and_nothing_else():
    text = "a\n<!-- bench:goals -->\nold\n<!-- /bench:goals -->\nb"
    assert page.between(text, "goals", r"new \1") == "a\n<!-- bench:goals -->\nnew \\1\n<!-- /bench:goals -->\nb"


def test_a_page_without_the_markers_is_refused():
    with pytest.raises(ValueError, match="0 markers"):
        page.between("nothing", "goals", "new")


def test_a_goal_stands_beside_what_was_measured_and_beside_the_baselines():
    documents = {"latency": document("latency", meshes={"p50_ms": 10.0, "p99_ms": 40.0}, classic={"p50_ms": 35.0})}
    lines = page.goal_table(documents).splitlines()[2:]
    assert lines == [
        "| latency | POST to receiver at rest, p50 | ≤ 12 ms | 10 ms | 35 |  | ✓ |",
        "| latency | POST to receiver at rest, p99 | ≤ 30 ms | 40 ms |  |  | **short** |",
    ]


def test_the_page_is_written_from_the_results_that_are_there(tmp_path):
    (tmp_path / "latency.json").write_text(json.dumps(document("latency", meshes={"p50_ms": 10.0, "p99_ms": 20.0})))
    written = tmp_path / "page.md"
    written.write_text("".join(f"<!-- bench:{name} --><!-- /bench:{name} -->\n" for name in ("goals", "figures")))
    page.write(tmp_path, written)
    text = written.read_text()
    assert "| p50_ms | 10 |" in text
    assert "2026-01-02, abc, 2 cores (Fast), 8 GB, Python 3.11; 1 run; load average before each: 0.5 to 0.5." in text
    assert "throughput" not in text


def test_every_goal_knows_when_it_is_reached():
    assert [goal.reached(goal.bound) for goal in GOALS] == [True] * len(GOALS)
    assert [goal.reached(goal.bound + (1 if goal.at_most else -1)) for goal in GOALS] == [False] * len(GOALS)


def test_flatness_is_the_slowest_against_one_queue():
    assert flatness({"lanes": {"tasks_per_second_at_1": 200.0, "tasks_per_second_at_100": 150.0, "other": 1.0}}) == 0.75


@pytest.mark.parametrize(
    ("figure", "expected"),
    [(None, ""), (Spread(5.0, 5.0, 5.0), "5"), (Spread(1234.5, 1200.0, 1300.0), "1,234 (1,200–1,300)")],
)
def test_a_figure_is_shown_with_its_spread(figure, expected):
    assert shown(figure) == expected


def test_numbers_have_three_digits():
    assert [number(value) for value in (0.01234, 12.345, 12345.6)] == ["0.0123", "12.3", "12,346"]
    assert rounded({"a": [1.23456, 7]}) == {"a": [1.235, 7]}


def test_cores_are_reckoned_from_the_cpu_of_a_delivery():
    lines = page.core_table({"cpu_ms_at_5": 3.0, "cpu_ms_at_5:web": 1.0, "cpu_ms_at_5:deliver": 2.0}).splitlines()
    assert lines[2:] == [
        "| deliver | 2 | 500 | 2 | 20 |",
        "| web | 1 | 1,000 | 1 | 10 |",
        "| **all** | 3 | 333 | 3 | 30 |",
    ]
