"""What dies is started again; what stops, stops in order, with all that it started."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from meshes.dev.children import Child, Program, run, stop_together
from meshes.dev.supervisor import Supervisor, restart_delay
from tests.polling import eventually

WAITS = "import time; time.sleep(60)"
NOTES_ITS_END = """
import signal, sys, time
def note(number, frame):
    print(sys.argv[1], "stopped", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, note)
print(sys.argv[1], "ready", flush=True)
time.sleep(60)
"""
IGNORES_TERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""
STARTS_ANOTHER = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def program(tmp_path):
    def make(name="service", code=WAITS, log="service.log", **options):
        command = (sys.executable, "-c", code, name)
        return Program(name=name, command=command, cwd=tmp_path, log=tmp_path / log, environment=os.environ, **options)

    return make


@pytest.fixture
def seen():
    """Every answer of ``pids`` that the supervisor told."""
    return []


@pytest.fixture
def supervisor(seen):
    supervisor = Supervisor(changed=seen.append, report=lambda sentence: None)
    yield supervisor
    supervisor.stop()


def tend_until(supervisor, condition):
    def tended():
        supervisor.tend()
        return condition()

    return eventually(tended)


def lines(log):
    return log.read_text().splitlines() if log.exists() else []


def test_a_program_that_dies_runs_again_and_its_pid_is_told(supervisor, seen, program):
    supervisor.start([program()])
    first = supervisor.pids()["service"]
    os.kill(first, signal.SIGKILL)
    tend_until(supervisor, lambda: supervisor.pids().get("service", first) != first)
    second = supervisor.pids()["service"]
    assert seen == [{"service": first}, {}, {"service": second}]
    assert psutil.Process(second).is_running()


def test_the_others_go_on_when_one_dies(supervisor, program):
    supervisor.start([program("one"), program("two")])
    before = supervisor.pids()
    os.kill(before["one"], signal.SIGKILL)
    tend_until(supervisor, lambda: supervisor.pids().get("one", before["one"]) != before["one"])
    assert supervisor.pids()["two"] == before["two"]


def test_a_program_that_dies_at_once_waits_longer_each_time(supervisor, seen, program):
    supervisor.start([program(code="raise SystemExit(3)")])
    tend_until(supervisor, lambda: len(seen) == 6)
    assert [bool(pids) for pids in seen] == [True, False, True, False, True, False]
    assert [restart_delay(failures) for failures in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert restart_delay(1_000_000) == 5.0


def test_what_a_dead_program_had_started_is_killed_before_it_runs_again(supervisor, program, tmp_path):
    supervisor.start([program(code=STARTS_ANOTHER)])
    log = tmp_path / "service.log"
    grandchild = psutil.Process(int(eventually(lambda: lines(log))[0]))
    os.kill(supervisor.pids()["service"], signal.SIGKILL)
    tend_until(supervisor, lambda: len(lines(log)) == 2)
    eventually(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


def test_stages_stop_in_reverse_and_all_of_them(supervisor, program, tmp_path):
    log = tmp_path / "service.log"
    supervisor.start([program("database", NOTES_ITS_END)])
    supervisor.start([program("web", NOTES_ITS_END)])
    pids = supervisor.pids()
    eventually(lambda: len(lines(log)) == 2)
    supervisor.stop()
    assert lines(log)[2:] == ["web stopped", "database stopped"]
    assert [psutil.pid_exists(pid) for pid in pids.values()] == [False, False]
    assert supervisor.pids() == {}


def test_a_program_that_ignores_the_request_is_killed_in_time(program, tmp_path):
    child = Child(program(code=IGNORES_TERM, stop_seconds=0.3))
    eventually(lambda: lines(tmp_path / "service.log") == ["deaf"])
    stop_together([child])
    assert child.exit_code() == -signal.SIGKILL


def test_a_child_is_not_stopped_by_the_ctrl_c_of_its_parents_group(program):
    child = Child(program())
    eventually(lambda: os.getpgid(child.pid) == child.pid)
    assert os.getpgid(child.pid) != os.getpgid(0)
    child.kill()


def test_children_are_refused_to_threads_whose_end_would_kill_them(program):
    refusals = []

    def start():
        with pytest.raises(RuntimeError) as refused:
            Child(program())
        refusals.append(str(refused.value))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert refusals == ["Children are started from the main thread: they die with the thread that starts them."]


def test_run_tells_the_end_of_the_log_of_what_failed(program):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run(program(code="raise SystemExit('no such luck')"))
    assert failed.value.returncode == 1
    assert failed.value.stderr == "no such luck\n"


def test_run_returns_when_the_program_is_done(program, tmp_path):
    run(program(code="print('done')"))
    assert lines(tmp_path / "service.log") == ["done"]
