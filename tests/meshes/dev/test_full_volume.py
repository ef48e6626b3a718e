"""On a full volume nothing half is left, nothing ends that need not, and what must end comes back."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meshes.dev.children import Child, Program, log_tail, stop_together
from meshes.dev.embedded import Postgres, ServerStartError, Valkey, private_folder
from meshes.dev.stack import Stack
from meshes.dev.stack_folder import StackFolder
from meshes.dev.supervisor import Supervisor
from meshes.kit.files import write_private
from tests.limits import files_may_have
from tests.polling import eventually

FULL = Path("/dev/full")
"""Every write to it ends with "No space left on device"."""
SAYS = "import sys; print('ready', flush=True)"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_cannot_be_written_is_left_as_it_was(tmp_path):
    path = tmp_path / "stack.json"
    write_private(path, "first")
    with files_may_have(3), pytest.raises(OSError, match="File too large"):
        write_private(path, "second")
    assert path.read_text() == "first"
    assert names(tmp_path) == ["stack.json"]


def test_the_folder_of_a_stack_has_nothing_half(tmp_path):
    folder = StackFolder(tmp_path / "data")
    folder.ensure_secrets()
    before = folder.read_env()
    for write in (
        lambda: folder.publish({"api_url": "x" * 100}),
        lambda: folder.update_env({"DATABASE_URL": "x" * 100}),
        lambda: folder.begin_run(tmp_path),
    ):
        with files_may_have(10), pytest.raises(OSError, match="File too large"):
            write()
    assert folder.read_env() == before
    assert names(folder.path) == ["logs", "stack.env"]


def test_valkeys_configuration_is_whole_or_not_there(tmp_path):
    valkey = Valkey(tmp_path / "valkey", tmp_path / "valkey.log")
    with files_may_have(10), pytest.raises(OSError, match="File too large"):
        valkey.prepare()
    assert names(valkey.folder) == []


def test_a_cluster_that_cannot_be_made_is_said_and_leaves_nothing():
    folder = private_folder()
    try:
        postgres = Postgres(folder / "postgres", folder, folder / "postgres.log", durable=False)
        with files_may_have(1_000_000), pytest.raises(ServerStartError) as failed:
            postgres.prepare()
        assert str(failed.value).startswith(f"initdb could not make a cluster in {postgres.folder}, which needs some")
        assert "MB are free" in str(failed.value)
        assert names(folder) == ["postgres.log"]
        postgres.prepare()
        assert (postgres.folder / "PG_VERSION").exists()
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["postgres", "valkey"])
def test_a_server_whose_log_is_full_serves(name):
    folder = private_folder()
    server = (
        Postgres(folder / "postgres", folder, FULL, durable=False)
        if name == "postgres"
        else Valkey(folder / "valkey", FULL)
    )
    child = None
    try:
        server.prepare()
        child = Child(server.program)
        server.wait_until_ready(lambda: child.exit_code() is None)
    finally:
        stop_together([child] if child else [])
        shutil.rmtree(folder)


def test_a_program_whose_log_cannot_be_opened_runs(tmp_path):
    log = tmp_path / "missing" / "service.log"
    child = Child(Program(name="s", command=(sys.executable, "-c", SAYS), cwd=tmp_path, log=log, environment={}))
    assert eventually(lambda: child.exit_code() is not None)
    assert child.exit_code() == 0
    assert log_tail(log) == ""


def test_what_cannot_be_started_is_tried_again(tmp_path):
    """Its folder is away, which is an OSError like a lack of processes or memory."""
    home, said = tmp_path / "home", []
    home.mkdir()
    supervisor = Supervisor(changed=lambda pids: None, report=said.append)
    code = "import time; time.sleep(60)"
    supervisor.start(
        [Program(name="s", command=(sys.executable, "-c", code), cwd=home, log=None, environment=os.environ)]
    )
    try:
        first = supervisor.pids()["s"]
        home.rmdir()
        os.kill(first, 9)

        def tended(condition):
            supervisor.tend()
            return condition()

        eventually(lambda: tended(lambda: sum("cannot be started yet" in words for words in said) >= 2), 60)
        assert supervisor.pids() == {}
        home.mkdir()
        eventually(lambda: tended(lambda: supervisor.is_running("s")), 60)
    finally:
        supervisor.stop()


def test_a_stack_that_cannot_publish_goes_on_and_publishes_later(tmp_path):
    said = []
    stack = Stack(StackFolder(tmp_path / "data"), {}, port=1, durable=False, report=said.append)
    stack.folder.ensure_secrets()
    stack.folder.update_env({"MESHES_ACCOUNT_KEY": "key", "DATABASE_URL": "postgresql://", "REDIS_URL": "redis://"})
    stack.folder.publish(stack.state() | {"pids": {"old": 1}})
    stack._ready = True
    with files_may_have(10):
        for _ in range(3):
            stack._pids_changed({})
            stack.tend()
    assert said == ["stack.json is out of date until it can be written: File too large"]
    assert json.loads((stack.folder.path / "stack.json").read_text())["pids"] == {"old": 1}
    stack.tend()
    assert json.loads((stack.folder.path / "stack.json").read_text())["pids"] == {}
    assert names(stack.folder.path) == ["logs", "stack.env", "stack.json"]


def test_up_says_that_it_cannot_begin_and_leaves_nothing(tmp_path):
    """As a person runs it, in a folder that takes no secrets."""
    kept = {name: value for name, value in os.environ.items() if name not in ("SECRET_KEY", "FERNET_KEYS")}
    with files_may_have(10):
        ended = subprocess.run(
            [sys.executable, "-B", "manage.py", "up"],
            env=kept | {"MESHES_DATA_DIR": str(tmp_path / "data")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == f"{tmp_path / 'data'} cannot be written: File too large."
    assert "Traceback" not in ended.stderr
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.name != "lock"] == []
