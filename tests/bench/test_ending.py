"""A bench that is ended takes along what it started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.polling import eventually, patient

ROOT = Path(__file__).parents[2]
IN_REQUEST_ALONE = """
import sys
from pathlib import Path

from bench import __main__ as bench, report
from bench.systems.baselines import InRequest

bench.SYSTEMS = (InRequest,)
report.FOLDER = Path(sys.argv.pop())
sys.exit(bench.main())
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench of one system that measures for longer than any test."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)  # which pytest has set, and a shell has not
    command = (sys.executable, "-c", IN_REQUEST_ALONE, "throughput", "--quick", "--runs", "1000", str(tmp_path))
    process = psutil.Popen(command, cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL)
    yield process
    if process.poll() is None:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_bench_that_is_ended_leaves_no_process_and_no_folder(bench, tmp_path, number):
    started = eventually(lambda: while_it_posts(bench), seconds=40)
    bench.send_signal(number)
    assert bench.wait(timeout=patient(40)) == 128 + signal.SIGINT
    assert [process for process in started if goes_on(process)] == []
    assert list(tmp_path.glob("meshes-bench-*")) == []


def test_what_a_killed_bench_started_ends_without_it(bench):
    started = eventually(lambda: while_it_posts(bench), seconds=40)
    bench.kill()
    bench.wait()
    eventually(lambda: not any(goes_on(process) for process in started))


def while_it_posts(bench):
    """All its processes, once there is a load generator among them; else none."""
    processes = bench.children(recursive=True)
    return processes if any("bench.load" in command_of(process) for process in processes) else []


def command_of(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def goes_on(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # whoever inherits an orphan reaps it when he likes
    except psutil.NoSuchProcess:
        return False
