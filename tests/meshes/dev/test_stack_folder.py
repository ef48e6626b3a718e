"""The folder of a stack: one stack at a time, secrets made once, nothing for others to read."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys

import psutil
import pytest
from cryptography.fernet import Fernet
from django.conf import settings

from meshes.dev.stack import Stack
from meshes.dev.stack_folder import FolderInUseError, LostKeysError, StackFolder, processes_of_run
from meshes.environment import data_folder, parse_variables
from tests.polling import eventually

LOCKS = """
import sys, time
from pathlib import Path
from meshes.dev.stack_folder import StackFolder
folder = StackFolder(Path(sys.argv[1]))
folder.lock()
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    return StackFolder(tmp_path / "data")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_data_folder_is_chosen_by_the_environment(tmp_path):
    assert data_folder({"MESHES_DATA_DIR": str(tmp_path)}) == tmp_path
    assert data_folder({}).name == ".meshes"
    assert data_folder({"MESHES_DATA_DIR": ""}).name == ".meshes"


def test_secrets_are_made_once(folder):
    folder.ensure_secrets()
    first = folder.read_env()
    folder.ensure_secrets()
    assert folder.read_env() == first
    assert first.keys() == {"SECRET_KEY", "FERNET_KEYS", "MESHES_ADMIN_PASSWORD", "MESHES_FLOWER_PASSWORD"}
    Fernet(first["FERNET_KEYS"])


def test_a_secret_that_is_there_is_kept(folder):
    folder.update_env({"FERNET_KEYS": "mine"})
    folder.ensure_secrets()
    assert folder.read_env()["FERNET_KEYS"] == "mine"


@pytest.fixture
def sealed(folder):
    """A folder with a database in it, and nothing else."""
    (folder.path / "postgres").mkdir()
    (folder.path / "postgres" / "PG_VERSION").write_text("18\n")
    return folder


@pytest.mark.parametrize("left", [{}, {"SECRET_KEY": "s"}, {"FERNET_KEYS": ""}])
def test_no_new_keys_are_made_over_a_database(sealed, left):
    sealed.update_env(left)
    before = sealed.read_env()
    with pytest.raises(LostKeysError) as refused:
        sealed.ensure_secrets({"FERNET_KEYS": ""})
    for part in (str(sealed.path / "stack.env"), str(sealed.path / "postgres"), "backup.md", "NEW_KEYS=1"):
        assert part in str(refused.value)
    assert sealed.read_env() == before


def test_new_keys_are_made_over_a_database_by_a_word(sealed):
    sealed.ensure_secrets({}, new_keys=True)
    Fernet(sealed.read_env()["FERNET_KEYS"])


def test_keys_of_the_environment_are_those_of_the_database(sealed):
    """None beside them are kept, with which the next start would find the database sealed by others."""
    sealed.ensure_secrets({"FERNET_KEYS": "mine"})
    assert sealed.read_env().keys() == {"SECRET_KEY", "MESHES_ADMIN_PASSWORD", "MESHES_FLOWER_PASSWORD"}
    with pytest.raises(LostKeysError):
        sealed.ensure_secrets({})


def test_variables_are_set_and_removed(folder):
    folder.update_env({"DATABASE_URL": "postgresql://a=b", "REDIS_URL": "redis://x"})
    folder.update_env({"REDIS_URL": None})
    assert folder.read_env() == {"DATABASE_URL": "postgresql://a=b"}


def test_nobody_else_reads_anything(folder):
    folder.ensure_secrets()
    folder.publish({"api_url": "http://127.0.0.1:1"})
    assert mode(folder.path) == 0o700
    assert mode(folder.path / "stack.env") == 0o600
    assert mode(folder.path / "stack.json") == 0o600
    assert json.loads((folder.path / "stack.json").read_text()) == {"api_url": "http://127.0.0.1:1"}


def test_a_second_stack_is_refused_until_the_first_ends(folder):
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", LOCKS, str(folder.path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(FolderInUseError, match="Another stack is running"):
            folder.lock()
        assert not folder.is_locked
        folder.publish({})
        folder.withdraw_stale()
        assert (folder.path / "stack.json").exists(), "it is the other's, which runs"
        other.kill()
    folder.withdraw_stale()
    assert not (folder.path / "stack.json").exists()
    folder.lock()
    assert folder.is_locked
    folder.unlock()


def test_what_a_killed_run_left_is_ended_and_nothing_else(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("meshes.dev.stack_folder.PREDECESSOR_SECONDS", 0.0)
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    run_id = folder.begin_run(sockets)
    folder.publish({})
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    left = subprocess.Popen(sleep, env=os.environ | {"MESHES_RUN_ID": run_id})
    other = subprocess.Popen(sleep, env=os.environ | {"MESHES_RUN_ID": "another"})
    try:
        eventually(lambda: [process.pid for process in processes_of_run(run_id)] == [left.pid])
        folder.end_run()
        assert left.wait(10) == -9
        assert psutil.Process(other.pid).is_running()
        assert not sockets.exists()
        assert {path.name for path in folder.path.iterdir()} == {"logs"}
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_a_run_that_is_not_noted_is_no_trouble(folder):
    (folder.path / "run.json").write_text("{half")
    folder.end_run()


def test_the_log_of_the_run_before_is_kept(folder):
    folder.fresh_log("web").write_text("first")
    folder.fresh_log("web").write_text("second")
    assert (folder.logs / "web.log.1").read_text() == "first"
    assert (folder.logs / "web.log").read_text() == "second"


def test_a_log_that_is_too_long_is_rotated_while_it_is_written(folder):
    log = folder.fresh_log("web")
    with log.open("ab", buffering=0) as written:
        for number in range(6):
            written.write(b"%d " % number * 10)
            folder.rotate_logs(most_bytes=15)
        written.write(b"last")
        folder.rotate_logs(most_bytes=15)
    assert log.read_text() == "last"
    kept = sorted(path.name for path in folder.logs.iterdir())
    assert kept == ["web.log", "web.log.1", "web.log.2", "web.log.3"]
    assert [(folder.logs / name).read_text()[0] for name in kept[1:]] == ["5", "4", "3"]


def test_a_log_that_cannot_be_copied_stays_and_goes_on(folder, monkeypatch):
    log = folder.fresh_log("web")
    log.write_text("x" * 20)

    def full(source, target):
        target.write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    folder.rotate_logs(most_bytes=15)
    assert [path.name for path in folder.logs.iterdir()] == ["web.log"]
    assert log.read_text() == "x" * 20


def test_the_settings_of_a_run_are_kept_until_it_ends(tmp_path):
    folder = StackFolder(tmp_path / "data")
    folder.update_env({"SECRET_KEY": "kept"})
    given = {"MESHES_OUTBOUND_PORTS": "*", "MESHES_OAUTH_CLIENTS": '{\n"a": 1}', "FERNET_KEYS": "k", "PATH": "/bin"}
    folder.write_run_env(given | {"MESHES_DATA_DIR": "/elsewhere", "MESHES_RUN_ID": "1"})
    kept = parse_variables((folder.path / "run.env").read_text())
    assert kept == {"MESHES_OUTBOUND_PORTS": "*", "MESHES_OAUTH_CLIENTS": '{ "a": 1}', "FERNET_KEYS": "k"}
    assert stat.S_IMODE((folder.path / "run.env").stat().st_mode) == 0o600
    assert folder.read_env() == {"SECRET_KEY": "kept"}
    folder.withdraw_stale()
    assert not (folder.path / "run.env").exists()


@pytest.mark.parametrize("url", ["redis://:secret@127.0.0.1:1/0", "no url at all"])
def test_a_broker_that_does_not_answer_is_told_in_one_line(folder, url):
    told = []
    Stack(folder, {"REDIS_URL": url}, port=0, flower_port=0, durable=False, report=told.append)._start_valkey()
    assert told == [
        "the broker of REDIS_URL does not answer: events are accepted and kept, and nothing goes out until it answers"
    ]


def test_a_broker_that_answers_is_not_told(folder, redis_client):
    told, url = [], settings.REDIS_URL
    Stack(folder, {"REDIS_URL": url}, port=0, flower_port=0, durable=False, report=told.append)._start_valkey()
    assert told == []
