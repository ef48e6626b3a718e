"""`make demo`'s command: every claim holds, and nothing is left behind."""

import os
import subprocess
import sys

import psutil
import pytest

from tests.e2e.running import OURS, PROJECT
from tests.polling import patient


@pytest.mark.alone
def test_the_demo_holds_every_claim_and_leaves_nothing(tmp_path):
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    shown = subprocess.run(
        [sys.executable, "manage.py", "demo"],
        cwd=PROJECT,
        env=kept | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=patient(150),
        check=False,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "✗" not in shown.stdout
    assert shown.stdout.count("✓") == 20
    assert list(tmp_path.iterdir()) == []
    assert [process for process in psutil.process_iter() if is_of(process, tmp_path)] == []


def is_of(process, folder):
    try:
        return process.environ().get("TMPDIR") == str(folder)
    except psutil.Error:
        return False
