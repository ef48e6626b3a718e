"""`make demo`'s command: every claim holds, and nothing is left behind."""

import math
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from meshes.dev.demo.proof import is_isolated
from tests.e2e.running import OURS, PROJECT
from tests.polling import patient


def run_demo(folder, **extra):
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    return subprocess.run(
        [sys.executable, "manage.py", "demo"],
        cwd=PROJECT,
        env=kept | {"TMPDIR": str(folder)} | extra,
        capture_output=True,
        text=True,
        timeout=patient(200),
        check=False,
    )


@pytest.mark.alone
def test_the_demo_holds_every_claim_and_leaves_nothing(tmp_path):
    shown = run_demo(tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "✗" not in shown.stdout
    assert shown.stdout.count("✓") == 20
    assert "Next: make up" in shown.stdout
    assert list(tmp_path.iterdir()) == []
    assert [process for process in psutil.process_iter() if is_of(process, tmp_path)] == []


@pytest.mark.alone
def test_the_demo_tells_where_isolation_is_broken(tmp_path):
    shown = run_demo(tmp_path, PYTHONPATH=str(Path(__file__).parent / "one_lane"))
    assert shown.returncode == 1, shown.stdout + shown.stderr
    failed = [line for line in shown.stdout.splitlines() if "✗" in line]
    assert [line for line in failed if "A hung endpoint does not slow the healthy ones" in line], shown.stdout


@pytest.mark.parametrize(
    ("calm", "troubled", "holds"),
    [
        ([0.030, 0.025, 0.028], [0.031, 0.040], True),
        ([0.030, 0.025, 0.028], [0.110, 0.109], True),  # a garbage collection
        ([0.030, 0.025, 0.028], [0.200, 0.210], False),
        ([0.030, 0.025, 0.028], [3.1, 3.0], False),  # the hung endpoint's timeout
        ([0.3, 0.9, 0.5], [1.2, 2.0], True),  # a machine with other work
        ([0.3, 0.9, 0.5], [9.0, 3.5], False),
        ([1.24, 1.23, 0.57], [5.6, 3.0], False),  # one lane for all
        ([0.03, 0.03, 0.03], [math.inf, 0.03], False),  # an event that did not arrive
        ([0.03, math.inf, 0.03], [0.03, 0.03], False),
    ],
)
def test_isolation_is_judged_by_what_the_machine_can_do(calm, troubled, holds):
    assert is_isolated(calm, troubled) is holds


def is_of(process, folder):
    try:
        return process.environ().get("TMPDIR") == str(folder)
    except psutil.Error:
        return False
